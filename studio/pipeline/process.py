"""The engine's side of a worker: start it, hand it a task, listen, limit its time, and end it with all its children.

A worker may be started early: it then has imported what it needs, and waits, so that the next arrival is quick.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, overload

from studio.core import codec
from studio.core.errors import Cancelled, InvalidInput, StepFailed, StudioError, from_problem
from studio.core.settings import WorkerSettings
from studio.pipeline.child import Child, open_child
from studio.pipeline.forkservers import ForkServers
from studio.pipeline.messages import (
    MEMORY_MARKS,
    IntakeResult,
    IntakeTask,
    MadeResult,
    MeasureTask,
    Message,
    ProbeResult,
    ProbeTask,
    Progress,
    Task,
    TemplateResult,
    TemplateTask,
    VariantResult,
    VariantTask,
    decode_result,
    encode_task,
)
from studio.pipeline.sandbox import Limits, environment
from studio.pipeline.worker import Launch

Preload = Literal["onnx", "lab", "torch", "keras", "sklearn", "boosters", "catboost"]
_LOG_TAIL = 16 * 1024


Start = Callable[[str], Coroutine[Any, Any, Child]]
"""Starts the process of a worker, given what it should have imported."""


class Worker:
    """A running worker. It does one task; then it is gone."""

    def __init__(
        self,
        child: Child,
        settings: WorkerSettings,
        scratch: Path,
        log_path: Path,
        log_start: int,
        elsewhere: tuple[str, ...] = (),
        start: Start | None = None,
    ) -> None:
        self._child, self._settings, self._scratch = child, settings, scratch
        self._log_path, self._log_start = log_path, log_start
        self._elsewhere, self._start = elsewhere, start
        self._step = self._doing = ""
        self._ready = self._cancelled = self._used = False
        self._clock: asyncio.Timeout | None = None
        self._stopped_at: float | None = None
        self._left = settings.wall_seconds
        self.sandbox: dict[str, str] = {}
        """How it shut itself in, once it has its task: studio.pipeline.sandbox.InForce."""

    @property
    def pid(self) -> int:
        """Of its guard: when that process has ended, all of the worker's have."""
        return self._child.pid

    @property
    def alive(self) -> bool:
        return self._child.alive

    async def ready(self) -> None:
        """Wait until it has imported everything and takes a task. Raises StepFailed when it ends instead."""
        while not self._ready:
            await self._next(None)

    @overload
    async def run(self, task: TemplateTask, on_progress: Progress | None = None) -> TemplateResult: ...
    @overload
    async def run(self, task: IntakeTask, on_progress: Progress | None = None) -> IntakeResult: ...
    @overload
    async def run(self, task: VariantTask, on_progress: Progress | None = None) -> MadeResult: ...
    @overload
    async def run(self, task: MeasureTask, on_progress: Progress | None = None) -> VariantResult: ...
    @overload
    async def run(self, task: ProbeTask, on_progress: Progress | None = None) -> ProbeResult: ...
    async def run(self, task: Task, on_progress: Progress | None = None) -> Any:
        """The result of a task. `on_progress(step, progress, detail)` is called in the event loop.

        Raises the StudioError that the task raised; StepFailed when the worker crashed, hung or hit a limit; Cancelled
        after `cancel()`. However it ends, the worker and all its children are gone afterwards.
        """
        if self._used:
            raise StepFailed("This worker has done its task.", fix="Spawn another.")
        self._used = True
        self._check_out(task)
        try:
            async with asyncio.timeout(self._settings.wall_seconds) as self._clock:
                if self._stopped_at is not None:
                    self._clock.reschedule(None)
                return await self._converse(task, on_progress)
        except TimeoutError as error:
            raise StepFailed(
                f"{self._during()} took longer than {self._settings.wall_seconds:g} s and was stopped.",
                "It hung, or the model is very large.",
                "Raise workers.wall_seconds (for an arrival workers.intake_seconds) in studio.toml, then retry.",
            ) from error
        finally:
            await self.close()

    def pause(self) -> None:
        """Stop it and all its children where they are, until `resume`; its clock stands still meanwhile."""
        if self._stopped_at is None:
            self._stopped_at = asyncio.get_running_loop().time()
            if self._clock is not None and self._clock.when() is not None:
                self._left = (self._clock.when() or 0.0) - self._stopped_at
                self._clock.reschedule(None)
        self._child.signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        if self._stopped_at is None:
            return
        self._stopped_at = None
        self._child.signal(signal.SIGCONT)
        if self._clock is not None:
            self._clock.reschedule(asyncio.get_running_loop().time() + self._left)

    def cancel(self) -> None:
        """End it and all its children now. A `run` in progress raises Cancelled."""
        self._cancelled = True
        self._child.end()

    async def close(self) -> None:
        """End what is left of it, and wait until it is gone. May be called more than once."""
        await self._child.close()

    def _check_out(self, task: Task) -> None:
        out = task.variant.out if isinstance(task, MeasureTask) else task.out
        if not Path(out).resolve().is_relative_to(self._scratch.resolve()):
            raise InvalidInput(f"A worker can not write to {out}.", f"It may write below {self._scratch}.")

    async def _converse(self, task: Task, on_progress: Progress | None) -> Any:
        task = _told(task, self._elsewhere, self._settings.first_run_seconds)
        await self._child.send(encode_task(task))
        while True:
            message = await self._next(on_progress)
            if message.type == "elsewhere" and message.kind in self._elsewhere:
                await self._move(message.kind)
                self._elsewhere = ()
                await self._child.send(encode_task(_told(task, (), self._settings.first_run_seconds)))
            elif message.type == "problem" and message.problem is not None:
                raise from_problem(message.problem)
            elif message.type == "result":
                result = decode_result(task, message.value)
                self._check_paths(result)
                return result

    async def _move(self, kind: str) -> None:
        """Go on in a process that has imported a framework; the one that has read the arrival is done for."""
        assert self._start is not None
        await self._child.close()
        await asyncio.to_thread(_empty, self._scratch, self._log_path)
        if not self._cancelled:
            self._child = await self._start(kind)
        if self._cancelled:
            self._child.end()

    async def _next(self, on_progress: Progress | None) -> Message:
        try:
            line = await self._child.lines.readline()
        except ValueError as error:
            raise StepFailed("The worker sent more than it should.", f"{error}.") from error
        if not line.endswith(b"\n"):
            raise await self._ended()
        message = codec.decode(line, Message, "message of a worker")
        if message.type == "ready":
            self._ready = True
        elif message.type == "sandbox":
            self.sandbox = message.sandbox
        elif message.type == "progress":
            self._step, self._doing = message.step, message.detail
            if on_progress is not None:
                on_progress(message.step, message.progress, message.detail)
        return message

    def _check_paths(self, result: Any) -> None:
        # A worker that was taken over could name any file of this machine as its result.
        named = [getattr(result, name, "") for name in ("graph_path", "samples_path", "example_path")]
        named += [*getattr(result, "weights_paths", ()), *getattr(result, "asset_paths", ())]
        inside = self._scratch.resolve()
        for text in named:
            if text and (Path(text).is_symlink() or not Path(text).resolve().is_relative_to(inside)):
                raise StepFailed("The worker named a file that is not its own.", f"{text}.")

    async def _ended(self) -> StudioError:
        """Why it is gone without a result."""
        code = await self._child.code()
        if self._cancelled:
            return Cancelled(f"{self._during()} was cancelled.")
        return ended_words(code, self._during(), self._settings, _tail(self._log_path, self._log_start), self._doing)

    def _during(self) -> str:
        return f"The step '{self._step}'" if self._step else "The worker"


