from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
import pytest

from studio.client import Client
from studio.client.predict import as_datatype, numpy_type
from studio.core.errors import InvalidInput, NotFound, StepFailed, Unavailable
from tests.client.fake_engine import FakeEngine

HEADER = "Inference-Header-Content-Length"


def declare(engine: FakeEngine, path: str, inputs: list[dict[str, Any]]) -> None:
    engine.on("GET", path, {"name": "m", "versions": ["1"], "platform": "onnx_onnxv1", "inputs": inputs, "outputs": []})


def binary_answer(outputs: list[tuple[dict[str, Any], bytes]]) -> tuple[int, bytes, dict[str, str]]:
    head = json.dumps({"model_name": "m", "model_version": "1", "outputs": [entry for entry, _ in outputs]}).encode()
    return 200, head + b"".join(data for _, data in outputs), {HEADER: str(len(head))}


def sent(engine: FakeEngine, path: str) -> tuple[dict[str, Any], bytes]:
    body = engine.asked("POST", path)[-1]
    head, end = json.JSONDecoder().raw_decode(body.decode("latin-1"))
    return head, body[end:]


def test_arrays_travel_as_little_endian_binary_both_ways(engine: FakeEngine, client: Client) -> None:
    scores = np.arange(20, dtype="<f4").reshape(2, 10)
    entry = {"name": "scores", "datatype": "FP32", "shape": [2, 10], "parameters": {"binary_data_size": 80}}
    engine.on("POST", "/v2/models/digits/versions/3-int8/infer", binary_answer([(entry, scores.tobytes())]))
    image = np.arange(4, dtype=">f4").reshape(2, 2)
    answer = client.predict("digits:3-int8", {"image": image})
    np.testing.assert_array_equal(answer["scores"], scores)
    head, tail = sent(engine, "/v2/models/digits/versions/3-int8/infer")
    assert head["inputs"] == [
        {"name": "image", "shape": [2, 2], "datatype": "FP32", "parameters": {"binary_data_size": 16}}
    ]
    assert head["parameters"] == {"binary_data_output": True}
    assert tail == struct.pack("<4f", 0, 1, 2, 3)
    answer["scores"][0, 0] = 7  # the answer is the caller's own


def test_lists_take_the_declared_datatype(engine: FakeEngine, client: Client) -> None:
    declare(engine, "/v2/models/m", [{"name": "x", "datatype": "FP16", "shape": [-1, 2]}])
    entry = {"name": "y", "datatype": "INT64", "shape": [1], "data": [5]}
    engine.on("POST", "/v2/models/m/infer", {"model_name": "m", "outputs": [entry]})
    answer = client.predict("m", {"x": [[1, 2]]})
    assert answer["y"].tolist() == [5]
    assert answer["y"].dtype == np.int64
    head, tail = sent(engine, "/v2/models/m/infer")
    assert head["inputs"][0]["datatype"] == "FP16"
    assert np.frombuffer(tail, "<f2").tolist() == [1.0, 2.0]


def test_a_float_is_never_cut_to_an_int(engine: FakeEngine, client: Client) -> None:
    declare(engine, "/v2/models/m", [{"name": "x", "datatype": "INT32", "shape": [-1]}])
    with pytest.raises(InvalidInput, match="INT32"):
        client.predict("m", {"x": [1.5]})
    with pytest.raises(InvalidInput, match="not an array"):
        client.predict("m", {"x": [[1, 2], [3]]})


def test_words_and_bfloat16_survive(engine: FakeEngine, client: Client) -> None:
    import ml_dtypes

    declare(engine, "/v2/models/m", [{"name": "s", "datatype": "BYTES", "shape": [-1]}])
    words = b"".join(struct.pack("<I", len(w)) + w for w in (b"", b"a\x00b"))
    half = np.array([1.5, -2], dtype=ml_dtypes.bfloat16)
    outputs = [
        ({"name": "w", "datatype": "BYTES", "shape": [2], "parameters": {"binary_data_size": len(words)}}, words),
        ({"name": "h", "datatype": "BF16", "shape": [2], "parameters": {"binary_data_size": 4}}, half.tobytes()),
        ({"name": "e", "datatype": "FP32", "shape": [0, 3], "parameters": {"binary_data_size": 0}}, b""),
    ]
    engine.on("POST", "/v2/models/m/infer", binary_answer(outputs))
    answer = client.predict("m", {"s": ["größe", "x"]})
    assert answer["w"].tolist() == [b"", b"a\x00b"]
    assert answer["h"].astype("f4").tolist() == [1.5, -2.0]
    assert answer["e"].shape == (0, 3)
    _, tail = sent(engine, "/v2/models/m/infer")
    assert tail == struct.pack("<I", 7) + "größe".encode() + struct.pack("<I", 1) + b"x"


@pytest.mark.parametrize(
    ("status", "kind"), [(400, InvalidInput), (404, NotFound), (503, Unavailable), (500, StepFailed)]
)
def test_refusals_carry_the_endpoints_words(
    engine: FakeEngine, client: Client, status: int, kind: type[Exception]
) -> None:
    engine.on("POST", "/v2/models/m/infer", (status, b'{"error":"unexpected shape for input"}', {}))
    with pytest.raises(kind, match="unexpected shape"):
        client.predict("m", {"x": np.zeros(2, "f4")})


@pytest.mark.parametrize(
    "garbage",
    [
        b"\xff\xfe",
        b"[1]",
        b'{"outputs":[{"name":"y"}]}',
        b'{"outputs":[{"name":"y","datatype":"FP32","shape":[9],"data":[1]}]}',
    ],
)
def test_an_unreadable_answer_is_an_error_of_ours(engine: FakeEngine, client: Client, garbage: bytes) -> None:
    engine.on("POST", "/v2/models/m/infer", (200, garbage, {}))
    with pytest.raises(Unavailable, match="unreadable"):
        client.predict("m", {"x": np.zeros(2, "f4")})


@pytest.mark.parametrize(
    ("datatype", "values"),
    [
        ("UINT64", [0, 2**64 - 1]),
        ("UINT64", [2**63]),
        ("UINT8", [0, 255]),
        ("INT8", [-128, 127]),
        ("FP64", [0, 2**63]),
        ("FP32", [2**63]),
        ("BOOL", [0, 1]),
    ],
)
def test_whole_numbers_of_a_list_are_what_they_are(
    engine: FakeEngine, client: Client, datatype: str, values: list[int]
) -> None:
    declare(engine, "/v2/models/m", [{"name": "x", "datatype": datatype, "shape": [-1]}])
    engine.on("POST", "/v2/models/m/infer", {"model_name": "m", "outputs": []})
    client.predict("m", {"x": values})
    head, tail = sent(engine, "/v2/models/m/infer")
    assert head["inputs"][0]["datatype"] == datatype
    assert np.frombuffer(tail, numpy_type(datatype)).tolist() == values


@pytest.mark.parametrize(
    ("datatype", "values"),
    [("INT8", [300]), ("UINT8", [-1]), ("UINT64", [-1, 2**63]), ("FP16", [70000.0]), ("BOOL", [2]), ("INT64", [2**63])],
)
def test_what_does_not_fit_is_refused_and_not_cut(
    engine: FakeEngine, client: Client, datatype: str, values: list[float]
) -> None:
    declare(engine, "/v2/models/m", [{"name": "x", "datatype": datatype, "shape": [-1]}])
    with pytest.raises(InvalidInput, match=datatype):
        client.predict("m", {"x": values})
    with pytest.raises(InvalidInput, match=datatype):
        as_datatype("x", values, datatype)
