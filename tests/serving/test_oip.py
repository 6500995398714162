"""OIP v2 as it is on the wire: routes, names, JSON, raw requests, compression, chunks, and every kind of lie."""

from __future__ import annotations

import gzip
import json
import struct
import zlib
from typing import Any

import numpy as np
import pytest

from tests.serving.harness import Child

ROW = [0.25] * 64
INPUT = {"name": "x", "shape": [1, 64], "datatype": "FP32", "data": ROW}


def floats(*values: float, **more: Any) -> dict[str, Any]:
    return {"inputs": [{"name": "x", "shape": [len(values)], "datatype": "FP32", "data": list(values)}], **more}


@pytest.mark.parametrize(
    ("path", "version"),
    [
        ("digits", "3"),
        ("digits/versions/2", "2"),
        ("digits/versions/3-int8", "3-int8"),
        ("digits/versions/production", "3"),
        ("digits/versions/candidate", "3-int8"),
        ("digits:3-int8", "3-int8"),
        ("digits%3A2", "2"),
        ("digits:candidate", "3-int8"),
        ("digits:3/versions/3", "3"),
    ],
)
def test_every_way_to_name_a_target(server: Child, path: str, version: str) -> None:
    status, answer = server.json("POST", f"/v2/models/{path}/infer", {"inputs": [INPUT]})
    assert status == 200, answer
    assert (answer["model_name"], answer["model_version"]) == ("digits", version)
    (output,) = answer["outputs"]
    assert (output["name"], output["datatype"], output["shape"]) == ("y", "FP32", [1, 10])
    assert sum(output["data"]) == pytest.approx(1.0, abs=1e-5)
    assert server.json("GET", f"/v2/models/{path}/ready") == (200, {"name": "digits", "ready": True})


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("nobody", 404, "Request for unknown model: 'nobody' is not found"),
        ("digits:2/versions/3", 400, "contradict"),
        ("digits:", 400, "colon"),
        ("digits/versions/9", 404, "unknown model"),
        ("digits/versions/int8", 404, "unknown model"),
        ("..%2F..%2Fetc%2Fpasswd", 400, "Invalid name"),
        ("%2e%2e", 400, "Invalid name"),
        ("%252e%252e", 400, "Invalid name"),
        ("..%5C..%5Cx", 400, "Invalid name"),
        ("digits%00", 400, "Invalid name"),
        ("digits%0d%0aX-Evil:1", 400, "Invalid name"),
        ("d" * 300, 400, "Invalid name"),
        ("%C3%A9", 400, "Invalid name"),
        ("%FF", 400, "UTF-8"),
        ("digits/versions/..%2f", 400, "Invalid name"),
    ],
)
def test_names_that_are_none(server: Child, path: str, status: int, words: str) -> None:
    for method, action in (("POST", "/infer"), ("GET", "/ready"), ("GET", "/config"), ("GET", "/stats"), ("GET", "")):
        got, answer = server.json(
            method, f"/v2/models/{path}{action}", {"inputs": [INPUT]} if action == "/infer" else None
        )
        assert got == status, (method, action, answer)
        assert words in answer["error"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 200),
        ("GET", "/v2", 200),
        ("GET", "/v2/", 200),
        ("GET", "/v2/health/live", 200),
        ("GET", "/v2/health/ready", 200),
        ("GET", "/v2/models", 200),
        ("GET", "/v2/models/stats", 200),
        ("GET", "/v2/models/digits/stats", 200),
        ("POST", "/v2/repository/index", 200),
        ("POST", "/v2/repository/models/digits/load", 200),
        ("POST", "/v2/repository/models/digits/unload", 200),
        ("POST", "/v2/repository/other/index", 501),
        ("GET", "/v2/systemsharedmemory/status", 501),
        ("POST", "/v2/cudasharedmemory/region/r/register", 501),
        ("POST", "/v2/models/digits/generate", 501),
        ("POST", "/v2/models/digits/versions/3/generate_stream", 501),
        ("GET", "/v2/logging", 501),
        ("GET", "/v2/trace/setting", 501),
        ("GET", "/v2/models/digits/trace/setting", 501),
        ("GET", "/v2/generate", 404),
        ("GET", "/v2/models/digits/logging", 404),
        ("GET", "/favicon.ico", 404),
        ("GET", "/v2/nothing", 404),
        ("GET", "/v2/models/digits/nothing", 404),
        ("GET", "/v2/models/digits/infer", 405),
        ("POST", "/v2/health/live", 405),
        ("DELETE", "/v2/models/digits", 405),
        ("POST", "/", 405),
    ],
)
def test_every_path_answers_json(server: Child, method: str, path: str, status: int) -> None:
    got, headers, body = server.request(method, path, b"" if method == "POST" else None)
    assert got == status, body
    assert headers["content-type"] == "application/json"
    answer = json.loads(body)
    assert status == 200 or answer["error"]
    if status == 405:
        assert headers["allow"] in ("GET", "POST")


