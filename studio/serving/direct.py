"""The short way of an inference request: answered in the protocol's own callbacks, without a task or ASGI messages.

Only plain requests take it: POST to a path that a protocol answers directly, for a model that is loaded, with a
`Content-Length` within the limit and no encoding to undo. Everything else, and everything that is wrong, goes through
the ASGI application, which gives the same answers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from studio.core.errors import StudioError
from studio.core.routing import Target
from studio.serving.http import (
    COMPRESS_FROM,
    ECHOED,
    REFERENCE,
    Body,
    Connection,
    Response,
    accepted_encoding,
    header_map,
)
from studio.serving.loaded import LoadedModel
from studio.serving.problems import unforeseen

if TYPE_CHECKING:
    from studio.serving.service import Exchange, Service

MOST_HEAD = 2048
"""Bytes of a head that is remembered, and how many are."""
MOST_KNOWN = 1024
FIRST_BYTES = 1 << 20
"""Room that is made for a body when its first part comes; then as much again as there is."""
_NOT_HERE = (b"transfer-encoding", b"content-encoding", b"expect", b"upgrade")


Pairs = list[tuple[bytes, bytes]]
Found = tuple["type[Exchange]", Target, LoadedModel, Target | None]
"""What answers: how, which target, its model, and the shadow that gets a copy."""


class Direct:
    """Finds what answers a request directly.

    `finders`: by how a path ends, what a protocol has to say to it. `door` raises for who may not enter.
    """

    def __init__(
        self,
        service: Service,
        finders: Mapping[bytes, Callable[[Service, bytes, Pairs], Found | None]],
        door: Callable[[str, dict[bytes, bytes], str, str], None],
    ) -> None:
        self._service, self._finders, self._door = service, finders, door
        self._heads: dict[bytes, Known] = {}

    def call(self, path: bytes, pairs: Pairs, peer: Connection) -> DirectCall | None:
        """The request, once its head is complete; None where it has to go the long way."""
        find = self._finders.get(path[-6:]) or self._finders.get(path[-8:])
        found = find(self._service, path, pairs) if find else None
        if found is None:
            return None
        try:
            headers = header_map(pairs)
            self._door("POST", headers, "1.1", self._service.settings.host)
        except StudioError:
            return None
        length = headers.get(b"content-length", b"")
        if not length.isdigit() or len(length) > 12 or any(name in headers for name in _NOT_HERE):
            return None
        size = int(length)
        if size > self._service.settings.max_body_bytes:
            return None
        return DirectCall(self, found, headers, size, peer)

    def known(self, data: bytes, peer: Connection) -> DirectCall | None:
        """The one request that begins with `data`, if its head is to the letter one that was met before.

        Clients send the same head with every request on a connection, so most heads need no parsing.
        """
        end = data.find(b"\r\n\r\n", 0, MOST_HEAD) + 4
        known = self._heads.get(data[:end]) if end > 3 else None
        if known is None or len(data) - end > known.size:
            return None
        found = known.find(self._service, known.path, known.pairs)
        if found is None:
            return None
        call = DirectCall(self, found, known.headers, known.size, peer)
        call.echo = ()
        call.feed(data[end:])
        return call

    def remember(self, data: bytes, path: bytes, pairs: Pairs, call: DirectCall) -> None:
        """Keep the head that `data` begins with, as it was parsed into the rest, for the next like it."""
        end = data.find(b"\r\n\r\n", 0, MOST_HEAD) + 4
        if end < 4 or len(data) - end > call.size or data.count(b"\r\n", 0, end) != len(pairs) + 2:
            return
        if not call.keep_alive or any(name in call.headers for name in ECHOED):  # those differ each time
            return
        find = self._finders.get(path[-6:]) or self._finders.get(path[-8:])
        if find is not None:
            if len(self._heads) >= MOST_KNOWN:
                self._heads.clear()
            self._heads[data[:end]] = Known(find, path, pairs, call.headers, call.size)

    def begin(self, call: DirectCall, body: Body, respond: Callable[[Response], None]) -> None:
        assert call.found is not None
        kind, target, model, shadow = call.found
        call.found = None  # the connection keeps the call until its next request, and a model may have to go
        exchange = kind(self._service, target, call.peer, call.started_ns, respond, None, shadow)
        exchange.headers = call.headers
        try:
            exchange.begin(model, body, call.headers)
        except Exception:  # nobody above would answer
            exchange.fail(unforeseen())


@dataclass(frozen=True, slots=True)
class Known:
    """A head as it was parsed, and let in at the door. `size` of the body; nobody may change `headers`."""

    find: Callable[[Service, bytes, Pairs], Found | None]
    path: bytes
    pairs: Pairs
    headers: dict[bytes, bytes]
    size: int


class _NoEvent:
    """uvicorn wakes the task of a request through its event; here is no task."""

    def set(self) -> None:
        pass


class DirectCall:
    """One such request. It stands where uvicorn keeps the cycle of a request, with what uvicorn looks at there."""

    message_event = _NoEvent()

    __slots__ = (
        "_at",
        "_body",
        "_direct",
        "disconnected",
        "echo",
        "found",
        "headers",
        "keep_alive",
        "more_body",
        "peer",
        "reference",
        "response_complete",
        "size",
        "started_ns",
    )

    def __init__(
        self,
        direct: Direct,
        found: Found,
        headers: dict[bytes, bytes],
        size: int,
        peer: Connection,
    ) -> None:
        self._direct = direct
        self.found: Found | None = found
        self.reference = found[1].name
        self.headers, self.size, self.peer = headers, size, peer
        self._body: Body = b""
        self._at = 0
        self.started_ns = time.perf_counter_ns()
        self.keep_alive = True
        self.more_body = True
        self.disconnected = False
        self.response_complete = False
        self.echo: tuple[tuple[bytes, bytes], ...] | None = None

    def feed(self, data: bytes) -> None:
        """Take a part of the body. One that comes whole is kept as it came."""
        if len(data) == self.size:
            self._body = data
        elif data:
            self.rest(len(data))[: len(data)] = data
        self._at += len(data)

    @property
    def missing(self) -> int:
        """Bytes of the body that have not come."""
        return self.size - self._at

    def rest(self, wanted: int = 1) -> memoryview:
        """Room for the next of those, `wanted` or more. Memory is taken as the body comes, not at a client's word."""
        have, need = len(self._body), self._at + wanted
        if need > have:
            size = min(self.size, max(need, 2 * have, FIRST_BYTES))
            if have:
                self._body += bytes(size - have)
            else:
                self._body = bytearray(size)
        return memoryview(self._body)[self._at :]

    def received(self, size: int) -> bool:
        """`size` bytes of `rest` are there. Whether the body is complete."""
        self._at += size
        return self._at == self.size

    def begin(self, respond: Callable[[Response], None]) -> None:
        """The body is complete: run it."""
        self.more_body = False
        # The connection keeps this until its next request; the body may be large.
        body, self._body = self._body, b""
        self._direct.begin(self, body, respond)

    def wants_packing(self, response: Response) -> bool:
        """Whether the answer is to be compressed, which is done elsewhere."""
        return (
            len(response.body) >= COMPRESS_FROM
            and b"accept-encoding" in self.headers
            and accepted_encoding(self.headers) is not None
        )


_HEADS: dict[tuple[int, bytes, bool, str], bytes] = {}
_MOST_HEADS = 4096


def head(
    response: Response,
    status_line: bytes,
    keep_alive: bool,
    echo: tuple[tuple[bytes, bytes], ...] = (),
    reference: str = "",
) -> bytes:
    """Status line and headers of an answer. `reference`: the full name of what gave it."""
    key = (response.status, response.content_type, keep_alive, reference)
    start = _HEADS.get(key)
    if start is None:
        close = b"" if keep_alive else b"connection: close\r\n"
        name = b"%s: %s\r\n" % (REFERENCE, reference.encode()) if reference else b""
        start = b"%scontent-type: %s\r\n%s%scontent-length: " % (status_line, response.content_type, close, name)
        if len(_HEADS) >= _MOST_HEADS:
            _HEADS.clear()
        _HEADS[key] = start
    if not response.headers and not echo:
        return b"%s%d\r\n\r\n" % (start, len(response.body))
    more = b"".join([b"%s: %s\r\n" % pair for pair in (*response.headers, *echo)])
    return b"%s%d\r\n%s\r\n" % (start, len(response.body), more)
