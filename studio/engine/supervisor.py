"""The supervisor of the server child.

The engine owns the listening socket and hands it down, so while the server starts, crashes or is replaced, connections
wait in the backlog instead of being refused. A crashed server is started again at once, then with growing pauses.
"""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from studio.core import codec
from studio.core.errors import Conflict, StudioError, Unavailable
from studio.core.metrics import RequestLine, Tick
from studio.core.recording import RecordingPlan
from studio.core.routing import RoutingTable
from studio.core.settings import ServingSettings
from studio.core.views import ServerStatus

BACKLOG = 1024
PORTS_TO_TRY = 20
MAX_PAUSE = 10.0
STABLE_SECONDS = 10.0
DRAIN_SECONDS = 35.0  # a little more than the server gives its own requests
LINE_LIMIT = 64 * 1024 * 1024


def listen(host: str, port: int) -> socket.socket:
    """A listening socket on `port`, or on one of the next ports when that one is taken (0 = any free port)."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    candidates = [0] if port == 0 else [*range(port, min(port + PORTS_TO_TRY, 65536))]
    for candidate in candidates:
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((host, candidate))
            sock.listen(BACKLOG)
        except OSError as error:
            sock.close()
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                continue
            raise
        sock.setblocking(False)
        return sock
    raise Conflict(
        f"No free port for the endpoint: {host}:{candidates[0]} to {candidates[-1]} are all taken.",
        fix="Set another port in studio.toml: [serving] port = 9000 (0 takes any free one).",
    )


class Supervisor:
    """Starts, feeds and restarts the server. All methods belong to the engine's event loop."""

    def __init__(
        self,
        settings: ServingSettings,
        log_path: Path,
        on_status: Callable[[ServerStatus], None],
        on_tick: Callable[[Tick], None],
        on_requests: Callable[[list[RequestLine]], None],
        on_log: Callable[[str, str], None],
    ) -> None:
        self._settings = settings
        self._log_path = log_path
        self._on_status, self._on_tick, self._on_requests, self._on_log = on_status, on_tick, on_requests, on_log
        self._socket = listen(settings.host, settings.port)
        host, port = self._socket.getsockname()[:2]
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        self.port: int = port
        self.status = ServerStatus(state="starting", url=self.url)
        self._table = RoutingTable()
        self._recording: tuple[RecordingPlan, ...] = ()
        self._writer: asyncio.StreamWriter | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._task: asyncio.Task[None] | None = None
        self._stopping = False
        self._applied: dict[int, asyncio.Future[dict[str, str]]] = {}

    async def start(self) -> None:
        self._task = asyncio.create_task(self._keep_running(), name="server supervisor")

    async def stop(self, grace: float = DRAIN_SECONDS) -> None:
        """Drain, then stop. In-flight requests get `grace` seconds."""
        self._stopping = True
        self._set(state="draining")
        if self._process and self._process.returncode is None:
            self._send({"type": "drain"})
            try:
                await asyncio.wait_for(self._process.wait(), grace)
            except TimeoutError:
                self._process.kill()
        if self._task:
            await asyncio.wait({self._task}, timeout=5)
            self._task.cancel()
        self._socket.close()
        self._set(state="stopped")

    async def apply(self, table: RoutingTable, patience: float = 60.0) -> dict[str, str]:
        """Send a routing table and wait until it is in force. Returns the targets that failed to load, with why.

        While the server is down the table is kept for its return; that is not an error.
        """
        self._table = table
        if self._writer is None:
            return {}
        done: asyncio.Future[dict[str, str]] = asyncio.get_running_loop().create_future()
        self._applied[table.generation] = done
        self._send({"type": "routes", "table": table})
        try:
            return await asyncio.wait_for(done, patience)
        except TimeoutError as error:
            raise Unavailable(
                "The server did not take over the new routes in time.",
                f"It was given {patience:.0f} s; a model may be slow to load.",
                "Look at the server's log (5 Log, or: studio logs --source server).",
            ) from error
        finally:
            self._applied.pop(table.generation, None)

    def record(self, plans: tuple[RecordingPlan, ...]) -> None:
        """Have the server record what these plans ask for, and nothing else; a server that comes later too."""
        self._recording = plans
        self._send({"type": "recording", "plans": plans})

    async def _keep_running(self) -> None:
        pause = 0.0
        while not self._stopping:
            started = time.monotonic()
            try:
                await self._run_once()
            except (OSError, StudioError) as error:
                self._on_log("error", f"The server could not be started: {error}")
            if self._stopping:
                return
            code = self._process.returncode if self._process else None
            how = f"signal {signal.Signals(-code).name}" if code is not None and code < 0 else f"exit code {code}"
            self._on_log("error", f"The server ended with {how}; starting it again. Connections wait meanwhile.")
            self._set(state="starting", restarts=self.status.restarts + 1, pid=None, loaded=0)
            pause = 0.0 if time.monotonic() - started > STABLE_SECONDS else min(MAX_PAUSE, max(0.1, pause * 2))
            await asyncio.sleep(pause)

    async def _run_once(self) -> None:
        ours, theirs = socket.socketpair()
        try:
            with self._log_path.open("ab") as log:
                self._process = await asyncio.create_subprocess_exec(
                    sys.executable, "-m", "studio.serving.child",
                    "--listen-fd", str(self._socket.fileno()), "--control-fd", str(theirs.fileno()),
                    stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log,
                    pass_fds=(self._socket.fileno(), theirs.fileno()),
                    start_new_session=True,  # Ctrl-C in the terminal is the engine's to answer
                    env={**os.environ, "ORT_DISABLE_TELEMETRY": "1"},
                )  # fmt: skip
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        reader, self._writer = await asyncio.open_connection(sock=ours, limit=LINE_LIMIT)
        self._set(state="starting", pid=self._process.pid)
        self._send({"type": "settings", "settings": self._settings})
        self._send({"type": "recording", "plans": self._recording})
        self._send({"type": "routes", "table": self._table})
        try:
            while line := await reader.readline():
                self._receive(codec.decode(line, dict[str, Any], "message of the server"))
        finally:
            self._writer.close()
            self._writer = None
            for waiting in self._applied.values():
                if not waiting.done():
                    waiting.set_result({})  # the table is sent again to the next server
            if self._process.returncode is None:
                try:
                    await asyncio.wait_for(self._process.wait(), DRAIN_SECONDS if self._stopping else 5)
                except TimeoutError:
                    self._process.kill()
                    await self._process.wait()

    def _send(self, message: dict[str, Any]) -> None:
        if self._writer is not None:
            self._writer.write(codec.encode(message) + b"\n")

    def _receive(self, message: dict[str, Any]) -> None:
        match message["type"]:
            case "ready":
                self._set(state="ready")
                self._on_log("info", f"Serving on {self.url}.")
            case "grpc":
                problem = str(message.get("error", ""))
                words = problem or f"Serving gRPC on port {message['port']}."
                self._on_log("error" if problem else "info", words)
            case "routes_applied":
                errors = codec.convert(message.get("errors", {}), dict[str, str])
                for target, why in errors.items():
                    self._on_log("error", f"{target}: {why}")
                waiting = self._applied.get(message["generation"])
                if waiting and not waiting.done():
                    waiting.set_result(errors)
            case "tick":
                tick = codec.convert(message["tick"], Tick, "tick of the server")
                if (tick.loaded, tick.memory) != (self.status.loaded, self.status.memory):
                    self._set(loaded=tick.loaded, memory=tick.memory)
                self._on_tick(tick)
            case "requests":
                self._on_requests(codec.convert(message["lines"], list[RequestLine], "request lines"))
            case other:
                self._on_log("warning", f"The server sent an unknown message {other!r}.")

    def _set(self, **changes: Any) -> None:
        self.status = replace(self.status, **changes)
        self._on_status(self.status)
