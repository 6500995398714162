"""The ASGI application under a server that is not ours: stock uvicorn, and hosts that offer less than it does."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from studio.serving.hosted import application
from tests.serving import graphs
from tests.serving.harness import WAIT, listen

FOUR = {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}]}
LONG = {"inputs": [{"name": "n", "shape": [1], "datatype": "INT64", "data": [2_000_000]}]}


def ask(port: int, method: str, path: str, value: Any = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT)
    connection.request(method, path, None if value is None else json.dumps(value))
    response = connection.getresponse()
    return response.status, response.read()


def until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < end, f"waited too long for {what}"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Stock uvicorn with our application."""
    folder = tmp_path_factory.mktemp("hosted")
    with listen() as listening, (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "uvicorn", "tests.serving.hosted_app:app", "--fd", str(listening.fileno())],
            env=os.environ | {"HOSTED": str(folder)},
            pass_fds=(listening.fileno(),),
            stdout=log,
            stderr=log,
        )
        try:
            yield listening.getsockname()[1]
        finally:
            process.terminate()
            assert process.wait(WAIT) in (0, -15)
        assert "Traceback" not in (folder / "log").read_text()


def test_it_answers_under_another_server(port: int) -> None:
    status, body = ask(port, "POST", "/v2/models/m/infer", FOUR)
    assert status == 200
    assert json.loads(body)["outputs"][0]["data"] == [3.0, 6.0, 9.0, 12.0]
    assert ask(port, "POST", "/v1/models/m:predict", {"instances": [[1, 1, 1, 1]]}) == (
        200,
        b'{"predictions":[[3.0,3.0,3.0,3.0]]}',
    )
    assert ask(port, "GET", "/v2/health/ready")[0] == 200
    assert ask(port, "POST", "/v2/models/m/infer", {"inputs": []})[0] == 400
    text = ask(port, "GET", "/metrics")[1].decode()
    assert 'nv_inference_request_success{model="m",version="1",variant="fp32"} 2' in text


def test_a_client_that_has_gone_is_not_worked_for(port: int) -> None:
    def pending() -> int:
        text = ask(port, "GET", "/metrics")[1].decode()
        line = next(line for line in text.splitlines() if line.startswith("nv_inference_pending_request_count "))
        return int(line.split()[1])

    body = json.dumps(LONG).encode()
    head = b"POST /v2/models/slow/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body)
    with socket.create_connection(("127.0.0.1", port), timeout=WAIT) as sock:
        sock.sendall(head + body)
        until(lambda: pending() == 1, "the run")
    until(lambda: pending() == 0, "the run to be given up")


async def hosted(app: Any, method: str, path: str, body: bytes = b"", **scope: Any) -> tuple[int, Any]:
    """Status and JSON of one request of a host that offers no more than ASGI demands."""
    sent: list[dict[str, Any]] = []
    messages = [{"type": "http.request", "body": body}]

    async def receive() -> dict[str, Any]:
        if messages:
            return messages.pop(0)
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    headers = [(b"host", b"localhost")]
    plain = {"type": "http", "http_version": "1.1", "query_string": b"", "headers": headers}
    await app(plain | {"method": method, "path": path} | scope, receive, send)
    return sent[0]["status"], json.loads(sent[1]["body"])


@pytest.mark.parametrize(
    ("path", "scope"),
    [
        ("/v2/models/m/infer", {}),
        ("/mounted/v2/models/m/infer", {"root_path": "/mounted"}),
        ("/mounted/v2/models/m/infer", {"root_path": "/mounted", "raw_path": b"/mounted/v2/models/m/infer"}),
        ("/mounted/v2/models/m/infer", {"root_path": "/mounted", "raw_path": b"/v2/models/m/infer"}),
    ],
    ids=["no raw path", "mounted, no raw path", "mounted", "mounted, and the raw path below that"],
)
async def test_a_host_may_offer_little(tmp_path: Path, path: str, scope: dict[str, Any]) -> None:
    app = application(graphs.table(graphs.scaled(tmp_path, 3.0, model="m")))
    status, answer = await hosted(app, "POST", path, json.dumps(FOUR).encode(), **scope)
    assert status == 200, answer
    assert answer["outputs"][0]["data"] == [3.0, 6.0, 9.0, 12.0]
    # A segment that is no ASCII comes as text, where the path does not come as it was sent.
    status, answer = await hosted(app, "GET", "/v2/models/größe")
    assert (status, "Invalid name 'größe'" in answer["error"]) == (400, True)
