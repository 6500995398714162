"""Triton, started and fed by pytriton, with dynamic batching."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from onnx_model import BATCH, HOST, PORT, WAIT_MS, WORKERS, run, session
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

model = session()
shapes = [tuple(spec.shape[1:]) for spec in (model.get_inputs()[0], model.get_outputs()[0])]


@batch
def infer(x: Any) -> dict[str, Any]:
    return {"y": run(model, x)}


if __name__ == "__main__":
    config = TritonConfig(
        http_address=HOST,
        http_port=PORT,
        grpc_address=HOST,
        grpc_port=int(os.environ["BENCH_PORT_2"]),
        metrics_address=HOST,
        metrics_port=int(os.environ["BENCH_PORT_3"]),
        log_verbose=0,
    )
    with Triton(config=config) as triton:
        triton.bind(
            model_name="m",
            infer_func=[infer] * WORKERS,
            inputs=[Tensor(name="x", dtype=np.float32, shape=shapes[0])],
            outputs=[Tensor(name="y", dtype=np.float32, shape=shapes[1])],
            config=ModelConfig(
                max_batch_size=BATCH, batcher=DynamicBatcher(max_queue_delay_microseconds=1000 * WAIT_MS)
            ),
        )
        triton.serve()
