"""The time series: exact while young, merged as it ages, bounded for good; and comparisons."""

from __future__ import annotations

import random

import pytest

from studio.core.comparison import Arm, Comparison, Plan
from studio.core.errors import InvalidInput, NotFound
from studio.core.histogram import Histogram
from studio.core.metrics import Point, Sample, point_of
from studio.core.settings import HistorySettings
from studio.registry.comparisons import get_comparison, list_comparisons, save_comparison
from studio.registry.registry import Registry
from studio.registry.series import HOUR, insert_samples, points, roll_up

START = 1_700_000_000 // HOUR * HOUR
A, B = "digits:1-fp32", "digits:1-int8"


def sample(target: str, at: float, clock: random.Random, requests: int = 20) -> Sample:
    histogram = Histogram()
    for _ in range(requests):
        histogram.add(clock.lognormvariate(7, 0.5))
    return Sample(
        target=target, at=at, requests=requests, errors=requests // 10, rows=requests, executions=5, queue_us=2.0,
        run_us=3.0, histogram=histogram,
    )  # fmt: skip


def merged(samples: list[Sample], at: float, seconds: float) -> Point:
    return point_of(
        Sample(
            target="",
            at=at,
            seconds=seconds,
            requests=sum(s.requests for s in samples),
            errors=sum(s.errors for s in samples),
            histogram=Histogram.merged(s.histogram for s in samples),
        )
    )


def test_points_are_what_was_counted(registry: Registry) -> None:
    clock = random.Random(1)
    seconds = [(sample(A, START + s, clock), sample(B, START + s, clock, 7)) for s in range(10)]
    for pair in seconds:
        insert_samples(registry, pair)
    assert points(registry, A, START, START + 10) == [point_of(a) for a, _ in seconds]
    assert points(registry, "", START, START + 10) == [merged([a, b], a.at, 1.0) for a, b in seconds]
    assert points(registry, B, START + 3, START + 5) == [point_of(b) for _, b in seconds[3:5]]
    assert points(registry, A, START, START + 10, step=5) == [
        merged([a for a, _ in seconds[n : n + 5]], START + n, 5.0) for n in (0, 5)
    ]
    # The last interval has not ended: its rate is over the seconds that have passed.
    assert points(registry, A, START + 5, START + 8, step=5) == [merged([a for a, _ in seconds[5:8]], START + 5, 3.0)]
    assert points(registry, "nobody", START, START + 10) == []
    with pytest.raises(InvalidInput):
        points(registry, A, 0, 1, step=0)


def test_two_ticks_of_one_second_add_up(registry: Registry) -> None:
    clock = random.Random(2)
    pair = [sample(A, START, clock), sample(A, START + 0.4, clock)]
    for one in pair:
        insert_samples(registry, [one])
    insert_samples(registry, [])
    for target in (A, ""):
        assert points(registry, target, START, START + 1) == [merged(pair, START, 1.0)]


def test_a_second_without_latencies_has_rates_alone(registry: Registry) -> None:
    insert_samples(registry, [Sample(target=A, at=START, requests=3, errors=3)])
    (point,) = points(registry, A, START, START + 1)
    assert (point.requests, point.errors, point.p50) == (3.0, 3.0, None)
    roll_up(registry, START + 3 * HOUR, HistorySettings())
    (point,) = points(registry, A, START, START + HOUR)
    assert (point.requests, point.p50) == (3 / 60, None)


def test_rolling_up_loses_no_request_and_no_quantile(registry: Registry) -> None:
    clock = random.Random(3)
    samples = [sample(A, START + s, clock) for s in range(0, 2 * HOUR, 40)]
    for one in samples:
        insert_samples(registry, [one])
    history = HistorySettings(seconds_hours=0.5, minutes_hours=1.0)
    whole = points(registry, A, START, START + 2 * HOUR, step=HOUR)
    now = START + 2.25 * HOUR
    roll_up(registry, now, history)
    roll_up(registry, now, history)
    assert points(registry, A, START, START + 2 * HOUR, step=HOUR) == whole
    steps = dict(registry.database.rows("SELECT step, count(*) FROM series WHERE target <> '' GROUP BY step"))
    assert steps == {HOUR: 1, 60: 45, 1: 22}
    minute = START + 60 * 60
    assert points(registry, A, minute, minute + 60) == [
        merged([s for s in samples if minute <= s.at < minute + 60], minute, 60.0)
    ]


def test_what_is_kept_stays_bounded_over_weeks(registry: Registry) -> None:
    clock = random.Random(4)
    history = HistorySettings(seconds_hours=1.0, minutes_hours=6.0, hours_hours=72.0)
    hour = [[sample(A, 0, clock), sample(B, 0, clock)] for _ in range(10)]
    sizes: list[int] = []
    for number in range(24 * 6):
        for index, pair in enumerate(hour):
            for one in pair:
                one.at = START + number * HOUR + index * 360
            insert_samples(registry, pair)
        roll_up(registry, START + (number + 1) * HOUR, history)
        sizes.append(registry.store.workspace.registry.stat().st_size)
    now = START + 144 * HOUR
    rows = dict(registry.database.rows("SELECT step, count(*) FROM series GROUP BY step"))
    series = 3  # two targets, and all together
    assert rows[1] == 10 * series
    assert rows[60] <= 10 * series * 6
    assert rows[HOUR] <= series * 72
    assert registry.database.rows("SELECT min(moment) FROM series")[0][0] >= now - 72 * HOUR
    # After three days everything that comes is matched by something that goes.
    assert max(sizes[100:]) <= max(sizes[80:100]) + 512 * 1024
    assert len(points(registry, A, START, now, step=HOUR)) == 72
    last = points(registry, A, now - HOUR, now, step=HOUR)
    assert last == [merged([pair[0] for pair in hour], now - HOUR, float(HOUR))]


def comparison(number: int, state: str = "done") -> Comparison:
    return Comparison(
        id=f"c{number}",
        state=state,  # type: ignore[arg-type]
        plan=Plan(references=("digits:1", "digits:1-int8")),
        created=float(number),
        arms=(
            Arm(label="A", target=A, series=(Point(at=1.0, requests=2.0, errors=0.0, p50=None, p95=1.0, p99=2.0),)),
            Arm(label="B", target=B),
        ),
        verdict="B is faster ✓",
    )


def test_comparisons_are_kept_as_they_were(registry: Registry) -> None:
    for number in (1, 3, 2):
        save_comparison(registry, comparison(number))
    save_comparison(registry, comparison(2, "failed"))
    assert list_comparisons(registry) == [comparison(3), comparison(2, "failed"), comparison(1)]
    assert list_comparisons(registry, limit=1) == [comparison(3)]
    registry.close()
    with Registry.open(registry.store.workspace) as again:
        assert get_comparison(again, "c1") == comparison(1)
        with pytest.raises(NotFound):
            get_comparison(again, "c9")
