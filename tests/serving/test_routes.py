"""Splits and shadows over real servers: who answers, on every protocol, and what a shadow may never do."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from studio.core.route import Arm, chosen
from studio.core.routing import ModelRoutes, RoutingTable
from studio.core.settings import ServingSettings
from studio.serving.grpc import tfs
from studio.serving.grpc.oip_messages import inference
from studio.serving.grpc.tfs_messages import messages
from tests.serving import graphs
from tests.serving.harness import Child, running
from tests.serving.test_grpc import free_port, grpc_port
from tests.serving.test_metrics import samples

ARMS = (Arm(name="production", key="1-fp32", weight=70), Arm(name="2", key="2-fp32", weight=30))
ROW = [1.0, 2.0, 3.0, 4.0]
BODY = {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": ROW}]}
FACTORS = {1.0: "m:1-fp32", 2.0: "m:2-fp32", 3.0: "m:3-int8"}
KEYS = [f"user-{n}" for n in range(12)]


def with_route(table: RoutingTable, model: str = "m", **route: Any) -> RoutingTable:
    routes: ModelRoutes = replace(table.models[model], **route)
    return replace(table, models=table.models | {model: routes})


def expected(key: str) -> str:
    return f"m:{chosen(ARMS, 'm', key.encode()).key}"


def who(value: Any) -> str:
    """Who gave this row: each version multiplies by a factor of its own."""
    return FACTORS[round(float(np.ravel(value)[0]), 3)]


def v2(server: Child, key: str, name: str = "m") -> tuple[str, str]:
    status, headers, body = server.request(
        "POST", f"/v2/models/{name}/infer", json.dumps(BODY).encode(), {"X-Studio-Key": key} if key else {}
    )
    assert status == 200, body
    answer = json.loads(body)
    assert headers["x-studio-reference"].partition(":")[2].removesuffix("-fp32") == answer["model_version"]
    return who(answer["outputs"][0]["data"]), headers["x-studio-reference"]


def v2_the_long_way(server: Child, key: str) -> tuple[str, str]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port)
    connection.request("POST", "/v2/models/m/infer", iter([json.dumps(BODY).encode()]), {"X-Studio-Key": key})
    response = connection.getresponse()
    answer = json.loads(response.read())
    connection.close()
    return who(answer["outputs"][0]["data"]), response.headers["x-studio-reference"]


def tf_serving(server: Child, key: str) -> tuple[str, str]:
    body = json.dumps({"instances": [ROW]}).encode()
    _, headers, answer = server.request("POST", "/v1/models/m:predict", body, {"X-Studio-Key": key})
    return who(json.loads(answer)["predictions"]), headers["x-studio-reference"]


def torchserve(server: Child, key: str) -> tuple[str, str]:
    _, headers, answer = server.request("POST", "/predictions/m", json.dumps([ROW]).encode(), {"X-Studio-Key": key})
    return who(json.loads(answer)), headers["x-studio-reference"]


def predict(server: Child, key: str) -> tuple[str, str]:
    _, headers, body = server.request("POST", "/predict/m", json.dumps([ROW]).encode(), {"X-Studio-Key": key})
    answer = json.loads(body)
    assert headers["x-studio-reference"] == f"m:{answer['version']}-{answer['variant']}"
    return who(answer["outputs"]["y"]), headers["x-studio-reference"]


def call(server: Child, method: str, request: Any, answer: Any, key: str) -> tuple[Any, str]:
    with grpc.insecure_channel(f"127.0.0.1:{grpc_port(server)}") as channel:
        unary = channel.unary_unary(method, lambda message: message.SerializeToString(), answer.FromString)
        result, done = unary.with_call(request, metadata=(("x-studio-key", key),))
        return result, dict(done.trailing_metadata())["x-studio-reference"]


def v2_grpc(server: Child, key: str) -> tuple[str, str]:
    request = inference()["ModelInferRequest"](model_name="m")
    request.inputs.add(name="x", datatype="FP32", shape=[1, 4])
    request.raw_input_contents.append(np.array(ROW, np.float32).tobytes())
    path = "/inference.GRPCInferenceService/ModelInfer"
    answer, name = call(server, path, request, inference()["ModelInferResponse"], key)
    assert name == f"m:{answer.model_version}-fp32"
    return who(np.frombuffer(answer.raw_output_contents[0], np.float32)), name


def tf_serving_grpc(server: Child, key: str) -> tuple[str, str]:
    request = messages()["PredictRequest"]()
    request.model_spec.name = "m"
    tensor = request.inputs["x"]
    tensor.dtype = 1
    tensor.tensor_shape.dim.add(size=1)
    tensor.tensor_shape.dim.add(size=4)
    tensor.float_val.extend(ROW)
    path = f"/{tfs.PREDICTION}/Predict"
    answer, name = call(server, path, request, messages()["PredictResponse"], key)
    assert name == f"m:{answer.model_spec.version.value}-fp32"
    return who(np.frombuffer(answer.outputs["y"].tensor_content, np.float32)), name


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Child]:
    folder = tmp_path_factory.mktemp("split")
    table = graphs.table(
        graphs.scaled(folder, 1.0, version=1),
        graphs.scaled(folder, 2.0, version=2),
        graphs.scaled(folder, 3.0, version=3, variant="int8"),
        graphs.sentences(folder, model="e"),
        replace(graphs.sentences(folder, model="e"), version=2),
        aliases={"production": "1-fp32", "candidate": "2-fp32"},
    )
    table = with_route(table, split=ARMS)
    table = with_route(table, "e", split=ARMS)
    with running(folder, table, ServingSettings(grpc_port=free_port())) as server:
        yield server


@pytest.mark.parametrize("ask", [v2, v2_the_long_way, tf_serving, torchserve, predict, v2_grpc, tf_serving_grpc])
def test_a_key_meets_its_version_and_the_answer_says_which(split: Child, ask: Callable[..., tuple[str, str]]) -> None:
    assert len({expected(key) for key in KEYS}) == 2
    for key in KEYS:
        assert ask(split, key) == (expected(key), expected(key))


@pytest.mark.parametrize(
    ("path", "body", "key"),
    [
        ("/openai/v1/embeddings", {"model": "e", "input": "the cat"}, ""),
        ("/openai/v1/embeddings", {"model": "e", "input": "the cat"}, "user"),
        ("/api/embed", {"model": "e", "input": "the cat"}, ""),
    ],
)
def test_texts_are_split_too(split: Child, path: str, body: dict[str, Any], key: str) -> None:
    for name in KEYS:
        document = body | ({key: name} if key else {})
        headers = {} if key else {"X-Studio-Key": name}
        status, got, _ = split.request("POST", path, json.dumps(document).encode(), headers)
        assert status == 200
        assert got["x-studio-reference"] == f"e:{chosen(ARMS, 'e', name.encode()).key}"


def test_only_the_bare_name_is_split(split: Child) -> None:
    for name, answers in (("m:1", "m:1-fp32"), ("m:candidate", "m:2-fp32"), ("m:3-int8", "m:3-int8")):
        assert {v2(split, key, name)[0] for key in KEYS} == {answers}
    body = json.dumps({"instances": [ROW]}).encode()
    for part in ("versions/1", "labels/production"):
        assert {
            split.request("POST", f"/v1/models/m/{part}:predict", body, {"X-Studio-Key": key})[1]["x-studio-reference"]
            for key in KEYS
        } == {"m:1-fp32"}


def test_without_a_key_the_weights_decide_and_an_id_stays(split: Child) -> None:
    answered = [v2(split, "")[0] for _ in range(300)]
    assert 45 <= answered.count("m:2-fp32") <= 140
    again = {
        split.request("POST", "/v2/models/m/infer", json.dumps(BODY).encode(), {"X-Request-Id": "retried"})[1][
            "x-studio-reference"
        ]
        for _ in range(20)
    }
    assert len(again) == 1


def test_an_error_says_whose_it_is(split: Child) -> None:
    status, headers, _ = split.request("POST", "/v2/models/m:2/infer", b'{"inputs":[]}')
    assert (status, headers["x-studio-reference"]) == (400, "m:2-fp32")


def test_what_does_not_load_takes_no_part(tmp_path: Path) -> None:
    table = graphs.table(graphs.scaled(tmp_path, 1.0, version=1), replace(graphs.broken(tmp_path), version=2))
    with running(tmp_path, with_route(table, split=ARMS, shadow=replace(ARMS[1], weight=1))) as server:
        assert {v2(server, key)[0] for key in KEYS} == {"m:1-fp32"}


def figures(server: Child, model: str = "m") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = server.json("GET", f"/v2/models/{model}/stats")[1].get("shadow_stats", [])
    return found


def until(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 20
    while not (value := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return value


def shadowed(folder: Path, share: float = 1.0) -> RoutingTable:
    table = graphs.table(
        graphs.scaled(folder, 1.0, version=1), graphs.scaled(folder, 2.0, version=2), aliases={"production": "1-fp32"}
    )
    return with_route(table, shadow=Arm(name="2", key="2-fp32", weight=share))


def test_a_shadow_is_compared_and_shown(tmp_path: Path) -> None:
    with running(tmp_path, shadowed(tmp_path)) as server:
        for count in range(1, 6):
            assert v2(server, "")[0] == "m:1-fp32"
            until(lambda count=count: figures(server) and figures(server)[0]["compared"] == count)
        v2(server, "", "m:1")
        v2(server, "", "m:production")
        (seen,) = figures(server)
        assert (seen["target"], seen["shadow"], seen["compared"]) == ("m:1-fp32", "m:2-fp32", 5)
        assert (seen["dropped"], seen["failed"]) == (0, 0)
        # Twice the answer: the same direction and order, and 4 away at most.
        assert seen["cosine_min"] == pytest.approx(1)
        assert seen["max_difference"] == pytest.approx(4)
        assert seen["agreement"] == 1
        assert seen["shadow_p50_us"] > 0
        labels = frozenset({("model", "m"), ("version", "1"), ("variant", "fp32"), ("shadow", "2-fp32")})
        found = samples(server)
        assert found["studio_shadow_requests_total", labels | {("result", "compared")}] == 5
        assert found["studio_shadow_difference_max", labels] == pytest.approx(4)
        assert found["studio_shadow_run_seconds_count", labels | {("of", "shadow")}] == 5
        # A shadow's runs are no requests of it.
        assert not [key for key in found if key[0] == "studio_requests_total" and ("version", "2") in key[1]]
        told = server.wait_for(lambda: [tick for said in server.said("tick") for tick in said["tick"]["shadows"]])
        assert sum(one["compared"] for one in told) <= 5
        assert told[0]["shadow"] == "m:2-fp32"


def test_a_share_of_the_requests_is_copied(tmp_path: Path) -> None:
    with running(tmp_path, shadowed(tmp_path, share=0.25)) as server:
        for _ in range(120):
            v2(server, "")
        until(lambda: 5 <= sum(one["compared"] + one["dropped"] for one in figures(server)) <= 60)


def test_a_shadow_that_fails_fails_nobody(tmp_path: Path) -> None:
    other = replace(graphs.identity(tmp_path, "FP32", ("n", 3)), version=2)
    table = graphs.table(graphs.scaled(tmp_path, 1.0, version=1), other)
    with running(tmp_path, with_route(table, shadow=Arm(name="2", key="2-fp32", weight=1))) as server:
        assert v2(server, "")[0] == "m:1-fp32"
        (seen,) = until(lambda: figures(server))
        assert seen["failed"] == 1
        assert "m:2-fp32" in seen["error"]
        assert v2(server, "")[0] == "m:1-fp32"


def slow_pair(folder: Path) -> RoutingTable:
    """Two versions that take as long as they are told."""
    table = graphs.table(graphs.slow(folder, version=1), replace(graphs.slow(folder), version=2))
    return with_route(table, shadow=Arm(name="2", key="2-fp32", weight=1))


def ask_slow(server: Child, n: int) -> int:
    body = {"inputs": [{"name": "n", "shape": [1], "datatype": "INT64", "data": [n]}], "outputs": [{"name": "y"}]}
    return server.infer("m", body)[0]


def test_a_shadow_gives_way_to_requests(tmp_path: Path) -> None:
    """A long copy is stopped when requests need its core, and those that come while there is no time are dropped."""
    with running(tmp_path, slow_pair(tmp_path), ServingSettings(run_threads=2)) as server:
        with ThreadPoolExecutor(4) as clients:
            assert set(clients.map(lambda _: ask_slow(server, 50), range(60))) == {200}
        seen = until(lambda: [one for one in figures(server) if one["compared"] + one["dropped"] == 60])
        assert seen[0]["dropped"] > 5
        assert seen[0]["failed"] == 0


def test_a_swap_takes_the_figures_of_what_is_gone_along(tmp_path: Path) -> None:
    with running(tmp_path, shadowed(tmp_path)) as server:
        v2(server, "")
        until(lambda: figures(server))
        server.apply(graphs.table(graphs.scaled(tmp_path, 1.0, version=1), generation=2))
        assert figures(server) == []
        assert v2(server, "")[0] == "m:1-fp32"
