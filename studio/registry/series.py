"""What the server counted, second by second; older figures are kept at a minute and then at an hour a row.

A row of `series` is one target during `step` seconds from Unix second `moment`. Its histogram is two parallel lists,
`buckets` (indices of studio.core.histogram) and `counts`: DuckDB packs them tightly and merges them itself.
The target '' is all targets together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from studio.core.errors import InvalidInput
from studio.core.histogram import Histogram
from studio.core.metrics import Point, Sample, point_of
from studio.core.settings import HistorySettings
from studio.registry.registry import Registry

MINUTE = 60
HOUR = 3600
_COLUMNS = 11

_MERGED = """
    WITH picked AS ({picked}),
    sums AS (
        SELECT step, moment, target, sum(requests)::BIGINT AS requests, sum(errors)::BIGINT AS errors,
            sum(batch_rows)::BIGINT AS batch_rows, sum(executions)::BIGINT AS executions,
            sum(queue_us) AS queue_us, sum(run_us) AS run_us
        FROM picked GROUP BY step, moment, target
    ),
    cells AS (
        SELECT step, moment, target, bucket, sum(amount)::BIGINT AS amount FROM (
            SELECT step, moment, target, unnest(buckets) AS bucket, unnest(counts) AS amount FROM picked
        ) GROUP BY step, moment, target, bucket
    ),
    histograms AS (
        SELECT step, moment, target, list(bucket ORDER BY bucket) AS buckets, list(amount ORDER BY bucket) AS counts
        FROM cells GROUP BY step, moment, target
    )
    SELECT step, moment, target, requests, errors, batch_rows, executions, queue_us, run_us,
        coalesce(buckets, []) AS buckets, coalesce(counts, []) AS counts
    FROM sums LEFT JOIN histograms USING (step, moment, target)
"""


def insert_samples(registry: Registry, samples: Sequence[Sample]) -> None:
    """Keeps the samples of one second: a row for each target, and one for all together. Raises Unavailable."""
    samples = [sample for sample in samples if sample.target]
    if not samples:
        return
    rows = [_row(sample.target, sample) for sample in samples]
    whole = Sample(
        target="",
        at=samples[0].at,
        requests=sum(sample.requests for sample in samples),
        errors=sum(sample.errors for sample in samples),
        rows=sum(sample.rows for sample in samples),
        executions=sum(sample.executions for sample in samples),
        queue_us=sum(sample.queue_us for sample in samples),
        run_us=sum(sample.run_us for sample in samples),
        histogram=Histogram.merged(sample.histogram for sample in samples),
    )
    rows.append(_row("", whole))
    holes = ", ".join([f"({', '.join('?' * _COLUMNS)})"] * len(rows))
    registry.database.run(f"INSERT INTO series VALUES {holes}", [value for row in rows for value in row])  # noqa: S608


def points(registry: Registry, target: str, since: float, until: float, step: int = 1) -> list[Point]:
    """The series of one target ('' = all together) from `since` up to `until`, a point each `step` seconds.

    Points are aligned to multiples of `step`; `at` is where one begins. Where only coarser figures are left, points are
    as far apart as those. Rates are over the part of the interval before `until`. Intervals in which nothing was asked
    have no point. Raises InvalidInput for a step below 1, Unavailable.
    """
    if step < 1:
        raise InvalidInput("A chart needs a step of at least one second.", f"It was {step}.")
    picked = """
        SELECT greatest(step, $step) AS step, moment // greatest(step, $step) * greatest(step, $step) AS moment, target,
            requests, errors, batch_rows, executions, queue_us, run_us, buckets, counts
        FROM series
        WHERE target = $target AND moment >= $since // greatest(step, $step) * greatest(step, $step) AND moment < $until
    """
    found = registry.database.records(
        f"SELECT * FROM ({_MERGED.format(picked=picked)}) ORDER BY moment, step",  # noqa: S608
        {"step": step, "target": target, "since": int(since), "until": until},
    )
    return [_point(row, step, until) for row in found]


def roll_up(registry: Registry, now: float, history: HistorySettings) -> None:
    """Merges seconds into minutes and minutes into hours as they age, forgets the oldest, and writes the file out.

    Cheap when there is little to do; meant to be called every few minutes. Raises Unavailable.
    """
    database = registry.database
    with database.transaction():
        for step, coarser, hours in ((1, MINUTE, history.seconds_hours), (MINUTE, HOUR, history.minutes_hours)):
            # Whole coarse intervals only: each moment is kept at exactly one resolution.
            end = int(now - hours * HOUR) // coarser * coarser
            picked = f"""
                SELECT {coarser}::INTEGER AS step, moment // {coarser} * {coarser} AS moment, target, requests, errors,
                    batch_rows, executions, queue_us, run_us, buckets, counts
                FROM series WHERE step = {step} AND moment < {end}
            """  # noqa: S608
            database.run(f"INSERT INTO series {_MERGED.format(picked=picked)}")
            database.run("DELETE FROM series WHERE step = ? AND moment < ?", [step, end])
        database.run("DELETE FROM series WHERE moment < ?", [int(now - history.hours_hours * HOUR)])
    database.run("CHECKPOINT")


def _row(target: str, sample: Sample) -> list[Any]:
    buckets = sorted(sample.histogram.counts)
    return [
        1,
        int(sample.at),
        target,
        sample.requests,
        sample.errors,
        sample.rows,
        sample.executions,
        sample.queue_us,
        sample.run_us,
        buckets,
        [sample.histogram.counts[bucket] for bucket in buckets],
    ]


def _point(row: dict[str, Any], step: int, until: float) -> Point:
    seconds = float(row["step"])
    if row["step"] == step:
        seconds = max(1.0, min(seconds, until - row["moment"]))
    return point_of(
        Sample(
            target=row["target"],
            at=float(row["moment"]),
            seconds=seconds,
            requests=row["requests"],
            errors=row["errors"],
            histogram=Histogram(dict(zip(row["buckets"], row["counts"], strict=True))),
        )
    )
