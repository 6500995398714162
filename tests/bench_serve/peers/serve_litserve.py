"""LitServe."""

from __future__ import annotations

from typing import Any

import litserve
import numpy as np
from onnx_model import BATCH, HOST, PORT, WAIT_MS, WORKERS, rows_of, run, session


class Inference(litserve.LitAPI):
    def setup(self, device: str) -> None:
        self.model = session()

    def decode_request(self, request):  # a type here would become the schema of a body model
        return rows_of(request)

    def predict(self, x: Any) -> Any:
        return run(self.model, x)

    def batch(self, inputs: list[Any]) -> Any:
        return np.concatenate(inputs)

    def unbatch(self, output: Any) -> list[Any]:
        return [row[None] for row in output]

    def encode_response(self, output: Any) -> dict[str, Any]:
        return {"y": output.tolist()}


if __name__ == "__main__":
    api = Inference(max_batch_size=BATCH, batch_timeout=WAIT_MS / 1000 if BATCH > 1 else 0)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=WORKERS)
    server.run(
        host=HOST, port=PORT, num_api_servers=1, log_level="warning", generate_client_file=False, access_log=False
    )
