"""TensorFlow Serving over gRPC, with the client that OpenVINO made for it, and with messages of our own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import ovmsclient
import pytest

from studio.core.settings import ServingSettings
from studio.serving.grpc.tfs import MODEL, PREDICTION, messages
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
