"""What stands between the bytes of a connection and uvicorn's protocol: mended heads, refusals, joined writes."""

from __future__ import annotations

import asyncio
import re

from httptools import HttpParserCallbackError, HttpParserInvalidMethodError

MAX_HEAD_BYTES = 64 * 1024
"""The request line and all headers together."""


class Refusal(Exception):
    """Raised in a parser callback: stop reading, answer `status` with `words`, close."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.status = status
        self.words = words


_UPGRADE = re.compile(rb"\r\nupgrade:", re.IGNORECASE)
_PERHAPS = re.compile(rb"(?<=\r\n)u(?:p(?:g(?:r(?:a(?:d(?:e)?)?)?)?)?)?\Z", re.IGNORECASE)
TAIL = len(b"\r\n\r\n") - 1
"""Bytes of a head that have to be known to see where it ends in those that follow."""


def without_upgrade(tail: bytes, data: bytes) -> tuple[bytes, bytes]:
    """`data` of a head, its offer to speak another protocol renamed, and what of it is to be put before the bytes that
    follow, where the offer may be cut in two. `tail` are the last bytes of the same head that came before, if some did.

    A server may ignore it (RFC 9110, 7.8), but the parser would skip the body that comes with it: HTTP clients of Java
    offer h2c with every request. What stands behind the head is not touched.
    """
    joined = tail + data
    end = joined.find(b"\r\n\r\n", 0, MAX_HEAD_BYTES)
    found = _UPGRADE.search(joined, 0, end if end >= 0 else MAX_HEAD_BYTES)
    if found is not None:
        joined = b"%s\r\nx-upgrade:%s" % (joined[: found.start()], joined[found.end() :])
    perhaps = _PERHAPS.search(joined, max(0, len(joined) - len(b"\r\nupgrade"))) if end < 0 else None
    cut = len(joined) if perhaps is None else perhaps.start()
    return joined[len(tail) : cut], joined[cut:]


def malformed(error: BaseException | None) -> str:
    """The parser's reason in words. `error` is what it raised."""
    if isinstance(error, HttpParserCallbackError):  # one of our own callbacks: its reason says more
        error = error.__context__
    words = f"Malformed HTTP request: {error}." if str(error or "") else "Malformed HTTP request."
    if isinstance(error, HttpParserInvalidMethodError) or "PRI" in words:
        words += " This port speaks plain HTTP/1.1, neither TLS nor HTTP/2."
    return words


class OneWrite:
    """Stands between uvicorn's response and the transport, and joins head and body.

    uvicorn writes them one after the other, and uvloop sends each at once. In two packets an answer can cost its
    client 40 ms on a kept-alive connection (Nagle's algorithm meeting delayed acknowledgements).
    """

    __slots__ = ("_head", "_joined", "_transport")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._head = b""
        self._joined = False

    def write(self, data: bytes) -> None:
        if self._transport.is_closing():  # uvicorn tells this to the newest request of a connection alone
            return
        if self._joined or data.startswith(b"HTTP/1.1 100"):
            self._transport.write(data)
        elif self._head:
            self._joined = True
            self._transport.write(self._head + data)
        else:
            self._head = data

    def close(self) -> None:
        if self._head and not self._joined:
            self.write(b"")
        self._transport.close()

    def is_closing(self) -> bool:
        return self._transport.is_closing()
