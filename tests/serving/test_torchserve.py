"""TorchServe's API. Source: TorchServe, docs/inference_api.md, docs/management_api.md."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.serving import graphs
from tests.serving.harness import Child, running

ROW = [round(float(value), 3) for value in np.linspace(-1, 1, 64)]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Child]:
    folder = tmp_path_factory.mktemp("torchserve")
    table = graphs.table(
        graphs.mlp(folder, model="digits", version=3, labels=tuple(f"class-{n}" for n in range(10))),
        graphs.mlp(folder, model="digits", version=2),
        graphs.mlp(folder, model="plain"),
        graphs.add_and_subtract(folder, model="simple"),
        graphs.identity(folder, "BYTES", ("n",), model="words"),
        aliases={},
        pinned=("digits:3-fp32",),
    )
    with running(folder, table) as child:
        yield child


def send(server: Child, where: str, body: bytes, kind: str = "", method: str = "POST") -> tuple[int, Any]:
    status, _, answer = server.request(method, f"/predictions/{where}", body, {"content-type": kind} if kind else {})
    return status, json.loads(answer)


def test_classes_come_with_their_probabilities(served: Child) -> None:
    status, answer = send(served, "digits", json.dumps(ROW).encode())
    assert (status, len(answer)) == (200, 5)
    assert list(answer.values()) == sorted(answer.values(), reverse=True)
    for form in ({"data": ROW}, {"body": ROW}, {"x": ROW}):
        assert send(served, "digits", json.dumps(form).encode())[1] == answer
    assert send(served, "digits/3.0", json.dumps(ROW).encode(), "application/octet-stream", "PUT") == (200, answer)
    part = b'--b\r\nContent-Disposition: form-data; name="data"\r\n\r\n' + json.dumps(ROW).encode() + b"\r\n--b--\r\n"
    assert send(served, "digits", part, "multipart/form-data; boundary=b") == (200, answer)
    assert (
        send(served, "digits", part.replace(b"--b--\r\n", b"") + part, "multipart/form-data; boundary=b")[1]
        == [answer] * 2
    )
    status, many = send(served, "digits", json.dumps([ROW, ROW]).encode())
    assert many == [answer, answer]


def test_other_outputs_come_as_they_are(served: Child) -> None:
    status, answer = send(served, "plain", json.dumps(ROW).encode())
    assert (status, len(answer)) == (200, 10)
    status, answer = send(served, "words", b"hello", "application/x-www-form-urlencoded")
    assert (status, answer) == (200, "hello")
    for kind in ("", "text/plain", "application/json"):
        assert send(served, "words", b'{"data": "hello world"}', kind) == (200, "hello world")
        assert send(served, "words", b' {\n\n "body" : "hello world"}\n', kind) == (200, "hello world")
    rows = {"INPUT0": [[3] * 16], "INPUT1": [[1] * 16]}
    assert send(served, "simple", json.dumps(rows).encode())[1]["OUTPUT1"] == [[2] * 16]


def test_management(served: Child) -> None:
    assert served.json("GET", "/ping") == (200, {"status": "Healthy"})
    first = served.json("GET", "/models?limit=2")[1]
    assert first == {
        "models": [{"modelName": name, "modelUrl": name} for name in ("digits", "plain")],
        "nextPageToken": "2",
    }
    second = served.json("GET", "/models?limit=2&next_page_token=2")[1]
    assert [row["modelName"] for row in second["models"]] == ["simple", "words"]
    assert "nextPageToken" not in second
    (about,) = served.json("GET", "/models/digits")[1]
    assert (about["modelVersion"], about["workers"][0]["status"]) == ("3", "READY")
    assert [row["modelVersion"] for row in served.json("GET", "/models/digits/all")[1]] == ["3", "2"]
    assert served.json("GET", "/models/digits/2.0")[1][0]["modelVersion"] == "2"


@pytest.mark.parametrize(
    ("method", "path", "status", "kind"),
    [
        ("POST", "/predictions/none", 404, "ModelNotFoundException"),
        ("POST", "/predictions/digits/9", 404, "ModelNotFoundException"),
        ("GET", "/predictions/digits", 405, "MethodNotAllowedException"),
        ("POST", "/predictions/digits", 400, "BadRequestException"),
        ("GET", "/models/none", 404, "ModelNotFoundException"),
        ("GET", "/models?limit=many", 400, "BadRequestException"),
        ("POST", "/models?url=http%3A%2F%2Fevil.example%2Fx.mar", 501, "UnsupportedOperationException"),
        ("PUT", "/models/digits?min_worker=3", 501, "UnsupportedOperationException"),
        ("DELETE", "/models/digits", 501, "UnsupportedOperationException"),
        ("PUT", "/models/digits/2/set-default", 501, "UnsupportedOperationException"),
        ("GET", "/models/a/b/c/d", 404, "ModelNotFoundException"),
    ],
)
def test_errors_have_its_form(served: Child, method: str, path: str, status: int, kind: str) -> None:
    got, headers, body = served.request(method, path, b"" if method == "POST" else None)
    assert (got, headers["content-type"]) == (status, "application/json")
    error = json.loads(body)
    assert (error["code"], error["type"]) == (status, kind)
    assert error["message"]
