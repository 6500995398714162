"""The engine's side of a worker: spawn it, hand it a task, listen, limit its time, and kill it with all its children.

A worker may be spawned early: it then imports what it needs and waits, so that the next arrival is quick.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal, overload

import psutil

from studio.core import codec
from studio.core.errors import Cancelled, InvalidInput, StepFailed, StudioError, from_problem
from studio.core.settings import WorkerSettings
from studio.pipeline.messages import (
    MEMORY_MARKS,
    IntakeResult,
    IntakeTask,
    MadeResult,
    MeasureTask,
    Message,
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

Preload = Literal["onnx", "lab"]
_LONGEST_LINE = 64 * 1024 * 1024
_LOG_TAIL = 16 * 1024


class Worker:
    """A running worker. It does one task; then it is gone."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        lines: asyncio.StreamReader,
        transport: asyncio.BaseTransport,
        settings: WorkerSettings,
        scratch: Path,
        log_path: Path,
        log_start: int,
    ) -> None:
        self._process, self._lines, self._transport = process, lines, transport
        self._settings, self._scratch = settings, scratch
        self._log_path, self._log_start = log_path, log_start
        self._step = self._doing = ""
        self._cancelled = False
        self._used = False
        self.sandbox: dict[str, str] = {}
        """How it is shut in, once it said that it is ready: studio.pipeline.sandbox.InForce."""

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.returncode is None

    async def ready(self) -> None:
        """Wait until it has imported everything and takes a task. Raises StepFailed when it ends instead."""
        while not self.sandbox:
            await self._next(None)

    @overload
    async def run(self, task: TemplateTask, on_progress: Progress | None = None) -> TemplateResult: ...
    @overload
    async def run(self, task: IntakeTask, on_progress: Progress | None = None) -> IntakeResult: ...
    @overload
    async def run(self, task: VariantTask, on_progress: Progress | None = None) -> MadeResult: ...
    @overload
    async def run(self, task: MeasureTask, on_progress: Progress | None = None) -> VariantResult: ...
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
            async with asyncio.timeout(self._settings.wall_seconds):
                return await self._converse(task, on_progress)
        except TimeoutError as error:
            raise StepFailed(
                f"{self._during()} took longer than {self._settings.wall_seconds:g} s and was stopped.",
                "It hung, or the model is very large.",
                "Raise workers.wall_seconds (for an arrival workers.intake_seconds) in studio.toml, then retry.",
            ) from error
        finally:
            await self.close()

    def cancel(self) -> None:
        """Kill it and all its children now. A `run` in progress raises Cancelled."""
        self._cancelled = True
        self._kill()

    async def close(self) -> None:
        """Kill what is left of it, and wait until it is gone. May be called more than once."""
        self._kill()
        with contextlib.suppress(ProcessLookupError):
            await self._process.wait()
        self._transport.close()
        if self._process.stdin is not None:
            self._process.stdin.close()

    def _check_out(self, task: Task) -> None:
        variant = task.variant if isinstance(task, MeasureTask) else task
        if not Path(variant.out).resolve().is_relative_to(self._scratch.resolve()):
            raise InvalidInput(f"A worker can not write to {variant.out}.", f"It may write below {self._scratch}.")

    async def _converse(self, task: Task, on_progress: Progress | None) -> Any:
        stdin = self._process.stdin
        assert stdin is not None
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it ended; the next line says how
            stdin.write(encode_task(task))
            await stdin.drain()
        while True:
            message = await self._next(on_progress)
            if message.type == "problem" and message.problem is not None:
                raise from_problem(message.problem)
            if message.type == "result":
                result = decode_result(task, message.value)
                self._check_paths(result)
                return result

    async def _next(self, on_progress: Progress | None) -> Message:
        try:
            line = await self._lines.readline()
        except ValueError as error:
            raise StepFailed("The worker sent more than it should.", f"{error}.") from error
        if not line.endswith(b"\n"):
            raise await self._ended()
        message = codec.decode(line, Message, "message of a worker")
        if message.type == "ready":
            self.sandbox = message.sandbox or {"network": "open", "files": "the user's rights"}
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
        code = await self._process.wait()
        if self._cancelled:
            return Cancelled(f"{self._during()} was cancelled.")
        return ended_words(code, self._during(), self._settings, self._log_tail(), self._doing)

    def _log_tail(self) -> str:
        try:
            with self._log_path.open("rb") as log:
                size = log.seek(0, os.SEEK_END)
                log.seek(max(self._log_start, size - _LOG_TAIL))
                return log.read().decode(errors="replace")
        except OSError:
            return ""

    def _during(self) -> str:
        return f"The step '{self._step}'" if self._step else "The worker"

    def _kill(self) -> None:
        if self._process.returncode is None:
            # Children in sessions of their own leave the process group, but not the tree.
            strays: list[psutil.Process] = []
            with contextlib.suppress(psutil.Error):
                strays = psutil.Process(self._process.pid).children(recursive=True)
            for stray in strays:
                with contextlib.suppress(psutil.Error):
                    stray.kill()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)


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


def _last_line(log: str) -> str:
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    return f"Last line of its log: {lines[-1][:300]}" if lines else ""


def _real(path: Path) -> Path:
    # Landlock and the checks of results compare real places.
    return path.resolve()


async def start_worker(
    settings: WorkerSettings,
    scratch: Path,
    log_path: Path,
    preload: Preload | None = None,
    threads: int = 1,
    python: Path | None = None,
) -> Worker:
    """Spawn a worker that waits for its task. `scratch` must exist; it is all that the worker can write to.

    What it prints is appended to `log_path`. `python`: the interpreter of a converter environment. Whoever starts it
    must `close` it. Raises StepFailed.
    """
    scratch = _real(scratch)
    read_end, write_end = os.pipe()
    limits = Limits(settings.memory_bytes, settings.file_bytes, settings.cpu_seconds)
    command = [
        *(str(python or sys.executable), "-P", "-m", "studio.pipeline.worker", "--result-fd", str(write_end)),
        *("--scratch", str(scratch), "--parent", str(os.getpid()), "--limits", codec.encode(limits).decode()),
        *(("--preload", preload) if preload else ()),
    ]
    try:
        with log_path.open("ab") as log:
            start = log.tell()
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.PIPE,
                stdout=log,
                stderr=log,
                pass_fds=(write_end,),
                start_new_session=True,
                cwd=scratch,
                env=environment(scratch, threads, os.environ),
            )
    except OSError as error:
        os.close(read_end)
        raise StepFailed(
            "A worker process could not be started.", f"{error.strerror}.", "Free memory, retry."
        ) from error
    finally:
        os.close(write_end)
    lines = asyncio.StreamReader(limit=_LONGEST_LINE)
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(lines), os.fdopen(read_end, "rb", buffering=0)
    )
    return Worker(process, lines, transport, settings, scratch, log_path, start)


@asynccontextmanager
async def spawn_worker(
    settings: WorkerSettings,
    scratch: Path,
    log_path: Path,
    preload: Preload | None = None,
    threads: int = 1,
    python: Path | None = None,
) -> AsyncIterator[Worker]:
    """`start_worker` for one block; the worker and its children are gone when the block ends."""
    worker = await start_worker(settings, scratch, log_path, preload, threads, python)
    try:
        yield worker
    finally:
        await worker.close()
