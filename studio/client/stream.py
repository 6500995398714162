"""Server-sent events: the engine's event stream as an iterator that survives a restart of the engine."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from collections.abc import Iterator

from studio.client.transport import Transport, error_of
from studio.core import codec
from studio.core.errors import StudioError, Unavailable
from studio.core.events import Event

RETRY_SECONDS = 0.2


class _Stopper:
    """Ends a blocking read when `stop` is set: a thread that sleeps until then, so that waiting costs nothing."""

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        threading.Thread(target=self._run, name="studio-events-stop", daemon=True).start()

    def watch(self, connected: socket.socket | None) -> None:
        with self._lock:
            self._socket = connected
            if self._stop.is_set():
                self._shut()

    def _run(self) -> None:
        self._stop.wait()
        with self._lock:
            self._shut()

    def _shut(self) -> None:
        if self._socket is not None:
            try:
                self._socket.shutdown(socket.SHUT_RDWR)
            except OSError:
                return  # it has ended by itself


def listen(transport: Transport, since: int, stop: threading.Event | None, patience: float) -> Iterator[Event]:
    """Events after `since`, for ever, or until `stop` is set.

    A broken stream is opened again where it was. Raises Unavailable when that has not worked for `patience` seconds,
    and the engine's own error (Denied) at once.
    """
    ended = stop or threading.Event()
    stopper = _Stopper(ended) if stop else None
    seen = since
    lost_at: float | None = None
    while not ended.is_set():
        try:
            for event in _stream(transport, seen, stopper):
                lost_at = None
                if event is not None:
                    seen = event.seq
                    yield event
                if ended.is_set():
                    return
        except (Unavailable, OSError, http.client.HTTPException) as error:
            problem: Exception = error
        else:
            problem = Unavailable(
                "The engine ended the event stream.", "It stopped.", "Start it with: studio up --detach"
            )
        if ended.is_set():
            return
        lost_at = lost_at or time.monotonic()
        if time.monotonic() - lost_at >= patience:
            if isinstance(problem, StudioError):
                raise problem
            raise Unavailable("The event stream broke off.", f"{type(problem).__name__}: {problem}.") from problem
        ended.wait(RETRY_SECONDS)


def _stream(transport: Transport, since: int, stopper: _Stopper | None) -> Iterator[Event | None]:
    """One connection's events; None first, once the engine has answered."""
    connection = transport.open(timeout=None)
    try:
        if stopper:
            stopper.watch(connection.sock)
        headers = transport.headers() | {"Accept": "text/event-stream"}
        connection.request("GET", f"/api/events?since={since}", headers=headers)
        answer = connection.getresponse()
        if answer.status != 200:
            raise error_of(answer.status, answer.read())
        yield None
        data: list[bytes] = []
        while line := answer.readline():
            line = line.rstrip(b"\r\n")
            if line.startswith(b"data:"):
                data.append(line[5:].removeprefix(b" "))
            elif not line and data:
                yield codec.decode(b"\n".join(data), Event, "event")
                data = []
    finally:
        if stopper:
            stopper.watch(None)
        connection.close()
