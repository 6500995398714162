"""The lab lane: measures the reference, then makes and judges each plan's variant.

What rests on the same content (graph, samples, plan, gates, tools and machine) is never done twice: the evidence is
taken over. What was judged before is judged again only where that was asked for, or where its figures are stale, and
then on the graph that was made: a variant never changes under those who use it.
"""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from studio.core import codec
from studio.core.choice import stale_words
from studio.core.errors import Conflict, NotFound, StepFailed, StudioError
from studio.core.jobs import LAB_STEPS, Job
from studio.core.manifest import Graph, Machine, VariantManifest, VersionManifest
from studio.core.names import REFERENCE_VARIANT
from studio.core.recipe import Plan, plan_of
from studio.engine.captured import Captured
from studio.engine.keep import Keep
from studio.engine.sources import source_of
from studio.optimize.base import recipes
from studio.optimize.plans import plans_in
from studio.pipeline.forkservers import ForkServers
from studio.pipeline.messages import VariantResult, VariantTask
from studio.pipeline.variants import Hold, make_variant
from studio.store.journal import utc_now
from studio.store.workspace import Workspace
from studio.verify.machine import this_machine, tool_versions

if TYPE_CHECKING:
    from studio.engine.jobs import Jobs

Tell = Callable[[str, float | None, str], None]
# What recipes may use beside the tools that every manifest names.
MAKERS = ("torch", "torch-pruning", "onnxslim", "scikit-learn")


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One variant to come: `before` is what there is of it already."""

    plan: Plan
    before: VariantManifest | None = None


class Lab:
    """Runs the variants of one version after the other, each in workers of its own. `hold` stops and resumes them."""

    def __init__(
        self, workspace: Workspace, keep: Keep, fork_servers: ForkServers, captured: Captured | None = None
    ) -> None:
        self._workspace, self._keep, self._fork_servers = workspace, keep, fork_servers
        self._captured = captured
        self.hold = Hold()
        self.machine = this_machine()

    async def run(self, jobs: Jobs, key: str) -> None:
        """The whole lane, for an arrival or for what a user asked the lab for. Raises StudioError.

        A version that is deleted meanwhile ends its job as cancelled: whatever failed for want of its files says
        nothing of the model.
        """
        job = jobs.get(key)
        if job.version is None:
            return
        try:
            await self._work_through(jobs, job, job.version)
        except (StudioError, OSError):
            if not await self._deleted(job.model, job.version):
                raise
            jobs.cancelled(key, f"{job.model}:{job.version} was deleted")

    async def _deleted(self, model: str, version: int) -> bool:
        try:
            await self._keep.version_detail(model, version)
        except NotFound:
            return True
        return False

    async def _work_through(self, jobs: Jobs, job: Job, number: int) -> None:
        key, detail = job.id, await self._keep.version_detail(job.model, number)
        version, have = detail.manifest, {variant.variant: variant for variant in detail.variants}
        refuse_others(f"{version.model}:{version.version}", job.plans, have)
        if self._captured is not None:
            version = await self._captured.newest(version)
        turns = planned(self.plans_of(version, job.plans), have, self.machine, job.again, version.samples.real)
        # A user who asks has the patience; an arrival gets what the settings give it.
        limit = self._workspace.settings.workers.lab_seconds if not job.plans and job.is_arrival else 0.0
        spent, left = 0.0, list(turns)
        while left and not (limit and spent >= limit):
            await self.hold.free.wait()
            turn, started = left[0], self._worked()
            tell = self._progress(jobs, key, turn.plan.name, len(turns) - len(left), len(turns))
            found = await self._known(version, turn) or await self._judged(
                jobs, key, version, turn, tell, limit - spent if limit else None
            )
            spent += self._worked() - started
            if found is None:
                break
            have[turn.plan.name] = found
            await self._keep.add_variant(found)
            left.pop(0)
        await self._finish(jobs, key, version, have, [turn.plan.name for turn in left])

    def plans_of(self, version: VersionManifest, wanted: Sequence[Plan] = ()) -> list[Plan]:
        """The reference, which is only measured, and the plans wanted; without any, those of the settings."""
        if version.serve_only:
            return [plan_of(REFERENCE_VARIANT)]
        names = version.recipes if version.recipes is not None else self._workspace.settings.workers.recipes
        return [plan_of(REFERENCE_VARIANT), *(wanted or self._defaults(names))]

    async def real_samples(self, version: VersionManifest) -> int:
        """How many rows the lab has of a version that nobody made up, recorded requests among them."""
        return version.samples.real if self._captured is None else await self._captured.count(version)

    @property
    def folder(self) -> Path:
        """Where the user's own recipes lie, as TOML."""
        return self._workspace.root / "recipes"

    def _defaults(self, names: Sequence[str]) -> list[Plan]:
        known = recipes()
        own = {} if all(name in known for name in names) else plans_in(self.folder, known).plans
        # A name that nobody has becomes a variant that could not be made: its verdict names those that there are.
        return [own.get(name) or plan_of(name) for name in names]

    async def _finish(
        self, jobs: Jobs, key: str, version: VersionManifest, have: Mapping[str, VariantManifest], left: Sequence[str]
    ) -> None:
        outcomes = ", ".join(f"{name}: {one.verdict.outcome}" for name, one in have.items() if not one.is_reference)
        row = (await self._keep.version_detail(version.model, version.version)).row
        for name in LAB_STEPS[:-1]:
            jobs.step(key, name, "skipped" if version.serve_only else "done", version.serve_only or outcomes)
        jobs.step(key, "measured", "done", "the reference alone" if version.serve_only else outcomes)
        words = [jobs.get(key).note]
        if not version.serve_only:
            words.append(row.choice)
        if left:
            words.append(
                f"The lab's time for one arrival is over (workers.lab_seconds); left: {', '.join(left)}. "
                f"Go on: studio lab {version.model}:{version.version}"
            )
        jobs.update(replace(jobs.get(key), note=" ".join(word for word in words if word)))

    def _worked(self) -> float:
        """A clock that stands still while the lab is held."""
        return time.monotonic() - self.hold.seconds

    # -- one variant

    async def _known(self, version: VersionManifest, turn: Turn) -> VariantManifest | None:
        """The evidence of equal content, where it was gathered before."""
        if turn.before is not None:
            return None
        content = self.content_of(version, turn.plan)
        found = await self._keep.find_content(content, turn.plan.name)
        if found is None or (found.graph is None and found.verdict.outcome == "reject"):
            return None  # what failed may have failed for want of memory or time
        return replace(
            found,
            model=version.model,
            version=version.version,
            created=utc_now(),
            run=1,
            taken_from=f"{found.model}:{found.key}",
        )

    def content_of(self, version: VersionManifest, plan: Plan) -> str:
        """A digest of all that a variant and its evidence depend on."""
        samples = version.samples
        parts = {
            "source": version.source.format,
            "graph": [version.graph.file.sha256, *(file.sha256 for file in version.graph.weights)],
            "format": version.source.format,  # some recipes train the network that it holds
            "samples": [samples.kind, samples.file.sha256 if samples.file else ""],
            "plan": plan,
            "gates": version.gates_over(self._workspace.settings.gates),
            "batchable": version.signature.batchable,
            "threads": self._workspace.settings.serving.threads_of(),
            "machine": [self.machine.cpu, self.machine.cores, self.machine.runtime],
            "tools": sorted(tool_versions(*MAKERS).items()),
        }
        return hashlib.sha256(codec.encode(parts)).hexdigest()

    async def _judged(
        self, jobs: Jobs, key: str, version: VersionManifest, turn: Turn, tell: Tell, seconds: float | None
    ) -> VariantManifest | None:
        """The variant with its evidence; None where `seconds` ended before it was made."""
        plan, before = turn.plan, turn.before
        work = self._workspace.work_of(key) / plan.name
        await asyncio.to_thread(shutil.rmtree, work, True)
        (work / "out").mkdir(parents=True)
        limits = self._workspace.settings.workers
        if plan.name == REFERENCE_VARIANT:
            seconds = None  # a few seconds, without which nothing can be judged
        if seconds is not None:
            limits = replace(limits, wall_seconds=min(limits.wall_seconds, seconds))
        started = self._worked()
        try:
            result = await make_variant(
                limits,
                work,
                jobs.log_path(key),
                self._task(version, turn, work / "out"),
                self.machine,
                tell,
                fork_servers=self._fork_servers,
                hold=self.hold,
            )
            if seconds is not None and result.measurement is None and self._worked() - started >= seconds:
                return None
            graph = await asyncio.to_thread(self._store, result) if result.graph else None
        finally:
            await asyncio.to_thread(shutil.rmtree, self._workspace.work_of(key), True)
        return VariantManifest(
            model=version.model,
            version=version.version,
            variant=plan.name,
            created=utc_now(),
            plan=before.plan if before else plan,
            verdict=result.verdict,
            machine=result.machine,
            tools=result.tools,
            graph=version.graph if plan.name == REFERENCE_VARIANT else graph or (before.graph if before else None),
            fidelity=result.fidelity,
            measurement=result.measurement,
            parameters=result.parameters or (before.parameters if before else {}),
            run=before.run + 1 if before else 1,
            content=self.content_of(version, plan),
            refused_rows=version.samples.real if result.wants_samples else None,
        )

    def _task(self, version: VersionManifest, turn: Turn, out: Path) -> VariantTask:
        blobs = self._keep.store.blobs
        if version.samples.file is None:
            raise StepFailed(f"{version.model}:{version.version} has no sample inputs to measure with.")
        made = turn.before.graph if turn.before and turn.plan.name != REFERENCE_VARIANT else None
        recorded = self._captured.path(version.samples.file) if self._captured is not None else None
        return VariantTask(
            plan=turn.plan,
            reference=str(blobs.path(version.graph.file.sha256)),
            out=str(out),
            samples=str(recorded or blobs.path(version.samples.file.sha256)),
            kind=version.samples.kind,
            batchable=version.signature.batchable,
            reference_size=version.graph.size,
            gates=version.gates_over(self._workspace.settings.gates),
            threads=self._workspace.settings.serving.threads_of(),
            measure_seconds=self._workspace.settings.workers.measure_seconds,
            weights=tuple(str(blobs.path(file.sha256)) for file in version.graph.weights),
            source=source_of(version, self._keep),
            graph=str(blobs.path(made.file.sha256)) if made else "",
        )

    def _store(self, result: VariantResult) -> Graph:
        assert result.graph is not None
        reference = self._keep.store.blobs.put_file(Path(result.graph_path), expected=result.graph.file.sha256)
        return replace(result.graph, file=replace(reference, name=result.graph.file.name))

    @staticmethod
    def _progress(jobs: Jobs, key: str, recipe: str, index: int, count: int) -> Tell:
        """Steps of one recipe as a share of all of them."""

        def tell(step: str, progress: float | None, detail: str) -> None:
            share = (index + min(progress or 0.0, 1.0)) / count
            jobs.step(key, step, "running", f"{recipe}: {detail}" if detail else recipe, share)

        return tell


def refuse_others(stem: str, plans: Sequence[Plan], have: Mapping[str, VariantManifest]) -> None:
    """Raises Conflict where a variant of the version `stem` has the name of one of these plans and other steps."""
    for plan in plans:
        other = have.get(plan.name)
        if other is not None and other.plan.steps != plan.steps:
            raise Conflict(
                f"{stem} has a variant '{plan.name}' that was made in another way.",
                f"It is {other.plan.text}; variants never change.",
                "Give your recipe another name.",
            )


def planned(
    plans: Sequence[Plan], have: Mapping[str, VariantManifest], here: Machine, again: bool = False, samples: int = 0
) -> list[Turn]:
    """What is left to do: what is missing, what is stale, what was refused for want of samples and has more of them
    now, and, if `again`, all that there is. `samples` counts real ones."""
    turns = []
    for plan in plans:
        before = have.get(plan.name)
        if before is None or again or stale_words(before.machine, here) or _has_more(before, samples):
            turns.append(Turn(plan=plan, before=before))
    return turns


def _has_more(before: VariantManifest, samples: int) -> bool:
    return before.refused_rows is not None and samples > before.refused_rows
