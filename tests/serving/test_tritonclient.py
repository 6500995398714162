"""The client that people already have: tritonclient against a real server."""

from __future__ import annotations

from collections.abc import Iterator

import ml_dtypes
import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from tests.serving.harness import Child


@pytest.fixture
def client(server: Child) -> Iterator[triton.InferenceServerClient]:
    client = triton.InferenceServerClient(server.url)
    yield client
    client.close()


def feed(name: str, array: np.ndarray, datatype: str, binary: bool = True) -> triton.InferInput:
    tensor = triton.InferInput(name, list(array.shape), datatype)
    tensor.set_data_from_numpy(array, binary_data=binary)
    return tensor


def sums(binary: bool) -> tuple[np.ndarray, np.ndarray, list[triton.InferInput]]:
    a = np.arange(32, dtype=np.int32).reshape(2, 16)
    b = np.ones((2, 16), dtype=np.int32)
    return a, b, [feed("INPUT0", a, "INT32", binary), feed("INPUT1", b, "INT32", binary)]


def test_health_and_metadata(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("digits")
    assert client.is_model_ready("digits", "3-int8")
    assert not client.is_model_ready("nobody")
    assert "statistics" in client.get_server_metadata()["extensions"]
    metadata = client.get_model_metadata("digits")
    assert metadata["versions"] == ["2", "3", "3-int8"]
    assert metadata["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 64]}]
    assert metadata["outputs"] == [{"name": "y", "datatype": "FP32", "shape": [-1, 10]}]
    config = client.get_model_config("digits", "2")
    assert config["max_batch_size"] > 0
    assert config["input"] == [{"name": "x", "data_type": "TYPE_FP32", "dims": [64]}]
    assert client.get_model_config("floats")["max_batch_size"] == 0
    states = {(row["name"], row["version"]): row["state"] for row in client.get_model_repository_index()}
    assert states["digits", "3"] == "READY"
    assert states["digits", "2"] == "UNAVAILABLE"


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
def test_outputs_in_the_order_asked_for(
    client: triton.InferenceServerClient, binary_in: bool, binary_out: bool
) -> None:
    a, b, inputs = sums(binary_in)
    wanted = [
        triton.InferRequestedOutput("OUTPUT1", binary_data=binary_out),
        triton.InferRequestedOutput("OUTPUT0", binary_data=not binary_out),
    ]
    result = client.infer("simple", inputs, outputs=wanted, request_id="seven")
    response = result.get_response()
    assert response["id"] == "seven"
    assert response["model_version"] == "1"
    assert [output["name"] for output in response["outputs"]] == ["OUTPUT1", "OUTPUT0"]
    np.testing.assert_array_equal(result.as_numpy("OUTPUT0"), a + b)
    np.testing.assert_array_equal(result.as_numpy("OUTPUT1"), a - b)


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compressed_both_ways(client: triton.InferenceServerClient, algorithm: str) -> None:
    a = np.arange(16 * 200, dtype=np.int32).reshape(200, 16)
    inputs = [feed("INPUT0", a, "INT32"), feed("INPUT1", a, "INT32")]
    result = client.infer(
        "simple", inputs, request_compression_algorithm=algorithm, response_compression_algorithm=algorithm
    )
    np.testing.assert_array_equal(result.as_numpy("OUTPUT0"), 2 * a)


@pytest.mark.parametrize("binary", [True, False])
def test_strings(client: triton.InferenceServerClient, binary: bool) -> None:
    words = np.array(["", "ä€😀", "null\0inside", "plain"], dtype=object)
    encoded = np.array([word.encode() for word in words], dtype=object)
    wanted = [triton.InferRequestedOutput("y", binary_data=binary)]
    result = client.infer("words", [feed("x", encoded if binary else words, "BYTES", binary)], outputs=wanted)
    got = [word.decode() if isinstance(word, bytes) else word for word in result.as_numpy("y").tolist()]
    assert got == words.tolist()


def test_half_and_brain_floats(client: triton.InferenceServerClient) -> None:
    half = np.array([1.5, -2.0, np.inf], np.float16)
    np.testing.assert_array_equal(client.infer("half", [feed("x", half, "FP16")]).as_numpy("y"), half)
    brain = np.array([1.5, -2.0, 0.0], ml_dtypes.bfloat16)
    np.testing.assert_array_equal(client.infer("brain", [feed("x", brain, "BF16")]).as_numpy("y"), brain)


def test_classes(client: triton.InferenceServerClient) -> None:
    x = np.random.default_rng(1).normal(size=(3, 64)).astype(np.float32)
    probabilities = client.infer("digits", [feed("x", x, "FP32")]).as_numpy("y")
    wanted = [triton.InferRequestedOutput("y", class_count=2)]
    classes = client.infer("digits", [feed("x", x, "FP32")], outputs=wanted).as_numpy("y")
    assert classes.shape == (3, 2)
    best = [int(row[0].decode().split(":")[1]) for row in classes]
    assert best == probabilities.argmax(axis=1).tolist()
    assert classes[0, 0].decode().endswith(f":class-{best[0]}")


def test_statistics_count_rows_and_runs(client: triton.InferenceServerClient) -> None:
    def figures() -> dict:
        (row,) = client.get_inference_statistics("simple", "1")["model_stats"]
        return row

    before = figures()
    client.infer("simple", sums(True)[2])
    with pytest.raises(InferenceServerException):
        client.infer("simple", sums(True)[2][:1])
    after = figures()
    assert after["inference_count"] - before["inference_count"] == 2
    assert after["execution_count"] - before["execution_count"] == 1
    for phase, more in (("success", 1), ("fail", 1), ("queue", 1), ("compute_infer", 1), ("cache_hit", 0)):
        now, then = after["inference_stats"][phase], before["inference_stats"][phase]
        assert now["count"] - then["count"] == more, phase
        assert (now["ns"] > then["ns"]) == bool(more), phase
    assert {batch["batch_size"] for batch in after["batch_stats"]} >= {2}
    assert any(row["name"] == "simple" for row in client.get_inference_statistics()["model_stats"])


@pytest.mark.parametrize(
    ("model", "version", "inputs", "status", "words"),
    [
        ("nobody", "", sums(True)[2], 404, "Request for unknown model: 'nobody' is not found"),
        ("simple", "9", sums(True)[2], 404, "version '9' is not found"),
        (
            "simple",
            "",
            sums(True)[2][:1],
            400,
            "expected 2 inputs but got 1 inputs for model 'simple'. Got input(s) ['INPUT0'], but missing required "
            "input(s) ['INPUT1']. Please provide all required input(s).",
        ),
        (
            "digits",
            "",
            [feed("x", np.zeros((1, 63), np.float32), "FP32")],
            400,
            "unexpected shape for input 'x' for model 'digits'. Expected [-1,64], got [1,63].",
        ),
        (
            "digits",
            "",
            [feed("x", np.zeros((1, 64), np.float64), "FP64")],
            400,
            "inference input 'x' data-type is 'FP64', but model 'digits' expects 'FP32'",
        ),
        ("broken", "", [feed("x", np.zeros((1, 4), np.float32), "FP32")], 503, "'broken:1-fp32' could not be loaded."),
    ],
)
def test_errors_reach_the_user_in_words(
    client: triton.InferenceServerClient, model: str, version: str, inputs: list, status: int, words: str
) -> None:
    with pytest.raises(InferenceServerException) as caught:
        client.infer(model, inputs, model_version=version)
    assert caught.value.status() == str(status)
    assert words in caught.value.message()
