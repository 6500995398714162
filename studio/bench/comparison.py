"""Runs a comparison, or a load test of one variant: starts the load process, follows it, and draws the verdict."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from studio.bench import verdict
from studio.bench.bins import COUNT, dense, quantiles_ms
from studio.bench.plan import Line, LoadArm, LoadPlan, Slice, infer_path
from studio.core import codec
from studio.core.comparison import Arm, Comparison
from studio.core.errors import StepFailed, StudioError, from_problem
from studio.core.metrics import Point
from studio.core.routing import Target

UPDATE_SECONDS = 0.5
MAX_POINTS = 240
MAX_SLICES = 2000  # beyond this, neighbouring rounds are added up: an hour of slices would fill the engine's memory
_LINE_BYTES = 4 * 1024 * 1024


async def run_comparison(
    comparison: Comparison,
    url: str,
    targets: Sequence[Target],
    samples: Mapping[str, Path | None],
    on_update: Callable[[Comparison], None],
) -> Comparison:
    """Measure `comparison.arms` through the endpoint at `url`; returns it `done`, or `failed` with a problem.

    `targets` in the order of the arms; `samples` has a version's `.npz` by the target's name. Every arm gets the first
    target's samples where they fit its inputs, else its own, else drawn ones. `on_update` is called at most twice a
    second. Cancelling the task kills the load process with all it started.
    """
    follower = _Follower(replace(comparison, state="running"))
    try:
        await _follow(follower, _plan(comparison, url, targets, samples), on_update)
    except StudioError as error:
        return replace(follower.now(), state="failed", problem=error.problem)
    measured = follower.now()
    table = await asyncio.to_thread(verdict.rows, measured.arms, follower.slices)
    said = verdict.verdict(measured.arms, table, comparison.plan.clients)
    return replace(measured, state="done", rows=table, verdict=said)


def _plan(comparison: Comparison, url: str, targets: Sequence[Target], samples: Mapping[str, Path | None]) -> LoadPlan:
    shared = samples.get(targets[0].name)
    arms = []
    for arm, target in zip(comparison.arms, targets, strict=True):
        own = samples.get(target.name)
        files = tuple(dict.fromkeys(str(path) for path in (shared, own) if path))
        arms.append(LoadArm(label=arm.target, path=infer_path(target), signature=target.signature, samples=files))
    plan = comparison.plan
    return LoadPlan(
        url=url, arms=tuple(arms), seconds=plan.seconds, slice_seconds=plan.slice_seconds, clients=plan.clients
    )


async def _follow(follower: _Follower, plan: LoadPlan, on_update: Callable[[Comparison], None]) -> None:
    """Run the load process to its end. Raises StudioError."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "studio.bench.load",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        limit=_LINE_BYTES,
        start_new_session=True,
        env=os.environ | {"ORT_DISABLE_TELEMETRY": "1"},
    )
    assert process.stdin and process.stdout and process.stderr
    complaints = asyncio.create_task(process.stderr.read())
    try:
        with contextlib.suppress(ConnectionError):  # it died at once: its exit code says so below
            process.stdin.write(codec.encode(plan))
            await process.stdin.drain()
        process.stdin.close()
        told = 0.0
        while raw := await process.stdout.readline():
            follower.take(codec.decode(raw, Line, "line of the load process"))
            if time.monotonic() - told >= UPDATE_SECONDS:
                told = time.monotonic()
                on_update(follower.now())
        code = await process.wait()
        if code:
            text = (await complaints).decode(errors="replace").strip()
            raise StepFailed(
                "The load process ended before the measurement did.",
                f"It ended with code {code}{': ' + text.splitlines()[-1] if text else ''}.",
                "Run the comparison again.",
            )
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
        complaints.cancel()


class _Follower:
    """Adds up what the load process tells."""

    def __init__(self, comparison: Comparison) -> None:
        self._comparison = comparison
        self._tallies = [_Tally(arm, _step(comparison.plan.seconds)) for arm in comparison.arms]
        self._begun: float | None = None
        self.slices: list[Slice] = []

    def take(self, line: Line) -> None:
        """Raises the StudioError that the load process reports."""
        if line.problem:
            raise from_problem(line.problem)
        if line.prepared:
            self._comparison = replace(self._comparison, inputs=line.prepared.inputs, samples=line.prepared.samples)
        if line.slice:
            if self._begun is None:
                self._begun = line.slice.at - line.slice.seconds
            self.slices.append(line.slice)
            if len(self.slices) > MAX_SLICES:
                self.slices = verdict.merged(self.slices)
            self._tallies[line.slice.arm].add(line.slice)
            self._comparison = replace(self._comparison, elapsed=line.slice.at - self._begun)

    def now(self) -> Comparison:
        """The comparison with everything so far, without a verdict."""
        return replace(self._comparison, arms=tuple(tally.arm() for tally in self._tallies))


class _Tally:
    """Sums of one arm, over all and by `step` seconds for the chart."""

    def __init__(self, arm: Arm, step: float) -> None:
        self._arm, self._step = arm, step
        self._all = _Sum()
        self._open = _Sum()
        self._open_at = 0.0
        self._points: list[Point] = []

    def add(self, one: Slice) -> None:
        at = math.floor(one.at / self._step) * self._step
        if at > self._open_at:
            if self._open.requests:
                self._points.append(self._open.point(self._open_at))
            self._open, self._open_at = _Sum(), at
        self._open.add(one)
        self._all.add(one)

    def arm(self) -> Arm:
        points = (*self._points, self._open.point(self._open_at)) if self._open.requests else tuple(self._points)
        sums = self._all
        arm = verdict.figures(self._arm, sums.counts, sums.requests, sums.errors, sums.seconds)
        return replace(arm, series=points)


class _Sum:
    def __init__(self) -> None:
        self.counts = np.zeros(COUNT)
        self.requests = 0
        self.errors = 0
        self.seconds = 0.0

    def add(self, one: Slice) -> None:
        self.counts += dense(one.bins)
        self.requests += one.requests
        self.errors += one.errors
        self.seconds += one.seconds

    def point(self, at: float) -> Point:
        p50, p95, p99 = quantiles_ms(self.counts, verdict.QUANTILES)
        return Point(
            at=at,
            requests=self.requests / self.seconds,
            errors=self.errors / self.seconds,
            p50=p50,
            p95=p95,
            p99=p99,
        )


def _step(seconds: float) -> float:
    """Seconds of one point of the chart: 1, or more where that would make too many points to send twice a second."""
    return float(max(1, math.ceil(seconds / MAX_POINTS)))
