"""Every datatype at its extremes: whichever protocol carries a tensor, and in whichever form, the model gets the same
bits, and the client gets them back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import grpc
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from ovmsclient.tfs_compat.protos.tensorflow.core.example import example_pb2

from studio.client.predict import predict as ask
from studio.core.errors import InvalidInput
from studio.core.settings import ServingSettings
from studio.core.tensors import DATATYPES, FLOATS
from studio.serving.grpc.oip_messages import inference
from studio.serving.grpc.tfs import PREDICTION
from studio.serving.grpc.tfs_messages import messages
from studio.serving.loaded import dtype_of
from tests.serving import graphs
from tests.serving.harness import Child, running
from tests.serving.test_grpc import free_port, unary

ANSWER = inference()["ModelInferResponse"]
INFER = "/inference.GRPCInferenceService/ModelInfer"
CONTENTS = {
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    **{"INT64": "int64_contents", "UINT64": "uint64_contents", "FP32": "fp32_contents", "FP64": "fp64_contents"},
    **{"BOOL": "bool_contents", "BYTES": "bytes_contents"},
}
"""Datatype -> where Triton's messages have its values; FP16 and BF16 travel as raw bytes alone."""
VALUES = {
    **{"FP32": (1, "float_val"), "FP64": (2, "double_val"), "INT32": (3, "int_val"), "UINT8": (4, "int_val")},
    **{"INT16": (5, "int_val"), "INT8": (6, "int_val"), "BYTES": (7, "string_val"), "INT64": (9, "int64_val")},
    **{"BOOL": (10, "bool_val"), "BF16": (14, "half_val"), "UINT16": (17, "int_val"), "FP16": (19, "half_val")},
    **{"UINT32": (22, "uint32_val"), "UINT64": (23, "uint64_val")},
}
"""Datatype -> its number in TensorFlow, and where a TensorProto has its values."""


def extremes(datatype: str) -> list[np.ndarray[Any, Any]]:
    """Finite values: the ends of the range, their neighbours, and what lies around a type that is narrower."""
    if datatype == "BYTES":
        return [np.array(["", "grün", "a\0b", "\U0001f642", '"'], object)]
    dtype = dtype_of(datatype)
    if datatype == "BOOL":
        return [np.array(values, bool) for values in ([True, False], [False], [True])]
    if datatype in FLOATS:
        limits = ml_dtypes.finfo(dtype)
        ends = [float(limits.max), float(limits.tiny), float(limits.smallest_subnormal), 1.0 + float(limits.eps)]
        return [np.array([0.0, -0.0, *ends, *(-end for end in ends)], dtype)]
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    if datatype == "UINT64":
        lists = [[0, high], [5, 2**63 + 1], [2**63 - 1, 2**63], [high], [2**63, high], [0, 2**53 + 1]]
    else:
        lists = [[low, high], [low], [high], [low, 0, high - 1], [low + 1, 1, high]]
    return [np.array(values, dtype) for values in lists]


CASES = [(datatype, array) for datatype in DATATYPES for array in extremes(datatype)]
IDS = [f"{datatype}-{place}" for place, (datatype, _) in enumerate(CASES)]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Child]:
    folder = tmp_path_factory.mktemp("extremes")
    models = [graphs.identity(folder, datatype, ("n",), model=datatype.lower()) for datatype in DATATYPES]
    models += [graphs.identity(folder, datatype, (), model=f"one-{datatype.lower()}") for datatype in DATATYPES]
    models.append(graphs.total(folder, model="total"))
    with running(folder, graphs.table(*models), ServingSettings(grpc_port=free_port())) as child:
        yield child


def finite(datatype: str) -> st.SearchStrategy[Any]:
    """Arrays of a few values."""
    if datatype == "BYTES":
        words = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=12), min_size=1, max_size=9)
        return words.map(lambda words: np.array(words, dtype=object))
    dtype = dtype_of(datatype)
    if datatype in FLOATS:
        bits = hnp.arrays(f"u{dtype.itemsize}", st.integers(1, 9)).map(lambda words: words.view(dtype))
        return bits.filter(lambda array: bool(np.isfinite(array).all()))
    return hnp.arrays(dtype, st.integers(1, 9))


def plain(array: np.ndarray[Any, Any]) -> list[Any]:
    """Python's own values, which JSON and protobuf take."""
    values: list[Any] = (array.astype(np.float64) if array.dtype == ml_dtypes.bfloat16 else array).tolist()
    return values


def packed(array: np.ndarray[Any, Any]) -> bytes:
    if array.dtype == object:
        return b"".join(len(text).to_bytes(4, "little") + text for text in map(str.encode, array))
    return array.tobytes()


def bits(values: list[Any], datatype: str) -> bytes:
    """Of what came back as JSON."""
    return packed(np.array(values, dtype_of(datatype)))


