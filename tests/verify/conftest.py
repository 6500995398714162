"""Small graphs to judge: a reference net and variants of it that are planted to be good or bad."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

Build = Callable[..., Path]


def write(path: Path, nodes: list, inputs: list, outputs: list, weights: dict[str, np.ndarray]) -> Path:
    graph = helper.make_graph(
        nodes, "g", inputs, outputs, [numpy_helper.from_array(value, name) for name, value in weights.items()]
    )
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 17)])
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    return path


def value(name: str, *shape: int | str | None, kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, list(shape))


@pytest.fixture
def net(tmp_path: Path) -> Build:
    """`net(name, seed=0, extra=0, spoil='')`: 16 numbers in, scores of 4 classes out, 20 kB of weights.

    `extra` adds that many rounds of work which change nothing; `spoil` 'nan' gives NaN for rows whose first number is
    positive, 'noise' changes weights a little, 'constant' answers the same for every row.
    """

    def build(name: str, seed: int = 0, extra: int = 0, spoil: str = "") -> Path:
        random = np.random.default_rng(seed)
        weights = {
            "w1": random.standard_normal((16, 256)).astype(np.float32) / 4,
            "w2": random.standard_normal((256, 4)).astype(np.float32) / 16,
        }
        if spoil == "noise":
            weights["w2"] = weights["w2"] * (1 + 1e-4 * random.standard_normal((256, 4)).astype(np.float32))
        if spoil == "constant":
            weights["w2"] = np.zeros_like(weights["w2"])
        nodes = [helper.make_node("MatMul", ["x", "w1"], ["a"]), helper.make_node("Relu", ["a"], ["h0"])]
        for turn in range(extra):
            # A softmax over the row, times nothing: real work that no optimiser takes away.
            nodes += [
                helper.make_node("Softmax", [f"h{turn}"], [f"s{turn}"]),
                helper.make_node("Mul", [f"s{turn}", "tiny"], [f"t{turn}"]),
                helper.make_node("Add", [f"h{turn}", f"t{turn}"], [f"h{turn + 1}"]),
            ]
            weights["tiny"] = np.float32(1e-12).reshape(())
        nodes.append(helper.make_node("MatMul", [f"h{extra}", "w2"], ["y"]))
        if spoil == "nan":
            weights |= {"zero": np.array([0], np.int64), "one": np.array([1], np.int64)}
            nodes[-1].output[0] = "z"
            nodes += [
                helper.make_node("Slice", ["x", "zero", "one", "one"], ["first"]),
                helper.make_node("Neg", ["first"], ["negative"]),
                helper.make_node("Sqrt", ["negative"], ["root"]),
                helper.make_node("Add", ["z", "root"], ["y"]),
            ]
        if spoil == "constant":
            weights["bias"] = np.array([1, 2, 3, 4], np.float32)
            nodes[-1].output[0] = "z"
            nodes.append(helper.make_node("Add", ["z", "bias"], ["y"]))
        return write(tmp_path / f"{name}.onnx", nodes, [value("x", "batch", 16)], [value("y", "batch", 4)], weights)

    return build


@pytest.fixture
def rows() -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(5).standard_normal((120, 16)).astype(np.float32)}
