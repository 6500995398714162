"""Who is measured: Studio by each of its protocols, the raw loop, and the peers with the settings that serve them best.

Every HTTP server gets the same row of numbers and must give the same answer. Servers written here take
`{"shape": […], "data": [flat numbers]}` and answer `{"y": [[…]]}`; others speak what they speak.
"""

from __future__ import annotations

import json
import os
import socket
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tests.bench_serve.loads import Request
from tests.bench_serve.models import Array, Model

PEERS = Path(__file__).parent / "peers"
HOST = "127.0.0.1"


@dataclass(frozen=True)
class Setting:
    """How a peer is set up: processes that run the model, rows of a batch, and how long a batch may wait to fill."""

    workers: int = 1
    batch: int = 1
    wait_ms: int = 0


@dataclass(frozen=True)
class Place:
    """Where a peer is started: its folder, its environment's `bin`, ports that are free, what it serves and how."""

    folder: Path
    programs: Path
    ports: tuple[int, int, int, int, int]
    model: Model
    setting: Setting

    @property
    def python(self) -> str:
        return str(self.programs / "python")


@dataclass(frozen=True)
class Peer:
    """`launch` gives the command and what it wants in its environment. `settings` by model, "" for all others."""

    name: str
    environment: str
    launch: Callable[[Place], tuple[list[str], dict[str, str]]]
    settings: dict[str, Setting]
    request: Callable[[Model], Request]
    answer: Callable[[bytes, Model], Array]
    note: str

    def setting(self, model: str) -> Setting:
        return self.settings.get(model, self.settings[""])


def free_ports(count: int) -> tuple[int, ...]:
    sockets = [socket.socket() for _ in range(count)]
    for sock in sockets:
        sock.bind((HOST, 0))
    ports = tuple(sock.getsockname()[1] for sock in sockets)
    for sock in sockets:
        sock.close()
    return ports


def variables(place: Place) -> dict[str, str]:
    """What every peer finds in its environment."""
    return {
        "PATH": f"{place.programs}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(PEERS),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
        "ORT_DISABLE_TELEMETRY": "1",
        "DO_NOT_TRACK": "1",
        "BENCH_MODEL": str(place.model.path),
        "BENCH_HOST": HOST,
        "BENCH_PORT": str(place.ports[0]),
        "BENCH_PORT_2": str(place.ports[1]),
        "BENCH_PORT_3": str(place.ports[2]),
        "BENCH_FOLDER": str(place.folder),
        "BENCH_WORKERS": str(place.setting.workers),
        "BENCH_BATCH": str(place.setting.batch),
        "BENCH_WAIT_MS": str(place.setting.wait_ms),
    }


def numbers(model: Model) -> list[float]:
    """The row as people send it: four decimals."""
    return [round(float(value), 4) for value in model.row.ravel()]


def plain(model: Model, path: str = "/predict") -> Request:
    return Request(path, json.dumps({"shape": model.row.shape, "data": numbers(model)}).encode())


def plain_answer(body: bytes, model: Model) -> Array:
    return np.array(json.loads(body)["y"])


def v2_json(model: Model) -> Request:
    tensor = {"name": "x", "shape": model.row.shape, "datatype": "FP32", "data": numbers(model)}
    return Request("/v2/models/m/infer", json.dumps({"inputs": [tensor]}).encode())


def v2_json_answer(body: bytes, model: Model) -> Array:
    (output,) = json.loads(body)["outputs"]
    return np.array(output["data"]).reshape(output["shape"])


def v2_binary(model: Model) -> Request:
    tensor: dict[str, Any] = {"name": "x", "shape": model.row.shape, "datatype": "FP32"}
    tensor["parameters"] = {"binary_data_size": model.row.nbytes}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    headers = (
        ("Content-Type", "application/octet-stream"),
        ("Inference-Header-Content-Length", str(len(head))),
    )
    return Request("/v2/models/m/infer", head + model.row.tobytes(), headers)


