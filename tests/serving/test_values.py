"""Values as people send them: what is read, what is refused, and what the refusal says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.serving import graphs
from tests.serving.harness import Child, running


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Child]:
    folder = tmp_path_factory.mktemp("values")
    table = graphs.table(
        graphs.identity(folder, "FP32", ("n",), model="floats"),
        graphs.identity(folder, "FP32", ("n", "m"), model="rows"),
        graphs.identity(folder, "INT64", ("n",), model="ints"),
        graphs.identity(folder, "BOOL", ("n",), model="flags"),
        graphs.identity(folder, "BYTES", ("n",), model="words"),
    )
    with running(folder, table) as child:
        yield child


def send(server: Child, where: str, body: bytes, kind: str = "", path: str = "predict") -> tuple[int, Any]:
    status, _, answer = server.request("POST", f"/{path}/{where}", body, {"content-type": kind} if kind else {})
    return status, json.loads(answer)


@pytest.mark.parametrize("depth", [101, 300, 900, 5000])
def test_deep_values_are_refused_wherever_they_stand(served: Child, depth: int) -> None:
    deep = b"[" * depth + b"]" * depth
    part = b'--b\r\nContent-Disposition: form-data; name="x"\r\n\r\n' + deep + b"\r\n--b--\r\n"
    form = "multipart/form-data; boundary=b"
    assert "depth" in send(served, "floats", deep)[1]["error"]
    for path in ("predict", "predictions"):
        for body, kind in ((deep, ""), (part, form), (b'{"data":' + deep + b"}", ""), (b'{"x":' + deep + b"}", "")):
            assert send(served, "floats", body, kind, path)[0] == 400
