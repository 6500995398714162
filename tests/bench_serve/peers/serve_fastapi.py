"""FastAPI as most people write it: a body model, a plain function, a list back."""

from __future__ import annotations

import numpy as np
import uvicorn
from fastapi import FastAPI
from onnx_model import HOST, PORT, run, session
from pydantic import BaseModel

app = FastAPI()
model = session()


class Tensor(BaseModel):
    shape: list[int]
    data: list[float]


@app.post("/predict")
def predict(tensor: Tensor) -> dict[str, list[list[float]]]:
    rows = np.array(tensor.data, np.float32).reshape(tensor.shape)
    return {"y": run(model, rows).tolist()}


if __name__ == "__main__":
    uvicorn.run(app, host=HOST, port=PORT, access_log=False, log_level="warning")
