"""Many arrivals at once: each ends as it should, in the order in which they came, and few processes do the work."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import psutil
import pytest

from studio.core.jobs import STEPS, Job
from studio.pipeline.guard import WORKER_NAME
from tests.formats.graphs import built, tensor, value
from tests.journeys.engines import RunningEngine

# Conversions at once, a variant in the lab, and one that waits for the next arrival.
MOST_WORKERS = 2 + 1 + 1
MOST_MEMORY = 600e6


def model(number: int) -> bytes:
    """A small graph unlike all others."""
    weight = np.random.default_rng(number).random((8, 4), dtype=np.float32)
    nodes = [onnx.helper.make_node("MatMul", ["x", "w"], ["h"]), onnx.helper.make_node("Relu", ["h"], ["y"])]
    graph = built(nodes, [value("x", shape=("n", 8))], [value("y")], [tensor("w", weight)])
    return graph.SerializeToString()


def test_thirty_arrivals_are_worked_through(tmp_path: Path) -> None:
    work_through(tmp_path / "workspace", 30)


@pytest.mark.slow
def test_a_hundred_arrivals_are_worked_through(tmp_path: Path) -> None:
    work_through(tmp_path / "workspace", 100)


@dataclass(frozen=True)
class Figures:
    """Of many arrivals. `seconds` until all were endpoints or had failed; `memory` and `idle` in bytes."""

    seconds: float
    workers: int
    memory: float
    idle: float
    displaced: int


def work_through(workspace: Path, count: int) -> Figures:
    engine = RunningEngine(workspace)
    workspace.mkdir()
    (workspace / "studio.toml").write_text(
        "[serving]\nport = 0\n[workers]\nparallel = 2\nrecipes = []\nmeasure_seconds = 0.4\n"
    )
    engine.start()
    try:
        # Later names first: their order in the folder is not that of their coming.
        stems = [f"model-{count - number:03}" for number in range(count)]
        damaged = set(stems[5::10])
        workers, idle = 0, memory_of(engine)
        memory = idle
        for number, stem in enumerate(stems):
            data = model(number)
            (engine.inbox / f"{stem}.onnx").write_bytes(data.replace(b"MatMul", b"MetMul") if stem in damaged else data)
        began = time.monotonic()
        deadline = began + 150
        while True:
            jobs = engine.client.jobs(limit=2 * count)
            for job in jobs:
                check_steps(job)
            assert sum(in_intake(job) for job in jobs) <= 2
            workers, memory = max(workers, working(engine)), max(memory, memory_of(engine))
            if len(jobs) == count and all(job.version or job.finished for job in jobs):
                break
            assert time.monotonic() < deadline, [job.state for job in jobs]
            time.sleep(0.1)
        seconds = time.monotonic() - began
        assert {job.stem for job in jobs if job.state == "failed"} == damaged
        assert all(job.version == 1 for job in jobs if job.stem not in damaged)
        assert all(job.problem is not None for job in jobs if job.stem in damaged)
        ended = sorted((job for job in jobs if job.version), key=lambda job: job.step("registered").ended or 0.0)
        good = [stem for stem in stems if stem not in damaged]
        ahead = [abs(good.index(job.stem) - place) for place, job in enumerate(ended)]
        assert max(ahead) <= 3, [job.stem for job in ended]
        assert engine.client.versions(limit=2 * count).total == len(good)
        assert 1 <= workers <= MOST_WORKERS
        assert memory < MOST_MEMORY
        return Figures(seconds, workers, memory, idle, max(ahead))
    finally:
        assert engine.stop() == 0


def check_steps(job: Job) -> None:
    """Fails unless the steps up to the endpoint follow each other, with progress where there is work."""
    assert [step.name for step in job.steps] == list(STEPS)
    states = [step.state for step in job.steps[: STEPS.index("optimised")]]
    begun = [state for state in states if state != "pending"]
    assert states[: len(begun)] == begun, (job.stem, states)
    assert states.count("running") <= 1, (job.stem, states)
    for step in job.steps:
        assert step.progress is None or (step.state == "running" and 0 <= step.progress <= 1), step
        assert (step.ended is not None) is (step.state in ("done", "failed", "skipped")), step


def in_intake(job: Job) -> bool:
    return job.state == "running" and job.version is None


def working(engine: RunningEngine) -> int:
    """Workers that there are, without what they start."""
    return sum(named(process) == WORKER_NAME for process in engine.children())


def named(process: psutil.Process) -> str:
    try:
        return str(process.name())
    except psutil.Error:
        return ""


def memory_of(engine: RunningEngine) -> float:
    """Bytes of the engine and all below it; what processes share is counted once."""
    assert engine.process is not None
    total = 0.0
    for process in (psutil.Process(engine.process.pid), *engine.children()):
        try:
            total += process.memory_full_info().pss
        except psutil.Error:
            continue
    return total
