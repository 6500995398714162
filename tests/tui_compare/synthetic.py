"""A comparison with made-up figures, for tests of the screen alone."""

from __future__ import annotations

import math
import random
from dataclasses import replace

from studio.core.comparison import Arm, Comparison, ComparisonState, Plan, Row
from studio.core.manifest import Fidelity, Gate, Interval, Machine, OutputFidelity
from studio.core.metrics import Point
from studio.core.views import VariantRow, VersionRow

START = 1_760_000_000.0
MACHINE = Machine(cpu="AMD EPYC 7B13", cores=2, memory=8_000_000_000, system="Linux 6.1", runtime="onnxruntime 1.31.0")
TARGETS = ("digits:3-fp32", "digits:4-int8", "digits:4-fp16", "digits:4-int8-static")


def points(index: int, seconds: int) -> tuple[Point, ...]:
    noise = random.Random(index)
    made = []
    for second in range(seconds):
        p50 = (9.4 - 2.1 * index) + 1.2 * math.sin(second / 6 + index) + 0.3 * noise.random()
        if second % 23 == 17 - 5 * index:
            p50 += 5
        made.append(
            Point(at=START + second, requests=1000 / p50 * 0.8, errors=0, p50=p50, p95=p50 * 1.3, p99=p50 * 1.9)
        )
    return tuple(made)


def fidelity(cosine: float, top1: float, accuracy: float) -> Fidelity:
    out = OutputFidelity(
        name="probabilities", cosine=cosine, sqnr_db=38.2, max_abs=0.083, max_rel=0.2, top1_agreement=top1
    )
    return Fidelity(inputs="labelled", samples=250, batch_sizes=(1, 8), outputs=(out,), accuracy=accuracy)


def comparison(
    state: ComparisonState = "done", arms: int = 2, elapsed: float = 60.0, gate_fails: bool = False
) -> Comparison:
    running = state == "running"
    made = tuple(
        Arm(
            label="ABCD"[n],
            target=TARGETS[n],
            requests=4_700 + 900 * n,
            errors=0,
            p50=9.6 - 2.1 * n,
            p95=11.8,
            p99=15.1,
            throughput=78.4 + 40 * n,
            series=points(n, int(elapsed) + (0 if running else 1)),
        )
        for n in range(arms)
    )
    rows = (
        Row(
            metric="p50",
            values=(9.6, 5.24, 7.1, 6.02)[:arms],
            unit="ms",
            words="B faster, 1.83x, 95 % CI 1.79-1.88",
            better="B",
            ratio=Interval(1.832, 1.79, 1.88),
        ),
        Row(
            metric="p95",
            values=(11.8, 7.91, 9.2, 8.5)[:arms],
            unit="ms",
            words="B faster, 1.49x, 95 % CI 1.41-1.58",
            better="B",
            ratio=Interval(1.492, 1.41, 1.58),
        ),
        Row(
            metric="p99",
            values=(15.1, 14.8, 15.0, 15.2)[:arms],
            unit="ms",
            words="not distinguishable, 1.02x, 95 % CI 0.93-1.12",
            ratio=Interval(1.02, 0.93, 1.12),
        ),
        Row(
            metric="throughput",
            values=(78.4, 121.0, 101.0, 110.0)[:arms],
            unit="req/s",
            words="B higher, 1.54x, 95 % CI 1.50-1.59",
            better="B",
            ratio=Interval(1.543, 1.50, 1.59),
        ),
        Row(
            metric="peak memory",
            values=(158e6, 212e6, 170e6, 214e6)[:arms],
            unit="bytes",
            words="A smaller",
            better="A",
        ),
        Row(metric="size", values=(49e6, 24.1e6, 25e6, 24.3e6)[:arms], unit="bytes", words="B smaller", better="B"),
    )
    gates = (
        Gate(name="cosine", rule="cosine ≥ 0.99", value=0.9931, passed=True),
        Gate(name="top-1", rule="top-1 agreement ≥ 0.98", value=0.971 if gate_fails else 0.991, passed=not gate_fails),
        Gate(name="accuracy", rule="accuracy drop ≤ 0.01", value=0.0024, passed=True),
    )
    return Comparison(
        id="c1",
        state=state,
        created=START,
        arms=made,
        inputs="labelled",
        samples=250,
        machine=MACHINE,
        plan=Plan(references=("digits:production", *TARGETS[1:arms]), seconds=60, clients=8),
        elapsed=elapsed,
        rows=() if state == "queued" else rows,
        gates=gates,
        fidelity=(fidelity(1.0, 1.0, 0.7612), fidelity(0.99312, 0.991, 0.7588), None, None)[:arms],
        verdict=""
        if state == "queued"
        else "B is 1.83 times as fast as A at the median and loses 0.24 points of accuracy.",
    )


def versions() -> tuple[VersionRow, ...]:
    def variant(name: str, size: int, accuracy: float | None, *aliases: str) -> VariantRow:
        return VariantRow(
            variant=name, outcome="keep", sentence="", size=size, accuracy=accuracy, aliases=tuple(aliases)
        )

    row = VersionRow(
        model="digits",
        version=3,
        state="serving",
        created="2025-10-09T08:00:00Z",
        format="onnx",
        size=49_000_000,
        p50=9.6,
        accuracy=0.7612,
        fidelity=1.0,
        aliases=("production",),
        latest=False,
        variants=(variant("fp32", 49_000_000, 0.7612, "production"),),
    )
    newer = (variant("int8", 24_100_000, 0.7588, "candidate"), variant("fp16", 24_900_000, 0.7610))
    return (row, replace(row, version=4, aliases=("candidate",), latest=True, variants=newer))
