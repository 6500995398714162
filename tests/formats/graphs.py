"""Small ONNX models, and .pt2 archives, that the tests build and then spoil."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
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
