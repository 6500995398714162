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
        graphs.identity(folder, "BYTES", ("n", "m"), model="cells"),
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


@pytest.mark.parametrize(
    ("model", "values"), [("floats", [1.5, True, 2]), ("ints", [1, True]), ("ints", [1, 2, False])]
)
def test_a_boolean_is_no_number_wherever_it_stands(served: Child, model: str, values: list[Any]) -> None:
    datatype = "FP32" if model == "floats" else "INT64"
    tensor = {"name": "x", "datatype": datatype, "shape": [len(values)], "data": values}
    answers = [
        served.infer(model, {"inputs": [tensor]}),
        served.json("POST", f"/v1/models/{model}:predict", {"instances": values}),
        served.json("POST", f"/v1/models/{model}:predict", {"inputs": {"x": values}}),
        served.json("POST", f"/predict/{model}", values),
        served.json("POST", f"/predictions/{model}", values),
    ]
    assert [status for status, _ in answers] == [400] * 5
    assert all("booleans" in (answer.get("error") or answer["message"]) for _, answer in answers)
    long = [*values[:1] * 5000, True]
    tensor |= {"shape": [len(long)], "data": long}
    assert "booleans" in served.infer(model, {"inputs": [tensor]})[1]["error"]


def test_flags_may_be_booleans_or_zero_and_one(served: Child) -> None:
    assert served.json("POST", "/predict/flags", [True, 0, 1])[1]["outputs"]["y"] == [True, False, True]


def test_null_is_a_value_that_is_missing_and_not_a_request(served: Child) -> None:
    status, answer = send(served, "floats", b"null")
    assert (status, "null" in answer["error"]) == (400, True)
    assert send(served, "floats", b"[1, null]")[1]["outputs"] == {"y": [1.0, None]}


@pytest.mark.parametrize(
    ("model", "body", "words"),
    [
        ("rows", "1_5,2", "'1_5' is no FP32"),
        ("rows", "１,２\n3,4", "'１' is no FP32"),
        ("rows", "1e400,1", "'1e400' is out of the range of FP32"),
        ("rows", "1,-1e400", "'-1e400' is out of the range"),
        ("rows", "1e39,1", "out of the range of FP32"),
        ("ints", "1_000", "'1_000' is no INT64"),
        ("ints", "٣", "'٣' is no INT64"),
        ("ints", "9" * 30, "INT64"),
    ],
)
def test_cells_that_only_python_takes_for_numbers(served: Child, model: str, body: str, words: str) -> None:
    for kind in ("text/csv", ""):
        status, answer = send(served, model, body.encode(), kind)
        assert (status, words in answer["error"]) == (400, True), answer


def test_cells_that_are_no_finite_numbers_are_words(served: Child) -> None:
    assert send(served, "rows", b"1.5,nan,inf\n-infinity,,+2e3", "text/csv")[1]["outputs"] == {
        "y": [[1.5, None, None], [None, None, 2000.0]]
    }


def test_a_byte_order_mark_is_no_part_of_a_value(served: Child) -> None:
    mark = "\ufeff".encode()
    for body, kind in ((b"1,2\r\n3,4\r\n", "text/csv"), (b"1,2\n3,4", ""), (b"[[1,2],[3,4]]", "application/json")):
        assert send(served, "rows", mark + body, kind)[1]["outputs"] == {"y": [[1.0, 2.0], [3.0, 4.0]]}
    assert send(served, "words", mark + b"text", "text/plain")[1]["outputs"] == {"y": "text"}
    assert send(served, "rows", mark)[1]["error"].startswith("The request is empty.")
    part = b'--b\r\nContent-Disposition: form-data; name="x"\r\n\r\n' + mark + b"[[1,2]]\r\n--b--\r\n"
    assert send(served, "rows", part, "multipart/form-data; boundary=b")[1]["outputs"] == {"y": [[1.0, 2.0]]}


@pytest.mark.parametrize("kind", ["", "application/x-www-form-urlencoded", "application/json"])
@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"[1e400]", "infinity"),
        (b"[" + b"1," * 100_000 + b"]", "failed to parse the request JSON"),
        (b'{"x": [' + b"1" * 200_000, "JSON"),
        (b"[1, 2", "JSON buffer: unexpected end of data"),
        (b"[NaN]", "JSON"),
        (b'["\xff"]', "not UTF-8: byte 2 is 0xff"),
        ("[1]".encode("utf-16"), "UTF-16"),
        ("[1]".encode("utf-16-le"), "UTF-16-LE"),
    ],
)
def test_json_that_can_not_be_read_tells_the_real_reason(served: Child, body: bytes, words: str, kind: str) -> None:
    status, answer = send(served, "floats", body, kind)
    assert (status, words in answer["error"]) == (400, True), answer


@pytest.mark.parametrize("path", ["v2/models/floats/infer", "v1/models/floats:predict", "api/embed"])
def test_a_body_that_is_not_utf8_says_so_to_every_protocol(served: Child, path: str) -> None:
    for body, words in ((b'{"inputs": "\xe9"}', "byte 12 is 0xe9"), ('{"a":1}'.encode("utf-16"), "UTF-16")):
        status, _, answer = served.request("POST", f"/{path}", body)
        assert (status, words in json.loads(answer)["error"]) == (400, True), answer


def test_texts_may_begin_like_json_and_may_be_long(served: Child) -> None:
    assert send(served, "words", b"[1] see below")[1]["outputs"] == {"y": "[1] see below"}
    long = "x" * 200_000
    assert send(served, "cells", f'"{long}"'.encode(), "text/csv")[1]["outputs"] == {"y": [long]}
