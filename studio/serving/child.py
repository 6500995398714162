"""The server process: `python -m studio.serving.child --listen-fd N [--listen-fd N …] --control-fd M [--cache FOLDER]
[--balance-fd B --place P]`.

It inherits a listening socket and one end of a Unix socket pair (`studio.serving.control`), and exits with 0 after
draining: on SIGTERM, when it is told to, and when its owner is gone. SIGINT is ignored, since a terminal sends it to
the whole process group and the owner decides. Connections wait in the backlog until the first routing table comes, so
a server that takes another's place refuses nothing; from then on each model answers as soon as it is loaded. In the
cache folder are serving artefacts (`studio.serving.artefact`); without one, none are made. Several processes may serve
one socket; the balance is memory that they share (`studio.serving.balance`), the place the number of this one.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import gc
import importlib
import logging
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

# Before anything imports onnxruntime.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import numpy as np

from studio.core.errors import StudioError, Unavailable
from studio.core.routing import RoutingTable
from studio.core.settings import ServingSettings
from studio.serving.app import DIRECT, check_door, make_app
from studio.serving.artefacts import Artefacts
from studio.serving.balance import Balance
from studio.serving.control import Answers, Channel, Drain, Elsewhere, Recordings
from studio.serving.direct import Direct
from studio.serving.hosted import build, close
from studio.serving.listener import Listener
from studio.serving.peers import Order, Peers, Reply
from studio.serving.peers import work as peers_work
from studio.serving.recorder import Recorder
from studio.serving.reporter import Reporter
from studio.serving.service import Service

DRAIN_SECONDS = 30.0
"""Requests that are still under way after so long are cut off."""

if TYPE_CHECKING:
    from studio.serving.grpc.server import GrpcServer

_log = logging.getLogger("studio.serving")


async def serve(
    listening: Sequence[socket.socket],
    control: socket.socket,
    cache: Path | None = None,
    shared: tuple[int, int] | None = None,
) -> int:
    """Serve until told to stop, then drain. Returns the exit code: 0, or 1 where it could not go on."""
    code = 0
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    channel = await Channel.open(control)
    tables: asyncio.Queue[RoutingTable] = asyncio.Queue()
    settings: asyncio.Future[ServingSettings] = loop.create_future()
    service: Service | None = None

    def elsewhere(told: Elsewhere) -> None:
        if service is not None:
            service.router.loaded_elsewhere(told.names)

    async def work(order: Order) -> Reply:
        if service is None:
            raise Unavailable("This process is still starting.")
        return await peers_work(service, order)

    peers = Peers(channel, work)

    def switch(on: bool) -> None:
        if service is not None:
            service.recorder = recorder if on else None

    recorder = Recorder(loop, switch)
    reading = asyncio.create_task(_read(channel, settings, tables, recorder, peers, elsewhere, stop))
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait((settings, stopping), return_when=asyncio.FIRST_COMPLETED)
    if settings.done():
        artefacts = _artefacts(settings.result(), cache)
        service = build(settings.result(), artefacts)
        router = service.router
        reporter = Reporter(loop, channel, service.statistics, lambda: router.loaded)
        service.touch = router.on_change = reporter.touch
        if service.settings.workers > 1:
            service.peers = peers
            router.on_change = functools.partial(_tell_loaded, channel, service, reporter)
        switch(recorder.on)
        direct = Direct(service, DIRECT, check_door)
        listener = Listener(make_app(service), listening, direct, _balance(service, shared))
        channel.send("ready")
        opened = asyncio.Event()
        opening = asyncio.create_task(opened.wait())
        applying = asyncio.create_task(_apply(channel, service, listener, tables, opened))
        await asyncio.wait((stopping, applying, opening), return_when=asyncio.FIRST_COMPLETED)
        grpc_server = await _start_grpc(service, channel) if opened.is_set() else None
        await asyncio.wait((stopping, applying), return_when=asyncio.FIRST_COMPLETED)
        service.ready = False
        if applying.done():
            # Serving on with routes that can no longer change would be worse than being started anew.
            code = 1
            _log.error("routes can not be applied any more", exc_info=applying.exception())
        applying.cancel()
        if grpc_server is not None:
            closing = asyncio.create_task(grpc_server.drain(DRAIN_SECONDS))
        if not await listener.drain(DRAIN_SECONDS):
            _log.warning("requests were cut off: they were not done %.0f s after draining began", DRAIN_SECONDS)
        if grpc_server is not None:
            await closing
        close(service)
        if artefacts is not None:
            artefacts.close()
        reporter.flush()
        recorder.close()
    reading.cancel()
    await channel.flush(1.0)
    return code


def _tell_loaded(channel: Channel, service: Service, reporter: Reporter) -> None:
    channel.send("loaded", names=[target.name for target, _ in service.router.models()])
    reporter.touch()


async def _start_grpc(service: Service, channel: Channel) -> GrpcServer | None:
    """Serve gRPC beside HTTP, where it is wanted. A port that is taken is told, and HTTP goes on without."""
    ports = [port for port in (service.settings.grpc_port, service.settings.tfs_grpc_port) if port]
    if not ports:
        return None
    # On a thread, because it takes a while, and HTTP requests may be waiting.
    module = await asyncio.to_thread(importlib.import_module, "studio.serving.grpc.server")
    server: GrpcServer = module.GrpcServer(service, service.settings.host, ports)
    found = await server.start()
    for port, problem in found.items():
        error = f"gRPC can not be served on port {port}: {problem}." if problem else ""
        channel.send("grpc", port=0 if problem else port, error=error)
    return server if "" in found.values() else None


def _balance(service: Service, shared: tuple[int, int] | None) -> Balance | None:
    """With other processes of the server, if there are any; `shared` is the descriptor, and the place of this one."""
    if shared is None:
        return None
    return Balance(shared[0], service.settings.workers, shared[1])


def _artefacts(settings: ServingSettings, cache: Path | None) -> Artefacts | None:
    """The cache of optimised graphs. One that can not be had costs time and memory, and no answers."""
    if cache is None or not settings.artefact_bytes:
        return None
    try:
        return Artefacts(cache, settings.artefact_bytes, settings.threads_of(0))
    except OSError as error:
        _log.warning("no serving artefacts: %s", error)
        return None


async def _read(
    channel: Channel,
    settings: asyncio.Future[ServingSettings],
    tables: asyncio.Queue[RoutingTable],
    recorder: Recorder,
    peers: Peers,
    elsewhere: Callable[[Elsewhere], None],
    stop: asyncio.Event,
) -> None:
    try:
        async for message in channel.messages():
            if isinstance(message, RoutingTable):
                tables.put_nowait(message)
            elif isinstance(message, Recordings):
                recorder.use(message.plans)
                if message.number:
                    recorder.written(functools.partial(channel.send, "recorded", number=message.number))
            elif isinstance(message, Drain):
                break
            elif isinstance(message, Order):
                peers.do(message)
            elif isinstance(message, Answers):
                peers.told(message.id, message.replies)
            elif isinstance(message, Elsewhere):
                elsewhere(message)
            elif not settings.done():
                settings.set_result(message)
    except StudioError as error:
        _log.error("the control channel broke: %s", error)
    finally:
        stop.set()


async def _apply(
    channel: Channel, service: Service, listener: Listener, tables: asyncio.Queue[RoutingTable], opened: asyncio.Event
) -> None:
    """Put tables in force in the order they come; accept connections from the first on."""
    while True:
        table = await tables.get()
        if not opened.is_set():
            service.router.begin(table)
            await listener.start()
            opened.set()
        errors = await service.router.apply(table)
        service.statistics.keep_only({target.name for target in service.router.targets()})
        if not service.ready:
            # Most of what lives now is modules, for as long as the process does. A full collection that looks through
            # them takes 9 ms, in which nothing is answered.
            gc.freeze()
            service.ready = True
        channel.send("routes_applied", generation=table.generation, errors=errors)


def main(arguments: list[str] | None = None) -> None:
    """Entry of the process. Does not return."""
    parser = argparse.ArgumentParser(prog="studio.serving.child")
    parser.add_argument("--listen-fd", type=int, action="append", required=True)
    parser.add_argument("--control-fd", type=int, required=True)
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--balance-fd", type=int)
    parser.add_argument("--place", type=int, default=0)
    given = parser.parse_args(arguments)
    balance = (given.balance_fd, given.place) if given.balance_fd is not None else None
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Values out of range are looked for where they matter, and answered; a warning in the log helps nobody.
    np.seterr(all="ignore")
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s")
    _raise_file_limit()
    listening = [socket.socket(fileno=each) for each in given.listen_fd]
    control = socket.socket(fileno=given.control_fd)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        code = runner.run(serve(listening, control, given.cache, balance))
        logging.shutdown()
        # The runtime's and the loaders' threads may be in the middle of something; none of it is worth waiting for.
        os._exit(code)


def _loop_factory() -> type[asyncio.AbstractEventLoop] | None:
    with contextlib.suppress(ImportError):  # uvloop does not exist on every system
        import uvloop

        return uvloop.Loop  # type: ignore[no-any-return]
    return None


def _raise_file_limit() -> None:
    """Every connection takes a file descriptor; the soft limit is often 1024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65536 if hard == resource.RLIM_INFINITY else min(hard, 65536)
    if soft < wanted:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


if __name__ == "__main__":
    main()
