"""TensorFlow Serving over gRPC, with the client that OpenVINO made for it, and with messages of our own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import ovmsclient
import pytest
from ovmsclient.tfs_compat.protos.tensorflow.core.example import example_pb2
from ovmsclient.tfs_compat.protos.tensorflow_serving.apis import (
    classification_pb2,
    inference_pb2,
    input_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)

from studio.core.settings import ServingSettings
from studio.serving.grpc.tfs import MODEL, PREDICTION
from studio.serving.grpc.tfs_messages import messages
from tests.serving import graphs
from tests.serving.harness import Child, running
from tests.serving.test_grpc import free_port, grpc_port, unary

ROWS = np.linspace(-1, 1, 128, dtype=np.float32).reshape(2, 64)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Child]:
    folder = tmp_path_factory.mktemp("tfs-grpc")
    table = graphs.table(
        graphs.mlp(folder, model="digits", version=3),
        graphs.mlp(folder, model="digits", version=2),
        graphs.add_and_subtract(folder, model="simple"),
        graphs.identity(folder, "BYTES", ("n",), model="words"),
        graphs.identity(folder, "FP16", ("n",), model="half"),
        graphs.identity(folder, "UINT8", ("n",), model="small"),
        graphs.sums(folder, model="both"),
        aliases={},
        pinned=("digits:3-fp32",),
    )
    with running(folder, table, ServingSettings(grpc_port=free_port())) as child:
        yield child


@pytest.fixture(scope="module")
def client(served: Child) -> Any:
    return ovmsclient.make_grpc_client(f"127.0.0.1:{grpc_port(served)}")


def test_the_official_client_is_answered(served: Child, client: Any) -> None:
    answer = client.predict({"x": ROWS}, "digits")
    rows = served.json("POST", "/v1/models/digits:predict", {"instances": ROWS.tolist()})[1]["predictions"]
    np.testing.assert_allclose(answer, rows, rtol=1e-5, atol=1e-30)
    np.testing.assert_allclose(client.predict({"x": ROWS}, "digits", 2), rows, rtol=1e-5, atol=1e-30)
    assert client.get_model_status("digits") == {
        number: {"state": "AVAILABLE", "error_code": 0, "error_message": ""} for number in (3, 2)
    }
    metadata = client.get_model_metadata("digits")
    assert metadata["inputs"] == {"x": {"shape": [-1, 64], "dtype": "DT_FLOAT"}}
    assert metadata["model_version"] == 3


def test_strings_and_several_outputs(client: Any) -> None:
    assert client.predict({"x": ["grün", "blau"]}, "words").tolist() == ["grün".encode(), b"blau"]
    ones = np.ones((1, 16), np.int32)
    answer = client.predict({"INPUT0": ones * 5, "INPUT1": ones}, "simple")
    assert (answer["OUTPUT1"] == 4).all()


def test_mistakes_reach_the_client(client: Any) -> None:
    with pytest.raises(ovmsclient.tfs_compat.base.errors.ModelNotFoundError, match=r"Latest\(none\)"):
        client.predict({"x": ROWS}, "none")
    with pytest.raises(ovmsclient.tfs_compat.base.errors.InvalidInputError, match="alias not found"):
        client.predict({"z": ROWS}, "digits")


def request_of(model: str, name: str, dtype: int, shape: list[int], **values: Any) -> Any:
    request = messages()["PredictRequest"]()
    request.model_spec.name = model
    tensor = request.inputs[name]
    tensor.dtype = dtype
    for size in shape:
        tensor.tensor_shape.dim.add(size=size)
    for field, value in values.items():
        if isinstance(value, bytes):
            setattr(tensor, field, value)
        else:
            getattr(tensor, field).extend(value)
    return request


def predict(server: Child, request: Any) -> Any:
    return unary(server, f"/{PREDICTION}/Predict", request, messages()["PredictResponse"])


def test_a_tensor_may_come_in_any_of_its_forms(served: Child) -> None:
    content = predict(served, request_of("digits", "x", 1, [2, 64], tensor_content=ROWS.tobytes()))
    values = predict(served, request_of("digits", "x", 1, [2, 64], float_val=ROWS.ravel().tolist()))
    assert content.outputs["y"].tensor_content == values.outputs["y"].tensor_content
    one = predict(served, request_of("digits", "x", 1, [1, 64], float_val=[0.5]))
    all_ = predict(served, request_of("digits", "x", 1, [1, 64], float_val=[0.5] * 64))
    assert one.outputs["y"].tensor_content == all_.outputs["y"].tensor_content
    half = predict(served, request_of("half", "x", 19, [1], half_val=[0x3C00]))
    assert np.frombuffer(half.outputs["y"].tensor_content, np.float16).tolist() == [1.0]
    assert (one.model_spec.name, one.model_spec.version.value) == ("digits", 3)


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (request_of("digits", "x", 1, [2, 64], tensor_content=b"1234"), "byte size mismatch"),
        (request_of("digits", "x", 1, [1, 64]), "has 0 values"),
        (request_of("digits", "x", 1, [1, 64], float_val=[0.0] * 65), "has 65 values"),
        (request_of("digits", "x", 3, [1, 64], int_val=[1]), "expects 'FP32'"),
        (request_of("digits", "x", 8, [1, 64]), "not served here"),
        (request_of("digits", "x", 1, [-1, 64], float_val=[1]), "not a size"),
        (request_of("small", "x", 4, [1], int_val=[300]), "out of the range of UINT8"),
        (request_of("half", "x", 19, [1], half_val=[-1]), "16-bit float"),
        (request_of("words", "x", 7, [1], string_val=[b"\xff"]), "UTF-8"),
    ],
)
def test_mistakes_are_told(served: Child, request_: Any, words: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        predict(served, request_)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert words in caught.value.details()


# The messages and stubs that TensorFlow Serving's own compiler made, as ovmsclient brings them.


def row_of(features: dict[str, list[Any]]) -> Any:
    example = example_pb2.Example()
    for name, values in features.items():
        feature = example.features.feature[name]
        kinds = {float: feature.float_list, int: feature.int64_list, bytes: feature.bytes_list}
        kinds[type(values[0])].value.extend(values)
    return example


def input_of(rows: list[dict[str, list[Any]]], context: dict[str, list[Any]] | None = None) -> Any:
    given = input_pb2.Input()
    if context is None:
        given.example_list.examples.extend(map(row_of, rows))
    else:
        given.example_list_with_context.examples.extend(map(row_of, rows))
        given.example_list_with_context.context.CopyFrom(row_of(context))
    return given


@pytest.fixture(scope="module")
def stub(served: Child) -> Iterator[Any]:
    with grpc.insecure_channel(f"127.0.0.1:{grpc_port(served)}") as channel:
        yield prediction_service_pb2_grpc.PredictionServiceStub(channel)


def test_examples_are_classified_as_over_rest(served: Child, stub: Any) -> None:
    request = classification_pb2.ClassificationRequest(input=input_of([{"x": row.tolist()} for row in ROWS]))
    request.model_spec.name = "digits"
    answer = stub.Classify(request)
    _, rest = served.json("POST", "/v1/models/digits:classify", {"examples": [{"x": row.tolist()} for row in ROWS]})
    got = [[(one.label, one.score) for one in row.classes] for row in answer.result.classifications]
    assert [[label for label, _ in row] for row in got] == [[label for label, _ in row] for row in rest["results"]]
    scores, wanted = ([[score for _, score in row] for row in side] for side in (got, rest["results"]))
    np.testing.assert_allclose(scores, wanted, rtol=1e-5, atol=1e-30)
    assert answer.model_spec.version.value == 3


def test_examples_are_regressed_and_share_a_context(stub: Any) -> None:
    request = regression_pb2.RegressionRequest(input=input_of([{"x": [1.5]}, {"x": [-2.0]}]))
    request.model_spec.name = "half"
    assert [one.value for one in stub.Regress(request).result.regressions] == [1.5, -2.0]
    request.input.CopyFrom(input_of([{"x": [3]}, {"other": [1.0]}], {"x": [7.0]}))
    assert [one.value for one in stub.Regress(request).result.regressions] == [3.0, 7.0]


def test_several_questions_are_one_run(served: Child, stub: Any) -> None:
    def executions() -> int:
        (row,) = served.json("GET", "/v2/models/both/stats")[1]["model_stats"]
        count: int = row["execution_count"]
        return count

    request = inference_pb2.MultiInferenceRequest(input=input_of([{"x": [1.0, 2.0]}]))
    for method in ("tensorflow/serving/classify", "tensorflow/serving/regress"):
        request.tasks.add(method_name=method).model_spec.name = "both"
    before = executions()
    first, second = stub.MultiInference(request).results
    assert [(one.label, one.score) for one in first.classification_result.classifications[0].classes] == [
        ("0", 1.0),
        ("1", 2.0),
    ]
    assert [one.value for one in second.regression_result.regressions] == [3.0]
    assert executions() == before + 1


def wrong(model: str, rows: list[dict[str, list[Any]]]) -> Any:
    request = classification_pb2.ClassificationRequest(input=input_of(rows))
    request.model_spec.name = model
    return request


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (wrong("digits", []), "Input is empty."),
        (wrong("digits", [{"y": [1.0]}]), "has no feature 'x'"),
        (wrong("digits", [{"x": [1.0] * 63}]), "has 63 values"),
        (wrong("digits", [{"x": [b"text"] * 64}]), "is a bytes_list, and the input is FP32"),
        (wrong("small", [{"x": [300]}]), "has no output of class scores"),
        (wrong("none", [{"x": [1.0]}]), "Servable not found for request: Latest(none)"),
    ],
)
def test_examples_that_do_not_fit(stub: Any, request_: Any, words: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        stub.Classify(request_)
    assert words in caught.value.details()
    assert caught.value.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND)


def test_tasks_that_do_not_go_together(stub: Any) -> None:
    request = inference_pb2.MultiInferenceRequest(input=input_of([{"x": [1.0, 2.0]}]))
    for names, methods, words in (
        ((), (), "at least one task"),
        (("both", "digits"), ("tensorflow/serving/classify",) * 2, "must access the same model"),
        (("both",), ("tensorflow/serving/predict",), "Unrecognized signature method_name"),
        (("both",) * 2, ("tensorflow/serving/classify",) * 2, "Duplicate evaluation"),
    ):
        del request.tasks[:]
        for name, method in zip(names, methods, strict=True):
            request.tasks.add(method_name=method).model_spec.name = name
        with pytest.raises(grpc.RpcError) as caught:
            stub.MultiInference(request)
        assert words in caught.value.details()


def test_what_is_not_there(served: Child) -> None:
    request = messages()["GetModelStatusRequest"]()
    request.model_spec.name = "none"
    with pytest.raises(grpc.RpcError) as caught:
        unary(served, f"/{MODEL}/GetModelStatus", request, messages()["GetModelStatusResponse"])
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert caught.value.details() == "Could not find any versions of model none"
    filtered = request_of("digits", "x", 1, [1, 64], float_val=[0.5])
    filtered.output_filter.append("other")
    with pytest.raises(grpc.RpcError) as caught:
        predict(served, filtered)
    assert "other" in caught.value.details()
    with pytest.raises(grpc.RpcError) as caught:
        unary(served, f"/{MODEL}/HandleReloadConfigRequest", request, messages()["GetModelStatusResponse"])
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert "studio add FILE" in caught.value.details()
