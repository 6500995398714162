"""Graphs for recipes: nets as exporters write them, and the traps that come with them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

Run = Callable[[Path, dict[str, np.ndarray]], dict[str, np.ndarray]]


def save(path: Path, nodes, inputs, outputs, weights=None, domains=(), ir_version=10, opset=17, value_info=()) -> Path:
    tensors = [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()]
    graph = helper.make_graph(nodes, "g", inputs, outputs, tensors, value_info=list(value_info))
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(name, number) for name, number in domains)]
    model = helper.make_model(graph, ir_version=ir_version, opset_imports=opsets)
    path.write_bytes(model.SerializeToString())
    return path


def value(name: str, *shape: int | str, kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, list(shape))


@pytest.fixture
def outputs_of() -> Run:
    def run(path: Path, feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        names = [out.name for out in session.get_outputs()]
        return dict(zip(names, session.run(names, feed), strict=True))

    return run


@pytest.fixture
def conv_net(tmp_path: Path) -> Path:
    """Conv, flatten, Gemm, Gemm, with `value_info` for the weights as torch's exporter writes it."""
    random = np.random.default_rng(0)
    weights = {
        "k": random.standard_normal((8, 1, 3, 3)).astype(np.float32) / 3,
        "w1": random.standard_normal((64, 512)).astype(np.float32) / 22,
        "b1": random.standard_normal(64).astype(np.float32),
        "w2": random.standard_normal((10, 64)).astype(np.float32) / 8,
        "b2": random.standard_normal(10).astype(np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "k"], ["c"], name="conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"], name="relu"),
        helper.make_node("Flatten", ["r"], ["f"], name="flatten"),
        helper.make_node("Gemm", ["f", "w1", "b1"], ["g"], name="gemm1", transB=1),
        helper.make_node("Relu", ["g"], ["h"], name="relu2"),
        helper.make_node("Gemm", ["h", "w2", "b2"], ["y"], name="gemm2", transB=1),
    ]
    info = [value(name, *array.shape) for name, array in weights.items()] + [value("h", "batch", 64)]
    return save(
        tmp_path / "conv.onnx",
        nodes,
        [value("x", "batch", 1, 8, 8)],
        [value("y", "batch", 10)],
        weights,
        value_info=info,
    )


@pytest.fixture
def text_net(tmp_path: Path) -> Path:
    """An embedding, a matrix multiplication and a mean: the smallest thing like a transformer."""
    random = np.random.default_rng(0)
    weights = {
        "table": random.standard_normal((500, 32)).astype(np.float32),
        "w": random.standard_normal((32, 16)).astype(np.float32) / 6,
    }
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["e"], name="gather"),
        helper.make_node("MatMul", ["e", "w"], ["m"], name="matmul"),
        helper.make_node("ReduceMean", ["m"], ["y"], name="mean", axes=[1], keepdims=0),
    ]
    inputs = [value("ids", "batch", "seq", kind=TensorProto.INT64)]
    return save(tmp_path / "text.onnx", nodes, inputs, [value("y", "batch", 16)], weights)


@pytest.fixture
def trees(tmp_path: Path) -> Path:
    node = helper.make_node(
        "TreeEnsembleRegressor",
        ["x"],
        ["y"],
        domain="ai.onnx.ml",
        n_targets=1,
        nodes_falsenodeids=[2, 0, 0],
        nodes_featureids=[0, 0, 0],
        nodes_hitrates=[1.0, 1.0, 1.0],
        nodes_missing_value_tracks_true=[0, 0, 0],
        nodes_modes=["BRANCH_LEQ", "LEAF", "LEAF"],
        nodes_nodeids=[0, 1, 2],
        nodes_treeids=[0, 0, 0],
        nodes_truenodeids=[1, 0, 0],
        nodes_values=[0.5, 0.0, 0.0],
        target_ids=[0, 0],
        target_nodeids=[1, 2],
        target_treeids=[0, 0],
        target_weights=[1.0, 2.0],
    )
    outputs = [value("y", "batch", 1)]
    return save(tmp_path / "trees.onnx", [node], [value("x", "batch", 2)], outputs, domains=[("ai.onnx.ml", 3)])


@pytest.fixture
def residual_net(tmp_path: Path) -> Path:
    """Two convolutions with batch normalisation around a shortcut, pooled, and a classifier: a small ResNet."""
    random = np.random.default_rng(0)
    weights = {"k0": random.standard_normal((16, 3, 3, 3)) / 5, "k1": random.standard_normal((16, 16, 3, 3)) / 12}
    weights |= {"w": random.standard_normal((10, 16)) / 4, "b": random.standard_normal(10)}
    for name in ("0", "1"):
        weights |= {f"s{name}": random.uniform(0.5, 2, 16), f"t{name}": random.standard_normal(16)}
        weights |= {f"m{name}": random.standard_normal(16), f"v{name}": random.uniform(0.5, 2, 16)}
    nodes = [
        helper.make_node("Conv", ["x", "k0"], ["c0"], pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["c0", "s0", "t0", "m0", "v0"], ["n0"]),
        helper.make_node("Relu", ["n0"], ["r0"]),
        helper.make_node("Conv", ["r0", "k1"], ["c1"], pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["c1", "s1", "t1", "m1", "v1"], ["n1"]),
        helper.make_node("Add", ["n1", "r0"], ["a"]),
        helper.make_node("Relu", ["a"], ["r1"]),
        helper.make_node("GlobalAveragePool", ["r1"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "w", "b"], ["y"], transB=1),
    ]
    arrays = {name: array.astype(np.float32) for name, array in weights.items()}
    outputs = [value("y", "n", 10)]
    return save(tmp_path / "residual.onnx", nodes, [value("x", "n", 3, 12, 12)], outputs, arrays)
