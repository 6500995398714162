"""What the door lets in: Host and Origin, sizes, speeds, and bytes that are no HTTP."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from studio.core.settings import ServingSettings
from studio.serving import app, connection, http
from studio.serving.app import host_allowed, origin_allowed
from studio.serving.listener import Listener
from tests.serving import graphs
from tests.serving.harness import WAIT, Child, listen, receive_all, running

LIMIT = 1024 * 1024


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Child]:
    """A server that takes bodies of at most a mebibyte."""
    folder = tmp_path_factory.mktemp("door")
    table = graphs.table(graphs.identity(folder, "FP32", ("n",)))
    with running(folder, table, ServingSettings(max_body_bytes=LIMIT)) as child:
        yield child


def alive(server: Child) -> bool:
    value = {"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [1]}]}
    return server.infer("m", value)[0] == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("localhost:1234", 200),
        ("LOCALHOST", 200),
        ("127.0.0.1", 200),
        ("[::1]:80", 200),
        ("evil.example", 403),
        ("localhost.evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("192.168.1.7", 403),
        ("localhost@evil.example", 403),
        ("evil.example/localhost", 403),
        ("", 403),
        ("[::1", 403),
        ("localhost:port", 403),
    ],
)
def test_hosts(small: Child, host: str, status: int) -> None:
    answer = small.raw(f"GET /v2/health/live HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 %d" % status), answer


def test_one_host_is_demanded(small: Child) -> None:
    for lines in ("", "Host: localhost\r\nHost: evil.example\r\n"):
        answer = small.raw(f"GET /v2/health/live HTTP/1.1\r\n{lines}\r\n".encode())
        assert answer.startswith(b"HTTP/1.1 400"), answer


def test_the_configured_host_is_ours_and_any_address_means_literal_ones() -> None:
    assert host_allowed(b"studio.lan:8080", "studio.lan")
    assert not host_allowed(b"192.168.1.7", "studio.lan")
    assert host_allowed(b"192.168.1.7", "0.0.0.0")
    assert not host_allowed(b"evil.example", "0.0.0.0")
    assert not host_allowed(b"", "")
    assert not origin_allowed(b"null", "127.0.0.1")
    assert not origin_allowed(b"file://localhost", "127.0.0.1")


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://evil.example", 403),
        ("null", 403),
        ("https://localhost.evil.example", 403),
        ("http://localhost:3000", 200),
        ("http://127.0.0.1:8080", 200),
    ],
)
def test_pages_of_other_sites_may_not_post(small: Child, origin: str, status: int) -> None:
    got, headers, _ = small.request("POST", "/v2/repository/index", b"{}", {"Origin": origin})
    assert got == status
    assert not any(name.startswith("access-control") for name in headers)


def test_a_body_over_the_limit_is_refused_by_its_announcement(small: Child) -> None:
    for size in (LIMIT + 1, 10**15):
        head = f"POST /v2/models/m/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: {size}\r\n\r\n"
        answer = small.raw(head.encode())
        assert answer.startswith(b"HTTP/1.1 413"), answer
        assert b"exceeds the maximum allowed input size of 1048576 bytes" in answer
    assert alive(small)


def test_a_chunked_body_over_the_limit(small: Child) -> None:
    head = b"POST /v2/models/m/infer HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    with socket.create_connection(("127.0.0.1", small.port), timeout=WAIT) as sock:
        sock.sendall(head + b"%x\r\n" % (LIMIT + 1) + b" " * (LIMIT + 1) + b"\r\n0\r\n\r\n")
        assert receive_all(sock).startswith(b"HTTP/1.1 413")
        # The rest of the body was read away, so the connection still serves.
        sock.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert receive_all(sock).startswith(b"HTTP/1.1 200")


def peak_memory(server: Child) -> int:
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def test_a_bomb_is_not_unpacked(small: Child) -> None:
    assert alive(small)
    before = peak_memory(small)
    bomb = gzip.compress(bytes(512 * LIMIT), 9)
    assert len(bomb) < LIMIT
    status, _, body = small.request("POST", "/v2/models/m/infer", bomb, {"Content-Encoding": "gzip"})
    assert status == 413, body
    assert peak_memory(small) - before < 64 * LIMIT
    assert alive(small)


@pytest.mark.parametrize(
    ("encoding", "body", "status"),
    [
        ("br", b"x", 501),
        ("gzip", b"no gzip", 400),
        ("gzip", gzip.compress(b"{}", mtime=0)[:-3], 400),
        ("deflate", b"no deflate", 400),
        ("gzip", b"", 400),
    ],
)
def test_encodings_that_lie(small: Child, encoding: str, body: bytes, status: int) -> None:
    got, headers, answer = small.request("POST", "/v2/models/m/infer", body, {"Content-Encoding": encoding})
    assert got == status, answer
    assert json.loads(answer)["error"]
    if status == 501:
        assert headers["accept-encoding"] == "gzip, deflate"


def test_a_flood_of_chunks(small: Child) -> None:
    head = b"POST /v2/models/m/infer HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    answer = small.raw(head + b"1\r\n \r\n" * 100_000 + b"0\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400"), answer
    assert b"65536 chunks" in answer
    assert alive(small)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET /v2 HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * LIMIT + b"\r\n\r\n", 431),
        (b"GET /v2 HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 4 * LIMIT, 431),  # it never ends
        (b"GET /v2 HTTP/1.1\r\nHost: localhost\r\n" + b"X: a\r\n" * 50_000 + b"\r\n", 431),
        (b"GET /" + b"a" * LIMIT + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 431),
        (b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03", 400),
        (b"GET\r\n\r\n", 400),
        (b"GET /\xff HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        (b"GET /v2 HTTP/9.9\r\nHost: localhost\r\n\r\n", 400),
        (b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n", 405),
        (b"CONNECT localhost:1 HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        (b"POST /v2/models/m/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n", 400),
        (
            b"POST /v2/models/m/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{",
            400,
        ),
        (
            b"POST /v2/models/m/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n0\r\n\r\n",
            400,
        ),
        (b"POST /v2/models/m/infer HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
    ],
)
def test_bytes_that_are_no_http(small: Child, sent: bytes, status: int) -> None:
    answer = small.raw(sent)
    assert answer.startswith(b"HTTP/1.1 %d" % status), answer[:200]
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]
    assert alive(small)


@pytest.mark.parametrize(
    ("codings", "status"),
    [
        (["chunked"], 200),
        ([" Chunked "], 200),
        ([", chunked"], 200),
        (["gzip, chunked"], 501),
        (["x,chunked"], 501),
        (["identity, chunked"], 501),
        (["gzip", "chunked"], 501),
        (["identity", "chunked"], 501),
        (["gzip"], 400),
        (["identity"], 400),
        (["x"], 400),
        ([""], 400),
        (["chunked, gzip"], 400),
        (["chunked", "gzip"], 400),
        (["chunked, chunked"], 400),
    ],
)
def test_transfer_codings(small: Child, codings: list[str], status: int) -> None:
    lines = "".join(f"Transfer-Encoding: {coding}\r\n" for coding in codings)
    head = f"POST /v2/repository/index HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n".encode()
    answer = small.raw(head + b"2\r\n{}\r\n0\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 %d" % status), answer[:200]
    assert (b"Transfer-Encoding" in answer) is (status != 200)
    assert alive(small)


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        (b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03", "neither TLS nor HTTP/2"),
        (b"CONNECT localhost HTTP/1.1\r\nHost: localhost\r\n\r\n", "invalid url"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "neither TLS nor HTTP/2"),
        (b"GET / HTTP/1.1\nHost: localhost\n\n", "CRLF"),
        (b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", "Duplicate"),
    ],
)
def test_what_is_wrong_with_bytes_that_are_no_http_is_told(small: Child, sent: bytes, words: str) -> None:
    answer = small.raw(sent)
    assert words in json.loads(answer.partition(b"\r\n\r\n")[2])["error"]


def test_pipelined_requests_are_answered_in_order(small: Child) -> None:
    def infer(value: int) -> bytes:
        body = b'{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":[%d]}]}' % value
        return b"POST /v2/models/m/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s" % (
            len(body),
            body,
        )

    with socket.create_connection(("127.0.0.1", small.port), timeout=WAIT) as sock:
        sock.sendall(b"".join(infer(n) for n in range(20)) + b"rubbish\r\n\r\n")
        data = b""
        while part := sock.recv(65536):
            data += part
    values = [int(float(part.partition(b"]")[0])) for part in data.split(b'"data":[')[1:]]
    assert values == list(range(20))
    assert alive(small)


def test_head_and_body_leave_in_one_packet(small: Child) -> None:
    with socket.create_connection(("127.0.0.1", small.port), timeout=WAIT) as sock:
        for _ in range(50):
            sock.sendall(b"GET /v2/models/m HTTP/1.1\r\nHost: localhost\r\n\r\n")
            head, separator, body = sock.recv(65536).partition(b"\r\n\r\n")
            assert separator
            assert json.loads(body)["name"] == "m"
            assert b"content-length: %d" % len(body) in head


@pytest.mark.parametrize(
    ("path", "status"),
    [("/", 200), ("/v2/health/live", 200), ("/docs", 200), ("/metrics", 200), ("/v2/models/no", 404)],
)
def test_the_answer_to_head_is_the_head_of_that_to_get(small: Child, path: str, status: int) -> None:
    def asked(method: bytes) -> bytes:
        return small.raw(b"%s %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n" % (method, path.encode()))

    answer = asked(b"HEAD")
    assert answer.startswith(b"HTTP/1.1 %d" % status), answer
    assert answer.endswith(b"\r\n\r\n")
    assert answer.count(b"\r\n\r\n") == 1
    if path != "/metrics":
        assert _length(answer) == _length(asked(b"GET"))


def _length(answer: bytes) -> bytes:
    found = re.search(rb"\r\ncontent-length: (\d+)\r\n", answer)
    assert found, answer
    return found[1]


def test_head_is_not_for_what_only_post_answers(small: Child) -> None:
    answer = small.raw(b"HEAD /v2/models/m/infer HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 405"), answer


def test_those_who_wait_for_a_go_ahead_get_it(small: Child) -> None:
    body = b'{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":[1]}]}'
    head = (
        b"POST /v2/models/m/infer HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n"
        % len(body)
    )
    with socket.create_connection(("127.0.0.1", small.port), timeout=WAIT) as sock:
        sock.sendall(head)
        assert sock.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(body)
        assert receive_all(sock).startswith(b"HTTP/1.1 200")


async def _answer_to(sent: bytes, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """What a listener that is quick to lose patience says to these bytes and silence."""
    monkeypatch.setattr(connection, "HEAD_SECONDS", 0.05)
    monkeypatch.setattr(http, "BODY_SECONDS", 0.05)
    monkeypatch.setattr(http, "BODY_BYTES_A_SECOND", 10**9)

    async def reader_app(scope: Any, receive: Any, send: Any) -> None:
        try:
            await http.read_body(receive, http.header_map(scope["headers"]), 1000)
            response = http.json_response({})
        except http.TooSlow as error:
            response = http.error_response(error)
        await http.respond(send, response)

    with listen() as listening:
        address = listening.getsockname()
        listener = Listener(reader_app, [listening])
        await listener.start()
        reader, writer = await asyncio.open_connection(*address)
        writer.write(sent)
        head = await asyncio.wait_for(reader.readuntil(b"\r\n"), WAIT) if sent else await reader.read()
        writer.close()
        assert await listener.drain(WAIT)
    return head


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        (b"GET /v2 HTTP/1.1\r\nHost: local", b"HTTP/1.1 408 Request Timeout\r\n"),
        (b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nslow", b"HTTP/1.1 408 Request Timeout\r\n"),
        (b"", b""),
    ],
)
async def test_those_who_send_too_slowly(sent: bytes, answer: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    assert await _answer_to(sent, monkeypatch) == answer


async def test_the_unforeseen_is_an_id_for_the_client_and_a_traceback_for_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def handler(service: Any, request: Any) -> Any:
        raise RuntimeError("secret /path")

    monkeypatch.setitem(app.PROTOCOLS, "odd", handler)
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    service = SimpleNamespace(settings=ServingSettings())
    scope = {
        "type": "http",
        "method": "GET",
        "http_version": "1.1",
        "raw_path": b"/odd",
        "query_string": b"",
        "headers": [(b"host", b"localhost")],
    }
    await app.make_app(service)(scope, receive, send)  # type: ignore[arg-type]
    assert sent[0]["status"] == 500
    words = json.loads(sent[1]["body"])["error"]
    assert "secret" not in words
    request_id = words.partition("request ")[2][:12]
    assert request_id in caplog.text
    assert "secret /path" in caplog.text
