"""Small ONNX models, and .pt2 archives, that the tests build and then spoil."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Change = Callable[[dict[str, bytes]], None]


def weights(seed: int = 0, shape: tuple[int, ...] = (4, 3)) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def finish(graph: onnx.GraphProto, functions: Any = (), domains: tuple[str, ...] = ()) -> onnx.ModelProto:
    imports = [helper.make_opsetid("", 17), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(graph, opset_imports=imports, ir_version=10, functions=list(functions))


def value(name: str, kind: int = TensorProto.FLOAT, shape: Sequence[Any] | None = ("n", 4)) -> onnx.ValueInfoProto:
    """An input or output; `shape` None declares none at all."""
    return helper.make_tensor_value_info(name, kind, shape)


def tensor(name: str, array: Any) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(array), name)


def built(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    constants: Sequence[onnx.TensorProto] = (),
    *,
    opset: int = 17,
    ir: int = 8,
    domains: dict[str, int] | None = None,
    functions: Sequence[onnx.FunctionProto] = (),
) -> onnx.ModelProto:
    """Any graph, with versions that `finish` does not give."""
    graph = helper.make_graph(list(nodes), "g", list(inputs), list(outputs), list(constants))
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(*one) for one in (domains or {}).items())]
    return helper.make_model(graph, opset_imports=imports, ir_version=ir, functions=list(functions))


def convolutional(opset: int, ir: int) -> onnx.ModelProto:
    """A small network as exporters of its time wrote it: up to opset 6, operands are aligned by attributes; up to IR
    version 3, weights are inputs too.
    """
    old = opset < 7
    infer = {"is_test": 1} if old else {}
    rng = np.random.default_rng(4)
    shapes = {"w": (4, 3, 3, 3), "b": (4,) if old else (4, 1, 1), "s": (4,), "t": (4,), "m": (4,), "v": (4,)}
    shapes |= {"w2": (4, 5), "b2": (5,)}
    constants = [tensor(name, np.abs(rng.standard_normal(shape)).astype(np.float32)) for name, shape in shapes.items()]
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Sub", ["c", "b"], ["d"], **({"broadcast": 1, "axis": 1} if old else {})),
        # Many exporters left is_test out, and meant inference all the same.
        helper.make_node("BatchNormalization", ["d", "s", "t", "m", "v"], ["e"]),
        helper.make_node("Relu", ["e"], ["f"]),
        helper.make_node("Dropout", ["f"], ["g"], **infer),
        helper.make_node("MaxPool", ["g"], ["h"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("GlobalAveragePool", ["h"], ["i"]),
        helper.make_node("Flatten", ["i"], ["j"]),
        helper.make_node("Gemm", ["j", "w2", "b2"], ["k"], **({"broadcast": 1} if old else {})),
        helper.make_node("Softmax", ["k"], ["y"]),
    ]
    inputs = [value("x", shape=("n", 3, 8, 8))]
    if ir < 4:
        inputs += [value(one.name, shape=list(one.dims)) for one in constants]
    return built(nodes, inputs, [value("y", shape=("n", 5))], constants, opset=opset, ir=ir)


def linear() -> onnx.ModelProto:
    """y = x · w, a free batch."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(weights(), "w")],
    )
    return finish(graph)


def send_outside(tensor: onnx.TensorProto, location: str, offset: int | None = None, length: int | None = None) -> None:
    """Make a tensor say that its values lie in another file."""
    tensor.ClearField("raw_data")
    tensor.ClearField("float_data")
    tensor.data_location = TensorProto.EXTERNAL
    del tensor.external_data[:]
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        if value is not None:
            entry = tensor.external_data.add()
            entry.key, entry.value = key, str(value)


def outside(location: str = "w.bin", offset: int | None = None, length: int | None = None) -> onnx.ModelProto:
    """`linear` with its weights in another file."""
    model = linear()
    send_outside(model.graph.initializer[0], location, offset, length)
    return model


def save(model: onnx.ModelProto, path: Path) -> Path:
    path.write_bytes(model.SerializeToString())
    return path


def repacked(source: Path, target: Path, change: Change) -> Path:
    """A copy of a .pt2 archive with its members changed; names without the folder that they lie in."""
    with zipfile.ZipFile(source) as archive:
        root = archive.namelist()[0].partition("/")[0]
        members = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    change(members)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for name, data in members.items():
            archive.writestr(f"{root}/{name}", data)
    return target


def edit_json(name: str, edit: Callable[[Any], None]) -> Change:
    def change(members: dict[str, bytes]) -> None:
        table = json.loads(members[name])
        edit(table)
        members[name] = json.dumps(table).encode()

    return change
