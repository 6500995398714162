"""Requests that were damaged on their way, byte by byte, on a bare socket: an answer in words or none, and a living
server. What is random here is drawn from a fixed seed, so that a failure comes again."""

from __future__ import annotations

import gzip
import json
import random
import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from studio.core.settings import ServingSettings
from tests.serving import graphs
from tests.serving.harness import Child, running

SHORT = pytest.param(200, id="short")
LONG = pytest.param(8000, id="long", marks=(pytest.mark.slow, pytest.mark.timeout(1200)))
PATIENCE = 0.15
"""Seconds after which a server that waits for the rest of a body is told that there is none."""
OPEN = (200, 400, 403, 404, 405, 408, 413, 422, 431, 501, 503)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Child]:
    folder = tmp_path_factory.mktemp("fuzz")
    table = graphs.table(
        graphs.mlp(folder, model="digits", labels=tuple("0123456789")),
        graphs.add_and_subtract(folder, model="simple"),
        graphs.identity(folder, "BYTES", ("n",), model="words"),
        graphs.sentences(folder, model="texts"),
        aliases={},
    )
    with running(folder, table, ServingSettings(max_body_bytes=200_000)) as child:
        yield child


def post(path: str, body: bytes, *headers: str, length: bool = True) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", *headers, *([f"Content-Length: {len(body)}"] * length)]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def chunked(path: str, body: bytes, size: int) -> bytes:
    parts = [body[at : at + size] for at in range(0, len(body), size)]
    stream = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
    return post(path, stream, "Transfer-Encoding: chunked", length=False)


def whole() -> list[bytes]:
    """Requests that are right, of every protocol and encoding."""
    row = [round(value, 3) for value in np.linspace(-1, 1, 64).tolist()]
    tensor = {"name": "x", "shape": [1, 64], "datatype": "FP32"}
    infer = json.dumps({"id": "1", "inputs": [{**tensor, "data": row}], "outputs": [{"name": "y"}]}).encode()
    raw = np.array(row, np.float32).tobytes()
    head = json.dumps({"inputs": [{**tensor, "parameters": {"binary_data_size": len(raw)}}]}).encode()
    length = f"Inference-Header-Content-Length: {len(head)}"
    text = b"\x03\x00\x00\x00abc\x02\x00\x00\x00de"
    strings = {"name": "x", "shape": [2], "datatype": "BYTES", "parameters": {"binary_data_size": len(text)}}
    words = json.dumps({"inputs": [strings]}).encode()
    form = b'--B\r\nContent-Disposition: form-data; name="x"\r\n\r\n' + json.dumps([row]).encode() + b"\r\n--B--\r\n"
    return [
        post("/v2/models/digits/infer", infer),
        post("/v2/models/digits/infer", head + raw, length),
        post("/v2/models/digits/infer", raw, "Inference-Header-Content-Length: 0"),
        post("/v2/models/words/infer", words + text, f"Inference-Header-Content-Length: {len(words)}"),
        post("/v2/models/digits/infer", gzip.compress(infer), "Content-Encoding: gzip", "Accept-Encoding: gzip"),
        chunked("/v2/models/digits/infer", infer, 100),
        post("/v1/models/digits:predict", json.dumps({"instances": [row]}).encode()),
        post("/v1/models/digits/versions/1:classify", json.dumps({"examples": [{"x": row}]}).encode()),
        post("/predict/digits", json.dumps({"x": [row]}).encode(), "Content-Type: application/json"),
        post("/predict/digits", ",".join(map(str, row)).encode(), "Content-Type: text/csv"),
        post("/predict/digits", form, "Content-Type: multipart/form-data; boundary=B"),
        post("/predictions/digits", json.dumps([row]).encode()),
        post("/openai/v1/embeddings", json.dumps({"model": "texts", "input": ["the cat", "ran"]}).encode()),
        post("/api/embed", json.dumps({"model": "texts", "input": "the cat"}).encode()),
        post("/v2/repository/index", b'{"ready": true}'),
        post("/v2/repository/models/digits/load", b'{"parameters": {}}'),
        b"GET /v2/models/digits/config HTTP/1.1\r\nHost: localhost\r\nX-Studio-Key: a\r\n\r\n",
        b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\nAccept-Encoding: deflate;q=0.5, gzip\r\n\r\n",
    ]


