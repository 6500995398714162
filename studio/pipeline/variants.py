"""The engine's side of one variant: made and compared in one worker, measured and judged in a fresh one.

Two processes, because what a recipe leaves in memory would be counted as the variant's own.
"""

from __future__ import annotations

from pathlib import Path

from studio.core.errors import Cancelled, StudioError
from studio.core.manifest import Machine
from studio.core.names import REFERENCE_VARIANT
from studio.core.settings import WorkerSettings
from studio.pipeline.forkservers import ForkServers
from studio.pipeline.messages import MeasureTask, Progress, VariantResult, VariantTask
from studio.pipeline.process import spawn_worker
from studio.verify.verdict import not_applicable, not_made


async def make_variant(
    settings: WorkerSettings,
    scratch: Path,
    log_path: Path,
    task: VariantTask,
    machine: Machine,
    on_progress: Progress | None = None,
    fork_servers: ForkServers | None = None,
) -> VariantResult:
    """Make, compare, measure and judge one variant; the plan `fp32` only measures the reference.

    A plan that does not apply, fails or ends its worker is an answer too: a result without a graph, whose verdict
    says why. `machine` is for that case, where no worker could tell. Raises Cancelled, and StudioError when the
    reference itself can not be measured.
    """
    if task.plan.name == REFERENCE_VARIANT:
        return await _measure(settings, scratch, log_path, MeasureTask(variant=task), on_progress, fork_servers)
    try:
        async with spawn_worker(settings, scratch, log_path, "lab", task.threads, fork_servers=fork_servers) as worker:
            made = await worker.run(task, on_progress)
        if made.graph is None:
            verdict = not_applicable(task.plan.name, made.reason)
            return VariantResult(verdict=verdict, machine=made.machine, tools=made.tools)
        result = await _measure(
            settings, scratch, log_path, MeasureTask(variant=task, made=made), on_progress, fork_servers
        )
    except Cancelled:
        raise
    except StudioError as error:
        return VariantResult(verdict=not_made(task.plan.name, error.problem), machine=machine, tools={})
    return result


async def _measure(
    settings: WorkerSettings,
    scratch: Path,
    log_path: Path,
    task: MeasureTask,
    on_progress: Progress | None,
    fork_servers: ForkServers | None,
) -> VariantResult:
    async with spawn_worker(
        settings, scratch, log_path, "lab", task.variant.threads, fork_servers=fork_servers
    ) as worker:
        return await worker.run(task, on_progress)