def typed(array: np.ndarray[Any, Any]) -> list[Any]:
    return [text.encode() for text in array] if array.dtype == object else plain(array)


def infer_request(datatype: str, array: np.ndarray[Any, Any], raw: bool) -> Any:
    request = inference()["ModelInferRequest"](model_name=datatype.lower())
    given = request.inputs.add(name="x", datatype=datatype, shape=array.shape)
    if raw:
        request.raw_input_contents.append(packed(array))
    else:
        getattr(given.contents, CONTENTS[datatype]).extend(typed(array))
    return request


def predict_request(datatype: str, size: int, field: str, values: Any) -> Any:
    request = messages()["PredictRequest"]()
    request.model_spec.name = datatype.lower()
    tensor = request.inputs["x"]
    tensor.dtype = VALUES[datatype][0]
    tensor.tensor_shape.dim.add(size=size)
    if isinstance(values, bytes):
        setattr(tensor, field, values)
    else:
        getattr(tensor, field).extend(values)
    return request


def listed(array: np.ndarray[Any, Any], datatype: str) -> list[Any]:
    return array.view(np.uint16).tolist() if datatype in ("FP16", "BF16") else typed(array)


def answered(server: Child, request: Any) -> bytes:
    answer = unary(server, f"/{PREDICTION}/Predict", request, messages()["PredictResponse"]).outputs["y"]
    if answer.string_val:
        return b"".join(len(text).to_bytes(4, "little") + text for text in answer.string_val)
    content: bytes = answer.tensor_content
    return content


def ways(server: Child, datatype: str, array: np.ndarray[Any, Any]) -> Iterator[tuple[str, bytes]]:
    """The bits that a model which changes nothing answers, by what carried them."""
    model, values = datatype.lower(), plain(array)
    entry = {"name": "x", "datatype": datatype, "shape": [array.size]}
    _, answer = server.infer(model, {"inputs": [entry | {"data": values}]})
    yield "v2", bits(answer["outputs"][0]["data"], datatype)
    entry["parameters"] = {"binary_data_size": len(packed(array))}
    head = json.dumps({"inputs": [entry], "parameters": {"binary_data_output": True}}).encode()
    headers = {"inference-header-content-length": str(len(head))}
    _, told, body = server.request("POST", f"/v2/models/{model}/infer", head + packed(array), headers)
    yield "v2 binary", body[int(told["inference-header-content-length"]) :]
    for raw in (True, False) if datatype in CONTENTS else (True,):
        (result,) = unary(server, INFER, infer_request(datatype, array, raw), ANSWER).raw_output_contents
        yield f"v2 grpc, raw {raw}", result
    _, answer = server.json("POST", f"/v1/models/{model}:predict", {"instances": values})
    yield "tfs", bits(answer["predictions"], datatype)
    request = predict_request(datatype, array.size, VALUES[datatype][1], listed(array, datatype))
    yield "tfs grpc, values", answered(server, request)
    if datatype != "BYTES":
        request = predict_request(datatype, array.size, "tensor_content", packed(array))
        yield "tfs grpc, content", answered(server, request)
    _, answer = server.json("POST", f"/predict/{model}", values)
    yield "predict", bits(answer["outputs"]["y"], datatype)
    result = ask(f"http://{server.url}", model, {"x": array if datatype == "BYTES" else array.tolist()})["y"]
    yield "sdk", packed(np.array([word.decode() for word in result], object) if datatype == "BYTES" else result)


@pytest.mark.parametrize(("datatype", "array"), CASES, ids=IDS)
def test_extremes_are_the_same_to_the_bit(served: Child, datatype: str, array: np.ndarray[Any, Any]) -> None:
    for way, answer in ways(served, datatype, array):
        assert answer == packed(array), way


@pytest.mark.parametrize("datatype", list(DATATYPES))
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_any_values_are_the_same_to_the_bit(served: Child, datatype: str, data: st.DataObject) -> None:
    size = data.draw(st.sampled_from([1, 2, 7, 70, 700]))
    array = np.resize(data.draw(finite(datatype)), size)
    for way, answer in ways(served, datatype, array):
        assert answer == packed(array), way


@pytest.mark.parametrize(("datatype", "array"), CASES, ids=IDS)
def test_a_short_list_goes_on_with_its_last_value(served: Child, datatype: str, array: np.ndarray[Any, Any]) -> None:
    whole = np.concatenate([array, np.full(3, array[-1], array.dtype)])
    request = predict_request(datatype, whole.size, VALUES[datatype][1], listed(array, datatype))
    assert answered(served, request) == packed(whole)


