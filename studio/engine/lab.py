"""The lab lane: measures the reference, then makes and judges each recipe's variant."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from studio.core.errors import StepFailed
from studio.core.manifest import Graph, VariantManifest, VersionManifest
from studio.core.names import REFERENCE_VARIANT
from studio.core.recipe import Plan, plan_of
from studio.engine.keep import Keep
from studio.engine.sources import source_of
from studio.pipeline.forkservers import ForkServers
from studio.pipeline.messages import VariantResult, VariantTask
from studio.pipeline.variants import make_variant
from studio.store.journal import utc_now
from studio.store.workspace import Workspace

if TYPE_CHECKING:
    from studio.engine.jobs import Jobs


class Lab:
    """Runs the variants of one version after the other, each in workers of its own."""

    def __init__(self, workspace: Workspace, keep: Keep, fork_servers: ForkServers) -> None:
        self._workspace, self._keep, self._fork_servers = workspace, keep, fork_servers

    async def run(self, jobs: Jobs, key: str) -> None:
        """The whole lane. What a version has already is not made again; one that can only be served is measured."""
        job = jobs.get(key)
        if job.version is None:
            return
        detail = await self._keep.version_detail(job.model, job.version)
        have = {variant.variant: variant for variant in detail.variants}
        recipes = detail.manifest.recipes
        if recipes is None:
            recipes = self._workspace.settings.workers.recipes
        serve_only = detail.manifest.serve_only
        wanted = [REFERENCE_VARIANT, *(() if serve_only else recipes)]
        missing = [recipe for recipe in wanted if recipe not in have]
        for index, recipe in enumerate(missing):
            tell = self._progress(jobs, key, recipe, index, len(missing))
            have[recipe] = await self._make(jobs, key, detail.manifest, plan_of(recipe), tell)
            await self._keep.add_variant(have[recipe])
        outcomes = ", ".join(f"{name}: {have[name].verdict.outcome}" for name in wanted[1:])
        for name in ("optimised", "verified"):
            jobs.step(key, name, "skipped" if serve_only else "done", serve_only or outcomes)
        jobs.step(key, "measured", "done", "the reference alone" if serve_only else outcomes)

    async def _make(
        self,
        jobs: Jobs,
        key: str,
        version: VersionManifest,
        plan: Plan,
        tell: Callable[[str, float | None, str], None],
    ) -> VariantManifest:
        work = self._workspace.work_of(key) / plan.name
        await asyncio.to_thread(shutil.rmtree, work, True)
        out = work / "out"
        out.mkdir(parents=True)
        blobs = self._keep.store.blobs
        if version.samples.file is None:
            raise StepFailed(f"{version.model}:{version.version} has no sample inputs to measure with.")
        task = VariantTask(
            plan=plan,
            reference=str(blobs.path(version.graph.file.sha256)),
            out=str(out),
            samples=str(blobs.path(version.samples.file.sha256)),
            kind=version.samples.kind,
            batchable=version.signature.batchable,
            reference_size=version.graph.size,
            gates=version.gates_over(self._workspace.settings.gates),
            threads=self._workspace.settings.serving.threads,
            weights=tuple(str(blobs.path(file.sha256)) for file in version.graph.weights),
            source=source_of(version, self._keep),
        )
        try:
            result = await make_variant(
                self._workspace.settings.workers,
                work,
                jobs.log_path(key),
                task,
                version.machine,
                tell,
                fork_servers=self._fork_servers,
            )
            graph = await asyncio.to_thread(self._store, result) if result.graph else None
            return self._manifest(version, plan, result, graph)
        finally:
            await asyncio.to_thread(shutil.rmtree, self._workspace.work_of(key), True)

    def _store(self, result: VariantResult) -> Graph:
        assert result.graph is not None
        reference = self._keep.store.blobs.put_file(Path(result.graph_path), expected=result.graph.file.sha256)
        return replace(result.graph, file=replace(reference, name=result.graph.file.name))

    @staticmethod
    def _manifest(version: VersionManifest, plan: Plan, result: VariantResult, graph: Graph | None) -> VariantManifest:
        return VariantManifest(
            model=version.model,
            version=version.version,
            variant=plan.name,
            created=utc_now(),
            plan=plan,
            verdict=result.verdict,
            machine=result.machine,
            tools=result.tools,
            graph=graph if plan.name != REFERENCE_VARIANT else version.graph,
            fidelity=result.fidelity,
            measurement=result.measurement,
            parameters=result.parameters,
        )

    @staticmethod
    def _progress(
        jobs: Jobs, key: str, recipe: str, index: int, count: int
    ) -> Callable[[str, float | None, str], None]:
        """Steps of one recipe as a share of all of them."""

        def tell(step: str, progress: float | None, detail: str) -> None:
            share = (index + min(progress or 0.0, 1.0)) / count
            jobs.step(key, step, "running", f"{recipe}: {detail}" if detail else recipe, share)

        return tell
