"""What every protocol shares: the parts of the server, and how one request is run, answered and counted."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from studio.core.errors import StudioError
from studio.core.routing import Target
from studio.core.settings import ServingSettings
from studio.serving.access_log import AccessLog
from studio.serving.batching import Ticket
from studio.serving.cache import Cache, key_of
from studio.serving.executor import Executor
from studio.serving.http import REFERENCE, Body, Connection, Disconnected, Response, error_response
from studio.serving.loaded import Array, LoadedModel
from studio.serving.peers import Peers
from studio.serving.problems import unforeseen
from studio.serving.recorder import Recorder
from studio.serving.router import Router
from studio.serving.shadow import Shadows
from studio.serving.statistics import Statistics

CLIENT_CLOSED = 499
"""The status that the live tail shows for requests whose client went away."""


@dataclass(slots=True)
class Service:
    """`ready` tells whether all that the first routing table pins was loaded, and the server is not draining.

    `touch` is called whenever there is something new to report to the owner of the server. `recorder` is there while
    requests are being recorded.
    """

    settings: ServingSettings
    router: Router
    executor: Executor
    statistics: Statistics
    touch: Callable[[], None]
    ready: bool = False
    access: AccessLog | None = None
    cache: Cache | None = None
    peers: Peers | None = None
    recorder: Recorder | None = None
    shadows: Shadows | None = None


def unready(service: Service, target: Target) -> str:
    """Why a client should not send requests for the target now; '' where it may."""
    failure = service.router.failure(target)
    if failure:
        return failure.sentence()
    if service.router.is_dropped(target):
        return "It was unloaded; the next request loads it again."
    return "" if service.ready else "The server is starting or shutting down."


class Exchange:
    """One inference request, from its parsed inputs to its answer. A protocol subclasses it and formats.

    `respond` is called once, on the event loop, unless the client goes away first: then `gone` is, if there is one.
    `parsing_ns` is for the protocol to set. `shadow` gets a copy once it was answered.
    """

    __slots__ = (
        "connection",
        "gone",
        "headers",
        "key",
        "parsing_ns",
        "receiving_ns",
        "respond",
        "service",
        "shadow",
        "started_ns",
        "target",
        "ticket",
    )
    protocol = ""

    def __init__(
        self,
        service: Service,
        target: Target,
        connection: Connection,
        started_ns: int,
        respond: Callable[[Response], None],
        gone: Callable[[], None] | None = None,
        shadow: Target | None = None,
    ) -> None:
        self.service = service
        self.target = target
        self.shadow = shadow
        self.connection = connection
        self.started_ns = started_ns
        self.respond = respond
        self.gone = gone
        self.headers: dict[bytes, bytes] = {}
        self.key = b""
        self.parsing_ns = 0
        self.receiving_ns = time.perf_counter_ns() - started_ns
        self.ticket: Ticket | None = None

    def begin(self, model: LoadedModel, body: Body, headers: dict[bytes, bytes]) -> None:
        """Parse and `submit`. Never raises: what is wrong goes to `fail`."""
        raise NotImplementedError

    def format(self, arrays: list[Array]) -> Response:
        """The answer. Raises StudioError for what can not be put as asked."""
        raise NotImplementedError

    def error(self, error: StudioError) -> Response:
        """An error in the protocol's own form."""
        return error_response(error)

    def submit(
        self,
        model: LoadedModel,
        inputs: Mapping[str, Array],
        outputs: tuple[str, ...] | None,
        timeout_us: int = 0,
        priority: int = 0,
    ) -> None:
        """Run it. `outputs` None = all of them. Raises Busy."""
        cache = self.service.cache
        executor = self.service.executor
        if cache is not None:
            self.key = key_of(self.target.sha256, inputs, outputs)
            known = cache.get(self.key)
            if known is not None:
                self.ticket = executor.answered(model, inputs, outputs, self._done, known)
                self.connection.on_lost.append(self._lost)
                return
        self.ticket = executor.submit(model, inputs, outputs, self._done, timeout_us, priority, self.connection)
        self.connection.on_lost.append(self._lost)

    def fail(self, error: StudioError) -> None:
        """Answer with an error, and count it."""
        count_failure(self.service, self.target, self.protocol, error.http_status, self.started_ns, str(error))
        response = self.error(error)
        self._note(error.http_status, len(response.body), str(error))
        self.respond(response)

    def _done(self, ticket: Ticket) -> None:
        self.connection.on_lost.remove(self._lost)
        try:
            arrays = ticket.answer()
            if self.service.cache is not None and not ticket.cached:
                self.service.cache.put(self.key, arrays)
            response = self.format(arrays)
        except StudioError as error:
            self.fail(error)
            return
        except Exception:  # others may be in the same batch, and wait for theirs
            self.fail(unforeseen())
            return
        service = self.service
        service.statistics.success(
            self.target.name, self.protocol, ticket, self.started_ns, self.parsing_ns, self.receiving_ns
        )
        service.touch()
        self._note(200, len(response.body))
        self.respond(response)
        if service.recorder is not None:
            service.recorder.take(self.target, ticket.inputs, self.headers)
        if self.shadow is not None and service.shadows is not None:
            service.shadows.copy(self.target, self.shadow, ticket)

    def _note(self, status: int, size: int, error: str = "") -> None:
        """Write the request into the access log, if there is one."""
        access = self.service.access
        if access is not None:
            ticket = self.ticket
            rows = ticket.rows if ticket is not None else 0
            took_ns = time.perf_counter_ns() - self.started_ns
            access.add((time.time(), self.protocol, self.target.name, status, took_ns, rows, size, self.headers, error))

    def _lost(self) -> None:
        assert self.ticket is not None
        self.service.executor.cancel(self.ticket)
        count_failure(self.service, self.target, self.protocol, CLIENT_CLOSED, self.started_ns, "The client went away.")
        self._note(CLIENT_CLOSED, 0, "The client went away.")
        if self.gone is not None:
            self.gone()


async def answered(target: Target, begin: Callable[[Callable[[Response], None], Callable[[], None]], None]) -> Response:
    """The answer of an exchange that `begin(respond, gone)` starts, with the name of what gave it.

    Raises Disconnected when the client has gone.
    """
    future: asyncio.Future[Response | None] = asyncio.get_running_loop().create_future()

    def settle(response: Response | None = None) -> None:
        if not future.done():
            future.set_result(response)

    begin(settle, settle)
    response = await future
    if response is None:
        raise Disconnected
    return named(response, target)


def named(response: Response, target: Target) -> Response:
    """The answer, with the header that tells which variant gave it."""
    return replace(response, headers=(*response.headers, (REFERENCE, target.name.encode())))


def count_failure(
    service: Service, target: Target | None, protocol: str, status: int, started_ns: int, error: str
) -> None:
    """Count a request that failed; `target` is None where none was found."""
    elapsed = time.perf_counter_ns() - started_ns
    service.statistics.failure(target.name if target else "", protocol, status, elapsed, error)
    service.touch()


def turned_away(
    service: Service,
    target: Target | None,
    protocol: str,
    error: StudioError,
    started_ns: int,
    headers: dict[bytes, bytes],
) -> None:
    """Count and note a request that went wrong before an exchange began; `target` is None where none was found."""
    words = str(error)
    count_failure(service, target, protocol, error.http_status, started_ns, words)
    if service.access is not None:
        name = target.name if target else ""
        took_ns = time.perf_counter_ns() - started_ns
        service.access.add((time.time(), protocol, name, error.http_status, took_ns, 0, 0, headers, words))
