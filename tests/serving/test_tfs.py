"""TensorFlow Serving's REST API, as its clients speak it. Source: TensorFlow Serving, g3doc/api_rest.md."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import ovmsclient
import pytest

from tests.serving import graphs
from tests.serving.harness import Child, running

ROW = [round(float(value), 3) for value in np.linspace(-1, 1, 64)]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Child]:
    folder = tmp_path_factory.mktemp("tfs")
    labels = tuple(f"class-{n}" for n in range(10))
    table = graphs.table(
        graphs.mlp(folder, model="digits", version=3, labels=labels),
        graphs.mlp(folder, model="digits", version=2),
        graphs.add_and_subtract(folder, model="simple"),
        graphs.identity(folder, "BYTES", ("n",), model="words"),
        graphs.identity(folder, "FP32", ("n",), model="floats"),
        graphs.identity(folder, "FP64", ("n", 1), model="numbers"),
        aliases={"production": "3-fp32"},
        pinned=("digits:3-fp32",),
    )
    with running(folder, table) as child:
        yield child


def predict(server: Child, where: str, document: Any) -> tuple[int, Any]:
    return server.json("POST", f"/v1/models/{where}", document)


@pytest.mark.parametrize(
    "where",
    [
        "digits:predict",
        "digits/versions/3:predict",
        "digits/labels/production:predict",
        "digits/LABELS/production:PREDICT",
    ],
)
def test_rows_and_columns_give_the_same(served: Child, where: str) -> None:
    status, rows = predict(served, where, {"instances": [ROW, ROW[::-1]]})
    assert status == 200
    scores = np.array(rows["predictions"])
    assert scores.shape == (2, 10)
    assert np.allclose(scores.sum(axis=1), 1)
    status, columns = predict(served, where, {"signature_name": "serving_default", "inputs": {"x": [ROW, ROW[::-1]]}})
    assert (status, columns) == (200, {"outputs": rows["predictions"]})
    assert predict(served, where, {"inputs": [ROW, ROW[::-1]]})[1] == columns
    assert predict(served, where, {"instances": [{"x": ROW}, {"x": ROW[::-1]}]})[1] == rows


def test_it_agrees_with_the_other_protocol(served: Child) -> None:
    data = {"name": "x", "shape": [1, 64], "datatype": "FP32", "data": ROW}
    _, other = served.infer("digits", {"inputs": [data]})
    assert predict(served, "digits:predict", {"instances": [ROW]})[1]["predictions"][0] == other["outputs"][0]["data"]


def test_several_inputs_and_outputs(served: Child) -> None:
    rows = [{"INPUT0": [n] * 16, "INPUT1": [1] * 16} for n in range(3)]
    status, answer = predict(served, "simple:predict", {"instances": rows})
    assert status == 200
    assert answer["predictions"][2] == {"OUTPUT0": [3] * 16, "OUTPUT1": [1] * 16}
    columns = {"INPUT0": [[5] * 16], "INPUT1": [[2] * 16]}
    answer = predict(served, "simple:predict", {"inputs": columns})[1]
    assert answer == {"outputs": {"OUTPUT0": [[7] * 16], "OUTPUT1": [[3] * 16]}}


def test_bytes_travel_as_base64_or_as_text(served: Child) -> None:
    word = base64.b64encode("grün".encode()).decode()
    answer = predict(served, "words:predict", {"instances": [{"b64": word}, "blau"]})
    assert answer == (200, {"predictions": ["grün", "blau"]})
    status, answer = predict(served, "words:predict", {"instances": [{"b64": "?"}]})
    assert status == 400
    assert "b64" in answer["error"]


def test_tokens_that_json_does_not_know(served: Child) -> None:
    body = b'{"instances": [NaN, Infinity, -Infinity, 1.5]}'
    status, headers, answer = served.request("POST", "/v1/models/floats:predict", body)
    assert (status, headers["content-type"]) == (200, "application/json")
    assert answer == b'{"predictions": [NaN, Infinity, -Infinity, 1.5]}'


def test_floats_keep_their_point_and_their_shortest_digits(served: Child) -> None:
    _, _, answer = served.request("POST", "/v1/models/floats:predict", b'{"instances": [1, 0.1]}')
    assert answer == b'{"predictions":[1.0,0.1]}'


def test_classify(served: Child) -> None:
    status, answer = predict(served, "digits:classify", {"examples": [{"x": ROW}, {"x": ROW[::-1]}]})
    assert status == 200
    first, second = answer["results"]
    assert [label for label, _ in first] == [f"class-{n}" for n in range(10)]
    expected = predict(served, "digits:predict", {"instances": [ROW, ROW[::-1]]})[1]["predictions"]
    assert np.allclose([score for _, score in first], expected[0])
    assert np.allclose([score for _, score in second], expected[1])
    assert predict(served, "digits:classify", {"context": {"x": ROW}, "examples": [{}]})[1]["results"][0] == first
    assert predict(served, "words:classify", {"examples": [{"x": "a"}]})[0] == 400


def test_regress(served: Child) -> None:
    answer = predict(served, "numbers:regress", {"examples": [{"x": 1.5}, {"x": [2.5]}]})
    assert answer == (200, {"results": [1.5, 2.5]})


def test_metadata(served: Child) -> None:
    status, answer = served.json("GET", "/v1/models/digits/versions/3/metadata")
    assert status == 200
    assert answer["model_spec"] == {"name": "digits", "signature_name": "", "version": "3"}
    signature = answer["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert signature["inputs"]["x"] == {
        "dtype": "DT_FLOAT",
        "tensor_shape": {"dim": [{"size": "-1", "name": ""}, {"size": "64", "name": ""}], "unknown_rank": False},
        "name": "x",
    }
    assert signature["method_name"] == "tensorflow/serving/predict"


def test_status_serves_three_protocols(served: Child) -> None:
    available = {"state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    status, answer = served.json("GET", "/v1/models/digits")
    assert status == 200
    assert answer["model_version_status"] == [{"version": "3", **available}, {"version": "2", **available}]
    assert (answer["name"], answer["ready"], answer["id"], answer["object"]) == ("digits", True, "digits", "model")
    assert len(served.json("GET", "/V1/Models/digits/versions/2")[1]["model_version_status"]) == 1
    listing = served.json("GET", "/v1/models")[1]
    assert listing["models"] == ["digits", "simple", "words", "floats", "numbers"]
    assert [card["id"] for card in listing["data"]] == listing["models"]


@pytest.mark.parametrize(
    ("where", "body", "status", "words"),
    [
        ("digits:predict", b"{", 400, "JSON Parse error: "),
        ("digits:predict", b"[1]", 400, "not an object"),
        ("digits:predict", b"{}", 400, "Missing 'inputs' or 'instances' key"),
        ("digits:predict", b'{"inputs": [1], "instances": [1]}', 400, "only one of 'inputs' or 'instances'"),
        ("digits:predict", b'{"instances": []}', 400, "at least one element"),
        ("digits:predict", b'{"instances": [[1, 2]]}', 400, "[1, 2]"),
        ("digits:predict", b'{"instances": [[[]]]}', 400, "shape"),
        ("digits:predict", b'{"instances": [["a"]]}', 400, "strings are given"),
        ("digits:predict", b'{"instances": [[1], [1, 2]]}', 400, "differ in length"),
        ("digits:predict", b'{"instances": [{"y": 1}]}', 400, "'y'"),
        ("digits:predict", b'{"instances": [null]}', 400, "null"),
        ("digits:predict", b'{"signature_name": "other", "instances": [[1]]}', 400, "signature name"),
        ("simple:predict", b'{"instances": [1]}', 400, "Expecting object but got number at item 0 of input list"),
        ("simple:predict", b'{"instances": [{"INPUT0": [1], "INPUT1": [1]}, 2]}', 400, "at item 1 of input list"),
        ("none:predict", b"{}", 404, "Servable not found for request: Latest(none)"),
        ("digits/versions/9:predict", b"{}", 404, "Servable not found for request: Specific(digits, 9)"),
        ("digits:prophesy", b"{}", 400, "Malformed request: POST /v1/models/digits:prophesy"),
        ("digits:explain", b"{}", 501, "explain"),
        ("digits/a/b/c:predict", b"{}", 400, "Malformed request"),
    ],
)
def test_mistakes_are_told(served: Child, where: str, body: bytes, status: int, words: str) -> None:
    got, headers, answer = served.request("POST", f"/v1/models/{where}", body)
    assert (got, headers["content-type"]) == (status, "application/json"), answer
    assert words in json.loads(answer)["error"]


def test_what_is_not_there(served: Child) -> None:
    assert served.json("GET", "/v1/models/none") == (404, {"error": "Could not find any versions of model none"})
    assert served.json("GET", "/v1/elsewhere")[0] == 404
    assert served.json("POST", "/v1/models/digits", {})[0] == 405
    assert served.request("GET", "/v1/models/digits:predict")[0] in (400, 404, 405)


def test_openvinos_client_over_http(served: Child) -> None:
    """It asks for version 0 where none is given."""
    client = ovmsclient.make_http_client(served.url)
    rows = np.array([ROW, ROW[::-1]], np.float32)
    given = client.predict({"x": rows}, "digits", 3)
    np.testing.assert_array_equal(client.predict({"x": rows}, "digits"), given)
    assert client.get_model_status("digits").keys() == {2, 3}
    assert client.get_model_metadata("digits")["model_spec"]["version"] == "3"
    with pytest.raises(ovmsclient.tfs_compat.base.errors.ModelNotFoundError):
        client.predict({"x": rows}, "digits", 9)


def test_requests_are_counted_by_protocol(tmp_path: Path) -> None:
    table = graphs.table(graphs.mlp(tmp_path, model="digits"), pinned=("digits:1-fp32",))
    with running(tmp_path, table) as server:
        predict(server, "digits:predict", {"instances": [ROW, ROW]})
        lines = server.wait_for(lambda: server.said("requests"), "the request line")[0]["lines"]
        assert [(line["protocol"], line["rows"], line["status"]) for line in lines] == [("tfs", 2, 200)]
