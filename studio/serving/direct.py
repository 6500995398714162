"""The short way of an inference request: answered in the protocol's own callbacks, without a task or ASGI messages.

Only plain requests take it: POST to a path that a protocol answers directly, for a model that is loaded, with a
`Content-Length` within the limit and no encoding to undo. Everything else, and everything that is wrong, goes through
the ASGI application, which gives the same answers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from studio.core.errors import StudioError
from studio.core.routing import Target
from studio.serving.http import COMPRESS_FROM, REFERENCE, Body, Connection, Response, accepted_encoding, header_map
from studio.serving.sessions import LoadedModel

if TYPE_CHECKING:
    from studio.serving.service import Exchange, Service

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

    def begin(self, call: DirectCall, body: Body, respond: Callable[[Response], None]) -> None:
        kind, target, model, shadow = call.found
        exchange = kind(self._service, target, call.peer, call.started_ns, respond, None, shadow)
        exchange.headers = call.headers
        exchange.begin(model, body, call.headers)


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
        "found",
        "headers",
        "keep_alive",
        "more_body",
        "peer",
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
        self.found, self.headers, self.size, self.peer = found, headers, size, peer
        self._body: Body = b""
        self._at = 0
        self.started_ns = time.perf_counter_ns()
        self.keep_alive = True
        self.more_body = True
        self.disconnected = False
        self.response_complete = False

    def feed(self, data: bytes) -> None:
        """Take a part of the body. One that comes whole is kept as it came; parts are put in place, never joined."""
        if self._at == 0 and len(data) == self.size:
            self._body = data
        else:
            if self._at == 0:
                self._body = bytearray(self.size)
            self._body[self._at : self._at + len(data)] = data  # type: ignore[index]
        self._at += len(data)

    def begin(self, respond: Callable[[Response], None]) -> None:
        """The body is complete: run it."""
        self.more_body = False
        self._direct.begin(self, self._body, respond)

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
    more = b"".join(b"%s: %s\r\n" % pair for pair in (*response.headers, *echo))
    return b"%s%d\r\n%s\r\n" % (start, len(response.body), more)
