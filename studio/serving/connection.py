"""The HTTP connection: uvicorn's httptools protocol with limits on what it keeps."""

from __future__ import annotations

import asyncio
import functools
import sys
from typing import Any

import orjson
from httptools import HttpRequestParser
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from studio.serving.body import BodyReader
from studio.serving.direct import Direct, DirectCall, head
from studio.serving.http import BODY_BYTES_A_SECOND, BODY_SECONDS, Connection, Response, echoed, packed
from studio.serving.wire import MAX_HEAD_BYTES, TAIL, OneWrite, Refusal, malformed, without_upgrade

ONE_PACKET_BYTES = 64 * 1024
"""Head and body of an answer below this size are joined; joining larger ones costs more than a second write."""
MAX_CHUNKS = 65536
"""Chunks of one body, as Triton limits them: each costs time, however small it is."""
HEAD_SECONDS = 30.0
"""A request line with its headers has to be complete after so long."""
HALF_CLOSED_SECONDS = 1.0
"""A client that closed its side behind its request is taken to have gone when it was not answered after so long."""
LINGER_SECONDS = 10.0
"""A client that was answered before its body was complete has so long to finish sending."""
Cycle = RequestResponseCycle | DirectCall | None
FIRST_REQUEST_SECONDS = 1.0
"""On draining, a connection that was just accepted has so long to send the request that it was opened for."""