WORDS = (
    *(b"-1", b"0", b"99999999999999999999", b"1e400", b"NaN", b"Infinity", b"null", b"true", b'""', b"\\ud800"),
    *(b"\xff", b"\0", b"\r\n", b"\r\n\r\n", b": ", b"%00", b"%2e%2e", b"../", b"chunked", b"FP16", b'{"b64": "A"}'),
    *(b"[" * 200, b'{"a":' * 150, b"[[[[]]]]", b"Content-Length: 5\r\n", b"Transfer-Encoding: gzip\r\n"),
    b"Expect: 100-continue\r\n",
)


def damaged(request: bytes, chance: random.Random) -> bytes:
    """The request with one to four things about it changed."""
    data = bytearray(request)
    for _ in range(chance.randint(1, 4)):
        start = chance.randrange(len(data) + 1)
        # Heads are shorter than bodies, and decide more.
        if chance.random() < 0.5:
            start = chance.randrange(max(1, data.find(b"\r\n\r\n")) + 1)
        end = min(len(data), start + chance.choice((1, 1, 2, 8, 64)))
        match chance.randrange(7):
            case 0:
                data[start:end] = bytes(chance.randrange(256) for _ in range(end - start))
            case 1:
                del data[start:end]
            case 2:
                data[start:start] = data[start:end] * chance.choice((1, 2, 50))
            case 3 | 4:
                data[start:start] = chance.choice(WORDS)
            case 5:
                data[start:end] = chance.choice(WORDS)
            case 6:
                digits = [place for place, byte in enumerate(data) if chr(byte).isdigit()]
                if digits:
                    data[chance.choice(digits)] = ord(chance.choice("0123456789-.e"))
        if not data:
            return b"\n"
    return bytes(data)


def answers(server: Child, sent: bytes) -> bytes:
    """Everything that comes back, with patience for a server that waits for more."""
    got = b""
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as sock:
        ended = False
        try:
            sock.sendall(sent)
        except OSError:
            ended = True
        while True:
            try:
                part = sock.recv(65536)
            except TimeoutError:
                if ended:
                    raise
                sock.shutdown(socket.SHUT_WR)
                sock.settimeout(20)
                ended = True
                continue
            except ConnectionError:
                return got
            if not part:
                return got
            got += part


def check(got: bytes, sent: bytes) -> int:
    """The status of the first answer, 0 where there was none; whatever is an error has its words."""
    if not got:
        return 0
    head, _, rest = got.partition(b"\r\n\r\n")
    status = int(head[9:12])
    if status == 100:
        return check(rest, sent)
    assert head.startswith(b"HTTP/1.1 "), got[:200]
    assert status in OPEN, (sent, got[:500])
    headers = {line.partition(b":")[0].lower(): line.partition(b":")[2].strip() for line in head.split(b"\r\n")[1:]}
    body = rest[: int(headers[b"content-length"])]
    if status >= 400 and body and b"content-encoding" not in headers:
        document = json.loads(body)
        words = document.get("error") or document.get("message")
        assert words if isinstance(words, str) else words["message"], (sent, body)
    return status


def test_whole_requests_are_answered(server: Child) -> None:
    """What is damaged below is right to begin with."""
    for request in whole():
        assert check(server.raw(request), request) == 200, request


@pytest.mark.parametrize("count", [SHORT, LONG])
def test_damaged_requests_are_refused_in_words(server: Child, count: int) -> None:
    chance = random.Random(20261121)
    requests = whole()
    seen: dict[int, int] = {}
    for _ in range(count):
        sent = damaged(chance.choice(requests), chance)
        status = check(answers(server, sent), sent)
        seen[status] = seen.get(status, 0) + 1
    assert server.process.poll() is None
    assert check(server.raw(requests[0]), requests[0]) == 200
    # Damage that changes nothing is answered; most of it is told.
    assert sum(times for status, times in seen.items() if status >= 400) > count / 4, seen
    assert "Traceback" not in server.log.read_text()


def test_many_connections_that_say_nothing_more(server: Child) -> None:
    """Requests that stop half-way hold nobody up."""
    held = []
    for request in whole():
        sock = socket.create_connection(("127.0.0.1", server.port), timeout=20)
        sock.sendall(request[: len(request) * 2 // 3])
        held.append(sock)
    try:
        assert check(server.raw(whole()[0]), b"") == 200
    finally:
        for sock in held:
            sock.close()
    assert check(server.raw(whole()[0]), b"") == 200


def test_nothing_of_this_is_left_behind(server: Child, tmp_path: Path) -> None:
    """Each of many refused requests gives back its memory and its descriptor."""
    files = Path(f"/proc/{server.process.pid}/fd")
    before = len(list(files.iterdir()))
    for request in whole() * 5:
        server.raw(request.replace(b"Host: localhost", b"Host: elsewhere.example"))
    assert len(list(files.iterdir())) <= before + 2
