"""The engine's side of one variant: made and compared in one worker, measured and judged in a fresh one.

Two processes, because what a recipe leaves in memory would be counted as the variant's own.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from studio.core.errors import Cancelled, StudioError
from studio.core.manifest import Machine
from studio.core.names import REFERENCE_VARIANT
from studio.core.settings import WorkerSettings
from studio.pipeline.forkservers import ForkServers
from studio.pipeline.messages import MeasureTask, Progress, VariantResult, VariantTask
from studio.pipeline.process import Worker, spawn_worker
from studio.verify.verdict import not_applicable, not_made


class Hold:
    """Stops the workers of the lab, and lets them go on. `free` is set while they may run."""

    def __init__(self) -> None:
        self._workers: set[Worker] = set()
        self.free = asyncio.Event()
        self.free.set()
        self._since = self._before = 0.0

    @property
    def on(self) -> bool:
        return not self.free.is_set()

    @property
    def seconds(self) -> float:
        """How long it has stopped them by now, in all."""
        return self._before + (time.monotonic() - self._since if self._since else 0.0)

    def stop(self) -> None:
        """Stop what runs where it is, and keep others from starting."""
        if not self.on:
            self._since = time.monotonic()
        self.free.clear()
        for worker in self._workers:
            worker.pause()

    def release(self) -> None:
        """Let everything go on."""
        self._before, self._since = self.seconds, 0.0
        self.free.set()
        for worker in self._workers:
            worker.resume()

    @contextmanager
    def over(self, worker: Worker) -> Iterator[Worker]:
        """While the block lasts, this worker is stopped and goes on with the others."""
        self._workers.add(worker)
        if self.on:
            worker.pause()
        try:
            yield worker
        finally:
            self._workers.discard(worker)


async def make_variant(
    settings: WorkerSettings,
    scratch: Path,
    log_path: Path,
    task: VariantTask,
    machine: Machine,
    on_progress: Progress | None = None,
    fork_servers: ForkServers | None = None,
    hold: Hold | None = None,
) -> VariantResult:
    """Make, compare, measure and judge one variant; the plan `fp32` only measures the reference.

    A plan that does not apply, fails or ends its worker is an answer too: a result without a graph, whose verdict
    says why. `machine` is for that case, where no worker could tell. `hold` may stop its workers for a while. Raises
    Cancelled, and StudioError when the reference itself can not be measured.
    """
    hold = hold or Hold()

    async def measured(measuring: MeasureTask) -> VariantResult:
        await hold.free.wait()
        async with spawn_worker(settings, scratch, log_path, "lab", task.threads, fork_servers=fork_servers) as worker:
            with hold.over(worker):
                return await worker.run(measuring, on_progress)

    if task.plan.name == REFERENCE_VARIANT:
        return await measured(MeasureTask(variant=task))
    try:
        await hold.free.wait()
        async with spawn_worker(settings, scratch, log_path, "lab", task.threads, fork_servers=fork_servers) as worker:
            with hold.over(worker):
                made = await worker.run(task, on_progress)
        if made.graph is None:
            verdict = not_applicable(task.plan.name, made.reason)
            return VariantResult(
                verdict=verdict, machine=made.machine, tools=made.tools, wants_samples=made.wants_samples
            )
        result = await measured(MeasureTask(variant=task, made=made))
    except Cancelled:
        raise
    except StudioError as error:
        return VariantResult(verdict=not_made(task.plan.name, error.problem), machine=machine, tools={})
    return result
