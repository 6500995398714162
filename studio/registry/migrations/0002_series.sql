CREATE TABLE series (
    step INTEGER, moment BIGINT, target VARCHAR, requests BIGINT, errors BIGINT, batch_rows BIGINT, executions BIGINT,
    queue_us DOUBLE, run_us DOUBLE, buckets USMALLINT[], counts BIGINT[]
);
CREATE TABLE comparisons (id VARCHAR, created DOUBLE, state VARCHAR, document VARCHAR);