def test_health_answers_the_keys_that_clients_look_for(server: Child) -> None:
    assert server.json("GET", "/v2/health/live") == (200, {"live": True})
    assert server.json("GET", "/v2/health/ready") == (200, {"ready": True, "live": True})


def test_repository_index(server: Child) -> None:
    status, rows = server.json("POST", "/v2/repository/index", {"ready": True})
    assert status == 200
    assert {"name": "simple", "version": "1", "state": "READY", "reason": ""} in rows
    assert {row["state"] for row in rows} == {"READY"}
    assert server.json("POST", "/v2/repository/index", {"ready": "yes"}) == (
        400,
        {"error": "Invalid value for 'ready': expected a boolean"},
    )


def test_unpinned_targets_load_on_first_use_and_failures_are_explained(server: Child) -> None:
    assert (
        server.infer("flags", {"inputs": [{"name": "x", "shape": [2], "datatype": "BOOL", "data": [True, 0]}]})[0]
        == 200
    )
    for _ in range(2):
        status, answer = server.infer(
            "broken", {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [0] * 4}]}
        )
        assert status == 503
        assert answer["error"].startswith("'broken:1-fp32' could not be loaded.")
        assert "/" not in answer["error"]
    assert server.json("GET", "/v2/models/broken/ready")[0] == 503
    rows = server.json("POST", "/v2/repository/index")[1]
    (broken,) = [row for row in rows if row["name"] == "broken"]
    assert broken["state"] == "UNAVAILABLE"
    assert "could not be loaded" in broken["reason"]


def test_nested_and_flat_data_mean_the_same(server: Child) -> None:
    flat = server.infer("digits", {"inputs": [INPUT]})
    nested = server.infer("digits", {"inputs": [{**INPUT, "data": [ROW]}]})
    assert flat == nested
    assert flat[0] == 200


def test_an_empty_id_is_not_echoed(server: Child) -> None:
    assert "id" not in server.infer("floats", floats(1, id=""))[1]
    assert server.infer("floats", floats(1, id="a"))[1]["id"] == "a"


def test_what_json_can_not_carry_is_null_and_counted(server: Child) -> None:
    raw = np.array([1.0, np.nan, np.inf], np.float32).tobytes()
    head = json.dumps(
        {
            "inputs": [{"name": "x", "shape": [3], "datatype": "FP32", "parameters": {"binary_data_size": 12}}],
            "id": "null",
        }
    ).encode()
    status, _, body = server.request(
        "POST", "/v2/models/floats/infer", head + raw, {"Inference-Header-Content-Length": str(len(head))}
    )
    (output,) = json.loads(body)["outputs"]
    assert status == 200
    assert output["data"] == [1.0, None, None]
    assert output["parameters"] == {"non_finite": 2}


def test_raw_requests(server: Child) -> None:
    def raw(model: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        return server.request("POST", f"/v2/models/{model}/infer", body, {"Inference-Header-Content-Length": "0"})

    status, headers, body = raw("digits", np.array(ROW, np.float32).tobytes())
    assert status == 200
    assert headers["content-type"] == "application/octet-stream"
    length = int(headers["inference-header-content-length"])
    (output,) = json.loads(body[:length])["outputs"]
    assert output["parameters"] == {"binary_data_size": 40}
    assert np.frombuffer(body[length:], np.float32).sum() == pytest.approx(1.0, abs=1e-5)
    assert raw("floats", np.zeros(5, np.float32).tobytes())[0] == 200
    status, headers, body = raw("word", "grüß".encode())
    assert body[int(headers["inference-header-content-length"]) :] == struct.pack("<I", 6) + "grüß".encode()
    for model, sent, words in (
        ("simple", b"\0" * 128, "Raw request must only have 1 input (found 1) to be deduced but got 2 inputs in"),
        ("bytes", b"\0", "can not be deduced because there are more than one variable-sized dimension"),
        ("digits", b"\0" * 255, "input byte size mismatch for input 'x' for model 'digits'. Expected 256, got 255"),
        ("floats", b"\0" * 5, "Expected a multiple of 4, got 5"),
        ("floats", b"", "Expected a multiple of 4, got 0"),
        ("word", b"\xff", "UTF-8"),
    ):
        status, _, body = raw(model, sent)
        assert status == 400, body
        assert words in json.loads(body)["error"]


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "bare"])
def test_the_header_length_counts_unpacked_bytes(server: Child, encoding: str) -> None:
    raw = np.arange(4, dtype=np.float32).tobytes()
    head = json.dumps(
        {
            "inputs": [{"name": "x", "shape": [4], "datatype": "FP32", "parameters": {"binary_data_size": 16}}],
            "parameters": {"binary_data_output": True},
        }
    ).encode()
    body = head + raw
    if encoding == "bare":
        stream = zlib.compressobj(wbits=-15)
        body = stream.compress(body) + stream.flush()
    else:
        body = gzip.compress(body[:50]) + gzip.compress(body[50:]) if encoding == "gzip" else zlib.compress(body)
    headers = {
        "Inference-Header-Content-Length": str(len(head)),
        "Content-Encoding": "gzip" if encoding == "gzip" else "deflate",
    }
    status, got, answer = server.request("POST", "/v2/models/floats/infer", body, headers)
    assert status == 200, answer
    assert answer[int(got["inference-header-content-length"]) :] == raw


