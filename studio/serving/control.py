"""The control channel: JSON lines over a Unix socket pair, between the server and the process that owns it.

Incoming: `{"type": "settings", "settings": ServingSettings}` first, `{"type": "routes", "table": RoutingTable}`
whenever routes change, `{"type": "recording", "plans": [RecordingPlan, …]}` whenever what is to be recorded changes
(`"number": N` where it is to say when all that was taken before is written),
`{"type": "drain"}`. The end of the stream means that the owner is gone.

Where there are several processes: `{"type": "do", "order": Order}` for what another one asks, `{"type": "answers",
"id": …, "replies": [Reply, …]}` to what this one has asked, `{"type": "elsewhere", "names": […]}` with what others have
loaded.

Outgoing: `ready` (settings taken; the server accepts connections once the first table is in force), `routes_applied`
with `generation` and `errors` by full reference, `grpc` with the `port` it is served on, or `error`, `tick` with a
`Tick`, `requests` with `lines` of `RequestLine`, `recorded` with the `number` of the message that asked; `ask` with an
`order` for all other processes, `done` with `id` and `reply`, `loaded` with the `names` of what is loaded.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from studio.core import codec
from studio.core.errors import InvalidInput
from studio.core.recording import RecordingPlan
from studio.core.routing import RoutingTable
from studio.core.settings import ServingSettings
from studio.serving.peers import Order, Reply

MAX_LINE = 256 * 1024 * 1024
"""Bytes of one message: a table of very many targets is long."""
MAX_UNSENT = 4 * 1024 * 1024
"""Bytes that may wait for an owner that does not read; figures beyond them are dropped, they come again."""


@dataclass(frozen=True)
class Drain:
    """The owner asks the server to finish and go."""


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What the other processes have replied to the order of this `id`."""

    id: int
    replies: list[Reply]


@dataclass(frozen=True, kw_only=True)
class Elsewhere:
    """What other processes have loaded, by full reference."""

    names: tuple[str, ...]


@dataclass(frozen=True)
class Recordings:
    """What requests are to be kept from now on, and no others. `number`: 0 where nobody waits for what was taken."""

    plans: tuple[RecordingPlan, ...] = ()
    number: int = 0


Message = ServingSettings | RoutingTable | Recordings | Drain | Order | Answers | Elsewhere


def parse(line: bytes) -> Message:
    """One incoming message. Raises InvalidInput."""
    value = codec.decode(line, dict, "control message")
    match value.get("type"):
        case "settings":
            return codec.convert(value.get("settings"), ServingSettings, "serving settings")
        case "routes":
            return codec.convert(value.get("table"), RoutingTable, "routing table")
        case "recording":
            plans = codec.convert(value.get("plans"), tuple[RecordingPlan, ...], "plans of recordings")
            return Recordings(plans, codec.convert(value.get("number", 0), int, "number of a message"))
        case "drain":
            return Drain()
        case "do":
            return codec.convert(value.get("order"), Order, "order")
        case "answers":
            return codec.convert(value, Answers, "answers")
        case "elsewhere":
            return codec.convert(value, Elsewhere, "names of loaded models")
        case other:
            raise InvalidInput(f"Unknown control message {str(other)[:40]!r}.")


class Channel:
    """The server's end of the socket pair."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, sock: socket.socket) -> Channel:
        return cls(*await asyncio.open_unix_connection(sock=sock, limit=MAX_LINE))

    def send(self, kind: str, droppable: bool = False, **fields: Any) -> None:
        """Queue one message. Never blocks and never fails: an owner that is gone is noticed by the reader."""
        transport = self._writer.transport
        if transport.is_closing() or (droppable and transport.get_write_buffer_size() > MAX_UNSENT):
            return
        self._writer.write(codec.encode({"type": kind, **fields}) + b"\n")

    async def messages(self) -> AsyncIterator[Message]:
        """What comes in, until the owner is gone. Raises InvalidInput for what is no message."""
        while True:
            try:
                line = await self._reader.readline()
            except (ConnectionError, ValueError):  # ValueError: a line over the limit
                return
            if not line.endswith(b"\n"):
                return
            yield parse(line)

    async def flush(self, seconds: float) -> None:
        """Wait until everything queued is sent, but not longer than that."""
        self._writer.close()
        try:
            async with asyncio.timeout(seconds):
                await self._writer.wait_closed()
        except (TimeoutError, ConnectionError):
            return
