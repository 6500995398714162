"""Run by the interpreter of PaddlePaddle's environment: saves models, and what PaddlePaddle answers on a few rows.

python paddle_models.py FOLDER
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
from paddle import nn

FOLDER = Path(sys.argv[1])
# PaddlePaddle reads it as it is imported: "0" saves files of the older kind.
SWITCH = "FLAGS_enable_pir_api"
OLD = os.environ.get(SWITCH) == "0"
RANDOM = np.random.default_rng(5)


class Recurrent(nn.Layer):
    def __init__(self) -> None:
        super().__init__()
        self.steps, self.last = nn.LSTM(4, 5), nn.Linear(5, 2)

    def forward(self, rows: paddle.Tensor) -> paddle.Tensor:
        return self.last(self.steps(rows)[0][:, -1])


def convolutions() -> nn.Layer:
    image = [nn.Conv2D(3, 6, 3), nn.BatchNorm2D(6), nn.ReLU(), nn.Conv2D(6, 6, 3, groups=6), nn.AdaptiveAvgPool2D(1)]
    return nn.Sequential(*image, nn.Flatten(), nn.Linear(6, 3), nn.Softmax())


def keep(name: str, model: nn.Layer, sent: str, shape: list[int | None], rows: np.ndarray) -> None:
    model.eval()
    answer = model(paddle.to_tensor(rows)).numpy()
    spec = paddle.static.InputSpec(shape, "float32", sent)
    paddle.jit.save(model, str(FOLDER / name / name), input_spec=[spec])
    np.savez(FOLDER / f"{name}.expected.npz", rows=rows, answer=answer)


paddle.seed(1)
rows = RANDOM.normal(size=(7, 3, 12, 12)).astype(np.float32)
keep("old" if OLD else "convolutions", convolutions(), "image", [None, 3, 12, 12], rows)
if not OLD:
    subprocess.run([sys.executable, *sys.argv], env={**os.environ, SWITCH: "0"}, check=True)
    keep("recurrent", Recurrent(), "rows", [None, None, 4], RANDOM.normal(size=(7, 9, 4)).astype(np.float32))
