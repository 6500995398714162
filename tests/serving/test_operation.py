"""Finding a request again, and memory: ids, trace context, the access log, unloading."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from studio.core.settings import ServingSettings
from tests.serving import graphs
from tests.serving.harness import Child, running
from tests.serving.test_grpc import free_port, grpc_port

ROW = json.dumps({"inputs": [{"name": "x", "shape": [1, 64], "datatype": "FP32", "data": [0.5] * 64}]}).encode()
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture(scope="module")
def logging(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Child, Path]]:
    """A server, and its access log."""
    folder = tmp_path_factory.mktemp("logging")
    log = folder / "access.jsonl"
    settings = ServingSettings(access_log=str(log))
    with running(folder, graphs.table(graphs.mlp(folder, model="m")), settings) as server:
        yield server, log


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/v2/models/m/infer", ROW, 200),
        ("POST", "/v2/models/m/infer", b"{}", 400),
        ("POST", "/v1/models/m:predict", b"{}", 400),
        ("GET", "/v2/models/m", None, 200),
        ("GET", "/nowhere", None, 404),
    ],
)
def test_ids_come_back(logging: tuple[Child, Path], method: str, path: str, body: bytes | None, status: int) -> None:
    server, _ = logging
    sent = {"X-Request-Id": "abc-1", "traceparent": TRACE}
    got, headers, _ = server.request(method, path, body, sent)
    assert (got, headers.get("x-request-id"), headers.get("traceparent")) == (status, "abc-1", TRACE)
    sent = {"X-Request-Id": "a" * 513, "tracestate": "b" * 512}
    _, headers, _ = server.request(method, path, body, sent)
    assert ("x-request-id" in headers, headers.get("tracestate")) == (False, "b" * 512)


def test_the_access_log_has_a_line_for_each_request(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "access.jsonl"
    settings = ServingSettings(access_log=str(log))
    with running(tmp_path, graphs.table(graphs.mlp(tmp_path, model="m")), settings) as server:
        server.request("POST", "/v2/models/m/infer", ROW, {"x-request-id": "one", "traceparent": TRACE})
        server.request("POST", "/v1/models/m:predict", b'{"instances": [[1]]}', {"x-request-id": "two\\"})
        server.request("GET", "/v2/models/m")
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [(line["id"], line["protocol"], line["status"], line.get("rows")) for line in lines] == [
        ("one", "v2", 200, 1),
        ("two\\", "tfs", 400, None),
    ]
    assert lines[0]["target"] == "m:1-fp32"
    assert lines[0]["traceparent"] == TRACE
    assert lines[0]["latency_us"] > 0
    assert "shape" in lines[1]["error"]
    # What is not there takes no room.
    assert "error" not in lines[0] and "traceparent" not in lines[1]


@pytest.mark.parametrize(
    ("path", "body", "headers", "protocol", "status"),
    [
        ("/v2/models/none/infer", ROW, {}, "v2", 404),
        ("/v2/models/m/infer", ROW, {"Content-Encoding": "br"}, "v2", 501),
        ("/v1/models/m:predict", b"x", {"Content-Encoding": "gzip"}, "tfs", 400),
        ("/predict/m", b"[1]", {}, "predict", 400),
        ("/predictions/m", b"{", {}, "torchserve", 400),
        ("/v1/embeddings", b'{"model":"m","input":"x"}', {}, "openai", 422),
        ("/api/embed", b'{"model":"m","input":"x"}', {}, "ollama", 422),
    ],
)
def test_the_access_log_tells_of_what_came_to_nothing(
    logging: tuple[Child, Path], path: str, body: bytes, headers: dict[str, str], protocol: str, status: int
) -> None:
    server, log = logging
    number = f"{protocol}-{status}"

    def lines() -> list[dict[str, Any]]:
        found = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
        return [line for line in found if line.get("id") == number]

    assert server.request("POST", path, body, headers | {"x-request-id": number})[0] == status
    server.wait_for(lines, "the line")  # they are written twice a second
    (line,) = lines()
    assert (line["protocol"], line["status"]) == (protocol, status)
    assert line["target"] == ("" if status == 404 else "m:1-fp32")
    assert line["error"]
    assert line["latency_us"] > 0
    assert "rows" not in line and "bytes" not in line


def test_calls_over_grpc_are_in_the_access_log_with_their_ids(tmp_path: Path) -> None:
    log = tmp_path / "access.jsonl"
    settings = ServingSettings(access_log=str(log), grpc_port=free_port())
    ids = {"x-request-id": "one", "traceparent": TRACE}
    with (
        running(tmp_path, graphs.table(graphs.mlp(tmp_path, model="m")), settings) as server,
        triton.InferenceServerClient(f"127.0.0.1:{grpc_port(server)}") as client,
    ):
        given = triton.InferInput("x", [1, 64], "FP32")
        given.set_data_from_numpy(np.zeros((1, 64), np.float32))
        client.infer("m", [given], headers=ids)
        with pytest.raises(InferenceServerException):
            client.infer("m", [], headers={"x-request-id": "two"})
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [(line["id"], line["protocol"], line["status"]) for line in lines] == [
        ("one", "v2 grpc", 200),
        ("two", "v2 grpc", 400),
    ]
    assert lines[0]["traceparent"] == TRACE


def test_a_log_that_can_not_be_written_stops_nothing(tmp_path: Path) -> None:
    settings = ServingSettings(access_log=str(tmp_path))  # a folder
    with running(tmp_path, graphs.table(graphs.mlp(tmp_path, model="m")), settings) as server:
        for _ in range(3):
            assert server.request("POST", "/v2/models/m/infer", ROW)[0] == 200
        assert server.close() == 0


def loaded(server: Child) -> set[str]:
    index = server.json("POST", "/v2/repository/index")[1]
    return {f"{row['name']}:{row['version']}" for row in index if row["state"] == "READY"}


def test_models_make_room_for_each_other(tmp_path: Path) -> None:
    """A budget that nothing fits in: what is pinned stays, of the rest the last one used."""
    targets = [graphs.mlp(tmp_path, model="m", version=version) for version in (1, 2, 3)]
    table = graphs.table(*targets, pinned=("m:1-fp32",))
    with running(tmp_path, table, ServingSettings(memory_bytes=1)) as server:
        for version in (2, 3):
            assert server.request("POST", f"/v2/models/m/versions/{version}/infer", ROW)[0] == 200
            assert loaded(server) == {"m:1", f"m:{version}"}
        assert server.request("POST", "/v2/models/m/versions/1/infer", ROW)[0] == 200


def test_idle_models_are_unloaded_and_come_back(tmp_path: Path) -> None:
    targets = [graphs.mlp(tmp_path, model="m", version=version) for version in (1, 2)]
    table = graphs.table(*targets, pinned=("m:1-fp32",))
    with running(tmp_path, table, ServingSettings(idle_seconds=0.3)) as server:
        assert server.request("POST", "/v2/models/m/versions/2/infer", ROW)[0] == 200
        assert loaded(server) == {"m:1", "m:2"}
        server.wait_for(lambda: loaded(server) == {"m:1"}, "the idle model to be unloaded")
        assert server.request("POST", "/v2/models/m/versions/2/infer", ROW)[0] == 200


def test_models_are_loaded_and_unloaded_on_request(tmp_path: Path) -> None:
    targets = [
        graphs.mlp(tmp_path, model="m"),
        graphs.mlp(tmp_path, model="other"),
        graphs.broken(tmp_path, model="bad"),
    ]
    with running(tmp_path, graphs.table(*targets, pinned=("other:1-fp32",))) as server:
        assert server.json("POST", "/v2/repository/models/m/load") == (200, {"name": "m", "load": True})
        assert loaded(server) == {"m:1", "other:1"}
        assert (
            server.json("POST", "/v2/repository/models/m/unload", {"parameters": {"unload_dependents": True}})[0] == 200
        )
        assert server.json("GET", "/v2/models/other/ready")[0] == 200
        assert server.json("POST", "/v2/repository/models/other/unload", {})[0] == 200
        assert loaded(server) == set()
        status, error = server.json("GET", "/v2/models/other/ready")
        assert (status, "It was unloaded" in error["error"]) == (503, True)
        assert server.json("GET", "/v1/models/other")[1]["ready"] is False
        assert server.request("POST", "/v2/models/other/infer", ROW)[0] == 200
        assert loaded(server) == {"other:1"}
        assert server.json("GET", "/v2/models/other/ready")[0] == 200
        assert server.json("GET", "/v1/models/other")[1]["ready"] is True
        status, error = server.json("POST", "/v2/repository/models/bad/load", {})
        assert (status, "failed to load 'bad'" in error["error"]) == (503, True)
        assert server.json("POST", "/v2/repository/models/none/load", {})[0] == 404
        for key in ("config", "file:1/model.onnx"):
            assert server.json("POST", "/v2/repository/models/m/load", {"parameters": {key: "x"}})[0] == 501
