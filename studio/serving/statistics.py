"""What the server counts: sums since the start for protocols, samples a second for whoever owns the server.

Everything here runs on the event loop, so nothing is locked.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from studio.core.histogram import SUB_BITS
from studio.core.metrics import RequestLine, Sample, ShadowFigures, Tick
from studio.serving.batching import Ticket
from studio.serving.memory import resident_bytes, shared_bytes

MAX_LINES = 20
"""Request lines kept a second. The last `ERROR_LINES` of them are for failures, so that load does not hide those."""
ERROR_LINES = 5


@dataclass(slots=True)
class Duration:
    """How often a phase was gone through, and for how long in all."""

    count: int = 0
    ns: int = 0

    def add(self, ns: int, times: int = 1) -> None:
        self.count += times
        self.ns += ns


@dataclass(slots=True)
class BatchDurations:
    """The phases of all runs of one batch size."""

    compute_input: Duration = field(default_factory=Duration)
    compute_infer: Duration = field(default_factory=Duration)
    compute_output: Duration = field(default_factory=Duration)


MOST_FRESH = 1024
"""Requests that are noted until they are added up."""
PHASES = ("receive", "parse", "queue", "batch", "run", "format", "total")
BOUNDS_NS = tuple(int(1e9 * bound) for bound in (
    5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 1e-1, 2.5e-1, 5e-1, 1.0, 2.5, 5.0, 10.0
))  # fmt: skip
"""Upper bounds of the buckets that `/metrics` tells, in nanoseconds; one more is above them all."""


# Columns of the table in which requests are noted: the phases first, as PHASES names them.
_PARSE, _QUEUE, _BATCH, _RUN, _FORMAT, _TOTAL = range(1, len(PHASES))
_ROWS, _LED, _CACHED, _NOW = range(len(PHASES), len(PHASES) + 4)
_BOUNDS = np.array(BOUNDS_NS)


@dataclass(slots=True)
class Buckets:
    """Counts by `BOUNDS_NS`, and the sum, of one phase."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS_NS) + 1))
    ns: int = 0


@dataclass(slots=True)
class Totals:
    """One target since the server started, as the statistics extension of OIP v2 wants it.

    `rows` counts batch rows, `executions` runs of the model; `last_ms` is the Unix time of the last request in ms.
    """

    rows: int = 0
    executions: int = 0
    last_ms: int = 0
    success: Duration = field(default_factory=Duration)
    fail: Duration = field(default_factory=Duration)
    queue: Duration = field(default_factory=Duration)
    compute_input: Duration = field(default_factory=Duration)
    compute_infer: Duration = field(default_factory=Duration)
    compute_output: Duration = field(default_factory=Duration)
    cache_hit: Duration = field(default_factory=Duration)
    cache_miss: Duration = field(default_factory=Duration)
    batches: dict[int, BatchDurations] = field(default_factory=dict)
    phases: tuple[Buckets, ...] = field(default_factory=lambda: tuple(Buckets() for _ in PHASES))
    answered: dict[str, dict[int, int]] = field(default_factory=dict)
    """Requests by protocol, then by HTTP status."""

    def count(self, protocol: str, status: int, times: int = 1) -> None:
        """Count answers."""
        counts = self.answered.get(protocol)
        if counts is None:
            counts = self.answered[protocol] = {}
        counts[status] = counts.get(status, 0) + times

    def add(self, other: Totals) -> None:
        """Add those of another process."""
        self.rows += other.rows
        self.executions += other.executions
        self.last_ms = max(self.last_ms, other.last_ms)
        for name in _DURATIONS:
            theirs: Duration = getattr(other, name)
            getattr(self, name).add(theirs.ns, theirs.count)
        for size, batch in other.batches.items():
            own = self.batches.setdefault(size, BatchDurations())
            for name in _BATCH_DURATIONS:
                theirs = getattr(batch, name)
                getattr(own, name).add(theirs.ns, theirs.count)
        for ours, buckets in zip(self.phases, other.phases, strict=True):
            ours.counts = [one + two for one, two in zip(ours.counts, buckets.counts, strict=True)]
            ours.ns += buckets.ns
        for protocol, counts in other.answered.items():
            for status, count in counts.items():
                mine = self.answered.setdefault(protocol, {})
                mine[status] = mine.get(status, 0) + count


