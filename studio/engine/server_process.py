"""One process of the server: started, kept running, told and listened to."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from studio.core import codec
from studio.core.errors import StudioError
from studio.serving.peers import Figures

MAX_PAUSE = 10.0
"""Between one that could not start and the next."""
SHORT_PAUSE = 0.2
"""After one that answered, however often: its clients wait."""
STABLE_SECONDS = 10.0
"""After one that ran for so long, the next starts at once."""
DRAIN_SECONDS = 35.0  # a little more than the server gives its own requests
LINE_LIMIT = 64 * 1024 * 1024
Message = dict[str, Any]


def pause_after(seconds: float, answered: bool, last: float) -> float:
    """Seconds until the next process is started, after one that lived for `seconds`; `last` is the pause before it."""
    if seconds > STABLE_SECONDS:
        return 0.0
    return SHORT_PAUSE if answered else min(MAX_PAUSE, max(0.1, last * 2))


class ServerProcess:
    """A place for one process, in which another is started whenever one ends (`pause_after`).

    `balance` is empty, or holds the descriptor of the memory that all processes share, and `place` is the number of
    this one. `first` gives the messages that a new one begins with; `on_message` gets what it says, `on_start` and
    `on_end` are told of its life, `on_end` with words for how it ended. `ready` tells whether it has taken its
    settings, `loaded` what it has loaded; `figures` are the newest that it gave. All methods belong to the engine's
    event loop.
    """

    def __init__(
        self,
        listening: Sequence[socket.socket],
        log_path: Path,
        cache: Path,
        balance: Sequence[int],
        place: int,
        first: Callable[[], list[Message]],
        on_message: Callable[[ServerProcess, Message], None],
        on_start: Callable[[], None],
        on_end: Callable[[ServerProcess, str], None],
        on_trouble: Callable[[str], None],
    ) -> None:
        self._sockets, self._log_path, self._cache = listening, log_path, cache
        self._balance, self._place = balance, place
        self._first, self._on_message = first, on_message
        self._on_start, self._on_end, self._on_trouble = on_start, on_end, on_trouble
        self._writer: asyncio.StreamWriter | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = False
        self._answered = False
        self._pause = 0.0
        self._task: asyncio.Task[None] | None = None
        self.ready = False
        self.loaded: tuple[str, ...] = ()
        self.figures: Figures | None = None

    @property
    def pid(self) -> int | None:
        """Of the process that runs now."""
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    @property
    def up(self) -> bool:
        """Whether there is a process that hears."""
        return self._writer is not None

    def start(self) -> None:
        self._task = asyncio.create_task(self._keep_running(), name="server process")

    async def stop(self, grace: float) -> None:
        """Drain, then stop. What is under way gets `grace` seconds."""
        self._stopping = True
        process = self._process
        if process is not None and process.returncode is None:
            self.send({"type": "drain"})
            try:
                await asyncio.wait_for(process.wait(), grace)
            except TimeoutError:
                process.kill()
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=5)
            self._task.cancel()

    def send(self, message: Message) -> None:
        """Queue a message for the process that runs, if one does."""
        if self._writer is not None:
            self._writer.write(codec.encode(message) + b"\n")

    async def _keep_running(self) -> None:
        while not self._stopping:
            started = time.monotonic()
            self._answered = False
            try:
                await self._run_once()
            except (OSError, StudioError) as error:
                self._on_trouble(f"The server could not be started: {error}")
            if self._stopping:
                return
            code = self._process.returncode if self._process else None
            how = f"signal {signal.Signals(-code).name}" if code is not None and code < 0 else f"exit code {code}"
            self._on_end(self, how)
            self._pause = pause_after(time.monotonic() - started, self._answered, self._pause)
            await asyncio.sleep(self._pause)

    async def _run_once(self) -> None:
        ours, theirs = socket.socketpair()
        try:
            with self._log_path.open("ab") as log:
                self._process = await asyncio.create_subprocess_exec(
                    sys.executable, "-m", "studio.serving.child",
                    *(argument for sock in self._sockets for argument in ("--listen-fd", str(sock.fileno()))),
                    "--control-fd", str(theirs.fileno()),
                    "--cache", str(self._cache),
                    *(argument for fd in self._balance for argument in ("--balance-fd", str(fd))),
                    "--place", str(self._place),
                    stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log,
                    pass_fds=(*(sock.fileno() for sock in self._sockets), theirs.fileno(), *self._balance),
                    start_new_session=True,  # Ctrl-C in the terminal is the engine's to answer
                    env={**os.environ, "ORT_DISABLE_TELEMETRY": "1"},
                )  # fmt: skip
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        reader, self._writer = await asyncio.open_connection(sock=ours, limit=LINE_LIMIT)
        self._on_start()
        for message in self._first():
            self.send(message)
        try:
            while line := await _line(reader):
                message = codec.decode(line, dict[str, Any], "message of the server")
                self._answered |= message["type"] == "routes_applied"
                self._on_message(self, message)
        finally:
            self._writer.close()
            self._writer = None
            self.ready = False
            if self._process.returncode is None:
                try:
                    await asyncio.wait_for(self._process.wait(), DRAIN_SECONDS if self._stopping else 5)
                except TimeoutError:
                    self._process.kill()
                    await self._process.wait()


async def _line(reader: asyncio.StreamReader) -> bytes:
    """The next line; empty where the other side has ended, be it with unread messages of ours."""
    try:
        return await reader.readline()
    except ConnectionError:
        return b""
