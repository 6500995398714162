"""The endpoint without a process of its own: its parts, and the ASGI application that other servers can host."""

from __future__ import annotations

import asyncio
import functools
from pathlib import Path

from studio.core.metrics import ShadowFigures
from studio.core.routing import RoutingTable
from studio.core.settings import ServingSettings
from studio.serving import sessions
from studio.serving.access_log import AccessLog
from studio.serving.app import App, make_app
from studio.serving.artefacts import Artefacts
from studio.serving.cache import Cache
from studio.serving.executor import Executor, cores
from studio.serving.http import Receive, Scope, Send
from studio.serving.memory import machine_bytes
from studio.serving.router import Router
from studio.serving.service import Service
from studio.serving.shadow import Shadows
from studio.serving.statistics import Statistics


def build(settings: ServingSettings, artefacts: Artefacts | None = None) -> Service:
    """The parts of the endpoint, wired; nothing is served so far. Needs a running loop."""
    loop = asyncio.get_running_loop()
    statistics = Statistics()
    router = Router(
        functools.partial(sessions.load, threads=settings.threads_of(0), artefacts=artefacts),
        memory_bytes=settings.memory_bytes or machine_bytes() // 2,
        idle_seconds=settings.idle_seconds,
    )
    executor = Executor(
        loop, settings.run_threads, settings.queue, seconds=settings.timeout_seconds, parallel=settings.model_runs
    )
    cache = Cache(settings.cache_bytes) if settings.cache_bytes else None
    statistics.caching = cache is not None
    access = AccessLog(Path(settings.access_log), loop) if settings.access_log else None
    service = Service(settings, router, executor, statistics, lambda: None, access=access, cache=cache)

    def seen(figures: ShadowFigures) -> None:
        statistics.shadow(figures)
        service.touch()

    service.shadows = Shadows(loop, router, executor, seen, settings.run_threads or cores())
    return service


def close(service: Service) -> None:
    """Let the parts end behind what is under way."""
    service.ready = False
    service.router.close()
    service.executor.close()
    if service.access is not None:
        service.access.close()


def application(table: RoutingTable, settings: ServingSettings | None = None) -> App:
    """The endpoint as an ASGI application, for uvicorn, Ray Serve or whatever else hosts one.

    It has the answers of our own server and none of its short ways, and one routing table for good. Its parts are made
    when the host begins its lifespan, or with the first request where it has none. Hosts on other addresses than
    loopback need `settings.host`, since requests whose `Host` names others are refused.
    """
    chosen = settings or ServingSettings()
    parts: asyncio.Task[tuple[Service, App]] | None = None

    async def start() -> tuple[Service, App]:
        service = build(chosen)
        await service.router.apply(table)
        service.ready = True
        return service, make_app(service)

    def started() -> asyncio.Task[tuple[Service, App]]:
        nonlocal parts
        if parts is None:
            parts = asyncio.create_task(start())
        return parts

    async def lifespan(receive: Receive, send: Send) -> None:
        await receive()
        await started()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        service, _ = await started()
        close(service)
        await send({"type": "lifespan.shutdown.complete"})

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await lifespan(receive, send)
        else:
            _, inner = await asyncio.shield(started())
            await inner(scope, receive, send)

    return app