def test_responses_are_packed_only_for_those_who_ask(server: Child) -> None:
    sent = json.dumps(floats(*range(2000))).encode()
    for accept, encoding in (
        ({}, None),
        ({"Accept-Encoding": "br"}, None),
        ({"Accept-Encoding": "gzip;q=0"}, None),
        ({"Accept-Encoding": "gzip;q=0.5, deflate"}, "deflate"),
        ({"Accept-Encoding": "gzip, deflate, br"}, "gzip"),
    ):
        status, headers, body = server.request("POST", "/v2/models/floats/infer", sent, accept)
        assert status == 200
        assert headers.get("content-encoding") == encoding
        if encoding:
            body = zlib.decompress(body, 47)
        assert json.loads(body)["outputs"][0]["data"][1999] == 1999.0


def test_chunked_bodies(server: Child) -> None:
    sent = json.dumps(floats(1, 2, 3)).encode()
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (sent[:7], sent[7:30], sent[30:])) + b"0\r\n\r\n"
    answer = server.raw(
        b"POST /v2/models/floats/infer HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks
    )
    assert answer.startswith(b"HTTP/1.1 200")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["outputs"][0]["data"] == [1.0, 2.0, 3.0]


def request(**more: Any) -> dict[str, Any]:
    return {"inputs": [INPUT], **more}


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([], "an object is expected"),
        ({}, "Unable to parse 'inputs'"),
        ({"inputs": {}}, "Unable to parse 'inputs'"),
        ({"inputs": [1]}, "Unable to parse 'inputs'"),
        ({"inputs": [{**INPUT, "name": 1}]}, "Unable to parse 'name'"),
        ({"inputs": [INPUT, INPUT]}, "input 'x' already exists in request"),
        ({"inputs": [{**INPUT, "name": "z"}]}, "unexpected inference input 'z' for model 'digits'"),
        ({"inputs": []}, "expected 1 inputs but got 0 inputs"),
        ({"inputs": [{**INPUT, "datatype": "FP31"}]}, "invalid datatype 'FP31'"),
        ({"inputs": [{**INPUT, "datatype": "INT32"}]}, "data-type is 'INT32', but model 'digits' expects 'FP32'"),
        ({"inputs": [{**INPUT, "shape": [1, -64]}]}, "Unable to parse 'shape'"),
        ({"inputs": [{**INPUT, "shape": [0, 64]}]}, "Unable to parse 'shape'"),
        ({"inputs": [{**INPUT, "shape": [2**4, 2**60 + 2]}]}, "causes total element count to exceed maximum size of"),
        ({"inputs": [{**INPUT, "shape": [2**61]}]}, "byte size overflow for input"),
        ({"inputs": [{**INPUT, "shape": [2, 64]}]}, "needs 128 elements, and there are 64"),
        ({"inputs": [{**INPUT, "shape": [64]}]}, "Expected [-1,64], got [64]."),
        ({"inputs": [{**INPUT, "shape": [70000, 64]}]}, "inference request batch-size must be <= 65536 for 'digits'"),
        ({"inputs": [{**INPUT, "data": [*ROW[1:], None]}]}, "null"),
        ({"inputs": [{k: v for k, v in INPUT.items() if k != "data"}]}, "there is none"),
        ({"inputs": [{**INPUT, "parameters": {"binary_data_size": 4}}]}, "both"),
        (request(id=7), "'id'"),
        (request(parameters=[]), "'parameters'"),
        (request(parameters={"triton_x": 1}), "parameter keys starting with 'triton_' are reserved"),
        (request(parameters={"binary_data_output": "yes"}), "binary_data_output"),
        (request(parameters={"timeout": -1}), "timeout"),
        (request(outputs=[{"name": "y"}, {"name": "y"}]), "output 'y' already exists in request"),
        (request(outputs=[{"name": "z"}]), "unexpected inference output 'z' for model 'digits'"),
        (request(outputs=[{"name": "y", "parameters": {"classification": 0}}]), "classification"),
        (request(outputs=[{"name": "y", "parameters": {"binary_data": 1}}]), "binary_data"),
    ],
)
def test_requests_that_lie(server: Child, value: Any, words: str) -> None:
    status, answer = server.infer("digits", value)
    assert status == 400, answer
    assert words in answer["error"]
    assert server.infer("digits", request())[0] == 200


