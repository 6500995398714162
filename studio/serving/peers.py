"""The other processes of one server: asked, through the owner of all, for what they have counted, or to do the same.

With one process there are none, and nothing is asked. Whatever a process that ended had told before is kept by the
owner, and counted on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from studio.core import codec
from studio.core.errors import StudioError, Unavailable
from studio.core.metrics import ShadowFigures
from studio.serving.memory import resident_bytes, shared_bytes
from studio.serving.statistics import Totals

if TYPE_CHECKING:
    from studio.serving.control import Channel
    from studio.serving.service import Service

FIGURES = "figures"
PATIENCE = {FIGURES: 2.0}
"""Seconds that an answer may take. Who takes longer is counted without."""
WORK_SECONDS = 120.0
"""The same for whatever does something, like loading a model."""


@dataclass(slots=True, kw_only=True)
class Figures:
    """What processes have counted: totals and seconds of the last load by full reference, requests under way, and
    what shadows gave by pair of versions.

    `memory` is resident, `shared` the part of it that other processes may have too. In bytes.
    """

    totals: dict[str, Totals] = field(default_factory=dict)
    load_seconds: dict[str, float] = field(default_factory=dict)
    shadows: list[ShadowFigures] = field(default_factory=list)
    pending: int = 0
    memory: int = 0
    shared: int = 0
    processes: int = 0


@dataclass(frozen=True, kw_only=True)
class Order:
    """What a process is asked to do: `figures`, or `load` or `unload` of a `model`."""

    id: int
    what: str
    model: str = ""


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What came of it. `error`: why nothing did, '' if all is well."""

    figures: Figures | None = None
    error: str = ""


def merged(parts: Iterable[Figures]) -> Figures:
    """The figures of several processes as of one. Memory that they share counts once."""
    all_of = Figures()
    shadows: dict[tuple[str, str], ShadowFigures] = {}
    private = 0
    for part in parts:
        for name, totals in part.totals.items():
            all_of.totals.setdefault(name, Totals()).add(totals)
        for name, seconds in part.load_seconds.items():
            all_of.load_seconds[name] = max(seconds, all_of.load_seconds.get(name, 0.0))
        for seen in part.shadows:
            pair = seen.target, seen.shadow
            if pair not in shadows:
                shadows[pair] = ShadowFigures(model=seen.model, target=seen.target, shadow=seen.shadow)
            shadows[pair].add(seen)
        all_of.pending += part.pending
        private += part.memory - part.shared
        all_of.shared = max(all_of.shared, part.shared)
        all_of.processes += part.processes
    all_of.shadows = list(shadows.values())
    all_of.memory = private + all_of.shared
    return all_of


class Peers:
    """One process' way to the others. Belongs to the event loop. `work` does what another process asks for."""

    def __init__(self, channel: Channel, work: Callable[[Order], Awaitable[Reply]]) -> None:
        self._channel, self._work = channel, work
        self._number = 0
        self._asked: dict[int, asyncio.Future[list[Reply]]] = {}
        self._working: set[asyncio.Task[None]] = set()

    async def ask(self, what: str, model: str = "") -> list[Reply]:
        """The replies of all others. Raises Unavailable where they do not come in time."""
        self._number += 1
        number = self._number
        future: asyncio.Future[list[Reply]]
        future = self._asked[number] = asyncio.get_running_loop().create_future()
        self._channel.send("ask", order=Order(id=number, what=what, model=model))
        try:
            async with asyncio.timeout(PATIENCE.get(what, WORK_SECONDS)):
                return await future
        except TimeoutError:
            raise Unavailable("Another process of the server did not answer in time.") from None
        finally:
            del self._asked[number]

    def told(self, number: int, replies: list[Reply]) -> None:
        """The replies to what was asked."""
        future = self._asked.get(number)
        if future is not None and not future.done():
            future.set_result(replies)

    def do(self, order: Order) -> None:
        """Begin what another process asks for; the reply goes to the owner."""
        task = asyncio.get_running_loop().create_task(self._do(order))
        self._working.add(task)
        task.add_done_callback(self._working.discard)

    async def _do(self, order: Order) -> None:
        try:
            reply = await self._work(order)
        except StudioError as error:
            reply = Reply(error=str(error))
        self._channel.send("done", id=order.id, reply=reply)


def own_figures(service: Service) -> Figures:
    """What this process has counted."""
    return Figures(
        totals=service.statistics.totals,
        load_seconds={target.name: model.load_seconds for target, model in service.router.models()},
        shadows=list(service.statistics.shadows.values()),
        pending=service.executor.pending,
        memory=resident_bytes(),
        shared=shared_bytes(),
        processes=1,
    )


async def figures_of(service: Service) -> Figures:
    """What all processes of the server have counted. One that does not answer in time is left out."""
    own = own_figures(service)
    if service.peers is None:
        return own
    try:
        replies = await service.peers.ask(FIGURES)
    except StudioError:
        return own
    return merged([own, *(reply.figures for reply in replies if reply.figures is not None)])


async def everywhere(service: Service, what: str, model: str) -> None:
    """Do in all other processes what this one has done. Raises Unavailable with the first reason."""
    if service.peers is None:
        return
    for reply in await service.peers.ask(what, model):
        if reply.error:
            raise Unavailable(reply.error)


async def work(service: Service, order: Order) -> Reply:
    """Do what another process asks for. Raises StudioError."""
    match order.what:
        case "figures":
            return Reply(figures=own_figures(service))
        case "load":
            await service.router.loaded_model(service.router.resolve(order.model))
            return Reply()
        case "unload":
            service.router.unload(order.model)
            return Reply()
    raise Unavailable(f"Another process asks for {order.what[:40]!r}, which this one does not know.")


def reply_of(message: Any) -> Reply:
    """A reply as it comes over a channel. Raises InvalidInput."""
    return codec.convert(message, Reply, "reply of a process")
