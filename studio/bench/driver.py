"""Closed-loop HTTP clients on raw sockets in one thread: each sends, waits for the answer, and sends again.

As little as possible happens between an answer and the next request, since the clients share the machine with what they
measure: requests are whole byte strings made beforehand, and of an answer only the status and the length are read.
"""

from __future__ import annotations

import re
import selectors
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import cycle
from urllib.parse import urlsplit

_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)", re.IGNORECASE)
_CLOSE = re.compile(rb"\r\nconnection:[ \t]*close", re.IGNORECASE)
_MAX_HEAD = 64 * 1024
_READ = 256 * 1024
_CONNECT_SECONDS = 5.0
_PAUSE = 0.02  # after a refused connection, so that a dead server is not hammered


@dataclass
class Turn:
    """What happened during one arm's turn. Latencies in microseconds, of good answers only."""

    seconds: float = 0.0
    requests: int = 0
    errors: int = 0
    latencies: list[float] = field(default_factory=list)
    error: str = ""

    def failed(self, words: str) -> None:
        self.errors += 1
        self.error = self.error or words


class _Client:
    """One connection and the exchange on it."""

    def __init__(self) -> None:
        self.socket: socket.socket | None = None
        self.unsent = memoryview(b"")
        self.head = b""
        self.status = 0
        self.missing = -1
        self.text = b""
        self.closing = False
        self.started = 0.0
        self.writing = False


class Driver:
    """Holds `clients` connections to one endpoint. Not for several threads."""

    def __init__(self, url: str, clients: int, timeout: float) -> None:
        parts = urlsplit(url)
        self._address = (parts.hostname or "127.0.0.1", parts.port or 80)
        self._timeout = timeout
        self._clients = [_Client() for _ in range(clients)]
        self._selector = selectors.DefaultSelector()
        self._buffer = bytearray(_READ)

    def close(self) -> None:
        for client in self._clients:
            self._drop(client)
        self._selector.close()

    def run(self, requests: Iterator[bytes], seconds: float) -> Turn:
        """All clients send from `requests` for so long; then what is under way is still awaited."""
        turn = Turn()
        begun = time.perf_counter()
        end = begun + seconds
        busy = {client for client in self._clients if self._begin(client, requests, turn, end)}
        while busy:
            for key, mask in self._selector.select(0.5):
                client: _Client = key.data
                if (
                    client in busy
                    and self._continue(client, mask, turn)
                    and not self._begin(client, requests, turn, end)
                ):
                    busy.discard(client)
            now = time.perf_counter()
            for client in [one for one in busy if now - one.started > self._timeout]:
                self._lost(client, turn, f"no answer within {self._timeout:g} s")
                if not self._begin(client, requests, turn, end):
                    busy.discard(client)
        turn.seconds = time.perf_counter() - begun
        return turn

    def _begin(self, client: _Client, requests: Iterator[bytes], turn: Turn, end: float) -> bool:
        """Send the next request. False when time is over."""
        while time.perf_counter() < end:
            if client.socket is None and not self._connect(client):
                turn.requests += 1
                turn.failed("the connection was refused")
                time.sleep(_PAUSE)
                continue
            client.unsent = memoryview(next(requests))
            client.head, client.text, client.missing, client.status = b"", b"", -1, 0
            turn.requests += 1
            client.started = time.perf_counter()
            if self._send(client, turn):
                return True
        return False

    def _connect(self, client: _Client) -> bool:
        try:
            made = socket.create_connection(self._address, _CONNECT_SECONDS)
        except OSError:
            return False
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        made.setblocking(False)
        client.socket, client.writing, client.closing = made, False, False
        self._selector.register(made, selectors.EVENT_READ, client)
        return True

    def _drop(self, client: _Client) -> None:
        if client.socket is not None:
            self._selector.unregister(client.socket)
            client.socket.close()
            client.socket = None

    def _lost(self, client: _Client, turn: Turn, why: str) -> bool:
        self._drop(client)
        turn.failed(why)
        return True

    def _send(self, client: _Client, turn: Turn) -> bool:
        """False when the connection broke."""
        assert client.socket is not None
        try:
            client.unsent = client.unsent[client.socket.send(client.unsent) :]
        except BlockingIOError:
            pass
        except OSError as error:
            self._lost(client, turn, f"the connection broke: {error.strerror}")
            return False
        waiting = len(client.unsent) > 0
        if waiting != client.writing:
            client.writing = waiting
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if waiting else 0)
            self._selector.modify(client.socket, events, client)
        return True

    def _continue(self, client: _Client, mask: int, turn: Turn) -> bool:
        """Go on with an exchange. True when it has ended, well or badly."""
        if mask & selectors.EVENT_WRITE and client.unsent and not self._send(client, turn):
            return True
        if not mask & selectors.EVENT_READ:
            return False
        assert client.socket is not None
        try:
            count = client.socket.recv_into(self._buffer)
        except BlockingIOError:
            return False
        except OSError as error:
            return self._lost(client, turn, f"the connection broke: {error.strerror}")
        if not count:
            return self._lost(client, turn, "the server closed the connection")
        data = self._buffer[:count]
        if client.missing < 0:
            return self._read_head(client, bytes(client.head + data), turn)
        client.missing -= count
        return self._read_body(client, bytes(data), turn)

    def _read_head(self, client: _Client, data: bytes, turn: Turn) -> bool:
        end = data.find(b"\r\n\r\n")
        if end < 0:
            client.head = data
            return self._lost(client, turn, "the answer has no end of headers") if len(data) > _MAX_HEAD else False
        head = data[: end + 2]
        length = _LENGTH.search(head)
        status = head[9:12]
        if length is None or not status.isdigit():
            return self._lost(client, turn, "the answer is no HTTP with a Content-Length")
        client.status, client.closing = int(status), _CLOSE.search(head) is not None
        client.missing = int(length[1]) - (len(data) - end - 4)
        return self._read_body(client, data[end + 4 :], turn)

    def _read_body(self, client: _Client, data: bytes, turn: Turn) -> bool:
        if client.status != 200 and len(client.text) < 300:
            client.text += data[:300]
        if client.missing > 0:
            return False
        taken = (time.perf_counter() - client.started) * 1e6
        if client.missing < 0 or client.unsent:
            return self._lost(client, turn, "the server answered more than it announced, or before it was asked")
        if client.status == 200:
            turn.latencies.append(taken)
        else:
            turn.failed(f"HTTP {client.status}: {client.text.decode(errors='replace')}")
        if client.closing:
            self._drop(client)
        return True


def endless(requests: list[bytes]) -> Iterator[bytes]:
    """The requests in turn, over and over."""
    return cycle(requests)
