"""Requests that are small and cost much, or are unusual and right: answered soon, with nothing left of them."""

from __future__ import annotations

import asyncio
import gc
import gzip
import json
import socket
import threading
import time
import weakref
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
from onnx import helper, numpy_helper

from studio.core.errors import InvalidInput
from studio.core.settings import ServingSettings
from studio.core.tensors import TensorSpec
from studio.serving import http, sessions
from studio.serving.batching import Ticket
from studio.serving.executor import Executor
from tests.serving import graphs
from tests.serving.harness import Child, running

ROW = {"inputs": [{"name": "x", "shape": [1, 64], "datatype": "FP32", "data": [0.5] * 64}]}
BODY = json.dumps(ROW).encode()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Child]:
    folder = tmp_path_factory.mktemp("costly")
    table = graphs.table(graphs.mlp(folder, model="m"), graphs.identity(folder, "BYTES", ("n",), model="words"))
    with running(folder, table) as child:
        yield child


def exchanged(server: Child, data: bytes, close_side: bool = False) -> bytes:
    """What the server answers to these bytes on a connection of their own."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(data)
        if close_side:
            connection.shutdown(socket.SHUT_WR)
        answer = b""
        while b"\r\n\r\n" not in answer or len(answer.partition(b"\r\n\r\n")[2]) < _length(answer):
            more = connection.recv(65536)
            if not more:
                break
            answer += more
        return answer


def _length(answer: bytes) -> int:
    return int(answer.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])


def post(path: str, body: bytes, *headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@pytest.mark.parametrize("path", ["/v2/models/m/infer", "/predict/m"])
@pytest.mark.parametrize(
    "offer",
    [
        (
            "Connection: Upgrade, HTTP2-Settings",
            "Upgrade: h2c",
            "HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABk",
        ),
        ("connection: upgrade", "UPGRADE : websocket"),
    ],
    ids=["h2c, as Java's client offers it", "websocket"],
)
def test_an_offer_to_speak_another_protocol_is_ignored(server: Child, path: str, offer: tuple[str, ...]) -> None:
    body = BODY if path.startswith("/v2") else json.dumps([[0.5] * 64]).encode()
    if offer[1].startswith("UPGRADE "):
        # A space before the colon is no header at all.
        assert exchanged(server, post(path, body, *offer)).startswith(b"HTTP/1.1 400 ")
        offer = (offer[0], offer[1].replace(" ", "", 1))
    for _ in range(2):
        assert exchanged(server, post(path, body, "Content-Type: application/json", *offer)).startswith(
            b"HTTP/1.1 200 "
        )


@pytest.mark.parametrize("path", ["/v2/models/m/infer", "/v1/models/m:predict"])
def test_a_client_that_closes_its_side_is_answered(server: Child, path: str) -> None:
    body = BODY if path.startswith("/v2") else json.dumps({"instances": [[0.5] * 64]}).encode()
    for headers in ((), ("Transfer-Encoding: identity",)):
        assert exchanged(server, post(path, body, *headers), close_side=True)[:12] in (b"HTTP/1.1 200", b"HTTP/1.1 400")
    assert exchanged(server, post(path, body), close_side=True).startswith(b"HTTP/1.1 200 ")
    assert exchanged(server, b"GET /v2 HTTP/1.1\r\nHost: localhost\r\n\r\n", close_side=True).startswith(
        b"HTTP/1.1 200 "
    )


@pytest.mark.parametrize("length", ["--5", "-5", "5-", "+5", "0x5", "", "9" * 50])
def test_odd_lengths_of_the_json_part_are_refused(server: Child, length: str) -> None:
    answer = exchanged(server, post("/v2/models/m/infer", BODY, f"Inference-Header-Content-Length: {length}"))
    assert answer.startswith(b"HTTP/1.1 400 "), answer[:200]


def test_members_of_a_gzip_body_are_joined_and_counted() -> None:
    parts = [bytes([number % 251]) * (number * 37 % 70_001) for number in range(60)]
    packed = b"".join(gzip.compress(part) for part in parts)
    assert http.inflate(packed, b"gzip", 1 << 26) == b"".join(parts)
    assert http.inflate(gzip.compress(b"x" * 5_000_000), b"gzip", 5_000_000) == b"x" * 5_000_000
    assert http.inflate(zlib.compress(b"abc"), b"deflate", 10) == b"abc"
    many = gzip.compress(b"") * (http.MAX_MEMBERS + 1)
    with pytest.raises(InvalidInput, match="members"):
        http.inflate(many, b"gzip", 100)
    with pytest.raises(InvalidInput, match="cut short"):
        http.inflate(gzip.compress(b"abc" * 1000)[:-1], b"gzip", 10_000)
    with pytest.raises(InvalidInput, match="behind the end"):
        http.inflate(zlib.compress(b"abc") + b"d", b"deflate", 10)


@pytest.mark.parametrize(
    ("path", "headers", "body"),
    [
        ("/v2/models/m/infer", ("Content-Encoding: gzip",), gzip.compress(b"") * 300_000),
        (
            "/predict/words",
            ("Content-Type: multipart/form-data; boundary=b",),
            b'--b\r\ncontent-disposition: form-data; name="a"\r\n\r\n1\r\n' * 300_000 + b"--b--\r\n",
        ),
    ],
    ids=["members of gzip", "parts of a form"],
)
def test_what_is_made_of_very_many_parts_is_refused_soon(
    server: Child, path: str, headers: tuple[str, ...], body: bytes
) -> None:
    process = psutil.Process(server.process.pid)
    before = sum(process.cpu_times()[:2])
    answer = exchanged(server, post(path, body, *headers))
    assert answer.startswith(b"HTTP/1.1 400 "), answer[:300]
    assert sum(process.cpu_times()[:2]) - before < 5  # it was 20 and more


def test_a_long_table_keeps_nobody_waiting(server: Child) -> None:
    """Read in the event loop, it would keep the others waiting until it is done."""
    table = b"x\n" + b"0.25,0.5\n" * 1_000_000
    done = threading.Event()

    def send() -> None:
        exchanged(server, post("/predict/words", table, "Content-Type: text/csv"))
        done.set()

    thread = threading.Thread(target=send)
    thread.start()
    answered = 0
    while not done.is_set():
        assert server.request("GET", "/v2/health/live")[0] == 200
        answered += 1
    thread.join()
    assert answered > 3


async def test_nothing_of_a_request_waits_for_the_collector(tmp_path: Path) -> None:
    """Inputs may be many megabytes; a circle of objects would keep them until the next full collection."""
    model = sessions.load(graphs.mlp(tmp_path), 1)
    executor = Executor(asyncio.get_running_loop(), 1, 16)
    gc.collect()
    gc.disable()
    try:
        left = [await _asked(executor, model, timeout_us) for timeout_us in (0, 60_000_000)]
        assert [each() for each in left] == [None, None]
    finally:
        gc.enable()
        executor.close()


class _Asker:
    """Holds its ticket, as whoever waits for one does."""

    def __init__(self, executor: Executor, model: sessions.LoadedModel, timeout_us: int) -> None:
        self.done = asyncio.Event()
        row = np.zeros((1, 64), np.float32)
        self.ticket: Ticket = executor.submit(model, {"x": row}, None, self._done, timeout_us)

    def _done(self, ticket: Ticket) -> None:
        self.done.set()


async def _asked(executor: Executor, model: sessions.LoadedModel, timeout_us: int) -> weakref.ref[_Asker]:
    asker = _Asker(executor, model, timeout_us)
    await asyncio.wait_for(asker.done.wait(), 20)
    return weakref.ref(asker)


@pytest.mark.slow
def test_a_request_behind_another_has_as_long_for_its_body(server: Child) -> None:
    """Sent with the one before, its last bytes came after that one's answer and the time that goodbyes are given."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=40) as connection:
        first, second = (post("/v2/models/m/infer", BODY, f"x-number: {number}") for number in (1, 2))
        connection.sendall(first + second[:-100])
        time.sleep(11)
        connection.sendall(second[-100:])
        answer = b""
        while answer.count(b"HTTP/1.1 200 ") < 2 or not answer.endswith(b"}"):
            more = connection.recv(65536)
            assert more, answer
            answer += more


