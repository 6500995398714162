"""Requests on one connection: heads that were met before, and bodies that come in pieces, wherever they are cut."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from studio.core.routing import RoutingTable
from studio.core.settings import ServingSettings
from studio.serving import app, connection, direct, hosted
from studio.serving.direct import Direct, DirectCall
from studio.serving.listener import Listener
from tests.serving import graphs
from tests.serving.harness import WAIT, Child, listen, receive_all, running

HEAD = b"POST /v2/models/m/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"


def _four(value: float) -> bytes:
    data = [value] * 4
    body = json.dumps({"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": data}]}).encode()
    return body.ljust(120)  # as long as any other, so that the heads are equal


def _answer(sock: socket.socket) -> tuple[int, Any]:
    answer = receive_all(sock)
    return int(answer[9:12]), json.loads(answer.partition(b"\r\n\r\n")[2])


def _values(sock: socket.socket) -> list[float]:
    status, answer = _answer(sock)
    assert status == 200, answer
    values: list[float] = answer["outputs"][0]["data"]
    return values


def _order(sock: socket.socket, first: bytes, second: bytes) -> bool:
    """Whether two answers come in this order."""
    answers = b""
    while answers.count(b"]}]}") < 2:
        answers += sock.recv(65536)
    return 0 < answers.index(first) < answers.index(second)


def test_a_head_that_was_met_before_is_read_again_with_another_body(tmp_path: Path) -> None:
    head = HEAD % 120
    one, two = (graphs.scaled(tmp_path, float(n), model="m", version=n) for n in (1, 2))
    with running(tmp_path, graphs.table(one)) as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=WAIT) as sock:
            for value in (3.0, 4.0, 5.0):
                sock.sendall(head + _four(value))
                assert _values(sock) == [value] * 4
            # In pieces, wherever they are cut.
            whole = head + _four(6.0)
            for cut in (1, len(head) - 2, len(head), len(head) + 7, len(whole) - 1):
                sock.sendall(whole[:cut])
                assert server.json("GET", "/v2/health/live")[0] == 200  # the first piece is read by now
                sock.sendall(whole[cut:])
                assert _values(sock) == [6.0] * 4
            # What is wrong is refused, and the connection goes on.
            sock.sendall(head + b"{".ljust(120))
            assert _answer(sock)[0] == 400
            sock.sendall(head + _four(7.0))
            assert _values(sock) == [7.0] * 4
            # A smaller body than announced is waited for; the next head would be part of it.
            sock.sendall(head + _four(8.0)[:-1])
            assert server.json("GET", "/v2/health/live")[0] == 200
            sock.sendall(b" " + head + _four(9.0))
            assert _order(sock, b"[8.0,", b"[9.0,")
            # Names may stand for something else by now.
            server.apply(graphs.table(two, generation=2))
            sock.sendall(head + _four(1.0))
            assert _values(sock) == [2.0] * 4
            server.apply(RoutingTable(generation=3))
            sock.sendall(head + _four(1.0))
            assert _answer(sock)[0] == 404
        # On another connection too, and several at once, in order.
        server.apply(graphs.table(one, generation=4))
        with socket.create_connection(("127.0.0.1", server.port), timeout=WAIT) as sock:
            sock.sendall(head + _four(3.0))
            assert _values(sock) == [3.0] * 4
            sock.sendall((head + _four(4.0)) + (head + _four(5.0)))
            assert _order(sock, b"[4.0,", b"[5.0,")
            # Whoever asks for the connection to be closed is still heard.
            sock.sendall(head.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n") + _four(6.0))
            assert _values(sock) == [6.0] * 4
            assert sock.recv(1) == b""


def test_an_id_is_of_its_own_request(tmp_path: Path) -> None:
    with (
        running(tmp_path, graphs.table(graphs.scaled(tmp_path, 1.0, model="m"))) as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=WAIT) as sock,
    ):
        for number in (b"one", b"two", b"one"):
            head = (HEAD % 120).replace(b"\r\n\r\n", b"\r\nX-Request-Id: " + number + b"\r\n\r\n")
            sock.sendall(head + _four(1.0))
            assert b"x-request-id: " + number in receive_all(sock)
        sock.sendall(HEAD % 120 + _four(1.0))
        assert b"x-request-id" not in receive_all(sock)


@pytest.fixture(scope="module")
def echo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Child]:
    """Answers with the numbers that it is given."""
    folder = tmp_path_factory.mktemp("echo")
    with running(folder, graphs.table(graphs.identity(folder, shape=("n",), model="m"))) as server:
        yield server


def _numbers(count: int, first: float, close: bool = False) -> tuple[bytes, bytes]:
    """A binary request of so many numbers, and those numbers as bytes."""
    data = (np.arange(count, dtype=np.float32) + first).tobytes()
    head, rest = _request(data, close)
    return head + rest, data


def _request(data: bytes, close: bool = False) -> tuple[bytes, bytes]:
    """Head and body of a request that sends these bytes as numbers."""
    count = len(data) // 4
    description = json.dumps(
        {
            "inputs": [
                {"name": "x", "shape": [count], "datatype": "FP32", "parameters": {"binary_data_size": len(data)}}
            ],
            "parameters": {"binary_data_output": True},
        }
    ).encode()
    head = (
        b"POST /v2/models/m/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n"
        b"Inference-Header-Content-Length: %d\r\n%s\r\n"
    ) % (len(description) + len(data), len(description), b"Connection: close\r\n" if close else b"")
    return head, description + data


def _until_closed(sock: socket.socket) -> bytes:
    return b"".join(iter(lambda: sock.recv(1 << 20), b""))


SIZES = (1, 1000, 200_000, 700_000)


@given(
    requests=st.lists(st.sampled_from(SIZES), min_size=1, max_size=4),
    cuts=st.lists(st.floats(0, 1), max_size=6),
    first=st.integers(0, 1000),
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_requests_are_the_same_wherever_they_are_cut(
    echo: Child, requests: list[int], cuts: list[float], first: int
) -> None:
    """Several in a row on one connection, the last of which closes it; large ones grow beyond the room made first."""
    made = [_numbers(count, float(first + n), n == len(requests) - 1) for n, count in enumerate(requests)]
    sent = b"".join(request for request, _ in made)
    places = sorted({int(cut * len(sent)) for cut in cuts} | {0, len(sent)})
    with socket.create_connection(("127.0.0.1", echo.port), timeout=WAIT) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for start, end in itertools.pairwise(places):
            sock.sendall(sent[start:end])
        answers = _until_closed(sock)
    for _, data in made:
        head, _, answers = answers.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), head
        sizes = dict(line.lower().split(b": ") for line in head.split(b"\r\n")[1:])
        body, answers = answers[: int(sizes[b"content-length"])], answers[int(sizes[b"content-length"]) :]
        assert body[int(sizes[b"inference-header-content-length"]) :] == data
    assert answers == b""


def test_a_client_that_leaves_in_the_middle_of_a_body_leaves_nothing_behind(echo: Child) -> None:
    request, data = _numbers(200_000, 0.0)
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", echo.port), timeout=WAIT) as sock:
            sock.sendall(request[: len(request) // 2])
    metrics = echo.request("GET", "/metrics")[2].decode()
    assert "nv_inference_pending_request_count 0\n" in metrics
    request, data = _numbers(200_000, 0.0, close=True)
    assert echo.raw(request).endswith(data)


def test_draining_waits_for_a_body_that_is_on_its_way(tmp_path: Path) -> None:
    table = graphs.table(graphs.identity(tmp_path, shape=("n",), model="m"))
    request, data = _numbers(200_000, 5.0)
    with running(tmp_path, table) as server:
        address = ("127.0.0.1", server.port)
        with socket.create_connection(address, WAIT) as sock, socket.create_connection(address, WAIT) as idle:
            sock.sendall(request[:300_000])
            idle.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert receive_all(idle).startswith(b"HTTP/1.1 200")
            server.process.terminate()
            assert idle.recv(1) == b""  # draining has begun
            sock.sendall(request[300_000:])
            answer = _until_closed(sock)
        assert answer.startswith(b"HTTP/1.1 200")
        assert b"\r\nconnection: close\r\n" in answer
        assert answer.endswith(data)
        assert server.process.wait(WAIT) == 0


def test_memory_is_taken_as_a_body_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct, "FIRST_BYTES", 8)
    call = DirectCall(None, (None, SimpleNamespace(name=""), None, None), {}, 100, None)  # type: ignore[arg-type]
    call.feed(b"0123456789")
    assert len(call.rest()) == 10
    taken = []
    while call.missing:
        room = call.rest()
        room[:] = b"x" * len(room)
        taken.append(len(room))
        room.release()
        assert call.received(taken[-1]) == (call.missing == 0)
    assert taken == [10, 20, 40, 20]
    assert bytes(call._body) == b"0123456789" + b"x" * 90


H2C = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQ\r\n"


def _in_two(server: Child, whole: bytes, cut: int) -> bytes:
    """The answer to a request that comes in two packets, the first of which is read before the second is sent."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=WAIT) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.sendall(whole[:cut])
        assert server.json("GET", "/v2/health/live")[0] == 200
        sock.sendall(whole[cut:])
        return receive_all(sock)