def v2_binary_answer(body: bytes, model: Model) -> Array:
    """The one output's bytes are the end of the body."""
    return np.frombuffer(body[-model.answer.nbytes :], np.float32).reshape(model.answer.shape)


def predict(model: Model) -> Request:
    rows = np.array(numbers(model)).reshape(model.row.shape).tolist()
    return Request("/v1/models/m:predict", json.dumps({"instances": rows}).encode())


def predict_answer(body: bytes, model: Model) -> Array:
    return np.array(json.loads(body)["predictions"])


def grpc_message(model: Model) -> bytes:
    """A ModelInferRequest with raw contents."""
    from studio.serving.grpc.oip_messages import inference

    message = inference()["ModelInferRequest"](model_name="m")
    message.inputs.add(name="x", datatype="FP32", shape=model.row.shape)
    message.raw_input_contents.append(model.row.tobytes())
    data: bytes = message.SerializeToString()
    return data


def grpc_answer(body: bytes, model: Model) -> Array:
    from studio.serving.grpc.oip_messages import inference

    message = inference()["ModelInferResponse"].FromString(body)
    return np.frombuffer(message.raw_output_contents[0], np.float32).reshape(model.answer.shape)


def _script(name: str, *arguments: str) -> Callable[[Place], tuple[list[str], dict[str, str]]]:
    def launch(place: Place) -> tuple[list[str], dict[str, str]]:
        return [place.python, str(PEERS / name), *arguments], {}

    return launch


def _mosec(place: Place) -> tuple[list[str], dict[str, str]]:
    listen = ["--address", HOST, "--port", str(place.ports[0]), "--log-level", "warning"]
    return [place.python, str(PEERS / "serve_mosec.py"), *listen], {}


def _bentoml(place: Place) -> tuple[list[str], dict[str, str]]:
    listen = ["--host", HOST, "--port", str(place.ports[0]), "--working-dir", str(PEERS)]
    command = [place.python, "-m", "bentoml", "serve", "serve_bentoml:Inference", *listen]
    return command, {"BENTOML_HOME": str(place.folder), "BENTOML_DO_NOT_TRACK": "True"}


def _mlserver(place: Place) -> tuple[list[str], dict[str, str]]:
    server = {
        "host": HOST,
        "http_port": place.ports[0],
        "grpc_port": place.ports[1],
        "metrics_endpoint": None,
        "parallel_workers": 0,
        "debug": False,
    }
    batching = {"max_batch_size": place.setting.batch, "max_batch_time": place.setting.wait_ms / 1000}
    model = {"name": "m", "implementation": "serve_mlserver.OnnxRuntime"}
    (place.folder / "settings.json").write_text(json.dumps(server))
    (place.folder / "model-settings.json").write_text(
        json.dumps({**model, **(batching if place.setting.batch > 1 else {})})
    )
    return [str(place.programs / "mlserver"), "start", str(place.folder)], {}


def _torchserve(place: Place) -> tuple[list[str], dict[str, str]]:
    with zipfile.ZipFile(place.folder / "m.mar", "w") as archive:
        archive.write(PEERS / "torchserve_handler.py", "torchserve_handler.py")
        model = {"modelName": "m", "handler": "torchserve_handler.py", "modelVersion": "1.0"}
        manifest = {"runtime": "python", "archiverVersion": "0.12.0", "model": model}
        archive.writestr("MAR-INF/MANIFEST.json", json.dumps(manifest))
    loaded = {
        "marName": "m.mar",
        "defaultVersion": True,
        "minWorkers": place.setting.workers,
        "maxWorkers": place.setting.workers,
        "batchSize": place.setting.batch,
        "maxBatchDelay": max(place.setting.wait_ms, 1),
        "responseTimeout": 60,
    }
    http, management, metrics, grpc, grpc_management = place.ports
    properties = {
        "inference_address": f"http://{HOST}:{http}",
        "management_address": f"http://{HOST}:{management}",
        "metrics_address": f"http://{HOST}:{metrics}",
        "grpc_inference_address": HOST,
        "grpc_management_address": HOST,
        "grpc_inference_port": grpc,
        "grpc_management_port": grpc_management,
        "model_store": place.folder,
        "load_models": "m.mar",
        "models": json.dumps({"m": {"1.0": loaded}}),
        "disable_token_authorization": "true",
        "async_logging": "true",
        "job_queue_size": 1000,
    }
    config = place.folder / "config.properties"
    config.write_text("".join(f"{key}={value}\n" for key, value in properties.items()))
    command = [str(place.programs / "torchserve"), "--start", "--foreground", "--ts-config", str(config)]
    return [*command, "--model-store", str(place.folder)], {
        "LOG_LOCATION": str(place.folder),
        "TEMP": str(place.folder),
    }


