"""The gate before every request of the control API.

Loopback alone does not keep web pages out: a page can post to localhost, and DNS rebinding gives it a name of its own.
So the token is asked of everyone, `Host` must name this machine, and a foreign `Origin` is refused.
"""

from __future__ import annotations

import hmac
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send

from studio.core import codec
from studio.core.errors import Denied, StudioError
from studio.core.views import ApiError

LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
OPEN_PATHS = frozenset({"/openapi.json"})
MAX_BODY = 1024 * 1024


def host_name(value: str) -> str:
    """The host of a `Host` header without its port; IPv6 brackets removed."""
    return urlsplit(f"//{value}").hostname or ""


class Gate:
    """ASGI middleware: answers 403 in our error form, else passes on."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._expected = f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            self._check(scope)
        except StudioError as error:
            await refuse(send, error)
            return
        await self._app(scope, receive, send)

    def _check(self, scope: Scope) -> None:
        headers: dict[bytes, bytes] = dict(scope["headers"])
        try:
            host = host_name(headers.get(b"host", b"").decode("ascii"))
            origin = headers.get(b"origin", b"").decode("ascii")
            foreign = bool(origin) and host_name(urlsplit(origin).netloc) not in LOCAL_NAMES
        except ValueError:
            host, foreign = "", True
        if host not in LOCAL_NAMES:
            raise Denied(
                "This Host is not served.",
                "The control API answers only to localhost, so that no web page can reach it under another name.",
                "Use http://127.0.0.1 with the port of the engine.",
            )
        if foreign:
            raise Denied("This Origin is not allowed.", "A web page of another site sent the request.")
        if scope["path"] in OPEN_PATHS:
            return
        if not hmac.compare_digest(headers.get(b"authorization", b""), self._expected):
            raise Denied(
                "The token is missing or wrong.",
                "Every request to the engine needs the workspace's token.",
                "Send 'Authorization: Bearer TOKEN'; the token is in the workspace's run/token.",
            )


async def refuse(send: Send, error: StudioError) -> None:
    """Answer with an error, outside of any framework."""
    body = codec.encode(ApiError(error=error.problem))
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": error.http_status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
