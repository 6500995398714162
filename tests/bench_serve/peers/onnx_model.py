"""What every handwritten server here shares: the session with Studio's options, and where to listen.

The modules of this folder run in the environments of the servers that they start, so they import nothing of Studio.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import onnxruntime

HOST = os.environ["BENCH_HOST"]
PORT = int(os.environ["BENCH_PORT"])
WORKERS = int(os.environ["BENCH_WORKERS"])
BATCH = int(os.environ["BENCH_BATCH"])
WAIT_MS = int(os.environ["BENCH_WAIT_MS"])


def session() -> Any:
    """One intra-op thread and no spinning, as Studio runs it."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(os.environ["BENCH_MODEL"], options, providers=["CPUExecutionProvider"])


def run(model: Any, rows: Any) -> Any:
    return model.run(["y"], {"x": rows})[0]


def rows_of(document: dict[str, Any]) -> Any:
    """The tensor of `{"shape": […], "data": [flat numbers]}`."""
    return np.array(document["data"], np.float32).reshape(document["shape"])


def run_many(model: Any, documents: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A batch that a server gathered, run as one."""
    answer = run(model, np.concatenate([rows_of(document) for document in documents]))
    return [{"y": row[None].tolist()} for row in answer]
