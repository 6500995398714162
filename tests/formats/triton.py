"""Triton model folders for tests."""

from __future__ import annotations

from pathlib import Path

import onnx

from tests.formats.graphs import linear, save

CONFIG = """
name: "linear"
platform: "onnxruntime_onnx"
max_batch_size: 8
input [ { name: "x" data_type: TYPE_FP32 dims: [ 4 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ 3 ] label_filename: "labels.txt" } ]
dynamic_batching { preferred_batch_size: [ 4, 8 ] }
"""


def model_folder(
    root: Path, config: str | None = CONFIG, versions: dict[str, onnx.ModelProto | bytes] | None = None
) -> Path:
    """`root` with a configuration, a labels file and `model.onnx` in each version's folder."""
    for number, model in (versions or {"1": linear()}).items():
        (root / number).mkdir(parents=True)
        if isinstance(model, bytes):
            (root / number / "model.plan").write_bytes(model)
        else:
            save(model, root / number / "model.onnx")
    root.mkdir(exist_ok=True)
    if config is not None:
        (root / "config.pbtxt").write_text(config)
        (root / "labels.txt").write_text("cat\ndog\nhen\n\n")
    return root