def _ray(place: Place) -> tuple[list[str], dict[str, str]]:
    """HAProxy in front of the replicas. It listens on every interface, so the whole benchmark runs where there is only
    the loopback one (see `__main__`)."""
    _, metrics, stats, *_ = place.ports
    return [place.python, str(PEERS / "serve_ray.py")], {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(place.folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(place.folder / "admin.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(place.folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(place.folder / "server-state"),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(stats),
    }


CORES = os.cpu_count() or 1
ALL: tuple[Peer, ...] = (
    Peer(
        "mosec",
        "mosec",
        _mosec,
        {"": Setting(workers=CORES)},
        lambda model: plain(model, "/inference"),
        plain_answer,
        "no batching, a worker a core, JSON by msgspec",
    ),
    Peer(
        "mosec, batching",
        "mosec",
        _mosec,
        {"": Setting(workers=CORES, batch=32, wait_ms=1)},
        lambda model: plain(model, "/inference"),
        plain_answer,
        "batches of 32 that wait 1 ms at most, a worker a core, JSON by msgspec",
    ),
    Peer(
        "FastAPI, naive",
        "fastapi",
        _script("serve_fastapi.py"),
        {"": Setting()},
        plain,
        plain_answer,
        "as most write it: a pydantic body, a plain function, uvicorn with uvloop and httptools, no access log",
    ),
    Peer(
        "LitServe",
        "litserve",
        _script("serve_litserve.py"),
        {"": Setting(workers=CORES), "tiny": Setting(batch=16, wait_ms=1)},
        plain,
        plain_answer,
        "tiny: one worker, batches of 16 that wait 1 ms at most; others: a worker a core, no batching",
    ),
    Peer(
        "BentoML",
        "bentoml",
        _bentoml,
        {"": Setting(workers=CORES)},
        plain,
        plain_answer,
        "a worker a core, access log and metrics off",
    ),
    Peer(
        "MLServer",
        "mlserver",
        _mlserver,
        {"": Setting()},
        v2_json,
        v2_json_answer,
        "parallel_workers 0, a runtime for ONNX written for this, metrics off",
    ),
    Peer(
        "Triton (pytriton)",
        "pytriton",
        _script("serve_pytriton.py"),
        {"": Setting(workers=CORES, batch=64), "tiny": Setting(batch=64)},
        v2_binary,
        v2_binary_answer,
        "dynamic batching without delay, binary tensors; tiny: one inference callable, others: one a core",
    ),
    Peer(
        "TorchServe",
        "torchserve",
        _torchserve,
        {"": Setting(workers=1, batch=32, wait_ms=1)},
        lambda model: plain(model, "/predictions/m"),
        plain_answer,
        "batches of 32 that wait 1 ms at most, asynchronous logging, a handler on ONNX Runtime",
    ),
    Peer(
        "Ray Serve, HAProxy",
        "ray",
        _ray,
        {"": Setting(workers=CORES)},
        plain,
        plain_answer,
        "RAY_SERVE_ENABLE_HA_PROXY and RAY_SERVE_THROUGHPUT_OPTIMIZED, a replica a core, no dashboard",
    ),
)
