"""Open Inference Protocol v2 over gRPC, with the official client of Triton and with messages of our own."""

from __future__ import annotations

import queue
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.http as over_rest
from tritonclient.utils import InferenceServerException

from studio.core.settings import ServingSettings
from studio.serving.grpc.oip_messages import health, inference
from studio.serving.grpc.tfs_messages import messages as tfs
from tests.serving import graphs
from tests.serving.harness import Child, running

ROWS = np.linspace(-1, 1, 128, dtype=np.float32).reshape(2, 64)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def grpc_port(server: Child) -> int:
    said = server.wait_for(lambda: server.said("grpc"), "gRPC")[0]
    assert not said["error"]
    port: int = said["port"]
    return port


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Child]:
    folder = tmp_path_factory.mktemp("grpc")
    labels = tuple(f"class-{n}" for n in range(10))
    table = graphs.table(
        graphs.mlp(folder, model="digits", version=3, labels=labels),
        graphs.mlp(folder, model="digits", version=3, variant="int8"),
        graphs.add_and_subtract(folder, model="simple"),
        graphs.identity(folder, "BYTES", ("n",), model="words"),
        graphs.identity(folder, "FP16", ("n",), model="half"),
        graphs.identity(folder, "INT8", ("n",), model="bytes"),
        graphs.slow(folder, model="slow"),
        pinned=("digits:3-fp32", "simple:1-fp32", "slow:1-fp32"),
    )
    settings = ServingSettings(grpc_port=free_port(), max_body_bytes=1024 * 1024)
    with running(folder, table, settings) as child:
        yield child


@pytest.fixture(scope="module")
def client(served: Child) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(f"127.0.0.1:{grpc_port(served)}") as client:
        yield client


def tensor(name: str, array: np.ndarray[Any, Any], datatype: str) -> triton.InferInput:
    given = triton.InferInput(name, list(array.shape), datatype)
    given.set_data_from_numpy(array)
    return given


def shared() -> triton.InferInput:
    given = triton.InferInput("x", [2, 64], "FP32")
    given.set_shared_memory("region", ROWS.nbytes)
    return given


def over_http(server: Child) -> Any:
    data = {"name": "x", "shape": [2, 64], "datatype": "FP32", "data": ROWS.ravel().tolist()}
    return np.array(server.infer("digits", {"inputs": [data]})[1]["outputs"][0]["data"]).reshape(2, 10)


