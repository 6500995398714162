"""The supervisor of the server: one process, or several on the same socket.

The engine owns the listening socket and hands it down, so while the server starts, crashes or is replaced, connections
wait in the backlog instead of being refused, or are answered by other processes. The processes know of each other only
through here: one that is asked for figures, or to load a model, has all others asked.
"""

from __future__ import annotations

import asyncio
import errno
import itertools
import socket
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

from studio.core import codec
from studio.core.errors import Conflict, InvalidInput, Unavailable
from studio.core.metrics import RequestLine, Tick
from studio.core.recording import RecordingPlan
from studio.core.routing import RoutingTable
from studio.core.settings import ServingSettings
from studio.core.views import ServerStatus
from studio.engine.server_process import DRAIN_SECONDS, Message, ServerProcess
from studio.engine.ticks import Ticks
from studio.serving.balance import ABSENT, Balance, size_for
from studio.serving.executor import cores
from studio.serving.peers import FIGURES, Figures, Order, Reply, merged

BACKLOG = 1024
PORTS_TO_TRY = 20


def bound(host: str, port: int) -> socket.socket:
    """A listening socket on this port, 0 = any free one. Raises OSError."""
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    sock.setblocking(False)
    return sock


def listen(host: str, port: int) -> socket.socket:
    """A listening socket on `port`, or on one of the next ports when that one is taken (0 = any free port)."""
    candidates = [0] if port == 0 else [*range(port, min(port + PORTS_TO_TRY, 65536))]
    for candidate in candidates:
        try:
            return bound(host, candidate)
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise InvalidInput(
                    f"The endpoint can not listen on '{host}'.",
                    f"{error.strerror}.",
                    "Set host under [serving] in studio.toml to an address of this machine; 127.0.0.1 is always one.",
                ) from error
    raise Conflict(
        f"No free port for the endpoint: {host}:{candidates[0]} to {candidates[-1]} are all taken.",
        fix="Set another port in studio.toml: [serving] port = 9000 (0 takes any free one).",
    )