@pytest.mark.parametrize(
    ("datatype", "field", "values"),
    [
        ("INT8", "int_contents", [-129, 0]),
        ("INT8", "int_contents", [128]),
        ("UINT8", "uint_contents", [0, 256]),
        ("INT16", "int_contents", [2**15]),
        ("UINT16", "uint_contents", [2**16]),
    ],
)
def test_what_a_wider_list_holds_is_not_cut(served: Child, datatype: str, field: str, values: list[int]) -> None:
    request = inference()["ModelInferRequest"](model_name=datatype.lower())
    given = request.inputs.add(name="x", datatype=datatype, shape=[len(values)])
    getattr(given.contents, field).extend(values)
    for call in (
        lambda: unary(served, INFER, request, ANSWER),
        lambda: answered(served, predict_request(datatype, len(values), "int_val", values)),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            call()
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert f"out of the range of {datatype}" in caught.value.details()
    with pytest.raises(InvalidInput, match=f"out of the range of {datatype}"):
        ask(f"http://{served.url}", datatype.lower(), {"x": values})


@pytest.mark.parametrize("datatype", [name for name in DATATYPES if name in CONTENTS])
def test_a_list_with_nothing_in_it_is_told(served: Child, datatype: str) -> None:
    nothing = infer_request(datatype, np.array([], dtype_of(datatype)), False)
    nothing.inputs[0].shape[:] = [1]
    with pytest.raises(grpc.RpcError) as caught:
        unary(served, INFER, nothing, ANSWER)
    assert "needs 1, and there are 0" in caught.value.details()
    with pytest.raises(grpc.RpcError) as caught:
        answered(served, predict_request(datatype, 1, VALUES[datatype][1], []))
    assert "has 0 values" in caught.value.details()


@pytest.mark.parametrize("datatype", list(DATATYPES))
def test_a_tensor_without_dimensions_is_a_bare_value(served: Child, datatype: str) -> None:
    model, array = f"one-{datatype.lower()}", extremes(datatype)[0][-1:]
    (value,) = plain(array)
    status, answer = served.json("POST", f"/v1/models/{model}:predict", {"inputs": value})
    assert (status, type(answer["outputs"])) == (200, type(value)), answer
    assert bits([answer["outputs"]], datatype) == packed(array)
    assert served.json("POST", f"/v1/models/{model}:predict", {"inputs": {"x": value}}) == (status, answer)
    entry = {"name": "x", "datatype": datatype, "shape": [], "data": [value]}
    (output,) = served.infer(model, {"inputs": [entry]})[1]["outputs"]
    assert (output["shape"], bits(output["data"], datatype)) == ([], packed(array))
    request = predict_request(datatype, 1, VALUES[datatype][1], listed(array, datatype))
    request.model_spec.name = model
    del request.inputs["x"].tensor_shape.dim[:]
    tensor = unary(served, f"/{PREDICTION}/Predict", request, messages()["PredictResponse"]).outputs["y"]
    assert list(tensor.tensor_shape.dim) == []
    assert answered(served, request) == packed(array)


@pytest.mark.parametrize("value", ["NaN", "-Infinity"])
def test_a_token_is_a_bare_value_too(served: Child, value: str) -> None:
    body = b'{"inputs": %b}' % value.encode()
    status, _, answer = served.request("POST", "/v1/models/one-fp32:predict", body)
    assert (status, answer) == (200, b'{"outputs": %b}' % value.encode())


def test_what_has_no_rows_is_not_told_by_row(served: Child) -> None:
    assert served.json("POST", "/v1/models/total:predict", {"inputs": [1, 2, 3]}) == (200, {"outputs": 6.0})
    status, answer = served.json("POST", "/v1/models/total:predict", {"instances": [1, 2, 3]})
    assert (status, "can not be told by row" in answer["error"]) == (400, True)


@pytest.mark.parametrize(
    ("datatype", "value", "wanted"),
    [
        ("FP16", 65504.0, 65504.0),
        ("FP16", 70000.0, None),
        ("FP16", 70000, None),
        ("FP32", 2**60 + 2**36 + 1, float(2**60 + 2**37)),  # by way of a double, it would be rounded down
        ("FP32", -(2**24), -float(2**24)),
    ],
)
def test_features_of_examples(served: Child, datatype: str, value: float, wanted: float | None) -> None:
    example = example_pb2.Example()
    kind = example.features.feature["x"]
    (kind.int64_list if type(value) is int else kind.float_list).value.append(value)
    request = messages()["RegressionRequest"]()
    request.model_spec.name = datatype.lower()
    request.input.example_list.examples.add().MergeFromString(example.SerializeToString())
    method, kind = f"/{PREDICTION}/Regress", messages()["RegressionResponse"]
    if wanted is not None:
        assert [row.value for row in unary(served, method, request, kind).result.regressions] == [wanted]
        return
    with pytest.raises(grpc.RpcError) as caught:
        unary(served, method, request, kind)
    assert f"out of the range of {datatype}" in caught.value.details()
