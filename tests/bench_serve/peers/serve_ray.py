"""Ray Serve on this machine alone, without its dashboard."""

from __future__ import annotations

import json
import os
import signal
import threading
from typing import Any

import ray
from onnx_model import HOST, PORT, WORKERS, rows_of, run, session
from ray import serve
from starlette.requests import Request
from starlette.responses import Response


@serve.deployment(num_replicas=WORKERS, max_ongoing_requests=64, ray_actor_options={"num_cpus": 0.1})
class Inference:
    def __init__(self) -> None:
        self.model = session()

    async def __call__(self, request: Request) -> Any:
        rows = rows_of(json.loads(await request.body()))
        return Response(json.dumps({"y": run(self.model, rows).tolist()}), media_type="application/json")


if __name__ == "__main__":
    ray.init(
        address="local",
        num_cpus=4,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=100_000_000,
        _temp_dir=os.environ["BENCH_FOLDER"],
        runtime_env={"env_vars": {"PYTHONPATH": os.environ["PYTHONPATH"]}},
    )
    serve.start(http_options={"host": HOST, "port": PORT})
    serve.run(Inference.bind(), route_prefix="/predict")
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    stop.wait()
    serve.shutdown()
    ray.shutdown()
