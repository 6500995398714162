"""The rest of a request's body, received straight into its place: no parser, no parts, no joins."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from studio.serving.connection import ServingProtocol
    from studio.serving.direct import DirectCall


class BodyReader(asyncio.BufferedProtocol):
    """Takes a connection's place at the transport until the body of `call` is complete, then gives it back.

    The transport reads into the memory that the model will be given, and no further than the body goes.
    """

    def __init__(self, connection: ServingProtocol, call: DirectCall) -> None:
        self._connection, self._call = connection, call

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._call.rest()

    def buffer_updated(self, nbytes: int) -> None:
        if self._call.received(nbytes):
            self._connection.body_received(self._call)

    def eof_received(self) -> bool:
        return self._connection.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._connection.connection_lost(exc)

    def pause_writing(self) -> None:
        self._connection.pause_writing()

    def resume_writing(self) -> None:
        self._connection.resume_writing()