def _told(task: Task, elsewhere: tuple[str, ...], first_run_seconds: float) -> Task:
    """A task that takes in an arrival, with what its worker has to know of the others and of its clock."""
    if isinstance(task, TemplateTask):
        return replace(task, arrival=replace(task.arrival, warm=elsewhere, first_run_seconds=first_run_seconds))
    if isinstance(task, IntakeTask):
        return replace(task, warm=elsewhere, first_run_seconds=first_run_seconds)
    return task


def ended_words(code: int, during: str, settings: WorkerSettings, log: str, doing: str = "") -> StepFailed:
    """What an exit status and the end of the log say: which limit, or which signal, and what to do.

    `doing` is what the worker told last: it names the library that crashed.
    """
    if any(mark in log for mark in MEMORY_MARKS):
        return StepFailed(
            f"{during} ran out of memory.",
            f"A worker may take {settings.memory_bytes / 1e9:.1f} GB (workers.memory_bytes).",
            "Raise workers.memory_bytes in studio.toml, close other programs, or use a smaller model; then retry.",
        )
    if code >= 0:
        return StepFailed(
            f"{during} ended without a result (exit code {code}).",
            _last_line(log),
            "The job's log may say more. Retry it.",
        )
    name = _signal_name(-code)
    if -code == signal.SIGALRM:
        return StepFailed(
            f"{during} loaded or ran the model for longer than {settings.first_run_seconds:g} s and was stopped.",
            "Its first load and runs have a clock of their own: a model that never ends would keep others waiting.",
            "If it is only slow, raise workers.first_run_seconds in studio.toml, then retry.",
        )
    if -code == signal.SIGXCPU:
        return StepFailed(
            f"{during} used more than {settings.cpu_seconds} s of processor time and was stopped.",
            "It hung, or the model is very large.",
            "Raise workers.cpu_seconds in studio.toml if it should have more time, then retry.",
        )
    if -code == signal.SIGXFSZ:
        return StepFailed(
            f"{during} wrote a file beyond the limit.",
            f"No file of a worker may grow beyond {settings.file_bytes / 1e9:.1f} GB (workers.file_bytes).",
            "Raise workers.file_bytes in studio.toml, then retry.",
        )
    if -code == signal.SIGKILL:
        return StepFailed(
            f"{during} was killed by the system (SIGKILL).",
            "Most often the machine ran out of memory.",
            "Close other programs or use a smaller model, then retry.",
        )
    return StepFailed(
        f"{during} crashed ({name}){f' at: {doing[:200]}' if doing else ''}.",
        "The file made the library that reads it fail. Nothing else was touched.",
        "Export the model again. If it fails again, the job's log shows where it crashed.",
    )


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _tail(log_path: Path, start: int) -> str:
    """The end of what was written to a log from `start` on."""
    try:
        with log_path.open("rb") as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(max(start, size - _LOG_TAIL))
            return log.read().decode(errors="replace")
    except OSError:
        return ""