@pytest.mark.parametrize("offer", [b"", H2C], ids=["plain", "h2c"])
def test_a_request_is_what_it_is_wherever_it_is_cut(echo: Child, offer: bytes) -> None:
    """The tensor looks like the end of a head, and like an offer to speak another protocol."""
    data = b"0123\r\n\r\n\r\nupgrade:ABCDEF\r\nupgrade:wxyz\r\n"
    head, rest = _request(data)
    whole = head[:-2] + offer + b"\r\n" + rest
    places = {len(whole) - len(rest) + offset for offset in range(-len(offer) - 8, 4)} | {
        len(whole) - n for n in (1, 2)
    }
    for cut in sorted(places):
        answer = _in_two(echo, whole, cut)
        assert answer.startswith(b"HTTP/1.1 200"), (cut, answer)
        assert answer.endswith(data), (cut, answer)


def test_a_request_may_come_byte_by_byte(echo: Child) -> None:
    get = b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"
    request, data = _numbers(3, 7.0)
    with socket.create_connection(("127.0.0.1", echo.port), timeout=WAIT) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for whole, end in ((get, b'{"live":true}'), (request, data), (request, data), (get, b'{"live":true}')):
            for place in range(len(whole)):
                sock.sendall(whole[place : place + 1])
                time.sleep(0.0005)  # so that few of them are read together
            assert receive_all(sock).endswith(end)


