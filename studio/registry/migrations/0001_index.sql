CREATE TABLE facts (name VARCHAR, content VARCHAR);
CREATE TABLE unreadable (model VARCHAR, version INTEGER, variant VARCHAR, what VARCHAR);
CREATE TABLE versions (
    model VARCHAR, version INTEGER, created VARCHAR, format VARCHAR, digest VARCHAR, size BIGINT, fidelity DOUBLE, accuracy DOUBLE,
    title VARCHAR, tags VARCHAR[], archived BOOLEAN, target VARCHAR
);
CREATE TABLE variants (
    model VARCHAR, version INTEGER, variant VARCHAR, outcome VARCHAR, sentence VARCHAR, size BIGINT, p50 DOUBLE,
    throughput DOUBLE, peak_memory BIGINT, fidelity DOUBLE, accuracy DOUBLE, speedup DOUBLE, target VARCHAR
);
CREATE TABLE aliases (model VARCHAR, alias VARCHAR, version INTEGER, variant VARCHAR);
CREATE TABLE journal (
    seq BIGINT, moment VARCHAR, actor VARCHAR, action VARCHAR, subject VARCHAR, before VARCHAR, after VARCHAR,
    why VARCHAR, prev VARCHAR, hash VARCHAR, model VARCHAR, version INTEGER
);