def test_the_official_client_is_answered(served: Child, client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("digits", "3")
    assert "statistics" in client.get_server_metadata(as_json=True)["extensions"]
    result = client.infer("digits", [tensor("x", ROWS, "FP32")], request_id="seven")
    assert np.allclose(result.as_numpy("y"), over_http(served), atol=1e-6)
    assert result.get_response().id == "seven"
    assert result.get_response().model_version == "3"


@pytest.mark.parametrize(
    ("model", "version", "ready"),
    [
        ("digits", "3-int8", True),
        ("digits:3-int8", "", True),
        ("nope", "", False),
        ("digits", "9", False),
        ("digits:9", "", False),
        ("digits:3-fp32", "3-int8", False),
        ("no such model", "", False),
    ],
)
def test_what_is_not_known_is_not_ready(
    served: Child, client: triton.InferenceServerClient, model: str, version: str, ready: bool
) -> None:
    assert client.is_model_ready(model, version) is ready
    with over_rest.InferenceServerClient(served.url) as rest:
        assert rest.is_model_ready(model, version) is ready


def test_metadata_configuration_statistics_and_index(client: triton.InferenceServerClient) -> None:
    metadata = client.get_model_metadata("digits", as_json=True)
    assert metadata["versions"] == ["3", "3-int8"]
    assert metadata["inputs"] == [{"name": "x", "datatype": "FP32", "shape": ["-1", "64"]}]
    config = client.get_model_config("digits", as_json=True)["config"]
    assert config["max_batch_size"] > 0
    assert config["input"] == [{"name": "x", "data_type": "TYPE_FP32", "dims": ["64"]}]
    client.infer("digits", [tensor("x", ROWS, "FP32")])
    (row,) = client.get_inference_statistics("digits", "3", as_json=True)["model_stats"]
    assert int(row["inference_count"]) >= 2
    index = client.get_model_repository_index(as_json=True)["models"]
    assert {"name": "digits", "version": "3", "state": "READY"} in index


def test_several_inputs_outputs_and_classes(client: triton.InferenceServerClient) -> None:
    left = np.arange(16, dtype=np.int32).reshape(1, 16)
    inputs = [tensor("INPUT0", left, "INT32"), tensor("INPUT1", np.ones_like(left), "INT32")]
    result = client.infer("simple", inputs, outputs=[triton.InferRequestedOutput("OUTPUT1")])
    assert (result.as_numpy("OUTPUT1") == left - 1).all()
    assert result.as_numpy("OUTPUT0") is None
    classes = client.infer(
        "digits", [tensor("x", ROWS, "FP32")], outputs=[triton.InferRequestedOutput("y", class_count=2)]
    ).as_numpy("y")
    assert classes.shape == (2, 2)
    assert b":class-" in classes[0, 0]


def test_strings_and_half_floats(client: triton.InferenceServerClient) -> None:
    words = np.array(["grün".encode(), b""], dtype=object)
    assert client.infer("words", [tensor("x", words, "BYTES")]).as_numpy("y").tolist() == words.tolist()
    half = np.array([0.5, -2], np.float16)
    assert client.infer("half", [tensor("x", half, "FP16")]).as_numpy("y").tolist() == half.tolist()


def test_a_stream_answers_in_order_and_outlives_an_error(client: triton.InferenceServerClient) -> None:
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    for number in range(5):
        name = "none" if number == 2 else "digits"
        # perf_analyzer sends the flag with every request.
        client.async_stream_infer(
            name,
            [tensor("x", ROWS + number, "FP32")],
            request_id=str(number),
            enable_empty_final_response=bool(number % 2),
        )
    got = [answers.get(timeout=20) for _ in range(5)]
    client.stop_stream()
    assert [result.get_response().id if result else None for result, _ in got] == ["0", "1", None, "3", "4"]
    assert "unknown model: 'none'" in str(got[2][1])


@pytest.mark.parametrize(
    ("call", "status", "words"),
    [
        (lambda c: c.infer("none", [tensor("x", ROWS, "FP32")]), "NOT_FOUND", "Request for unknown model: 'none'"),
        (lambda c: c.infer("digits", []), "INVALID_ARGUMENT", "expected 1 inputs but got 0 inputs"),
        (lambda c: c.infer("digits", [tensor("x", ROWS[:, :5], "FP32")]), "INVALID_ARGUMENT", "unexpected shape"),
        (
            lambda c: c.infer("digits", [tensor("x", ROWS.astype(np.int32), "INT32")]),
            "INVALID_ARGUMENT",
            "data-type is 'INT32', but model 'digits' expects 'FP32'",
        ),
        (lambda c: c.infer("digits", [tensor("z", ROWS, "FP32")]), "INVALID_ARGUMENT", "unexpected inference input"),
        (lambda c: c.get_system_shared_memory_status(), "UNIMPLEMENTED", "as binary data."),
        (lambda c: c.register_system_shared_memory("a", "b", 4), "UNIMPLEMENTED", "as binary data."),
        (lambda c: c.unregister_system_shared_memory(), "UNIMPLEMENTED", "as binary data."),
        (lambda c: c.get_cuda_shared_memory_status(), "UNIMPLEMENTED", "as binary data."),
        (lambda c: c.register_cuda_shared_memory("a", b"YmI=", 0, 4), "UNIMPLEMENTED", "as binary data."),
        (lambda c: c.unregister_cuda_shared_memory(), "UNIMPLEMENTED", "as binary data."),
        (lambda c: c.infer("digits", [shared()]), "UNIMPLEMENTED", "shared memory, which this server does not offer"),
        (lambda c: c.get_trace_settings(), "UNIMPLEMENTED", "traceparent"),
        (lambda c: c.update_trace_settings("digits", {"trace_level": "OFF"}), "UNIMPLEMENTED", "traceparent"),
        (lambda c: c.get_log_settings(), "UNIMPLEMENTED", "serving.access_log"),
        (lambda c: c.update_log_settings({"log_info": True}), "UNIMPLEMENTED", "serving.access_log"),
        (lambda c: c.infer("slow", [tensor("n", np.array([9_000_000]), "INT64")], client_timeout=0.3), "DEADLINE", ""),
        (
            lambda c: c.infer("slow", [tensor("n", np.array([9_000_000]), "INT64")], timeout=200_000),
            "UNAVAILABLE",
            "Request timeout expired.",
        ),
    ],
)
def test_errors_have_their_code(client: triton.InferenceServerClient, call: Any, status: str, words: str) -> None:
    with pytest.raises(InferenceServerException) as caught:
        call(client)
    assert status in str(caught.value.status())
    assert words in caught.value.message()
    assert client.is_server_live()


def test_a_call_that_was_given_up_leaves_the_worker_free(served: Child, client: triton.InferenceServerClient) -> None:
    for _ in range(4):
        with pytest.raises(InferenceServerException):
            client.infer("slow", [tensor("n", np.array([9_000_000]), "INT64")], client_timeout=0.1)
    assert client.infer("slow", [tensor("n", np.array([1]), "INT64")]).as_numpy("y").shape == (64, 64)


def unary(server: Child, method: str, request: Any, answer: Any) -> Any:
    with grpc.insecure_channel(f"127.0.0.1:{grpc_port(server)}") as channel:
        return channel.unary_unary(method, lambda message: message.SerializeToString(), answer.FromString)(request)


def infer_request(datatype: str, shape: list[int], raw: list[bytes] | None = None, **contents: Any) -> Any:
    messages = inference()
    request = messages["ModelInferRequest"](model_name="bytes" if datatype == "INT8" else "digits")
    given = request.inputs.add(name="x", datatype=datatype, shape=shape)
    for field, values in contents.items():
        getattr(given.contents, field).extend(values)
    request.raw_input_contents.extend(raw or [])
    return request


def test_typed_contents_give_what_raw_ones_give(served: Child) -> None:
    method, answer = "/inference.GRPCInferenceService/ModelInfer", inference()["ModelInferResponse"]
    typed = unary(served, method, infer_request("FP32", [2, 64], fp32_contents=ROWS.ravel().tolist()), answer)
    raw = unary(served, method, infer_request("FP32", [2, 64], [ROWS.tobytes()]), answer)
    assert typed.raw_output_contents == raw.raw_output_contents


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (infer_request("FP32", [2, 64], [b"1234"]), "input byte size mismatch"),
        (infer_request("FP32", [2, 64], [b"", b""]), "expected number of raw input contents to be 1, got 2"),
        (infer_request("FP32", [2, 64], [ROWS.tobytes()], fp32_contents=[1.0]), "must not be specified"),
        (infer_request("FP32", [2, 64], int_contents=[1]), "belongs into fp32_contents"),
        (infer_request("FP32", [2, 64], fp32_contents=[1.0]), "unexpected number of elements"),
        (infer_request("FP32", [-1, 64], fp32_contents=[1.0]), "not a size"),
        (infer_request("FP32", [2**62, 2**62], fp32_contents=[1.0]), "exceed maximum size"),
        (infer_request("INT8", [1], int_contents=[300]), "out of the range of INT8"),
    ],
)
def test_mistakes_are_told(served: Child, request_: Any, words: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        unary(served, "/inference.GRPCInferenceService/ModelInfer", request_, inference()["ModelInferResponse"])
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert words in caught.value.details()


def test_what_is_too_large_is_refused(served: Child) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        unary(
            served,
            "/inference.GRPCInferenceService/ModelInfer",
            infer_request("FP32", [2, 64], [b"\0" * 2_000_000]),
            inference()["ModelInferResponse"],
        )
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.mark.parametrize(
    ("method", "request_", "code"),
    [
        ("inference.GRPCInferenceService/ModelInfer", infer_request("FP32", [2, 64], [ROWS.tobytes()]), "OK"),
        ("inference.GRPCInferenceService/ModelInfer", infer_request("FP32", [2, 64], [b""]), "INVALID_ARGUMENT"),
        ("inference.GRPCInferenceService/ModelInfer", inference()["ModelInferRequest"](model_name="no"), "NOT_FOUND"),
        ("inference.GRPCInferenceService/ServerLive", inference()["ServerLiveRequest"](), "OK"),
        ("inference.GRPCInferenceService/ModelMetadata", inference()["ModelMetadataRequest"](name="no"), "NOT_FOUND"),
        ("tensorflow.serving.PredictionService/Predict", tfs()["PredictRequest"](), "INVALID_ARGUMENT"),
        ("grpc.health.v1.Health/Check", health()["HealthCheckRequest"](), "OK"),
        ("grpc.health.v1.Health/Check", health()["HealthCheckRequest"](service="no"), "NOT_FOUND"),
    ],
)
def test_ids_come_back_however_the_call_ends(served: Child, method: str, request_: Any, code: str) -> None:
    def told(sent: tuple[tuple[str, str], ...]) -> dict[str, str]:
        with grpc.insecure_channel(f"127.0.0.1:{grpc_port(served)}") as channel:
            call = channel.unary_unary(f"/{method}", lambda message: message.SerializeToString())
            done = call.future(request_, metadata=sent)
            assert done.code().name == code, done.details()
            return dict(done.trailing_metadata())

    sent = (("x-request-id", "abc-1"), ("traceparent", TRACE), ("tracestate", "a=1"))
    back = told((*sent, ("other", "x")))
    assert sent == tuple((name, back[name]) for name, _ in sent)
    assert "other" not in back
    assert ("x-studio-reference" in back) is (method.endswith("ModelInfer") and code != "NOT_FOUND")
    assert "x-request-id" not in told((("x-request-id", "a" * 513),))


def test_ids_come_back_from_a_stream(served: Child) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{grpc_port(served)}") as channel:
        stream = channel.stream_stream(
            "/inference.GRPCInferenceService/ModelStreamInfer", lambda message: message.SerializeToString()
        )
        call = stream(iter([infer_request("FP32", [2, 64], [ROWS.tobytes()])]), metadata=(("x-request-id", "s-1"),))
        assert len(list(call)) == 1
        assert dict(call.trailing_metadata())["x-request-id"] == "s-1"


def test_health(served: Child) -> None:
    request, answer = health()["HealthCheckRequest"](), health()["HealthCheckResponse"]
    assert unary(served, "/grpc.health.v1.Health/Check", request, answer).status == 1
    with pytest.raises(grpc.RpcError) as caught:
        unary(served, "/grpc.health.v1.Health/Check", health()["HealthCheckRequest"](service="other"), answer)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_health_is_told_as_it_changes(tmp_path: Path) -> None:
    request, answer = health()["HealthCheckRequest"], health()["HealthCheckResponse"]
    table = graphs.table(graphs.mlp(tmp_path, model="digits"))
    with (
        running(tmp_path, table, ServingSettings(grpc_port=free_port())) as server,
        grpc.insecure_channel(f"127.0.0.1:{grpc_port(server)}") as channel,
    ):
        watch = channel.unary_stream(
            "/grpc.health.v1.Health/Watch", lambda message: message.SerializeToString(), answer.FromString
        )
        known, unknown = watch(request()), watch(request(service="other"))
        assert next(known).status == 1
        assert next(unknown).status == 3
        server.process.terminate()
        assert [each.status for each in known] == [2]
        assert list(unknown) == []
        assert server.process.wait(10) == 0


def test_a_port_that_is_taken_is_told_and_http_goes_on(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        settings = ServingSettings(grpc_port=taken.getsockname()[1])
        with running(tmp_path, graphs.table(graphs.mlp(tmp_path, model="digits")), settings) as server:
            said = server.wait_for(lambda: server.said("grpc"), "gRPC")[0]
            assert str(settings.grpc_port) in said["error"]
            assert server.json("GET", "/v2/health/ready")[0] == 200


def test_bytes_that_are_no_message_are_the_client_s_fault(tmp_path: Path) -> None:
    garbage = b"\xff\xff\xff\xff"
    table = graphs.table(graphs.mlp(tmp_path, model="digits"))
    with (
        running(tmp_path, table, ServingSettings(grpc_port=free_port())) as server,
        grpc.insecure_channel(f"127.0.0.1:{grpc_port(server)}") as channel,
    ):
        for method in (
            "/inference.GRPCInferenceService/ModelInfer",
            "/tensorflow.serving.PredictionService/Predict",
            "/grpc.health.v1.Health/Check",
        ):
            with pytest.raises(grpc.RpcError) as failed:
                channel.unary_unary(method)(garbage)
            assert failed.value.code() == grpc.StatusCode.INVALID_ARGUMENT, method
        with pytest.raises(grpc.RpcError) as failed:
            list(channel.unary_stream("/grpc.health.v1.Health/Watch")(garbage))
        assert failed.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        with pytest.raises(grpc.RpcError) as failed:
            list(channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")(iter([garbage])))
        assert failed.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert "Traceback" not in server.log.read_text()