@pytest.mark.parametrize("size", [65_300, 66_000, 90_000, 127_000])
def test_a_head_that_is_too_long_is_refused_at_once_whichever_line_makes_it_so(echo: Child, size: int) -> None:
    status, _, _ = echo.request("GET", "/v2", headers={"X": "a" * size})
    assert status == (200 if size < 65_400 else 431)


def test_many_requests_behind_a_large_body_are_no_long_head(echo: Child) -> None:
    """Of what one read brings, the end may be a small part of the next head."""
    large, data = _numbers(60_000, 0.0)
    get = b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with socket.create_connection(("127.0.0.1", echo.port), timeout=WAIT) as sock:
        sock.sendall(large + get + large + get[:-9])
        assert echo.json("GET", "/v2/health/live")[0] == 200
        sock.sendall(get[-9:])
        answers = b""
        while answers.count(b'{"live":true}') < 2:
            answers += sock.recv(1 << 20)
    assert answers.count(data) == 2


async def test_who_is_told_to_be_too_slow_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("BODY_SECONDS", 0.05), ("BODY_BYTES_A_SECOND", 10**9), ("LINGER_SECONDS", 0.05)):
        monkeypatch.setattr(connection, name, value)
    service = hosted.build(ServingSettings())
    assert await service.router.apply(graphs.table(graphs.identity(tmp_path, shape=("n",), model="m"))) == {}
    with listen() as listening:
        listener = Listener(app.make_app(service), [listening], Direct(service, app.DIRECT, app.check_door))
        await listener.start()
        reader, writer = await asyncio.open_connection(*listening.getsockname())
        request, _ = _numbers(200_000, 0.0)
        writer.write(request[:1000])
        assert (await asyncio.wait_for(reader.readuntil(b"\r\n"), WAIT)).startswith(b"HTTP/1.1 408")
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(WAIT):
                while not reader.at_eof() or not writer.is_closing():  # it goes on sending
                    writer.write(b"x" * 100)
                    await writer.drain()
                    await asyncio.sleep(0.01)
        async with asyncio.timeout(WAIT):
            while listener._state.connections:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        writer.close()
        assert await listener.drain(WAIT)
    hosted.close(service)


@pytest.mark.parametrize(
    "behind",
    [b"rubbish\r\n\r\n", b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 200_000],
    ids=["no HTTP", "a head without end"],
)
def test_what_is_refused_waits_for_the_answers_before_it(tmp_path: Path, behind: bytes) -> None:
    body = json.dumps({"inputs": [{"name": "n", "shape": [1], "datatype": "INT64", "data": [3000]}]}).encode()
    slow = b"POST /v2/models/slow/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    get = b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with (
        running(tmp_path, graphs.table(graphs.slow(tmp_path, model="slow"))) as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=WAIT) as sock,
    ):
        sock.sendall(slow + get + behind)
        answers = _until_closed(sock)
        assert answers.count(b"HTTP/1.1 ") == 2
        assert answers.startswith(b"HTTP/1.1 200")
        assert answers.endswith(b'{"live":true}')
        assert "Traceback" not in server.log.read_text()


def test_a_connection_that_breaks_under_several_requests_is_no_fault_of_the_server(tmp_path: Path) -> None:
    table = graphs.table(graphs.slow(tmp_path, least=1000, model="slow"), pinned=())
    load = b"POST /v2/repository/models/slow/load HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"
    with running(tmp_path, table) as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=WAIT) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.sendall(load + b"GET /v2 HTTP/1.1\r\nHost: localhost\r\n\r\n" * 3)
            assert server.json("GET", "/v2/health/live")[0] == 200
        server.wait_for(lambda: server.json("POST", "/v2/repository/index")[1][0]["state"] == "READY", "the load")
        assert server.json("GET", "/v2/health/live")[0] == 200
        assert "Traceback" not in server.log.read_text()
