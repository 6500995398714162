"""mosec with msgspec's JSON in place of its default (`json` with an indent), which serves it better."""

from __future__ import annotations

from typing import Any

import msgspec
from mosec import Server, Worker
from onnx_model import BATCH, WAIT_MS, WORKERS, rows_of, run, run_many, session


class Inference(Worker):
    def __init__(self) -> None:
        self.model = session()

    def deserialize(self, data: bytes) -> Any:
        return msgspec.json.decode(data)

    def serialize(self, data: Any) -> bytes:
        return msgspec.json.encode(data)

    def forward(self, data: Any) -> Any:
        if isinstance(data, list):
            return run_many(self.model, data)
        return {"y": run(self.model, rows_of(data)).tolist()}


if __name__ == "__main__":
    server = Server()
    server.append_worker(Inference, num=WORKERS, max_batch_size=BATCH, max_wait_time=WAIT_MS, timeout=60)
    server.run()