def _last_line(log: str) -> str:
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    return f"Last line of its log: {lines[-1][:300]}" if lines else ""


async def start_worker(
    settings: WorkerSettings,
    scratch: Path,
    log_path: Path,
    preload: Preload | None = None,
    threads: int = 1,
    python: Path | None = None,
    *,
    fork_servers: ForkServers | None = None,
) -> Worker:
    """Start a worker that waits for its task. `scratch` must exist; it is all that the worker can write to.

    What it prints is appended to `log_path`. With `fork_servers` it is forked from a process that has imported
    `preload`, and goes on in another when the arrival needs a framework; without, or where that can not be, it imports
    by itself. `python`: the interpreter of a converter environment. Whoever starts a worker must `close` it. Raises
    StepFailed.
    """
    launch, log_start = _prepare(settings, scratch, log_path, threads)

    async def start(kind: str) -> Child:
        wanted = replace(launch, preload=kind)
        if fork_servers is not None and python is None and fork_servers.serves(kind):
            child = await open_child(log_path, lambda handles: fork_servers.launch(kind, wanted, handles))
            if child is not None:
                return child
        child = await open_child(log_path, alone=(str(python or sys.executable), wanted))
        if child is None:
            why = _last_line(_tail(log_path, log_start))
            raise StepFailed("A worker process could not be started.", why, "Free memory, then retry.")
        return child

    elsewhere = fork_servers.kinds() if fork_servers is not None and python is None else ()
    return Worker(await start(preload or ""), settings, Path(launch.scratch), log_path, log_start, elsewhere, start)


def _empty(scratch: Path, log_path: Path) -> None:
    """Leave nothing that an earlier process may have put there."""
    for child in scratch.iterdir():
        if child.is_dir() and not child.is_symlink():
            shutil.rmtree(child, ignore_errors=True)
        elif child != log_path:
            child.unlink(missing_ok=True)


def _prepare(settings: WorkerSettings, scratch: Path, log_path: Path, threads: int) -> tuple[Launch, int]:
    """What to launch, and where in the log its lines begin."""
    scratch = scratch.resolve()  # what the sandbox and the checks of results compare with
    launch = Launch(
        scratch=str(scratch),
        limits=Limits(settings.memory_bytes, settings.file_bytes, settings.cpu_seconds),
        environment=environment(scratch, threads, os.environ),
    )
    return launch, log_path.stat().st_size if log_path.exists() else 0


@asynccontextmanager
async def spawn_worker(
    settings: WorkerSettings,
    scratch: Path,
    log_path: Path,
    preload: Preload | None = None,
    threads: int = 1,
    python: Path | None = None,
    *,
    fork_servers: ForkServers | None = None,
) -> AsyncIterator[Worker]:
    """`start_worker` for one block; the worker and its children are gone when the block ends."""
    worker = await start_worker(settings, scratch, log_path, preload, threads, python, fork_servers=fork_servers)
    try:
        yield worker
    finally:
        await worker.close()
