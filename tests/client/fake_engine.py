"""A small real HTTP server that speaks as an engine does: core values, errors as ApiError, events as a stream."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from studio.core import codec
from studio.core.errors import Denied, NotFound, StudioError
from studio.core.events import Event
from studio.core.views import ApiError

TOKEN = "test-token"


class FakeEngine:
    """Answers what `routes` says. A route is a value, an exception to answer with, or a function of the body."""

    def __init__(self, workspace: Path | None = None) -> None:
        self.workspace = workspace
        self.routes: dict[tuple[str, str], Any] = {}
        self.requests: list[tuple[str, str, dict[str, list[str]], Any]] = []
        self.connections = 0
        self.drop_after_answer = False
        self.dropped = threading.Event()
        self.events: list[Event] = []
        self.hold_stream = threading.Event()
        self.hold_stream.set()
        self.since: list[int] = []
        engine = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                engine.connections += 1

            def log_message(self, *_: object) -> None:
                return

            def do_GET(self) -> None:
                engine.answer(self, None)

            def do_POST(self) -> None:
                engine.answer(self, self.rfile.read(int(self.headers["Content-Length"])))

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()
        if workspace is not None:
            self.publish(workspace)

    def publish(self, workspace: Path) -> None:
        (workspace / "run").mkdir(parents=True, exist_ok=True)
        info = {"pid": 2**22 + 1, "control_url": self.url, "serving_url": self.url}
        (workspace / "run" / "engine.json").write_bytes(codec.encode(info))
        (workspace / "run" / "token").write_text(TOKEN + "\n")

    def on(self, method: str, path: str, value: Any) -> None:
        self.routes[method, path] = value

    def asked(self, method: str, path: str) -> list[Any]:
        """The bodies of the requests to a path, in order."""
        return [body for m, p, _, body in self.requests if (m, p) == (method, path)]

    def close(self) -> None:
        self.hold_stream.set()
        self.server.shutdown()
        self.server.server_close()

    def answer(self, handler: BaseHTTPRequestHandler, body: bytes | None) -> None:
        parts = urlsplit(handler.path)
        path = unquote(parts.path)
        query = parse_qs(parts.query)
        binary = "Inference-Header-Content-Length" in handler.headers
        sent = None if body is None else body if binary else codec.decode(body, dict[str, Any])
        self.requests.append((handler.command, path, query, sent))
        if path.startswith("/api/") and handler.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.send(handler, 403, codec.encode(ApiError(error=Denied("The token is missing or wrong.").problem)))
            return
        if path == "/api/events":
            self.stream(handler, int(query["since"][0]))
            return
        route = self.routes.get((handler.command, path), NotFound(f"There is no {path}."))
        try:
            value = route(sent) if isinstance(route, Callable) else route  # type: ignore[arg-type]
            if isinstance(value, StudioError):
                raise value
        except StudioError as error:
            self.send(handler, error.http_status, codec.encode(ApiError(error=error.problem)))
            return
        if isinstance(value, tuple) and len(value) == 3 and isinstance(value[1], bytes):
            self.send(handler, *value)
            return
        self.send(handler, 200, value if isinstance(value, bytes) else codec.encode(value))

    def send(
        self, handler: BaseHTTPRequestHandler, status: int, data: bytes, headers: dict[str, str] | None = None
    ) -> None:
        handler.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(data))}.items():
            handler.send_header(name, value)
        for name, value in (headers or {}).items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(data)
        if self.drop_after_answer:
            # Closes without having said so: what a keep-alive time-out looks like from the other side.
            handler.close_connection = True
            handler.connection.shutdown(socket.SHUT_WR)
            self.dropped.set()

    def stream(self, handler: BaseHTTPRequestHandler, since: int) -> None:
        """Chunked, as uvicorn sends it. Ends once all events are out and `hold_stream` is set."""
        self.since.append(since)
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()

        def chunk(data: bytes) -> None:
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

        chunk(b": studio\n\n")
        for event in [event for event in self.events if event.seq > since]:
            text = b"id: %d\ndata: %s\n\n" % (event.seq, codec.encode(event))
            half = len(text) // 2
            chunk(text[:half])
            chunk(text[half:])
        handler.wfile.flush()
        self.hold_stream.wait()
        chunk(b"")
        handler.close_connection = True
