"""The models of the benchmark, made here: fixed weights from a seed, float32, a free batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

from studio.core.routing import Target
from studio.core.tensors import TensorSpec
from tests.serving import graphs

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Model:
    """One model: its file, one request's input (a batch of one row) and the answer to it, from ONNX Runtime itself."""

    name: str
    path: Path
    target: Target
    row: Array
    answer: Array


class _Graph:
    """Nodes and weights of a chain of layers."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self.nodes: list[NodeProto] = []
        self.weights: list[TensorProto] = []
        self.last = "x"

    def add(self, kind: str, *shapes: tuple[int, ...], **attributes: Any) -> None:
        """A layer after the last one; weights of these shapes, scaled so that values stay in bounds."""
        number = len(self.nodes)
        names = [f"w{number}_{place}" for place in range(len(shapes))]
        for name, shape in zip(names, shapes, strict=True):
            fan_in = int(np.prod(shape[1:] if kind == "Conv" else shape[:1])) or 1
            values = self._rng.normal(size=shape) * np.sqrt(2 / fan_in)
            self.weights.append(numpy_helper.from_array(values.astype(np.float32), name))
        self.nodes.append(helper.make_node(kind, [self.last, *names], [f"t{number}"], **attributes))
        self.last = f"t{number}"

    def conv(self, inside: int, outside: int, size: int = 3, stride: int = 1, group: int = 1) -> None:
        pads = [size // 2] * 4
        self.add("Conv", (outside, inside // group, size, size), strides=[stride] * 2, pads=pads, group=group)
        self.add("Relu")

    def save(self, path: Path, inside: tuple[int, ...], outside: tuple[int, ...]) -> tuple[TensorSpec, TensorSpec]:
        self.nodes.append(helper.make_node("Identity", [self.last], ["y"]))
        x, y = TensorSpec("x", "FP32", ("batch", *inside)), TensorSpec("y", "FP32", ("batch", *outside))
        graphs.save(path, self.nodes, [x], [y], self.weights)
        return x, y


def _tiny(graph: _Graph) -> tuple[tuple[int, ...], tuple[int, ...]]:
    graph.add("MatMul", (64, 64))
    graph.add("Relu")
    graph.add("MatMul", (64, 10))
    graph.add("Softmax")
    return (64,), (10,)


def _small(graph: _Graph) -> tuple[tuple[int, ...], tuple[int, ...]]:
    for inside, outside, stride in ((3, 32, 1), (32, 64, 1), (64, 64, 1), (64, 128, 2), (128, 128, 1)):
        graph.conv(inside, outside, stride=stride)
    _head(graph, 128, 10)
    return (3, 32, 32), (10,)


def _wide(graph: _Graph) -> tuple[tuple[int, ...], tuple[int, ...]]:
    graph.add("GlobalAveragePool")
    graph.add("Flatten")
    return (3, 224, 224), (3,)


def _mobile(graph: _Graph) -> tuple[tuple[int, ...], tuple[int, ...]]:
    graph.conv(3, 32, stride=2)
    steps = [(32, 64, 1), (64, 128, 2), (128, 128, 1), (128, 256, 2), (256, 256, 1), (256, 512, 2)]
    steps += [(512, 512, 1)] * 5 + [(512, 1024, 2), (1024, 1024, 1)]
    for inside, outside, stride in steps:
        graph.conv(inside, inside, stride=stride, group=inside)
        graph.conv(inside, outside, size=1)
    _head(graph, 1024, 1000)
    return (3, 224, 224), (1000,)


def _head(graph: _Graph, inside: int, classes: int) -> None:
    graph.add("GlobalAveragePool")
    graph.add("Flatten")
    graph.add("MatMul", (inside, classes))


KINDS: dict[str, tuple[Callable[[_Graph], tuple[tuple[int, ...], tuple[int, ...]]], str]] = {
    "tiny": (_tiny, "a perceptron 64-64-10"),
    "small": (_small, "five convolutions on 3 × 32 × 32"),
    "wide": (_wide, "the mean of each channel of 3 × 224 × 224: next to no work, 602 kB of input"),
    "mobile": (_mobile, "MobileNet v1 on 3 × 224 × 224"),
}
"""Name -> what builds it, what it is."""


def make(name: str, folder: Path) -> Model:
    """Build a model into `folder`, and ask ONNX Runtime for the answer that every server must give."""
    from onnxruntime import InferenceSession

    graph = _Graph(7)
    inside, outside = KINDS[name][0](graph)
    path = folder / f"{name}.onnx"
    x, y = graph.save(path, inside, outside)
    # Four decimals: as many as people send, and the same number in JSON and in binary.
    row = np.round(np.random.default_rng(1).random((1, *inside)), 4).astype(np.float32)
    session = InferenceSession(str(path), providers=["CPUExecutionProvider"])
    answer = session.run(["y"], {"x": row})[0]
    return Model(name, path, graphs.target(path, [x], [y], model="m", batchable=True), row, answer)