def test_shared_memory_is_not_offered(server: Child) -> None:
    tensor = {"name": "x", "shape": [1, 64], "datatype": "FP32", "parameters": {"shared_memory_region": "r"}}
    assert server.infer("digits", {"inputs": [tensor]})[0] == 501
    assert (
        server.infer("digits", request(outputs=[{"name": "y", "parameters": {"shared_memory_region": "r"}}]))[0] == 501
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("99999999999", "inference header size should be in range (0, "),
        ("9" * 5000, "inference header size should be in range (0, "),
        ("-1", "inference header size should be in range (0, "),
        ("abc", "Unable to parse Inference-Header-Content-Length"),
        ("", "Unable to parse Inference-Header-Content-Length"),
        ("5", "failed to parse the request JSON buffer"),
    ],
)
def test_header_lengths_that_lie(server: Child, text: str, words: str) -> None:
    body = json.dumps(request()).encode()
    status, _, answer = server.request(
        "POST", "/v2/models/digits/infer", body, {"Inference-Header-Content-Length": text}
    )
    assert status == 400, answer
    assert words in json.loads(answer)["error"]
    assert server.infer("digits", request())[0] == 200


@pytest.mark.parametrize(
    ("announced", "sent", "words"),
    [
        (256, 255, "unexpected size for input 'x', expecting 1 additional bytes for model 'digits'"),
        (255, 255, "input byte size mismatch for input 'x' for model 'digits'. Expected 256, got 255"),
        (256, 300, "unexpected 44 additional bytes"),
        (-1, 256, "binary_data_size"),
        (2**70, 256, "binary_data_size"),
        ("256", 256, "binary_data_size"),
    ],
)
def test_binary_sizes_that_lie(server: Child, announced: Any, sent: int, words: str) -> None:
    tensor = {"name": "x", "shape": [1, 64], "datatype": "FP32", "parameters": {"binary_data_size": announced}}
    head = json.dumps({"inputs": [tensor]}).encode()
    status, _, answer = server.request(
        "POST", "/v2/models/digits/infer", head + b"\0" * sent, {"Inference-Header-Content-Length": str(len(head))}
    )
    assert status == 400, answer
    assert words in json.loads(answer)["error"]


@pytest.mark.parametrize("levels", [120, 900, 250_000])
def test_deep_nesting(server: Child, levels: int) -> None:
    deep = b"[" * levels + b"]" * levels
    for path in ("/v2/models/digits/infer", "/v2/repository/index"):
        status, _, answer = server.request("POST", path, b'{"inputs":' + deep + b"}")
        assert status == 400
        assert json.loads(answer)["error"] == "JSON nesting depth exceeds maximum allowed limit (100)"


def test_brackets_in_strings_are_not_nesting(server: Child) -> None:
    words = ["[" * 300, "]" * 5]
    status, answer = server.infer(
        "words", {"inputs": [{"name": "x", "shape": [2], "datatype": "BYTES", "data": words}]}
    )
    assert status == 200
    assert answer["outputs"][0]["data"] == words


@pytest.mark.parametrize(
    "body", [b"", b"{", b"\xff\xfe", b'{"a":NaN}', b'{"inputs":[1e999]}', b'"\xed\xa0\x80"', b"\0"]
)
def test_bodies_that_are_not_json(server: Child, body: bytes) -> None:
    status, _, answer = server.request("POST", "/v2/models/digits/infer", body)
    assert status == 400
    assert "failed to parse the request JSON buffer" in json.loads(answer)["error"]