_BATCH_DURATIONS = ("compute_input", "compute_infer", "compute_output")
_DURATIONS = (*_BATCH_DURATIONS, "success", "fail", "queue", "cache_hit", "cache_miss")


def buckets_of(microseconds: npt.NDArray[np.int64]) -> dict[int, int]:
    """How many values fall into each bucket of a `Histogram`, as its `add` would put them."""
    # The exponent of a value's binary form is its number of bits.
    shifts = (np.frexp(microseconds)[1] - SUB_BITS - 1).clip(0)
    indices, counts = np.unique((shifts << SUB_BITS) + (microseconds >> shifts), return_counts=True)
    return dict(zip(indices.tolist(), counts.tolist(), strict=True))


class Statistics:
    """Totals by target (full reference), and the samples and lines of the second that is running."""

    def __init__(self) -> None:
        self._totals: dict[str, Totals] = {}
        self.shadows: dict[tuple[str, str], ShadowFigures] = {}
        """Figures of shadows since the start, by the full references of who answered and of the shadow."""
        self.caching = False
        self._fresh: dict[tuple[str, str], list[tuple[int, ...]]] = {}
        self._samples: dict[str, Sample] = {}
        self._lines: list[RequestLine] = []
        self._shadows: dict[tuple[str, str], ShadowFigures] = {}

    @property
    def totals(self) -> dict[str, Totals]:
        """Sums since the start, by target."""
        self._settle()
        return self._totals

    def success(
        self, target: str, protocol: str, ticket: Ticket, started_ns: int, parsing_ns: int, receiving_ns: int = 0
    ) -> None:
        """Count a request that is answered now. It arrived at `started_ns`; receiving and parsing took so long."""
        now = time.perf_counter_ns()
        began, ran, ended = ticket.started_ns, ticket.ran_ns, ticket.ended_ns
        # Only noted here: adding up many at once costs a tenth of adding up each.
        row = (
            receiving_ns,
            parsing_ns,
            began - ticket.queued_ns,
            ran - began,
            ended - ran,
            now - ended,
            now - started_ns,
            ticket.rows,
            ticket.batch_rows if ticket.leader else 0,
            ticket.cached,
            now,
        )
        rows = self._fresh.get((target, protocol))
        if rows is None:
            self._fresh[target, protocol] = [row]
        else:
            rows.append(row)
            if len(rows) >= MOST_FRESH:
                self._settle()
        if len(self._lines) < MAX_LINES - ERROR_LINES:
            total = (now - started_ns) / 1000
            self._lines.append(
                RequestLine(
                    at=time.time(), target=target, protocol=protocol, status=200, latency_us=total, rows=ticket.rows
                )
            )

    def _settle(self) -> None:
        """Add up what was noted."""
        if self._fresh:
            fresh, self._fresh = self._fresh, {}
            for (target, protocol), rows in fresh.items():
                self._add(target, protocol, np.array(rows, np.int64))

    def _add(self, target: str, protocol: str, table: npt.NDArray[np.int64]) -> None:
        """Add up answered requests of one target over one protocol: a row each, as `success` notes them."""
        count = len(table)
        sums = table.sum(axis=0).tolist()
        totals = self._totals_of(target)
        totals.last_ms = int(time.time_ns() - (time.perf_counter_ns() - table[-1, _NOW])) // 1_000_000
        totals.count(protocol, 200, count)
        totals.success.add(sums[_TOTAL], count)
        totals.queue.add(sums[_QUEUE], count)
        places = np.searchsorted(_BOUNDS, table[:, : len(PHASES)])
        places += np.arange(len(PHASES)) * (len(BOUNDS_NS) + 1)
        counts = np.bincount(places.ravel(), minlength=len(PHASES) * (len(BOUNDS_NS) + 1)).reshape(len(PHASES), -1)
        for number, buckets in enumerate(totals.phases):
            buckets.counts = [one + two for one, two in zip(buckets.counts, counts[number].tolist(), strict=True)]
            buckets.ns += sums[number]
        sample = self._sample(target)
        sample.requests += count
        sample.rows += sums[_ROWS]
        sample.queue_us += sums[_QUEUE] / 1000
        sample.histogram.merge(buckets_of(table[:, _TOTAL] // 1000))
        if sums[_CACHED]:
            cached = table[:, _CACHED] == 1
            totals.cache_hit.add(int(table[cached, _TOTAL].sum()), sums[_CACHED])
            table = table[~cached]
            sums = table.sum(axis=0).tolist()
        ran = len(table)
        totals.rows += sums[_ROWS]
        totals.compute_input.add(sums[_PARSE], ran)
        totals.compute_infer.add(sums[_BATCH] + sums[_RUN], ran)
        totals.compute_output.add(sums[_FORMAT], ran)
        if self.caching:
            totals.cache_miss.add(sums[_TOTAL], ran)
        leaders = table[table[:, _LED] > 0]
        totals.executions += len(leaders)
        sample.executions += len(leaders)
        for size in np.unique(leaders[:, _LED]).tolist():
            runs = leaders[leaders[:, _LED] == size]
            led = runs.sum(axis=0).tolist()
            batch = totals.batches.setdefault(size, BatchDurations())
            batch.compute_input.add(led[_PARSE], len(runs))
            batch.compute_infer.add(led[_BATCH] + led[_RUN], len(runs))
            batch.compute_output.add(led[_FORMAT], len(runs))
            sample.run_us += (led[_BATCH] + led[_RUN]) / 1000

    def failure(self, target: str, protocol: str, status: int, total_ns: int, error: str) -> None:
        """Count a failed request; its time stays out of the histogram, where quick refusals would flatter the rest.

        `target` is '' where none was found: such a request is only shown.
        """
        if target:
            totals = self._totals_of(target)
            totals.last_ms = time.time_ns() // 1_000_000
            totals.fail.add(total_ns)
            totals.count(protocol, status)
            sample = self._sample(target)
            sample.requests += 1
            sample.errors += 1
        if len(self._lines) < MAX_LINES:
            self._lines.append(
                RequestLine(
                    at=time.time(),
                    target=target,
                    protocol=protocol,
                    status=status,
                    latency_us=total_ns / 1000,
                    error=error[:300],
                )
            )

    def shadow(self, figures: ShadowFigures) -> None:
        """Count copies of answered requests (`studio.serving.shadow`)."""
        key = figures.target, figures.shadow
        for kept in (self.shadows, self._shadows):
            known = kept.get(key)
            if known is None:
                known = kept[key] = ShadowFigures(model=figures.model, target=figures.target, shadow=figures.shadow)
            known.add(figures)

    def collect(self, at: float, seconds: float, loaded: int) -> tuple[Tick, list[RequestLine]]:
        """The tick and the lines of the interval that ended now and began at `at` (Unix seconds); starts the next."""
        self._settle()
        samples = tuple(self._samples.values())
        for sample in samples:
            sample.at = at
            sample.seconds = seconds
        lines = self._lines
        shadows = tuple(self._shadows.values())
        self._samples = {}
        self._lines = []
        self._shadows = {}
        return Tick(
            at=at, samples=samples, loaded=loaded, memory=resident_bytes(), shared=shared_bytes(), shadows=shadows
        ), lines

    def keep_only(self, targets: set[str]) -> None:
        """Forget the totals of targets that are gone."""
        for name in self.totals.keys() - targets:
            del self._totals[name]
        for pair in [pair for pair in self.shadows if not targets.issuperset(pair)]:
            del self.shadows[pair]

    def _totals_of(self, target: str) -> Totals:
        totals = self._totals.get(target)
        if totals is None:
            totals = self._totals[target] = Totals()
        return totals

    def _sample(self, target: str) -> Sample:
        sample = self._samples.get(target)
        if sample is None:
            sample = self._samples[target] = Sample(target=target, at=0.0)
        return sample
