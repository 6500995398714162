"""Requests and responses as plain values, and what is common to every protocol over HTTP."""

from __future__ import annotations

import asyncio
import re
import zlib
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

import orjson

from studio.core.errors import InvalidInput, StudioError
from studio.serving.problems import Busy, MethodNotAllowed, TooLarge, TooSlow, UnsupportedEncoding

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Body = bytes | bytearray

JSON = b"application/json"
REFERENCE = b"x-studio-reference"
"""The header of an answer that tells which variant gave it, as a full reference."""
OCTETS = b"application/octet-stream"
ENCODINGS = "gzip, deflate"

COMPRESS_FROM = 1024
"""Bodies below this many bytes are sent as they are: packing them costs more than it saves."""
OFF_LOOP_FROM = 128 * 1024
"""Bodies from this size are packed and unpacked off the event loop."""
MAX_MEMBERS = 8192
"""Members of one gzip body; tools that pack in parallel make one of every 64 kB and more."""
PIECE_BYTES = 64 * 1024
BODY_SECONDS = 30.0
BODY_BYTES_A_SECOND = 64 * 1024


@dataclass(frozen=True, slots=True)
class Connection:
    """What a running request may want to know of its connection. `on_lost` runs when the client has gone."""

    on_lost: list[Callable[[], None]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Request:
    """One request. `segments` is the path, split at '/' and then percent-decoded once; header names are lower-case.

    `started_ns` is `time.perf_counter_ns()` of its arrival.
    """

    method: str
    segments: tuple[str, ...]
    headers: dict[bytes, bytes]
    body: Body
    connection: Connection
    started_ns: int
    query_string: bytes = b""

    @property
    def query(self) -> dict[str, str]:
        """What stands behind the '?', decoded; of a name that comes twice the last."""
        return dict(parse_qsl(self.query_string.decode("latin-1"), keep_blank_values=True, max_num_fields=64))


ECHOED = (b"x-request-id", b"traceparent", b"tracestate")
_ECHOABLE = re.compile(rb"[\x21-\x7e][\x20-\x7e]{0,511}")
"""Of characters that are safe in a header, and no longer than W3C's trace context demands to be carried."""


def echoed(headers: dict[bytes, bytes]) -> tuple[tuple[bytes, bytes], ...]:
    """What a client sent to find its request again, to be sent back: its id, and W3C's trace context."""
    return tuple((name, headers[name]) for name in ECHOED if name in headers and _ECHOABLE.fullmatch(headers[name]))


# Not frozen: there is one for every request, and setting the fields of a frozen one takes six times as long.
@dataclass(slots=True)
class Response:
    """One answer, sent whole. Nobody changes it."""

    status: int
    body: bytes
    content_type: bytes = JSON
    headers: tuple[tuple[bytes, bytes], ...] = ()


def json_response(value: Any, status: int = 200, headers: tuple[tuple[bytes, bytes], ...] = ()) -> Response:
    return Response(status, orjson.dumps(value), headers=headers)


def error_headers(error: StudioError) -> tuple[tuple[bytes, bytes], ...]:
    """The headers that an error's status calls for."""
    if isinstance(error, Busy):
        return ((b"retry-after", str(error.retry_after).encode()),)
    if isinstance(error, MethodNotAllowed):
        return ((b"allow", error.allowed.encode()),)
    if isinstance(error, UnsupportedEncoding):
        return ((b"accept-encoding", ENCODINGS.encode()),)
    return ()


def error_response(error: StudioError) -> Response:
    """`{"error": words}`: the form of OIP v2 and TensorFlow Serving."""
    return Response(error.http_status, orjson.dumps({"error": str(error)}), JSON, error_headers(error))


def header_map(pairs: list[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """The headers by name: of one that comes twice the last, of transfer codings all. Raises InvalidInput when one that
    decides how the request is read comes twice."""
    headers: dict[bytes, bytes] = {}
    for name, value in pairs:
        if name in headers and name in _SINGLE:
            raise InvalidInput(f"The header '{name.decode('latin-1')}' is given twice.", "", "Send it once.")
        if name in headers and name == b"transfer-encoding":
            value = headers[name] + b", " + value
        headers[name] = value
    return headers


_SINGLE = frozenset((b"host", b"origin", b"content-length", b"content-encoding", b"inference-header-content-length"))


async def read_body(receive: Receive, headers: dict[bytes, bytes], limit: int) -> bytes:
    """The whole body. Raises TooLarge before anything over `limit` bytes is kept, TooSlow when it trickles in,
    and `Disconnected` when the client goes away half-way."""
    announced = headers.get(b"content-length", b"")
    size = int(announced) if announced.isdigit() else 0
    if size > limit:
        raise too_large(size, limit)
    first = await receive()
    if first["type"] == "http.disconnect":
        raise Disconnected
    if not first.get("more_body"):
        return _within(first.get("body", b""), limit)
    seconds = BODY_SECONDS + (size or limit) / BODY_BYTES_A_SECOND
    try:
        async with asyncio.timeout(seconds):
            return await _read_rest(receive, first.get("body", b""), limit)
    except TimeoutError:
        raise TooSlow("The request body came in too slowly.", f"It was not complete after {seconds:.0f} s.") from None


class Disconnected(Exception):
    """The client closed the connection before its request was complete: there is no one to answer."""


async def _read_rest(receive: Receive, first: bytes, limit: int) -> bytes:
    body = bytearray(first)
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Disconnected
        body += message.get("body", b"")
        if len(body) > limit:
            raise too_large(len(body), limit)
        if not message.get("more_body"):
            return bytes(body)


def _within(body: bytes, limit: int) -> bytes:
    if len(body) > limit:
        raise too_large(len(body), limit)
    return body


def too_large(size: int, limit: int) -> TooLarge:
    return TooLarge(
        f"request size of {size} bytes exceeds the maximum allowed input size of {limit} bytes.",
        "",
        "Send less at once, or raise max_body_bytes under [serving] in studio.toml.",
    )


async def unpacked(body: Body, headers: dict[bytes, bytes], limit: int) -> Body:
    """The body with its `Content-Encoding` undone, at most `limit` bytes of it.

    Raises UnsupportedEncoding, InvalidInput for a damaged stream, TooLarge for one that swells over the limit.
    """
    encoding = headers.get(b"content-encoding", b"").strip().lower()
    if encoding in (b"", b"identity"):
        return body
    if encoding not in (b"gzip", b"deflate"):
        raise UnsupportedEncoding(
            f"unsupported Content-Encoding '{encoding.decode('latin-1')[:40]}'.", "", f"Use one of: {ENCODINGS}."
        )
    if len(body) < OFF_LOOP_FROM:
        return inflate(body, encoding, limit)
    return await asyncio.to_thread(inflate, body, encoding, limit)


def inflate(body: Body, encoding: bytes, limit: int) -> bytes:
    """gzip (RFC 1952, all members) or deflate (RFC 1950, or bare RFC 1951 as some clients send it)."""
    window = 31 if encoding == b"gzip" else 15
    if window == 15 and not _is_zlib(body):
        window = -15
    out = bytearray()
    packed = memoryview(body)
    at = members = 0
    try:
        while at < len(packed):
            members += 1
            if members > MAX_MEMBERS:
                raise InvalidInput(f"The gzip body has more than {MAX_MEMBERS} members.", "", "Pack it as one.")
            stream = zlib.decompressobj(window)
            while not stream.eof:
                if at == len(packed):
                    raise InvalidInput(f"The {encoding.decode()} body is cut short.")
                # In pieces, because what is left of one behind the end of a member is copied each time.
                piece = packed[at : at + PIECE_BYTES]
                out += stream.decompress(piece, limit + 1 - len(out))
                if len(out) > limit:
                    raise too_large(len(out), limit)
                at += len(piece) - len(stream.unused_data)
            if at < len(packed) and window != 31:
                raise InvalidInput("There is data behind the end of the deflate body.")
    except zlib.error as error:
        raise InvalidInput(f"The body is not valid {encoding.decode()}.", f"{error}.") from None
    return bytes(out)


def _is_zlib(body: Body) -> bool:
    return len(body) >= 2 and body[0] & 0x0F == 8 and (body[0] << 8 | body[1]) % 31 == 0


_CHOICE = re.compile(rb"\s*(gzip|deflate)\s*(?:;\s*q\s*=\s*([0-9.]+))?\s*", re.ASCII | re.IGNORECASE)


def accepted_encoding(headers: dict[bytes, bytes]) -> bytes | None:
    """`gzip` or `deflate`, whichever the client would rather have (RFC 9110, 12.5.3); None for neither."""
    best: bytes | None = None
    best_q = 0.0
    for part in headers.get(b"accept-encoding", b"").split(b","):
        found = _CHOICE.fullmatch(part)
        if not found:
            continue
        try:
            q = float(found[2]) if found[2] else 1.0
        except ValueError:
            continue
        if q > best_q:
            best, best_q = found[1].lower(), q
    return best


async def packed(response: Response, headers: dict[bytes, bytes]) -> Response:
    """The response in an encoding that the client accepts, where its size makes that worth while."""
    if len(response.body) < COMPRESS_FROM or b"accept-encoding" not in headers:
        return response
    encoding = accepted_encoding(headers)
    if encoding is None:
        return response
    if len(response.body) < OFF_LOOP_FROM:
        body = deflate(response.body, encoding)
    else:
        body = await asyncio.to_thread(deflate, response.body, encoding)
    more = (*response.headers, (b"content-encoding", encoding), (b"vary", b"accept-encoding"))
    return Response(response.status, body, response.content_type, more)


def deflate(body: bytes, encoding: bytes) -> bytes:
    """Level 1: on tensors the higher levels cost several times as much for a few per cent."""
    stream = zlib.compressobj(1, zlib.DEFLATED, 31 if encoding == b"gzip" else 15)
    return stream.compress(body) + stream.flush()


async def respond(send: Send, response: Response, echo: tuple[tuple[bytes, bytes], ...] = ()) -> None:
    """Send head and body in one go, so that they leave in one packet where they fit."""
    headers = [
        (b"content-type", response.content_type),
        (b"content-length", str(len(response.body)).encode()),
        *response.headers,
        *echo,
    ]
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    await send({"type": "http.response.body", "body": response.body})
