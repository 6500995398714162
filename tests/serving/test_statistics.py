"""Requests that are noted and added up later are counted as if each had been added up at once."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from studio.core.histogram import Histogram
from studio.serving import statistics
from studio.serving.batching import Ticket
from studio.serving.statistics import BOUNDS_NS, PHASES, Statistics, buckets_of


@given(st.lists(st.integers(0, 2**40), min_size=1, max_size=200))
def test_buckets_are_those_of_the_histogram(values: list[int]) -> None:
    one = Histogram()
    for value in values:
        one.add(value)
    assert buckets_of(np.array(values, np.int64)) == one.counts


def ticket(queued: int, began: int, ran: int, ended: int, rows: int = 1, led: int = 1, cached: bool = False) -> Ticket:
    """Times in microseconds before now; `led` rows ran together, 0 where another ticket stands for the run."""
    now = time.perf_counter_ns()
    fields = {"queued_ns": queued, "started_ns": began, "ran_ns": ran, "ended_ns": ended}
    made: Any = SimpleNamespace(
        **{name: now - 1000 * ago for name, ago in fields.items()},
        rows=rows,
        leader=bool(led),
        batch_rows=led,
        cached=cached,
    )
    return cast("Ticket", made)


def note(counted: Statistics, which: Ticket, target: str = "m:1-fp32", protocol: str = "v2") -> None:
    counted.success(target, protocol, which, which.queued_ns - 1_000_000, 30_000, 7_000)


def test_everything_is_added_up() -> None:
    counted = Statistics()
    counted.caching = True
    for _ in range(3):
        note(counted, ticket(900, 800, 790, 500, rows=2, led=6))
        note(counted, ticket(900, 800, 790, 500, rows=4, led=0))
    note(counted, ticket(900, 800, 790, 500, rows=5, led=5), protocol="tfs")
    note(counted, ticket(900, 900, 900, 900, rows=9, led=0, cached=True))
    note(counted, ticket(900, 800, 790, 500), target="other:1-fp32")
    counted.failure("m:1-fp32", "v2", 400, 5000, "wrong")
    totals = counted.totals["m:1-fp32"]
    assert totals.answered == {"v2": {200: 7, 400: 1}, "tfs": {200: 1}}
    assert (totals.rows, totals.executions) == (3 * 6 + 5, 4)
    assert (totals.success.count, totals.fail.count) == (8, 1)
    assert (totals.cache_hit.count, totals.cache_miss.count) == (1, 7)
    assert totals.queue.ns == 7 * 100_000
    assert totals.compute_input.ns == 7 * 30_000
    assert (totals.compute_infer.count, totals.compute_infer.ns) == (7, 7 * 300_000)
    assert totals.cache_hit.ns + totals.cache_miss.ns == totals.success.ns
    assert {size: batch.compute_infer.count for size, batch in totals.batches.items()} == {5: 1, 6: 3}
    assert totals.batches[6].compute_infer.ns == 3 * 300_000
    phases = dict(zip(PHASES, totals.phases, strict=True))
    assert all(sum(buckets.counts) == 8 for buckets in phases.values())
    assert phases["queue"].counts[BOUNDS_NS.index(100_000)] == 7  # a bound belongs to the bucket below it
    assert (phases["receive"].ns, phases["parse"].ns) == (8 * 7_000, 8 * 30_000)
    assert (phases["batch"].ns, phases["run"].ns) == (7 * 10_000, 7 * 290_000)
    assert phases["total"].ns == totals.success.ns
    assert abs(totals.last_ms - time.time() * 1000) < 10_000
    tick, lines = counted.collect(7.0, 1.0, 1)
    sample = next(sample for sample in tick.samples if sample.target == "m:1-fp32")
    assert (sample.requests, sample.errors, sample.rows, sample.executions) == (9, 1, 32, 4)
    assert (sample.run_us, sample.queue_us) == (4 * 300.0, 7 * 100.0)
    assert sample.histogram.total == 8
    assert len(lines) == 10
    assert counted.totals["other:1-fp32"].success.count == 1


def test_what_was_collected_is_not_told_again_and_totals_stay() -> None:
    counted = Statistics()
    note(counted, ticket(900, 800, 790, 500))
    assert counted.collect(7.0, 1.0, 1)[0].samples[0].requests == 1
    assert counted.collect(8.0, 1.0, 1)[0].samples == ()
    note(counted, ticket(900, 800, 790, 500))
    assert counted.totals["m:1-fp32"].success.count == 2
    assert counted.collect(9.0, 1.0, 1)[0].samples[0].requests == 1
    note(counted, ticket(900, 800, 790, 500))
    counted.keep_only({"other:1-fp32"})
    assert counted.totals == {}


def test_it_never_keeps_many(monkeypatch: Any) -> None:
    monkeypatch.setattr(statistics, "MOST_FRESH", 10)
    counted = Statistics()
    for _ in range(25):
        note(counted, ticket(900, 800, 790, 500))
        assert sum(map(len, counted._fresh.values())) < 10
    assert counted.totals["m:1-fp32"].success.count == 25
