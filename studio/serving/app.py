"""The HTTP application: a plain ASGI callable that guards the door and hands each path to its protocol."""

from __future__ import annotations

import asyncio
import functools
import ipaddress
import time
from collections.abc import Awaitable, Callable
from urllib.parse import quote, unquote_to_bytes, urlsplit

import studio
from studio.core.errors import Denied, InvalidInput, StudioError
from studio.serving import metrics, pages
from studio.serving.http import (
    Connection,
    Disconnected,
    Receive,
    Request,
    Response,
    Scope,
    Send,
    echoed,
    error_response,
    header_map,
    json_response,
    packed,
    read_body,
    respond,
)
from studio.serving.peers import figures_of
from studio.serving.problems import MethodNotAllowed, UnknownPath, Unsupported, unforeseen
from studio.serving.protocols import oip, ollama, openai, predict, tfs, torchserve, v1
from studio.serving.service import Service

App = Callable[[Scope, Receive, Send], Awaitable[None]]
Handler = Callable[[Service, Request], Awaitable[Response]]

PROTOCOLS: dict[str, Handler] = {
    oip.PREFIX: oip.handle,
    v1.PREFIX: v1.handle,
    openai.PREFIX: openai.handle,
    ollama.PREFIX: ollama.handle,
    predict.PREFIX: predict.handle,
    torchserve.PING: torchserve.handle,
    torchserve.PREDICTIONS: torchserve.handle,
    torchserve.MODELS: torchserve.handle,
    pages.DOCS: pages.handle,
    pages.OPENAPI: pages.handle,
}
"""First segment of the path -> who answers. One line a protocol."""
DIRECT = {b"/infer": oip.direct, b":predict": tfs.direct}
"""How a path ends -> who may answer it the short way (`studio.serving.direct`)."""

_ANY_ADDRESS = ("0.0.0.0", "::", "")  # noqa: S104


def make_app(service: Service) -> App:
    """The ASGI application. `scope["studio.connection"]` is the request's `Connection` where our own HTTP server runs
    it; under others it is told by `receive` when a client has gone."""
    host = service.settings.host
    limit = service.settings.max_body_bytes

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        started_ns = time.perf_counter_ns()
        echo: tuple[tuple[bytes, bytes], ...] = ()
        watching: asyncio.Task[None] | None = None
        if scope["type"] != "http":
            return
        try:
            headers = header_map(scope["headers"])
            echo = echoed(headers)
            check_codings(headers)
            check_door(scope["method"], headers, scope["http_version"], host)
            segments = split_path(_own_path(scope))
            body = await read_body(receive, headers, limit)
            connection = scope.get("studio.connection")
            if connection is None:
                connection = Connection()
                watching = asyncio.create_task(_watch(receive, connection))
            # The answer to HEAD is GET's without its body, which the HTTP server leaves out (RFC 9110, 9.3.2).
            method = "GET" if scope["method"] == "HEAD" else scope["method"]
            request = Request(method, segments, headers, body, connection, started_ns, scope["query_string"])
            response = await packed(await _answer(service, request), headers)
        except StudioError as error:
            response = error_response(error)
        except Disconnected:
            return
        except Exception:
            response = error_response(unforeseen())
        finally:
            if watching is not None:
                watching.cancel()
        await respond(send, response, echo)

    return app


async def _watch(receive: Receive, connection: Connection) -> None:
    """Tell the request when its client has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass
    for callback in tuple(connection.on_lost):
        callback()


def _own_path(scope: Scope) -> bytes:
    """The path as it was sent, below where the application is mounted."""
    path: bytes = scope.get("raw_path") or quote(scope["path"]).encode()
    return path.removeprefix(scope.get("root_path", "").encode())


async def _answer(service: Service, request: Request) -> Response:
    handler = PROTOCOLS.get(request.segments[0].lower()) if request.segments else None
    if handler is not None:
        return await handler(service, request)
    if request.segments == ("metrics",) or request.segments == ("monitoring", "prometheus", "metrics"):
        if request.method != "GET":
            raise MethodNotAllowed("GET")
        return Response(200, metrics.exposition(service, await figures_of(service)), metrics.CONTENT_TYPE)
    if request.segments:
        raise UnknownPath
    if request.method != "GET":
        raise MethodNotAllowed("GET")
    paths = [f"/{prefix}" for prefix in PROTOCOLS]
    return json_response({"name": "studio", "version": studio.__version__, "status": "alive", "paths": paths})


def split_path(raw_path: bytes) -> tuple[str, ...]:
    """The segments, each percent-decoded once; one '/' at the end does not count. Raises InvalidInput for non-UTF-8."""
    parts = raw_path.split(b"/")[1:]
    if parts and not parts[-1]:
        parts.pop()
    try:
        return tuple((unquote_to_bytes(part) if b"%" in part else part).decode("utf-8") for part in parts)
    except UnicodeDecodeError:
        raise InvalidInput("The path is not valid UTF-8.") from None


def check_codings(headers: dict[bytes, bytes]) -> None:
    """Raises Unsupported for a transfer coding beside chunks: the body would be taken for what it is not.

    One that comes last, where chunks have to, is refused by the parser with 400 (RFC 9112, 6.3).
    """
    given = headers.get(b"transfer-encoding")
    if given is not None and [each for part in given.split(b",") if (each := part.strip().lower())] != [b"chunked"]:
        raise Unsupported(
            f"unsupported Transfer-Encoding '{given.decode('latin-1')[:40]}'.",
            "",
            "Compress the body and name it in Content-Encoding instead.",
        )


def check_door(method: str, headers: dict[bytes, bytes], http_version: str, host: str) -> None:
    """Refuse what a browser was tricked into sending. `host` is the configured one.

    A `Host` that is not ours means DNS rebinding; an `Origin` that is not ours, another site's page. Raises Denied,
    and InvalidInput where HTTP/1.1 comes without `Host`.
    """
    given = headers.get(b"host")
    if given is None:
        if http_version == "1.1":
            raise InvalidInput("The header 'Host' is missing.", "HTTP/1.1 demands it.")
    elif not host_allowed(given, host):
        raise Denied(
            "The header 'Host' names another host.",
            "Only loopback names and the configured host are answered.",
            "Call it as localhost, or set host under [serving] in studio.toml.",
        )
    origin = headers.get(b"origin")
    if origin is not None and method not in ("GET", "HEAD") and not origin_allowed(origin, host):
        raise Denied("The header 'Origin' names another site.", "Pages of other sites may not send requests here.")


@functools.lru_cache(maxsize=256)
def host_allowed(given: bytes, configured: str) -> bool:
    """Whether a `Host` header (`name[:port]`) is a loopback name or the configured host.

    Where the configured host is 'any address', every literal address passes: rebinding needs a name.
    """
    try:
        parts = urlsplit("//" + given.decode("ascii"))
        name = parts.hostname or ""
        _ = parts.port
    except ValueError:
        return False
    if parts.path or parts.username is not None or parts.query or parts.fragment:
        return False
    if name in ("localhost", configured.lower()) and name:
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    return address.is_loopback or configured in _ANY_ADDRESS


@functools.lru_cache(maxsize=256)
def origin_allowed(origin: bytes, configured: str) -> bool:
    """Whether an `Origin` header (`scheme://name[:port]`) is of this machine. 'null' is not."""
    scheme, separator, rest = origin.partition(b"://")
    return bool(separator) and scheme.lower() in (b"http", b"https") and host_allowed(rest, configured)
