"""BentoML, with its access log and metrics off."""

from __future__ import annotations

import bentoml
import numpy as np
from onnx_model import WORKERS, run, session


@bentoml.service(
    workers=WORKERS,
    traffic={"timeout": 60},
    logging={"access": {"enabled": False}},
    metrics={"enabled": False},
)
class Inference:
    def __init__(self) -> None:
        self.model = session()

    @bentoml.api
    def predict(self, shape: list[int], data: list[float]) -> dict[str, list[list[float]]]:
        return {"y": run(self.model, np.array(data, np.float32).reshape(shape)).tolist()}
