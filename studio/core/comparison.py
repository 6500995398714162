"""Comparisons: paired measurements of two or more variants on the same inputs, and the words for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from studio.core.errors import Problem
from studio.core.manifest import Fidelity, Gate, InputsKind, Interval, Machine
from studio.core.metrics import Point

ComparisonState = Literal["queued", "running", "done", "failed", "cancelled"]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How it is measured. `references` in order A, B, C, D; A is the baseline.

    Load comes in short slices that alternate A B A B …, each `slice_seconds` long, from `clients` closed-loop clients.
    """

    references: tuple[str, ...]
    seconds: float = 20.0
    clients: int = 1
    slice_seconds: float = 0.5


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One side. Latencies in ms over the whole comparison; throughput in requests a second while its slices ran.

    `threads`: ONNX Runtime's for one run of it.
    """

    label: str
    target: str
    requests: int = 0
    errors: int = 0
    threads: int = 1
    p50: float | None = None
    p95: float | None = None
    p99: float | None = None
    throughput: float | None = None
    series: tuple[Point, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the verdict table, in words.

    `ratio` is baseline / other for times and other / baseline for throughput: above 1 = the other arm is better.
    """

    metric: str
    values: tuple[float | None, ...]
    unit: str
    words: str
    better: str = ""  # label of the better arm; empty = not distinguishable, or no better side
    ratio: Interval | None = None


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A running or finished comparison. `verdict` is one sentence."""

    id: str
    state: ComparisonState
    plan: Plan
    created: float
    arms: tuple[Arm, ...]
    rows: tuple[Row, ...] = ()
    verdict: str = ""
    inputs: InputsKind = "synthetic"
    samples: int = 0
    machine: Machine | None = None
    elapsed: float = 0.0
    fidelity: tuple[Fidelity | None, ...] = ()
    gates: tuple[Gate, ...] = ()
    problem: Problem | None = None

    @property
    def threads(self) -> str:
        """Those of one run, in words: `1 thread`, or `1 / 2 threads` where the arms differ."""
        counts = [arm.threads for arm in self.arms]
        if len(set(counts)) <= 1:
            counts = counts[:1] or [1]
        return f"{' / '.join(map(str, counts))} thread{'' if counts == [1] else 's'}"
