"""HTTP to the engine: keep-alive connections that any thread may use, and errors in Studio's own words."""

from __future__ import annotations

import http.client
import select
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import urlencode, urlsplit

from studio.core import codec
from studio.core.errors import Denied, InvalidInput, Problem, StudioError, Unavailable, from_problem
from studio.core.views import ApiError

T = TypeVar("T")
MAX_IDLE = 8


@dataclass(frozen=True)
class Address:
    """Where an engine answers, and the token that it asks for."""

    url: str
    token: str


Locate = Callable[[], Address | None]
"""Looks up where the engine answers now: a restarted one has another port."""


def unreachable(url: str, error: Exception | None = None) -> Unavailable:
    """The error for an engine that does not answer."""
    why = f"Nothing answers at {url}" + (f": {error}." if error and str(error) else ".")
    return Unavailable("The engine can not be reached.", why, "Start it with: studio up --detach")


def error_of(status: int, body: bytes) -> StudioError:
    """The exception that an answer with an error status stands for."""
    try:
        return from_problem(codec.decode(body, ApiError, "answer of the engine").error)
    except InvalidInput:
        if status == 403:
            return Denied("The engine refused the request.", f"It answered HTTP {status}.")
        what = f"The engine answered HTTP {status} without saying why."
        return from_problem(Problem(code="internal", what=what, fix="Look at logs/engine.log in the workspace."))


class Transport:
    """Requests to one engine. Safe to use from any number of threads: no connection serves two at once."""

    def __init__(self, address: Address, timeout: float, locate: Locate | None = None) -> None:
        self._address = address
        self._timeout = timeout
        self._locate = locate
        self._idle: list[tuple[str, http.client.HTTPConnection]] = []
        self._lock = threading.Lock()

    @property
    def address(self) -> Address:
        return self._address

    def relocate(self) -> bool:
        """Look up the address again; True if it has changed."""
        found = self._locate() if self._locate else None
        if found is None or found == self._address:
            return False
        self._address = found
        return True

    def get(self, path: str, kind: type[T], query: Mapping[str, str | int | float] | None = None) -> T:
        """GET a typed value. Raises the StudioError that the engine answers with, or Unavailable."""
        full = f"{path}?{urlencode(query)}" if query else path
        return codec.decode(self._exchange("GET", full, None), kind, "answer of the engine")

    def post(self, path: str, body: object, kind: type[T]) -> T:
        """POST a value and get a typed one. Raises the StudioError that the engine answers with, or Unavailable."""
        return codec.decode(self._exchange("POST", path, codec.encode(body)), kind, "answer of the engine")

    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._address.token}", "Accept": "application/json"}

    def open(self, timeout: float | None) -> http.client.HTTPConnection:
        """A new connection. Raises Unavailable when nothing listens, after looking for a new address once."""
        try:
            return self._connected(timeout)
        except OSError as error:
            if not self.relocate():
                raise unreachable(self._address.url, error) from error
        try:
            return self._connected(timeout)
        except OSError as error:
            raise unreachable(self._address.url, error) from error

    def close(self) -> None:
        """Close the idle connections."""
        with self._lock:
            idle, self._idle = self._idle, []
        for _, connection in idle:
            connection.close()

    def _connected(self, timeout: float | None) -> http.client.HTTPConnection:
        parts = urlsplit(self._address.url)
        connection = http.client.HTTPConnection(parts.hostname or "127.0.0.1", parts.port, timeout=timeout)
        connection.connect()
        return connection

    def _take(self) -> http.client.HTTPConnection | None:
        """An idle connection that the engine has not closed meanwhile."""
        while True:
            with self._lock:
                if not self._idle:
                    return None
                url, connection = self._idle.pop()
            if url == self._address.url and connection.sock is not None and not _readable(connection):
                return connection
            connection.close()

    def _give(self, url: str, connection: http.client.HTTPConnection) -> None:
        with self._lock:
            if len(self._idle) < MAX_IDLE:
                self._idle.append((url, connection))
                return
        connection.close()

    def _exchange(self, method: str, path: str, body: bytes | None) -> bytes:
        connection = self._take()
        if connection is not None:
            try:
                return self._on(connection, method, path, body)
            except (ConnectionError, http.client.HTTPException) as error:
                # A change that was sent may have been made: only a question is safe to ask again.
                if method != "GET":
                    raise _broken_off(error) from error
        try:
            return self._on(self.open(self._timeout), method, path, body)
        except (ConnectionError, http.client.HTTPException) as error:
            raise _broken_off(error) from error

    def _on(self, connection: http.client.HTTPConnection, method: str, path: str, body: bytes | None) -> bytes:
        url = self._address.url
        headers = self.headers() | ({"Content-Type": "application/json"} if body is not None else {})
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            data = answer.read()
        except TimeoutError as error:
            connection.close()
            what = f"The engine did not answer within {self._timeout:.0f} s."
            raise Unavailable(what, "It is busy, or stuck.", "See: studio status, studio logs") from error
        except BaseException:
            connection.close()
            raise
        if answer.will_close:
            connection.close()
        else:
            self._give(url, connection)
        if answer.status >= 300:
            raise error_of(answer.status, data)
        return data


def _broken_off(error: Exception) -> Unavailable:
    why = f"The connection broke off ({type(error).__name__}); whether it was done is not known."
    return Unavailable("The engine went away during the request.", why, "Look with: studio status")


def _readable(connection: http.client.HTTPConnection) -> bool:
    """Whether an idle connection has something to say: only ever its end."""
    poll = select.poll()
    with suppress(ValueError, OSError):
        poll.register(connection.sock, select.POLLIN)
        return bool(poll.poll(0))
    return True
