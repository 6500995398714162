"""One inference call over gRPC, whatever the protocol: begun, awaited, cancelled with its client."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from studio.core.errors import StudioError
from studio.core.routing import Target
from studio.serving.http import REFERENCE, Connection, Response, echoed
from studio.serving.loaded import LoadedModel
from studio.serving.router import sticky_key
from studio.serving.service import Exchange, Service


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls: what its metadata says, and what it is told beside the answer. `context` is gRPC's, of the call;
    `headers` are its metadata, of a name that comes twice the last."""

    context: Any
    headers: dict[bytes, bytes]

    @staticmethod
    def of(context: Any) -> Caller:
        """The caller of a call that begins: what it sent to find it again goes back, however the call ends."""
        pairs = context.invocation_metadata() or ()
        headers = {name.encode(): value.encode() if isinstance(value, str) else value for name, value in pairs}
        caller = Caller(context, headers)
        caller._tell(echoed(headers))
        return caller

    def key(self) -> bytes:
        """What the call is kept with one version by, where its model is split."""
        return sticky_key(self.headers)

    def tell(self, target: Target) -> None:
        """Name the variant that answers, in the trailing metadata."""
        self._tell((*echoed(self.headers), (REFERENCE, target.name.encode())))

    def _tell(self, pairs: tuple[tuple[bytes, bytes], ...]) -> None:
        if pairs:
            self.context.set_trailing_metadata([(name.decode(), value.decode()) for name, value in pairs])


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
    caller: Caller,
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
    call.headers = caller.headers
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
