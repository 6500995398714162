"""A runtime for MLServer: it has none for ONNX."""

from __future__ import annotations

from typing import Any

from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse
from onnx_model import run, session


class OnnxRuntime(MLModel):
    async def load(self) -> bool:
        self.model: Any = session()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        rows = NumpyCodec.decode_input(payload.inputs[0])
        output = NumpyCodec.encode_output("y", run(self.model, rows))
        return InferenceResponse(model_name=self.name, outputs=[output])
