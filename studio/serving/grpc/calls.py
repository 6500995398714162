"""One inference call over gRPC, whatever the protocol: begun, awaited, cancelled with its client."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from studio.core.errors import StudioError
from studio.core.routing import Target
from studio.serving.http import REFERENCE, Connection, Response
from studio.serving.loaded import LoadedModel
from studio.serving.router import sticky_key
from studio.serving.service import Exchange, Service


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls: what its metadata says, and what it is told beside the answer. `context` is gRPC's, of the call."""

    context: Any

    def key(self) -> bytes:
        """What the call is kept with one version by, where its model is split."""
        pairs = self.context.invocation_metadata() or ()
        return sticky_key({name.encode(): value.encode() if isinstance(value, str) else value for name, value in pairs})

    def tell(self, target: Target) -> None:
        """Name the variant that answers, in the trailing metadata."""
        self.context.set_trailing_metadata(((REFERENCE.decode(), target.name),))


class Call(Exchange):
    """The answer's body is the serialised message; `failed` says why there is none."""

    __slots__ = ("failed",)

    def __init__(
        self,
        service: Service,
        target: Target,
        connection: Connection,
        started_ns: int,
        settle: Callable[[Response], None],
        shadow: Target | None = None,
    ) -> None:
        super().__init__(service, target, connection, started_ns, settle, None, shadow)
        self.failed: StudioError | None = None

    def begin_call(self, model: LoadedModel, request: Any) -> None:
        """Parse and `submit`. Raises StudioError."""
        raise NotImplementedError

    def error(self, error: StudioError) -> Response:
        self.failed = error
        return Response(error.http_status, b"")


async def run_call(
    service: Service,
    kind: type[Call],
    target: Target,
    model: LoadedModel,
    request: Any,
    started_ns: int,
    shadow: Target | None = None,
) -> bytes:
    """The serialised answer. Raises StudioError; where the call is cancelled, so is its run."""
    future: asyncio.Future[Response] = asyncio.get_running_loop().create_future()

    def settle(response: Response) -> None:
        if not future.done():
            future.set_result(response)

    connection = Connection()
    call = kind(service, target, connection, started_ns, settle, shadow)
    try:
        call.begin_call(model, request)
    except StudioError as error:
        call.fail(error)
    try:
        response = await future
    except asyncio.CancelledError:
        for lost in tuple(connection.on_lost):
            lost()
        raise
    if call.failed is not None:
        raise call.failed
    return bytes(response.body)
