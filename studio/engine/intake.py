"""The intake lane: from settled files to a registered version whose reference variant serves."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import stat
import tempfile
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from studio.core.errors import Conflict, StudioError, Unavailable
from studio.core.manifest import FileRef, Samples, Source, VersionManifest
from studio.core.names import model_name_from_stem
from studio.engine.environments import Environments
from studio.engine.folders import make_read_only, remove_folder
from studio.engine.keep import Keep
from studio.inbox.groups import is_companion, stem_of
from studio.inbox.reading import digest_of
from studio.pipeline.forkservers import ForkServers
from studio.pipeline.messages import IntakeResult, IntakeTask, Progress
from studio.pipeline.process import Worker, start_worker
from studio.store.journal import utc_now
from studio.store.workspace import Workspace

if TYPE_CHECKING:
    from studio.core.jobs import Job
    from studio.engine.jobs import Jobs

CHUNK = 1024 * 1024
SPARE_SECONDS = 15.0
# What is worth importing early when such a file is seen.
FRAMEWORK_OF = {
    **dict.fromkeys((".pt2", ".pt", ".pth", ".torchscript", ".safetensors"), "torch"),
    **dict.fromkeys((".keras", ".h5", ".hdf5"), "keras"),
    **dict.fromkeys((".pkl", ".pickle", ".joblib", ".skops"), "sklearn"),
    **dict.fromkeys((".ubj", ".bst"), "boosters"),
    ".cbm": "catboost",
}


@dataclass
class Bench:
    """A worker and its folder: copies go to `in`, which it can only read; results come from `scratch/out`."""

    worker: Worker
    folder: Path

    @property
    def log(self) -> Path:
        return self.folder / "worker.log"

    @property
    def inputs(self) -> Path:
        return self.folder / "in"

    @property
    def out(self) -> Path:
        return self.folder / "scratch" / "out"

    async def clear(self) -> None:
        """End the worker and remove its folder."""
        await self.worker.close()
        await asyncio.to_thread(remove_folder, self.folder)


class Intake:
    """Runs intake tasks. At most one spare worker waits: started when something arrives, gone if nothing came of it."""

    def __init__(self, workspace: Workspace, keep: Keep, environments: Environments, fork_servers: ForkServers) -> None:
        self._workspace, self._keep, self._environments = workspace, keep, environments
        self._fork_servers = fork_servers
        self._spare: asyncio.Task[Bench] | None = None
        self._expiry: asyncio.TimerHandle | None = None
        self._closing: set[asyncio.Task[None]] = set()

    def expect(self, names: tuple[str, ...] = ()) -> None:
        """Something arrives: import what its worker will need while it settles, judged by the names of its files."""
        for kind in {FRAMEWORK_OF[suffix] for name in names if (suffix := Path(name).suffix.lower()) in FRAMEWORK_OF}:
            with suppress(OSError):  # a guess only: what it really is, and needs, is seen later
                self._fork_servers.warm(kind)
        if self._spare is None:
            self._spare = asyncio.create_task(self._start(), name="spare worker")
            self._expiry = asyncio.get_running_loop().call_later(SPARE_SECONDS, self._drop_spare)

    async def _start(self) -> Bench:
        folder = Path(tempfile.mkdtemp(prefix="intake-", dir=self._workspace.work))
        return Bench(await self._worker(folder), folder)

    async def _worker(self, folder: Path, python: Path | None = None) -> Worker:
        settings = self._workspace.settings
        limits = replace(settings.workers, wall_seconds=settings.workers.intake_seconds)
        await asyncio.to_thread(_fresh, folder / "scratch")
        return await start_worker(
            limits,
            folder / "scratch",
            folder / "worker.log",
            preload="onnx",
            threads=settings.serving.threads_of(),
            python=python,
            fork_servers=self._fork_servers,
        )

    async def _converted(self, bench: Bench, task: IntakeTask, tell: Progress) -> IntakeResult:
        """What becomes of the task, in the interpreter that the format needs. Making that is told in the same step."""

        async def work(python: Path | None) -> IntakeResult:
            if python is not None:
                await bench.worker.close()
                bench.worker = await self._worker(bench.folder, python)
            return await bench.worker.run(task, tell)

        return await self._environments.run(work, lambda share, detail: tell("converted", share, detail))

    async def _take(self) -> Bench:
        """The spare worker if it lives, else a fresh one."""
        spare, self._spare = self._spare, None
        if self._expiry:
            self._expiry.cancel()
        if spare is not None:
            bench = await spare
            if bench.worker.alive:
                return bench
            await bench.clear()
        return await self._start()

    def _drop_spare(self) -> None:
        spare, self._spare = self._spare, None
        if spare is not None:
            task = asyncio.create_task(self._clear(spare))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    @staticmethod
    async def _clear(spare: asyncio.Task[Bench]) -> None:
        with suppress(StudioError):
            await (await spare).clear()

    async def stop(self) -> None:
        if self._expiry:
            self._expiry.cancel()
        self._drop_spare()
        if self._closing:
            await asyncio.wait(set(self._closing))

    async def run(self, jobs: Jobs, key: str) -> None:
        """The whole lane. Raises StudioError; cancellation kills the worker."""
        job = jobs.get(key)
        if job.version is not None:
            return  # registered before the engine was stopped: only the lab is left
        model = model_name_from_stem(job.stem)
        if await self._is_known(jobs, job, model):
            return
        bench = await self._take()
        try:
            jobs.step(key, "recognised", "running")
            files = await asyncio.to_thread(self._snapshot, job, bench.inputs)
            await asyncio.to_thread(make_read_only, bench.inputs)
            await asyncio.to_thread(show_log, bench.log, jobs.log_path(key))
            task = IntakeTask(
                files=tuple(str(path) for path in sorted(bench.inputs.iterdir())),
                out=str(bench.out),
                stem=job.stem,
                gates=self._workspace.settings.gates,
                threads=self._workspace.settings.serving.threads_of(),
                trusted=tuple(one.sha256 for one in self._keep.trusted()),
            )
            result = await self._converted(bench, task, self._progress(jobs, key))
            jobs.step(key, "registered", "running")
            draft = await asyncio.to_thread(self._manifest, model, job, files, result)
            manifest = await self._keep.add_version(draft)
            known = replace(
                jobs.get(key), model=manifest.model, version=manifest.version, format=manifest.source.format
            )
            jobs.update(known)
            _tell_of_namesake(jobs, known)
            jobs.step(key, "registered", "done", f"{manifest.model}:{manifest.version} serves")
        finally:
            await bench.clear()

    async def _is_known(self, jobs: Jobs, job: Job, model: str) -> bool:
        version = await self._keep.find_digest(job.digest, model)
        if version is None:
            return False
        detail = await self._keep.version_detail(model, version)
        made_by_us = job.attempt > 1 and detail.row.state != "archived"
        job = jobs.update(replace(job, model=model, version=version, format=detail.manifest.source.format))
        if not made_by_us:
            note = f"identical to {model}:{version}; no second version was made"
            if detail.row.state == "archived":
                note += f" (it is archived: studio restore {model}:{version})"
            jobs.finish(job.id, "done", note)
        else:  # the engine ended between registering the version and writing that into the job
            for name in ("recognised", "converted", "checked", "registered"):
                jobs.step(job.id, name, "done", "before the restart")
        return True

    def _snapshot(self, job: Job, folder: Path) -> list[tuple[Path, str]]:
        """Copy the arrival's files, hashing what is copied: what is converted is one state, whatever happens meanwhile.

        Returns the copies with their SHA-256. Raises Conflict when the content is no longer what had settled.
        """
        folder.mkdir(parents=True)
        inbox = self._workspace.inbox
        copies: list[tuple[Path, str]] = []
        hashes: dict[str, str] = {}
        for name in job.files:
            source = Path(name)
            relative = source.relative_to(inbox)
            target = folder / relative
            target.parent.mkdir(parents=True, exist_ok=True)
            digest = hashlib.sha256()
            try:
                with _plain(source) as reading, target.open("wb") as writing:
                    while chunk := reading.read(CHUNK):
                        digest.update(chunk)
                        writing.write(chunk)
            except FileNotFoundError as error:
                raise Conflict(
                    f"{relative} was taken out of the inbox before its turn came.", fix="Drop it again."
                ) from error
            except OSError as error:
                raise Unavailable(
                    f"{relative} could not be copied for conversion.",
                    f"{error.strerror}.",
                    "Free some disk space, then retry.",
                ) from error
            copies.append((target, digest.hexdigest()))
            hashes[relative.as_posix()] = digest.hexdigest()
        if digest_of(hashes) != job.digest:
            raise Conflict(
                f"{job.stem} changed in the inbox after it had settled.",
                "What is there now is a new arrival, and gets a job of its own.",
            )
        return copies

    def _manifest(self, model: str, job: Job, files: list[tuple[Path, str]], result: IntakeResult) -> VersionManifest:
        """Put every file into the store; the draft of the version that names them."""
        blobs = self._keep.store.blobs

        def put(path: str | Path, expected: FileRef | None = None) -> FileRef:
            place = Path(path)
            reference = blobs.put_file(place, expected=expected.sha256 if expected else None)
            return replace(reference, name=expected.name if expected else place.name)

        names = [Path(file).relative_to(self._workspace.inbox).as_posix() for file in job.files]
        sources = tuple(
            replace(blobs.put_file(path, expected=digest), name=name)
            for name, (path, digest) in zip(names, files, strict=True)
        )
        graph = result.graph
        weights = tuple(put(path, ref) for path, ref in zip(result.weights_paths, graph.weights, strict=True))
        stored = replace(graph, file=put(result.graph_path, graph.file), weights=weights)
        return VersionManifest(
            model=model,
            version=1,  # the keep gives the number
            created=utc_now(),
            source=Source(format=result.format, files=sources, digest=job.digest),
            signature=result.signature,
            graph=stored,
            parity=result.parity,
            samples=Samples(kind=result.samples_kind, count=result.samples_count, file=put(result.samples_path)),
            example=put(result.example_path) if result.example_path else None,
            machine=result.machine,
            tools=result.tools,
            title=result.title,
            description=result.description,
            tags=result.tags,
            class_labels=result.class_labels,
            notes=result.notes,
            serve_only=result.serve_only,
            recipes=result.recipes,
            gates=result.gates,
            alias=result.alias,
            preprocessing=result.preprocessing,
            assets=tuple(put(path) for path in result.asset_paths),
            cross_validation=result.cross_validation,
        )

    @staticmethod
    def _progress(jobs: Jobs, key: str) -> Progress:
        def tell(step: str, progress: float | None, detail: str) -> None:
            jobs.step(key, step, "done" if progress is not None and progress >= 1 else "running", detail, progress)

        return tell


def _tell_of_namesake(jobs: Jobs, job: Job) -> None:
    """Say when a version follows on one of a file that was called otherwise: several names become the same model."""
    before = jobs.made(job.model, job.id)
    if before is not None and before.stem != job.stem:
        jobs.note(
            job.id,
            f"Became version {job.version} of '{job.model}', whose version {before.version} came from "
            f"{_model_file(before)}. Should they be two models: studio add FILE --name NAME.",
        )


def _model_file(job: Job) -> str:
    """What a job's arrival was called in the inbox: its folder, or its model file."""
    loose = [Path(file).name for file in job.files if stem_of(Path(file).name) == job.stem]
    return next((name for name in loose if not is_companion(name)), f"{job.stem}/")


def _fresh(folder: Path) -> None:
    remove_folder(folder)
    folder.mkdir()


def _plain(path: Path) -> BinaryIO:
    """A file opened for reading. Raises Conflict for a link, a pipe or a device that has taken its place: reading one
    of those could wait for ever, never end, or lead out of the inbox.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):  # a link; a socket
            raise _replaced(path) from error
        raise
    file = os.fdopen(descriptor, "rb")
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        file.close()
        raise _replaced(path)
    return file


def _replaced(path: Path) -> Conflict:
    return Conflict(
        f"{path.name} is no plain file any more.",
        "A link, a pipe or a device has taken its place since it had settled.",
        "Drop the model file itself.",
    )


def show_log(log: Path, shown: Path) -> None:
    """Let a worker's log be read as the job's while it grows; a job that is tried again keeps its earlier lines."""
    if shown.exists():
        earlier = shown.read_bytes()
        shown.unlink()
        with log.open("ab") as writing:
            writing.write(earlier)
    os.link(log, shown)
