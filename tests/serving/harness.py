"""A real server process, owned by the test as the engine owns it: a listening socket, a control socket, a child."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from studio.core import codec
from studio.core.routing import RoutingTable
from studio.core.settings import ServingSettings

WAIT = 30.0


def listen() -> socket.socket:
    """A listening socket on a free port of the loopback address."""
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    sock.listen(128)
    return sock


@dataclass
class Child:
    """One server process. `messages` is all that it has said so far."""

    process: subprocess.Popen[bytes]
    control: socket.socket
    port: int
    log: Path
    messages: list[dict[str, Any]] = field(default_factory=list)
    news: queue.Queue[None] = field(default_factory=queue.Queue)

    @property
    def url(self) -> str:
        return f"127.0.0.1:{self.port}"

    def send(self, kind: str, **fields: Any) -> None:
        self.control.sendall(codec.encode({"type": kind, **fields}) + b"\n")

    def said(self, kind: str) -> list[dict[str, Any]]:
        return [message for message in self.messages if message["type"] == kind]

    def wait_for(self, condition: Callable[[], Any], what: str = "the server") -> Any:
        """The first true value of the condition, looked at whenever the server says something."""
        until = time.monotonic() + WAIT
        while not (value := condition()):
            left = until - time.monotonic()
            assert left > 0, f"waited too long for {what}; log: {self.log.read_text()[-2000:]}"
            with contextlib.suppress(queue.Empty):
                self.news.get(timeout=min(left, 0.05))
        return value

    def apply(self, table: RoutingTable) -> dict[str, str]:
        """Send a table and wait until it is in force. The errors, by full reference."""
        self.send("routes", table=table)

        def applied() -> list[dict[str, Any]]:
            return [said for said in self.said("routes_applied") if said["generation"] == table.generation]

        errors: dict[str, str] = self.wait_for(applied, "routes_applied")[-1]["errors"]
        return errors

    def request(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers (lower-case) and body of one request on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT)
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return response.status, {k.lower(): v for k, v in response.getheaders()}, response.read()
        finally:
            connection.close()

    def json(self, method: str, path: str, value: Any = None, headers: dict[str, str] | None = None) -> tuple[int, Any]:
        body = None if value is None else json.dumps(value).encode()
        status, _, answer = self.request(method, path, body, headers)
        return status, json.loads(answer)

    def infer(self, name: str, value: Any, headers: dict[str, str] | None = None) -> tuple[int, Any]:
        return self.json("POST", f"/v2/models/{name}/infer", value, headers)

    def raw(self, data: bytes) -> bytes:
        """Send bytes, say goodbye, and return everything that comes back."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=WAIT) as sock:
            with contextlib.suppress(OSError):
                sock.sendall(data)
            return receive_all(sock)

    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def close(self) -> int:
        """Drain by closing the control socket. The exit code."""
        with contextlib.suppress(OSError):
            self.control.shutdown(socket.SHUT_RDWR)
        self.control.close()
        try:
            return self.process.wait(WAIT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise


def receive_all(sock: socket.socket) -> bytes:
    """Until the other side closes, or until one whole answer with a content length is there."""
    data = b""
    while True:
        try:
            part = sock.recv(65536)
        except ConnectionResetError:
            return data
        data += part
        head, separator, body = data.partition(b"\r\n\r\n")
        length = next((line[15:] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), None)
        if not part or (separator and length is not None and len(body) >= int(length)):
            return data


def spawn(
    listening: socket.socket, log: Path, settings: ServingSettings | None = None, cache: Path | None = None
) -> Child:
    """Start a server on the socket. It has its settings, and no routes so far. `cache`: where artefacts lie."""
    ours, theirs = socket.socketpair()
    with log.open("ab") as out:
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "studio.serving.child",
                "--listen-fd",
                str(listening.fileno()),
                "--control-fd",
                str(theirs.fileno()),
                *(("--cache", str(cache)) if cache is not None else ()),
            ],
            pass_fds=(listening.fileno(), theirs.fileno()),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
        )
    theirs.close()
    child = Child(process, ours, listening.getsockname()[1], log)
    threading.Thread(target=_listen_to, args=(child,), daemon=True).start()
    child.send("settings", settings=settings or ServingSettings())
    return child


def _listen_to(child: Child) -> None:
    with contextlib.suppress(OSError), child.control.makefile("rb") as lines:
        for line in lines:
            child.messages.append(json.loads(line))
            child.news.put(None)


@contextlib.contextmanager
def running(
    folder: Path,
    table: RoutingTable | None = None,
    settings: ServingSettings | None = None,
    cache: Path | None = None,
) -> Iterator[Child]:
    """A server with a table in force, drained at the end."""
    with listen() as listening:
        child = spawn(listening, folder / "server.log", settings, cache)
        try:
            child.apply(table or RoutingTable())
            yield child
        finally:
            child.close()