class Supervisor:
    """Starts, feeds and restarts the processes of the server. All methods belong to the engine's event loop.

    Each has an equal share of what the settings allow the server. A routing table is in force when all have it.
    """

    def __init__(
        self,
        settings: ServingSettings,
        log_path: Path,
        cache: Path,
        on_status: Callable[[ServerStatus], None],
        on_tick: Callable[[Tick], None],
        on_requests: Callable[[list[RequestLine]], None],
        on_log: Callable[[str, str], None],
    ) -> None:
        self._settings = settings
        self._on_status, self._on_tick, self._on_requests, self._on_log = on_status, on_tick, on_requests, on_log
        self._socket = listen(settings.host, settings.port)
        self._sockets = [self._socket, *self._second()]
        host, port = self._socket.getsockname()[:2]
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        self.port: int = port
        self.status = ServerStatus(state="starting", url=self.url)
        self._table = RoutingTable()
        self._recording: tuple[RecordingPlan, ...] = ()
        self._stopping = False
        self._told_ready = self._told_grpc = False
        # What they share to have equal numbers of connections; the file has no name, and goes with them.
        self._balance = tempfile.TemporaryFile() if settings.workers > 1 else None  # noqa: SIM115
        if self._balance is not None:
            self._balance.truncate(size_for(settings.workers))
        shared = [self._balance.fileno()] if self._balance is not None else []
        told = (self._first, self._receive, self._started, self._ended, self._trouble)
        self._processes = [
            ServerProcess(self._sockets, log_path, cache, shared, place, *told) for place in range(settings.workers)
        ]
        for process in self._processes:
            self._absent(process)
        self._ticks = Ticks(self._all_ticked)
        self._applying: dict[tuple[ServerProcess, int], asyncio.Future[dict[str, str]]] = {}
        self._calls: dict[int, _Call] = {}
        self._numbers = itertools.count(1)
        self._past = Figures()
        """What processes had counted that have ended."""

    async def start(self) -> None:
        if self._settings.workers > 1:
            self._check_grpc_ports()
        for process in self._processes:
            process.start()

    async def stop(self, grace: float = DRAIN_SECONDS) -> None:
        """Drain, then stop. In-flight requests get `grace` seconds."""
        self._stopping = True
        self._set(state="draining")
        await asyncio.gather(*(process.stop(grace) for process in self._processes))
        for sock in self._sockets:
            sock.close()
        if self._balance is not None:
            self._balance.close()
        self._set(state="stopped")

    async def apply(self, table: RoutingTable, patience: float = 60.0) -> dict[str, str]:
        """Send a routing table and wait until it is in force. Returns the targets that failed to load, with why.

        A process that is down gets it when it is back; that is not an error.
        """
        self._table = table
        loop = asyncio.get_running_loop()
        waiting = {(process, table.generation): loop.create_future() for process in self._processes if process.up}
        self._applying |= waiting
        for process, _ in waiting:
            process.send({"type": "routes", "table": table})
        try:
            async with asyncio.timeout(patience):
                results = await asyncio.gather(*waiting.values())
        except TimeoutError as error:
            raise Unavailable(
                "The server did not take over the new routes in time.",
                f"It was given {patience:.0f} s; a model may be slow to load.",
                "Look at the server's log (5 Log, or: studio logs --source server).",
            ) from error
        finally:
            for key in waiting:
                self._applying.pop(key, None)
        errors = {target: why for result in results for target, why in result.items()}
        for target, why in errors.items():
            self._on_log("error", f"{target}: {why}")
        return errors

    def record(self, plans: tuple[RecordingPlan, ...]) -> None:
        """Have the server record what these plans ask for, and nothing else; a server that comes later too."""
        self._recording = plans
        for process in self._processes:
            process.send({"type": "recording", "plans": plans})

    async def recorded(self, patience: float = 5.0) -> None:
        """Wait until what was taken of requests that are answered by now is written; not longer than `patience`."""
        number = next(self._numbers)
        open_with = {process for process in self._processes if process.ready}
        written = asyncio.Event()
        call = self._calls[number] = _Call(open_with, lambda _: written.set())
        for process in open_with:
            process.send({"type": "recording", "plans": self._recording, "number": number})
        call.look()
        try:
            async with asyncio.timeout(patience):
                await written.wait()
        except TimeoutError:
            self._on_log("warning", "The server took long to write what was recorded; the newest of it may be missing.")
        finally:
            del self._calls[number]

    def _first(self) -> list[Message]:
        """What a new process is told."""
        share = shared_out(self._settings)
        return [
            {"type": "settings", "settings": share},
            {"type": "recording", "plans": self._recording},
            {"type": "routes", "table": self._table},
        ]

    def _second(self) -> list[socket.socket]:
        """The port where clients of TensorFlow Serving look, if it is wanted. One that is taken is told."""
        port = self._settings.tfs_port
        if not port:
            return []
        try:
            return [bound(self._settings.host, port)]
        except OSError as error:
            self._on_log("error", f"The endpoint can not be served on port {port} too: {error.strerror}.")
            return []

    def _check_grpc_ports(self) -> None:
        """The processes will share these ports; whether someone else has one must be found out before."""

        def free(port: int) -> int:
            if port:
                try:
                    bound(self._settings.host, port).close()
                except OSError as error:
                    self._on_log("error", f"gRPC can not be served on port {port}: {error.strerror}.")
                    return 0
            return port

        ports = self._settings.grpc_port, self._settings.tfs_grpc_port
        self._settings = replace(self._settings, grpc_port=free(ports[0]), tfs_grpc_port=free(ports[1]))

    # -- what processes do

    def _started(self) -> None:
        self._set_pids()

    def _trouble(self, words: str) -> None:
        self._on_log("error", words)

    def _ended(self, process: ServerProcess, how: str) -> None:
        others = [other for other in self._processes if other.ready]
        meanwhile = "The others answer meanwhile." if others else "Connections wait meanwhile."
        what = "The server" if self._settings.workers == 1 else "A process of the server"
        self._on_log("error", f"{what} ended with {how}; starting it again. {meanwhile}")
        for key in [key for key in self._applying if key[0] is process]:
            future = self._applying.pop(key)
            if not future.done():
                future.set_result({})  # the table is sent again to the next one
        for call in list(self._calls.values()):
            call.without(process)
        if process.figures is not None:
            kept = {name: totals for name, totals in process.figures.totals.items() if self._known(name)}
            shadows = [
                seen for seen in process.figures.shadows if self._known(seen.target) and self._known(seen.shadow)
            ]
            self._past = merged([self._past, Figures(totals=kept, shadows=shadows)])
            process.figures = None
        process.loaded = ()
        self._absent(process)
        self._ticks.forget(process)
        self._set(
            state="ready" if others else "starting",
            restarts=self.status.restarts + 1,
            loaded=self.status.loaded if others else 0,
        )
        self._set_pids()
        self._tell_loaded()

    def _absent(self, process: ServerProcess) -> None:
        """Nobody is to leave it connections."""
        if self._balance is not None and not self._balance.closed:
            balance = Balance(self._balance.fileno(), len(self._processes), self._processes.index(process))
            balance.tell(ABSENT)
            balance.close()

    def _known(self, name: str) -> bool:
        model, _, key = name.partition(":")
        return model in self._table.models and key in self._table.models[model].targets

    def _receive(self, process: ServerProcess, message: Message) -> None:
        match message["type"]:
            case "ready":
                process.ready = True
                self._set(state="ready")
                if not self._told_ready:
                    self._on_log("info", f"Serving on {self.url}.")
                self._told_ready = self._settings.workers > 1
            case "grpc":
                problem = str(message.get("error", ""))
                if problem:
                    self._on_log("error", problem)
                elif not self._told_grpc:
                    self._on_log("info", f"Serving gRPC on port {message['port']}.")
                self._told_grpc = self._settings.workers > 1
            case "routes_applied":
                errors = codec.convert(message.get("errors", {}), dict[str, str])
                waiting = self._applying.get((process, message["generation"]))
                if waiting is not None and not waiting.done():
                    waiting.set_result(errors)
            case "tick":
                tick = codec.convert(message["tick"], Tick, "tick of the server")
                if self._settings.workers > 1:
                    self._ticks.add(process, tick)
                else:
                    self._all_ticked(tick)
            case "requests":
                self._on_requests(codec.convert(message["lines"], list[RequestLine], "request lines"))
            case "ask":
                self._ask(process, codec.convert(message["order"], Order, "order of a process"))
            case "done":
                call = self._calls.get(message["id"])
                reply = codec.convert(message["reply"], Reply, "reply of a process")
                if reply.figures is not None:
                    process.figures = reply.figures
                if call is not None:
                    call.replied(process, reply)
            case "recorded":
                if (waiting_for := self._calls.get(message["number"])) is not None:
                    waiting_for.without(process)
            case "loaded":
                process.loaded = codec.convert(message["names"], tuple[str, ...], "names of loaded models")
                self._tell_loaded()
            case other:
                self._on_log("warning", f"The server sent an unknown message {other!r}.")

    def _all_ticked(self, tick: Tick) -> None:
        if (tick.loaded, tick.memory) != (self.status.loaded, self.status.memory):
            self._set(loaded=tick.loaded, memory=tick.memory)
        self._on_tick(tick)

    def _ask(self, asker: ServerProcess, order: Order) -> None:
        """Hand an order to all other processes, and their replies to the one that asked."""
        number = next(self._numbers)
        past = [Reply(figures=self._past)] if order.what == FIGURES else []

        def done(replies: list[Reply]) -> None:
            del self._calls[number]
            asker.send({"type": "answers", "id": order.id, "replies": [*replies, *past]})

        others = {other for other in self._processes if other is not asker and other.ready}
        if order.what == FIGURES:
            # What it tells the client from now on must not be less when it is gone.
            asker.send({"type": "do", "order": Order(id=0, what=FIGURES)})
        call = self._calls[number] = _Call(others, done)
        for other in others:
            other.send({"type": "do", "order": replace(order, id=number)})
        call.look()

    def _tell_loaded(self) -> None:
        """Tell each process what the others have loaded."""
        if len(self._processes) == 1:
            return
        for process in self._processes:
            names = {name for other in self._processes if other is not process for name in other.loaded}
            process.send({"type": "elsewhere", "names": sorted(names)})

    def _set_pids(self) -> None:
        pids = tuple(pid for process in self._processes if (pid := process.pid) is not None)
        self._set(pid=pids[0] if pids else None, pids=pids)

    def _set(self, **changes: Any) -> None:
        changed = replace(self.status, **changes)
        if self._stopping and changed.state not in ("draining", "stopped"):
            changed = replace(changed, state=self.status.state)
        self.status = changed
        self._on_status(self.status)


class _Call:
    """An order that other processes have, until all have replied or ended."""

    def __init__(self, open_with: set[ServerProcess], done: Callable[[list[Reply]], None]) -> None:
        self._open, self._done = open_with, done
        self._replies: list[Reply] = []

    def replied(self, process: ServerProcess, reply: Reply) -> None:
        self._replies.append(reply)
        self.without(process)

    def without(self, process: ServerProcess) -> None:
        """It has replied, or never will."""
        if process in self._open:
            self._open.remove(process)
            self.look()

    def look(self) -> None:
        """Tell the replies, if all are there."""
        if not self._open:
            self._done(self._replies)


def shared_out(settings: ServingSettings) -> ServingSettings:
    """The settings of each process: what is meant for the whole server in equal parts."""
    count = settings.workers
    if count == 1:
        return settings
    return replace(
        settings,
        run_threads=max(1, (settings.run_threads or cores()) // count),
        queue=-(-settings.queue // count),
        memory_bytes=(settings.memory_bytes or psutil.virtual_memory().total // 2) // count,
        cache_bytes=settings.cache_bytes // count,
        model_runs=-(-settings.model_runs // count),
    )
