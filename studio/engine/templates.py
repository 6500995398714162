"""Settings files on demand: a model is taken in without registering it, and what was seen is written down."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

from studio.core.errors import Conflict, InvalidInput, NotFound
from studio.core.views import SettingsTemplate
from studio.engine.environments import Environments
from studio.engine.keep import Keep
from studio.inbox.add import add
from studio.inbox.groups import SETTINGS_SUFFIX, stem_of
from studio.pipeline.forkservers import ForkServers
from studio.pipeline.messages import IntakeTask, TemplateResult, TemplateTask
from studio.pipeline.process import spawn_worker
from studio.store.workspace import Workspace


class Templates:
    """Makes settings files, one at a time. Nothing is written outside the work folder: the caller writes the file."""

    def __init__(self, workspace: Workspace, keep: Keep, environments: Environments, fork_servers: ForkServers) -> None:
        self._workspace, self._keep, self._environments = workspace, keep, environments
        self._fork_servers = fork_servers
        self._turn = asyncio.Semaphore(1)

    async def make(self, model: Path, target: Path | None = None, force: bool = False) -> SettingsTemplate:
        """The settings file for a model that lies anywhere, and where it belongs: beside it, or at `target`.

        What the settings file beside it says already is kept in it. Raises NotFound; Conflict when there is a file
        already and not `force`; InvalidInput, Refused or StepFailed as the arrival of that model would.
        """
        stem, place = await asyncio.to_thread(_place, model, target, force)
        async with self._turn:
            folder = Path(tempfile.mkdtemp(prefix="template-", dir=self._workspace.work))
            try:
                return await self._made(model, stem, place, folder)
            finally:
                await asyncio.to_thread(shutil.rmtree, folder, True)

    async def _made(self, model: Path, stem: str, place: Path, folder: Path) -> SettingsTemplate:
        settings = self._workspace.settings
        inside, scratch = folder / "in", folder / "scratch"
        inside.mkdir()
        scratch.mkdir()
        await asyncio.to_thread(add, model, inside)
        arrival = IntakeTask(
            files=tuple(str(path) for path in sorted(inside.iterdir())),
            out=str(scratch / "out"),
            stem=stem,
            gates=settings.gates,
            threads=settings.serving.threads_of(),
            trusted=tuple(one.sha256 for one in self._keep.trusted()),
        )
        limits = replace(settings.workers, wall_seconds=settings.workers.intake_seconds)
        log, threads = folder / "worker.log", settings.serving.threads_of()

        async def work(python: Path | None) -> TemplateResult:
            async with spawn_worker(
                limits, scratch, log, "onnx", threads, python, fork_servers=self._fork_servers
            ) as worker:
                return await worker.run(TemplateTask(arrival=arrival))

        result = await self._environments.run(work, lambda *_: None)
        if result.settings_inside:
            raise Conflict(
                f"The folder has a settings file already: {result.settings_inside}.",
                "A second one beside the folder would contradict it.",
                "Change that one, or move it away.",
            )
        return SettingsTemplate(
            path=str(place), text=result.text, format=result.format, detail=result.detail, problem=result.problem
        )


def _place(model: Path, target: Path | None, force: bool) -> tuple[str, Path]:
    """The stem of a model's arrival, and where its settings file belongs. Raises NotFound, InvalidInput, Conflict."""
    if not model.exists():
        raise NotFound(f"There is no file or folder {str(model)!r}.", fix="Check the path.")
    if model.suffix.lower() == SETTINGS_SUFFIX:
        raise InvalidInput(
            f"'{model.name}' is a settings file already.", "One is made for a model.", "Name the model's file."
        )
    stem = stem_of(model.name) if model.is_file() else model.resolve().name
    place = target or model.parent / f"{stem}{SETTINGS_SUFFIX}"
    if place.exists() and not force:
        raise Conflict(
            f"There is a file {str(place)!r} already.",
            "It may hold what somebody wrote, so it is not written over.",
            "Say --force to write it again: a settings file beside the model keeps what it says, but not its comments.",
        )
    return stem, place