class ServingProtocol(HttpToolsProtocol):
    """One connection. Adds to uvicorn's: limits on head and chunks, time-outs, JSON errors, draining, and a
    `Connection` in the scope through which a running request learns that its client has gone."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.peer = Connection()
        self.draining = False
        self.reading_head = False
        self.head_bytes = 0
        self.head_received = 0
        self.chunks = 0
        self.timer: asyncio.TimerHandle | None = None
        self.refusal: Refusal | None = None
        self.deaf = False
        self.messages = 0
        self.head_tail = b""
        self.held = b""
        self.answering: Cycle = None
        self.idle_since = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._arm(HEAD_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._disarm()
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
        for callback in tuple(self.peer.on_lost):
            callback()
        self.peer.on_lost.clear()
        self.app_state["on_connection_lost"]()

    def eof_received(self) -> bool:  # type: ignore[override]
        """The client sends no more. It may have gone, or wait for its answer: what comes soon is still sent."""
        cycle: Cycle = self.cycle
        if self.deaf or cycle is None or cycle.response_complete or cycle.more_body:
            return False
        cycle.keep_alive = False
        self._arm(HALF_CLOSED_SECONDS)
        return True

    def data_received(self, data: bytes) -> None:
        if self.deaf:
            return
        direct: Direct | None = self.app_state["direct"]
        before: Cycle = self.cycle
        if direct is not None and (
            self.reading_head
            or self.held
            or self.draining
            or self.pipeline
            or (before is not None and (before.more_body or not before.response_complete))
        ):
            direct = None  # these bytes are not the beginning of a request, or one that has to wait
        if direct is not None:
            known = direct.known(data, self.peer)
            if known is not None:
                if self.timer is not None:
                    self._disarm()
                self.idle_since = 0.0
                self.cycle = known  # type: ignore[assignment]
                if known.missing:
                    self._receive(known)
                else:
                    self._begin(known)
                return
        self.messages = 0
        in_head = self.reading_head
        tail = self.head_tail if in_head else b""
        if in_head or before is None or not before.more_body:
            data, self.held = without_upgrade(tail, self.held + data)
        super().data_received(data)
        if self.refusal is not None and not self.deaf:  # the parser says nothing of one at the end of a head
            self._close_with(self.refusal)
            return
        if (
            direct is not None
            and self.messages == 1
            and isinstance(self.cycle, DirectCall)
            and self.cycle is not before
        ):
            direct.remember(data, self.url, self.headers, self.cycle)
        if not self.reading_head:
            self.head_received = 0
            cycle: Cycle = self.cycle
            if isinstance(cycle, DirectCall) and cycle.more_body and not self.deaf:
                # It knows no more of the body than its length: a new one takes over behind it.
                self.parser = self._new_parser()
                self._receive(cycle)
            return
        self.head_tail = (tail + data)[-TAIL:]
        # A header is counted when it is whole; one that never ends would be kept growing by the parser.
        if in_head and not self.messages:
            self.head_received += len(data)
        else:  # it begins in these bytes, perhaps behind a body
            line = data.rfind(b" HTTP/1.")
            self.head_received = len(data) - line if line >= 0 else 0
        if self.head_received > 2 * MAX_HEAD_BYTES:
            self._close_with(self._refuse(431, f"The head of the request is longer than {MAX_HEAD_BYTES} bytes."))
        elif self.timer is None:
            self._arm(HEAD_SECONDS)

    def _receive(self, call: DirectCall) -> None:
        """Take the rest of the body past the parser."""
        self._arm(BODY_SECONDS + call.size / BODY_BYTES_A_SECOND)
        self.transport.set_protocol(BodyReader(self, call))

    def body_received(self, call: DirectCall) -> None:
        """The body that was received past the parser is complete."""
        self.transport.set_protocol(self)
        if not self.deaf:
            self._disarm()
            self._begin(call)

    def _new_parser(self) -> HttpRequestParser:
        parser = HttpRequestParser(self)
        parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
        return parser

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["studio.connection"] = self.peer  # type: ignore[typeddict-unknown-key]
        self.messages += 1
        self.reading_head = True
        self.head_bytes = 0
        self.chunks = 0

    def on_url(self, url: bytes) -> None:
        self._count_head(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count_head(len(name) + len(value) + 4)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self.reading_head = False
        if self.timer is not None:
            self._disarm()
        if self._take_directly():
            return
        super().on_headers_complete()
        if self.scope["method"] != "HEAD":  # its answer is a head alone
            self.cycle.transport = OneWrite(self.transport)  # type: ignore[assignment]
        if self.draining:
            self.cycle.keep_alive = False

    def on_chunk_header(self) -> None:
        self.chunks += 1
        if self.chunks > MAX_CHUNKS:
            raise self._refuse(400, f"The body comes in more than {MAX_CHUNKS} chunks. Send larger ones.")

    def _take_directly(self) -> bool:
        """Whether this request goes the short way (`studio.serving.direct`)."""
        direct: Direct | None = self.app_state["direct"]
        before = self.cycle
        if direct is None or (before is not None and not before.response_complete):
            return False
        if self.parser.get_method() != b"POST" or self.parser.get_http_version() != "1.1":
            return False
        call = direct.call(self.url, self.headers, self.peer)
        if call is None:
            return False
        call.keep_alive = not self.draining and self.parser.should_keep_alive()
        self.cycle = call  # type: ignore[assignment]
        return True

    def on_body(self, body: bytes) -> None:
        cycle: Cycle = self.cycle
        if isinstance(cycle, DirectCall):
            cycle.feed(body)
        else:
            super().on_body(body)

    def _begin(self, call: DirectCall) -> None:
        self.answering = call
        call.begin(functools.partial(self._respond, call))

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self.answering = cycle
        super()._start_asgi_task(cycle, app)

    def _respond(self, call: DirectCall, response: Response) -> None:
        """Send the answer of a request that went the short way. Others may have come behind it by now."""
        if call.wants_packing(response):
            task = self.loop.create_task(self._respond_packed(response, call))
            task.add_done_callback(self.tasks.discard)
            self.tasks.add(task)
        else:
            self._write(response, call)

    async def _respond_packed(self, response: Response, call: DirectCall) -> None:
        self._write(await packed(response, call.headers), call)

    def _write(self, response: Response, call: DirectCall) -> None:
        if self.transport.is_closing() or call.disconnected:
            return
        echo = echoed(call.headers) if call.echo is None else call.echo
        start = head(response, STATUS_LINE[response.status], call.keep_alive, echo, call.reference)
        if len(response.body) < ONE_PACKET_BYTES:
            self.transport.write(start + response.body)
        else:
            self.transport.writelines((start, response.body))
        call.response_complete = True
        if not call.keep_alive:
            self.transport.close()
        self.on_response_complete()

    def on_message_complete(self) -> None:
        cycle: Cycle = self.cycle
        if isinstance(cycle, DirectCall):
            if self.timer is not None:
                self._disarm()
            self._begin(cycle)
            return
        super().on_message_complete()
        if self.cycle.response_complete:
            # The answer came before the body was complete; the connection can be used again now.
            self.cycle.more_body = False
            self._disarm()
            self._idle()

    def on_response_complete(self) -> None:
        """As uvicorn's, but with one timer for many requests: starting and stopping one for each has its price."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.idle_since = 0.0
        self.flow.resume_reading()
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            self._start_asgi_task(cycle, app)
        else:
            self._idle()
        if self.cycle.more_body and self.cycle.response_complete:  # else it is a later request's, which still comes
            self._arm(LINGER_SECONDS)

    def _unset_keepalive_if_required(self) -> None:
        self.idle_since = 0.0

    def _idle(self) -> None:
        """From now on, the connection is kept for its next request."""
        self.idle_since = self.loop.time()
        if self.timeout_keep_alive_task is None:
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def timeout_keep_alive_handler(self) -> None:
        """Close, if there was no request since; else look again when that may be so."""
        self.timeout_keep_alive_task = None
        if self.transport.is_closing() or not self.idle_since:
            return
        left = self.idle_since + self.timeout_keep_alive - self.loop.time()
        if left > 0.01:
            self.timeout_keep_alive_task = self.loop.call_later(left, self.timeout_keep_alive_handler)
        else:
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """Answer what can not be parsed."""
        self._close_with(self.refusal or Refusal(400, malformed(sys.exception())))

    def drain(self) -> None:
        """Finish what is under way, then close; close at once when nothing is."""
        self.draining = True
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete and not cycle.disconnected:
            cycle.keep_alive = False
        elif not self.deaf and (self.reading_head or cycle is None):
            self._arm(FIRST_REQUEST_SECONDS)
        else:
            self.transport.close()

    def _count_head(self, size: int) -> None:
        self.head_bytes += size
        if self.head_bytes > MAX_HEAD_BYTES:
            raise self._refuse(431, f"The request line and headers take more than {MAX_HEAD_BYTES} bytes.")

    def _refuse(self, status: int, words: str) -> Refusal:
        self.refusal = Refusal(status, words)
        return self.refusal

    def _close_with(self, refusal: Refusal) -> None:
        """Answer and say goodbye, but read on for a while: closing on unread bytes would take the answer with it.

        Whole requests that came before on this connection are answered first; it ends with the last of them.
        """
        self.deaf = True
        self.reading_head = False
        for before in (self.cycle, *(cycle for cycle, _ in self.pipeline), self.answering):
            if before is not None and not (before.more_body or before.response_complete or before.disconnected):
                before.keep_alive = False
                return
        body = orjson.dumps({"error": refusal.words})
        head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body)
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.transport.write(b"".join((STATUS_LINE[refusal.status], head, body)))
        self.transport.write_eof()
        self.transport.resume_reading()
        self._arm(LINGER_SECONDS)

    def _arm(self, seconds: float) -> None:
        self._disarm()
        self.timer = self.loop.call_later(seconds, self._time_is_up)

    def _disarm(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def _time_is_up(self) -> None:
        self.timer = None
        cycle: Cycle = self.cycle
        if self.transport.is_closing():
            return
        if self.deaf:
            self.transport.close()
        elif self.reading_head:
            self._close_with(Refusal(408, "The request line and headers came in too slowly."))
        elif isinstance(cycle, DirectCall) and cycle.more_body:
            self._close_with(Refusal(408, "The request body came in too slowly."))
        else:
            self.transport.close()
