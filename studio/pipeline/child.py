"""A worker's process as the engine sees it: pipes to and from it, and the line that its life hangs on."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from studio.core import codec
from studio.core.errors import StepFailed
from studio.pipeline.guard import Handles
from studio.pipeline.worker import Launch

_LONGEST_LINE = 64 * 1024 * 1024
_PATIENCE = 10.0


@dataclass
class _Ends:
    """The engine's ends of a worker's pipes."""

    task: int
    result: int
    lifeline: int
    status: int


class Child:
    """A guard and its worker. `lines` are the worker's messages."""

    def __init__(self, process: asyncio.subprocess.Process | None, lifeline: int) -> None:
        self._process, self._lifeline = process, lifeline
        self._transports: list[asyncio.BaseTransport] = []
        self._started: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._watch: asyncio.Task[int]
        self._stdin: asyncio.StreamWriter
        self.lines: asyncio.StreamReader
        self.pid = 0

    @property
    def alive(self) -> bool:
        return not self._watch.done()

    async def connect(self, ends: _Ends) -> bool:
        """Wait until it runs; False when it never does."""
        opening = asyncio.create_task(self._open(ends), name="pipes of a worker")
        try:
            await asyncio.shield(opening)
        finally:
            await asyncio.wait({opening})  # it waits for nobody, and half opened there is nothing to close
        # Whoever stops waiting does not take the promise with him: the guard's word comes all the same.
        return await asyncio.shield(self._started) > 0

    async def _open(self, ends: _Ends) -> None:
        self.lines = await self._reader(ends.result)
        self._watch = asyncio.create_task(self._follow(await self._reader(ends.status)), name="worker")
        loop = asyncio.get_running_loop()
        transport, protocol = await loop.connect_write_pipe(
            asyncio.streams.FlowControlMixin, os.fdopen(ends.task, "wb", buffering=0)
        )
        self._transports.append(transport)
        self._stdin = asyncio.StreamWriter(transport, protocol, None, loop)

    async def _reader(self, handle: int) -> asyncio.StreamReader:
        reader = asyncio.StreamReader(limit=_LONGEST_LINE)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(handle, "rb", buffering=0)
        )
        self._transports.append(transport)
        return reader

    async def _follow(self, status: asyncio.StreamReader) -> int:
        """How the worker ended, as its guard tells; a guard that tells nothing was killed itself."""
        code = -signal.SIGKILL
        while line := await status.readline():
            word, _, number = line.decode().partition(" ")
            if word == "pid":
                self.pid = int(number)
                self._started.set_result(self.pid)
            else:
                code = int(number)
        if not self._started.done():
            self._started.set_result(0)
        return code

    async def send(self, line: bytes) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it ended; its next line says how
            self._stdin.write(line)
            await self._stdin.drain()

    async def code(self) -> int:
        """Wait until it and all its children are gone; its exit code, or minus the signal that ended it."""
        return await asyncio.shield(self._watch)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the worker and all that it has started; its guard goes on watching."""
        with contextlib.suppress(psutil.Error):
            for process in psutil.Process(self.pid).children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    process.send_signal(number)

    def end(self) -> None:
        """Its guard sees this, and kills it with all its children."""
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1

    async def close(self) -> None:
        """End it, and wait until it is gone. May be called more than once."""
        self.end()
        done, _ = await asyncio.wait({self._watch}, timeout=_PATIENCE)
        if not done:
            _kill_tree(self.pid)
            await self._watch
        for transport in self._transports:
            transport.close()
        self._transports.clear()
        if self._process is not None:
            try:
                async with asyncio.timeout(_PATIENCE):
                    await self._process.wait()
            except TimeoutError:
                self._process.kill()
                await self._process.wait()


async def open_child(
    log_path: Path, fork: Callable[[Handles], bool] | None = None, alone: tuple[str, Launch] | None = None
) -> Child | None:
    """Start a worker with `fork`, or as a process of its own: the interpreter and what to launch.

    None when it could not be started; the log may say why. Raises StepFailed when there is nothing left to start with.
    """
    try:
        theirs, ours = _pipes(log_path)
    except OSError as error:
        raise StepFailed(
            "A worker process could not be started.", f"{error.strerror}.", "Free memory, retry."
        ) from error
    process = None
    try:
        started = fork(theirs) if fork is not None else False
        if alone is not None:
            process, started = await _spawn(*alone, theirs), True
    except OSError as error:
        for handle in (ours.task, ours.result, ours.lifeline, ours.status):
            os.close(handle)
        raise StepFailed(
            "A worker process could not be started.", f"{error.strerror}.", "Free memory, retry."
        ) from error
    finally:
        for handle in theirs.all():
            os.close(handle)
    if not started:
        for handle in (ours.task, ours.result, ours.lifeline, ours.status):
            os.close(handle)
        return None
    child = Child(process, ours.lifeline)
    try:
        if await child.connect(ours):
            return child
    except BaseException:
        await child.close()
        raise
    await child.close()
    return None


def _pipes(log_path: Path) -> tuple[Handles, _Ends]:
    made: list[int] = []
    try:
        for _ in range(4):
            made.extend(os.pipe())
        log = os.open(log_path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:
        for handle in made:
            os.close(handle)
        raise
    task, task_end, result_end, result, lifeline, lifeline_end, status_end, status = made
    return Handles(task, result, log, lifeline, status), _Ends(task_end, result_end, lifeline_end, status_end)


async def _spawn(python: str, launch: Launch, handles: Handles) -> asyncio.subprocess.Process:
    passed = (handles.result, handles.lifeline, handles.status)
    return await asyncio.create_subprocess_exec(
        *(python, "-P", "-m", "studio.pipeline.worker", "--launch", codec.encode(launch).decode()),
        *("--handles", ",".join(map(str, passed))),
        stdin=handles.task,
        stdout=handles.log,
        stderr=handles.log,
        pass_fds=passed,
        start_new_session=True,
        cwd=launch.scratch,
        env=launch.environment,
    )


def _kill_tree(pid: int) -> None:
    """The last resort, for a guard that does not answer."""
    with contextlib.suppress(psutil.Error):
        guard = psutil.Process(pid)
        for process in (*guard.children(recursive=True), guard):
            with contextlib.suppress(psutil.Error):
                process.kill()
