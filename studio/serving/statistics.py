"""What the server counts: sums since the start for protocols, samples a second for whoever owns the server.

Everything here runs on the event loop, so nothing is locked.
"""

from __future__ import annotations

import os
import resource
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from studio.core.metrics import RequestLine, Sample, Tick

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
    batches: dict[int, BatchDurations] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Phases:
    """Nanoseconds of one answered request: parsing, waiting for a worker, the run, and writing the answer."""

    compute_input: int
    queue: int
    compute_infer: int
    compute_output: int


class Statistics:
    """Totals by target (full reference), and the samples and lines of the second that is running."""

    def __init__(self) -> None:
        self.totals: dict[str, Totals] = {}
        self._samples: dict[str, Sample] = {}
        self._lines: list[RequestLine] = []

    @property
    def dirty(self) -> bool:
        """Whether there is anything to report."""
        return bool(self._samples or self._lines)

    def success(self, target: str, protocol: str, rows: int, total_ns: int, phases: Phases) -> None:
        """Count an answered request. `rows` is its batch size, `total_ns` its whole time in the server."""
        totals = self._totals(target)
        totals.rows += rows
        totals.executions += 1
        totals.success.add(total_ns)
        totals.queue.add(phases.queue)
        totals.compute_input.add(phases.compute_input)
        totals.compute_infer.add(phases.compute_infer)
        totals.compute_output.add(phases.compute_output)
        batch = totals.batches.get(rows)
        if batch is None:
            batch = totals.batches[rows] = BatchDurations()
        batch.compute_input.add(phases.compute_input)
        batch.compute_infer.add(phases.compute_infer)
        batch.compute_output.add(phases.compute_output)
        sample = self._sample(target)
        sample.requests += 1
        sample.rows += rows
        sample.executions += 1
        sample.queue_us += phases.queue / 1000
        sample.run_us += phases.compute_infer / 1000
        sample.histogram.add(total_ns / 1000)
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
            self._totals(target).fail.add(total_ns)
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

    def collect(self, at: float, seconds: float, loaded: int) -> tuple[Tick, list[RequestLine]]:
        """The tick and the lines of the interval that ended now and began at `at` (Unix seconds); starts the next."""
        samples = tuple(self._samples.values())
        for sample in samples:
            sample.at = at
            sample.seconds = seconds
        lines = self._lines
        self._samples = {}
        self._lines = []
        return Tick(at=at, samples=samples, loaded=loaded, memory=memory_bytes()), lines

    def keep_only(self, targets: set[str]) -> None:
        """Forget the totals of targets that are gone."""
        for name in self.totals.keys() - targets:
            del self.totals[name]

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


def memory_bytes() -> int:
    """Resident memory of this process; its peak where the system does not tell the present value."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