def test_versions_that_come_while_it_runs_stay_within_the_memory(tmp_path: Path) -> None:
    """Each is loaded before anyone asks, and none of them for good."""
    rng = np.random.default_rng(0)
    targets = []
    for number in range(1, 5):
        x, y = TensorSpec("x", "FP32", ("batch", 1024)), TensorSpec("y", "FP32", ("batch", 1024))
        weight = numpy_helper.from_array(rng.normal(size=(1024, 1024)).astype(np.float32), "w")
        path = graphs.save(
            tmp_path / f"{number}.onnx", [helper.make_node("MatMul", ["x", "w"], ["y"])], [x], [y], [weight]
        )
        targets.append(graphs.target(path, [x], [y], model="m", version=number, batchable=True))
    settings = ServingSettings(memory_bytes=12_000_000, artefact_bytes=0)
    with running(tmp_path, graphs.table(targets[0]), settings) as server:
        for number in range(2, 5):
            table = graphs.table(*targets[:number], generation=number)
            assert not server.apply(replace(table, pinned=(), warm=(targets[number - 1].name,)))
            index = server.json("POST", "/v2/repository/index", {})[1]
            ready = {entry["version"] for entry in index if entry["state"] == "READY"}
            assert targets[number - 1].key in ready or str(number) in ready
            assert len(ready) <= 3, index
