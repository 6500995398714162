"""The terminal in a browser: textual-serve, kept to this machine and to whoever was given the link.

textual-serve alone would let any local user and any web page drive the terminal, and its page asks a font from another
host. So every request needs the key of the printed link (kept as a cookie), `Host` and `Origin` must be ours, and a
content security policy lets the page load nothing from elsewhere.
"""

from __future__ import annotations

import asyncio
import hmac
import secrets
import shlex
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from textual_serve.server import Server

from studio.core.errors import Conflict

HOST = "127.0.0.1"
COOKIE = "studio_key"


class WebTerminal(Server):  # type: ignore[misc]  # textual-serve is untyped
    """One terminal a browser tab; all of them attach to the same engine."""

    def __init__(self, workspace: Path, port: int) -> None:
        command = shlex.join([sys.executable, "-m", "studio.cli.main", "--workspace", str(workspace)])
        super().__init__(command, host=HOST, port=port, title="Studio")
        self.key = secrets.token_urlsafe(24)
        self.authority = f"{HOST}:{port}"

    @property
    def link(self) -> str:
        return f"http://{self.authority}/?key={self.key}"

    def initialize_logging(self) -> None:
        """stdout is data and stderr ours: nothing is set up."""

    async def on_startup(self, app: web.Application) -> None:
        """textual-serve's own prints a banner to stdout."""

    async def run(self, listening: Callable[[], None]) -> None:
        """Serve until SIGTERM or ctrl+c; `listening` is called once the link works. Raises Conflict."""
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        runner = web.AppRunner(await self._make_app(), shutdown_timeout=2.0)
        await runner.setup()
        try:
            await web.TCPSite(runner, HOST, self.port).start()
            listening()
            await stop.wait()
        except OSError as error:
            raise Conflict(
                f"Port {self.port} is not free.", f"{error.strerror}.", f"Choose another: --port {self.port + 1}"
            ) from error
        finally:
            await runner.cleanup()

    async def _make_app(self) -> web.Application:
        app: web.Application = await super()._make_app()
        app.middlewares.append(guard(self.key, self.authority))
        return app


def guard(key: str, authority: str) -> Middleware:
    """Middleware that admits only who has the key, and only under our own name."""
    policy = (
        "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
        f"img-src 'self' data:; font-src 'self' data:; connect-src 'self' ws://{authority}; "
        "frame-ancestors 'none'; form-action 'none'; base-uri 'none'"
    )

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        origin = request.headers.get("Origin")
        if request.host != authority or (origin is not None and origin != f"http://{authority}"):
            return web.Response(status=403, text="Studio answers here only under its own address.\n")
        if request.path == "/" and _same(request.query.get("key", ""), key):
            answer = web.Response(status=303, headers={"Location": "/"})
            answer.set_cookie(COOKIE, key, httponly=True, samesite="Strict")
            return answer
        if not _same(request.cookies.get(COOKIE, ""), key):
            return web.Response(status=403, text="Open the link that `studio web` printed: it carries the key.\n")
        response = await handler(request)
        if not response.prepared:
            response.headers["Content-Security-Policy"] = policy
            response.headers["Referrer-Policy"] = "no-referrer"
        return response

    return check


def _same(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode(), other.encode())
