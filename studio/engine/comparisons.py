"""Comparisons: one at a time, because two at once would measure each other."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import replace

from studio.core.comparison import Arm, Comparison, Plan
from studio.core.errors import Conflict, InvalidInput, Problem, StudioError
from studio.core.names import Reference
from studio.engine.bus import Bus
from studio.engine.keep import Keep
from studio.engine.logs import Logs

LABELS = "ABCD"
MAX_SECONDS = 3600.0
MAX_CLIENTS = 256
FINISHED = ("done", "failed", "cancelled")

Measure = Callable[[Comparison, Callable[[Comparison], None]], Awaitable[Comparison]]


class Comparisons:
    """Runs comparisons and remembers them: running ones here, finished ones in the registry."""

    def __init__(self, keep: Keep, bus: Bus, logs: Logs, measure: Measure) -> None:
        self._keep, self._bus, self._logs, self._measure = keep, bus, logs, measure
        self._live: dict[str, Comparison] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._turn = asyncio.Lock()

    async def start(self, plan: Plan) -> Comparison:
        """Queue a comparison. Raises InvalidInput, or Conflict when one waits already."""
        if not 1 <= len(plan.references) <= len(LABELS):
            raise InvalidInput("A comparison takes 2 to 4 references, a load test one.")
        if not (1 <= plan.seconds <= MAX_SECONDS and 1 <= plan.clients <= MAX_CLIENTS):
            raise InvalidInput(f"Seconds go from 1 to {MAX_SECONDS:.0f}, clients from 1 to {MAX_CLIENTS}.")
        if not 0.05 <= plan.slice_seconds <= plan.seconds:
            raise InvalidInput("A slice lasts at least 0.05 s and no longer than the comparison.")
        if len(self._live) >= 2:
            raise Conflict(
                "A comparison runs, and another waits already.",
                "They run one after the other: two at once would measure each other.",
                "Wait for it, or cancel it.",
            )
        targets = [self._keep.resolve(reference) for reference in plan.references]
        if len({target.name for target in targets}) < len(targets):
            raise InvalidInput("The same variant is named twice.", fix="Name different versions or variants.")
        takes = [tuple((spec.name, spec.datatype) for spec in target.signature.inputs) for target in targets]
        for target, inputs in zip(targets, takes, strict=True):
            if inputs != takes[0]:
                raise InvalidInput(
                    f"{targets[0].name} and {target.name} take different inputs.",
                    "A comparison sends the same inputs to every side.",
                    "Compare versions or variants that do the same work; for one alone there is: studio bench.",
                )
        arms = tuple(Arm(label=LABELS[i], target=target.name) for i, target in enumerate(targets))
        plan = replace(plan, references=tuple(str(Reference.parse(target.name)) for target in targets))
        comparison = Comparison(id=uuid.uuid4().hex[:12], state="queued", plan=plan, created=time.time(), arms=arms)
        self._update(comparison)
        self._tasks[comparison.id] = asyncio.create_task(self._run(comparison), name=f"comparison {comparison.id}")
        return comparison

    async def _run(self, comparison: Comparison) -> None:
        try:
            async with self._turn:
                self._update(replace(comparison, state="running"))
                final = await self._measure(self._live[comparison.id], self._update)
        except asyncio.CancelledError:
            final = replace(self._live[comparison.id], state="cancelled")
        except StudioError as error:
            final = replace(self._live[comparison.id], state="failed", problem=error.problem)
        except Exception as error:  # the engine must outlive any fault in a measurement
            self._logs.failure("comparison failed", error, comparison.id)
            problem = Problem(code="internal", what="The comparison failed.", why=f"{type(error).__name__}: {error}.")
            final = replace(self._live[comparison.id], state="failed", problem=problem)
        self._update(final)
        await self._keep.save_comparison(final)
        self._live.pop(final.id, None)
        self._tasks.pop(final.id, None)
        names = " and ".join(final.plan.references)
        said = final.verdict or (final.problem.sentence() if final.problem else "")
        self._logs.add("engine", "info", f"comparison of {names}: {final.state}. {said}")

    def _update(self, comparison: Comparison) -> None:
        self._live[comparison.id] = comparison
        self._bus.publish("comparison", comparison)

    async def newest(self) -> list[Comparison]:
        """Live ones first, then finished ones, newest first."""
        live = sorted(self._live.values(), key=lambda one: -one.created)
        return live + [one for one in await self._keep.list_comparisons() if one.id not in self._live]

    async def get(self, key: str) -> Comparison:
        if key in self._live:
            return self._live[key]
        return await self._keep.get_comparison(key)

    async def cancel(self, key: str) -> Comparison:
        task = self._tasks.get(key)
        if task is None:
            await self.get(key)
            raise Conflict(f"Comparison {key} is not running.")
        task.cancel()
        await asyncio.wait({task})
        return await self.get(key)

    async def stop(self) -> None:
        """Cancel what runs."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
