"""What the server counts: sums since the start for protocols, samples a second for whoever owns the server.

Everything here runs on the event loop, so nothing is locked.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from dataclasses import dataclass, field

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


PHASES = ("receive", "parse", "queue", "batch", "run", "format", "total")
BOUNDS_NS = tuple(int(1e9 * bound) for bound in (
    5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 1e-1, 2.5e-1, 5e-1, 1.0, 2.5, 5.0, 10.0
))  # fmt: skip
"""Upper bounds of the buckets that `/metrics` tells, in nanoseconds; one more is above them all."""


@dataclass(slots=True)
class Buckets:
    """Counts by `BOUNDS_NS`, and the sum, of one phase."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS_NS) + 1))
    ns: int = 0

    def add(self, ns: int) -> None:
        self.counts[bisect_left(BOUNDS_NS, ns)] += 1
        self.ns += ns


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

    def count(self, protocol: str, status: int) -> None:
        """Count an answer."""
        counts = self.answered.get(protocol)
        if counts is None:
            counts = self.answered[protocol] = {}
        counts[status] = counts.get(status, 0) + 1

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


class Statistics:
    """Totals by target (full reference), and the samples and lines of the second that is running."""

    def __init__(self) -> None:
        self.totals: dict[str, Totals] = {}
        self.shadows: dict[tuple[str, str], ShadowFigures] = {}
        """Figures of shadows since the start, by the full references of who answered and of the shadow."""
        self.caching = False
        self._samples: dict[str, Sample] = {}
        self._lines: list[RequestLine] = []
        self._shadows: dict[tuple[str, str], ShadowFigures] = {}

    @property
    def dirty(self) -> bool:
        """Whether there is anything to report."""
        return bool(self._samples or self._lines)

    def success(
        self, target: str, protocol: str, ticket: Ticket, started_ns: int, parsing_ns: int, receiving_ns: int = 0
    ) -> None:
        """Count a request that is answered now. It arrived at `started_ns`; receiving and parsing took so long."""
        now = time.perf_counter_ns()
        total_ns = now - started_ns
        rows = ticket.rows
        queue_ns = ticket.started_ns - ticket.queued_ns
        run_ns = ticket.ended_ns - ticket.started_ns
        output_ns = now - ticket.ended_ns
        totals = self._totals(target)
        totals.success.add(total_ns)
        totals.queue.add(queue_ns)
        if ticket.cached:
            totals.cache_hit.add(total_ns)
        else:
            totals.rows += rows
            totals.compute_input.add(parsing_ns)
            totals.compute_infer.add(run_ns)
            totals.compute_output.add(output_ns)
            if self.caching:
                totals.cache_miss.add(total_ns)
        totals.count(protocol, 200)
        receive, parse, queue, batch_phase, run, formatting, total = totals.phases
        receive.add(receiving_ns)
        parse.add(parsing_ns)
        queue.add(queue_ns)
        batch_phase.add(ticket.ran_ns - ticket.started_ns)
        run.add(ticket.ended_ns - ticket.ran_ns)
        formatting.add(output_ns)
        total.add(total_ns)
        sample = self._sample(target)
        sample.requests += 1
        sample.rows += rows
        sample.queue_us += queue_ns / 1000
        sample.histogram.add(total_ns / 1000)
        if ticket.leader:
            totals.executions += 1
            sample.executions += 1
            sample.run_us += run_ns / 1000
            batch = totals.batches.get(ticket.batch_rows)
            if batch is None:
                batch = totals.batches[ticket.batch_rows] = BatchDurations()
            batch.compute_input.add(parsing_ns)
            batch.compute_infer.add(run_ns)
            batch.compute_output.add(output_ns)
        if len(self._lines) < MAX_LINES - ERROR_LINES:
            self._lines.append(
                RequestLine(
                    at=time.time(), target=target, protocol=protocol, status=200, latency_us=total_ns / 1000, rows=rows
                )
            )

    def failure(self, target: str, protocol: str, status: int, total_ns: int, error: str) -> None:
        """Count a failed request; its time stays out of the histogram, where quick refusals would flatter the rest.

        `target` is '' where none was found: such a request is only shown.
        """
        if target:
            totals = self._totals(target)
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
            del self.totals[name]
        for pair in [pair for pair in self.shadows if not targets.issuperset(pair)]:
            del self.shadows[pair]

    def _totals(self, target: str) -> Totals:
        totals = self.totals.get(target)
        if totals is None:
            totals = self.totals[target] = Totals()
        totals.last_ms = time.time_ns() // 1_000_000
        return totals

    def _sample(self, target: str) -> Sample:
        sample = self._samples.get(target)
        if sample is None:
            sample = self._samples[target] = Sample(target=target, at=0.0)
        return sample
