"""What exporters hand over, made fit to be a reference graph: named sizes, files of the store's kind. Imports onnx."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from studio.formats.base import Array, Case, Feed
from studio.formats.onnx.files import INLINE_LIMIT, parse, write_whole

BATCH = "batch"
_AGREE = 1e-3  # of an output's scale: enough to tell a wrong graph from rounding


def write_model(model: Any, out_dir: Path) -> tuple[Path, tuple[Path, ...]]:
    """Write an onnx.ModelProto as `model.onnx`; weights beyond what one file can hold beside it, named by their hash.

    What an earlier try left in the folder is removed.
    """
    graph = out_dir / "model.onnx"
    for old in out_dir.iterdir():
        if len(old.name) == 64:
            old.unlink()
    if model.ByteSize() <= INLINE_LIMIT:
        graph.write_bytes(model.SerializeToString())
        return graph, ()
    import onnx

    onnx.save(model, graph, save_as_external_data=True, location="weights.bin")
    written = write_whole(parse(graph), out_dir, graph)
    (out_dir / "weights.bin").unlink()
    return graph, written.weights


def free_names(
    names: Sequence[str], shapes: Sequence[Sequence[int | None]], channels_first: bool = False
) -> list[list[int | str]]:
    """Shapes with a name for each free size: `batch`, then `length`, or `height` and `width` of images [N, H, W, C].

    `channels_first`: images are [N, C, H, W].
    """
    sides = ("", "channels", "height", "width") if channels_first else ("", "height", "width", "channels")
    found: list[list[int | str]] = []
    for name, shape in zip(names, shapes, strict=True):
        prefix = f"{name}_" if len(names) > 1 else ""
        image = sides if len(shape) == 4 else ("", "length")
        sizes: list[int | str] = []
        for place, size in enumerate(shape):
            word = image[place] if place < len(image) else f"size_{place}"
            sizes.append(size if size is not None else BATCH if place == 0 else f"{prefix}{word}")
        found.append(sizes)
    return found


def declare(model: Any, inputs: Mapping[str, Sequence[int | str]], outputs: Mapping[str, Sequence[int | str]]) -> None:
    """Write the sizes of inputs and outputs into a graph, and take off everything else that it says of shapes.

    Exporters leave made-up symbols and, for weights, wrong sizes there, which trips the quantisers. Other outputs of
    the graph keep their number of dimensions alone.
    """
    del model.graph.value_info[:]
    for values, shapes in ((model.graph.input, inputs), (model.graph.output, outputs)):
        for value in values:
            sizes = shapes.get(value.name)
            if sizes is None or not value.type.HasField("tensor_type"):
                continue
            shape = value.type.tensor_type.shape
            del shape.dim[:]
            for size in sizes:
                dim = shape.dim.add()
                if isinstance(size, int):
                    dim.dim_value = size
                elif size != "?":
                    dim.dim_param = size


def rename(model: Any, names: Mapping[str, str]) -> None:
    """Give inputs and outputs other names; whatever has one of these names inside gets another first."""
    graphs = _graphs(model.graph)
    values = {name for graph in graphs for node in graph.node for name in (*node.input, *node.output)}
    values |= {value.name for graph in graphs for value in (*graph.input, *graph.initializer)}
    wanted = dict(names)
    for name in {new for old, new in names.items() if old != new} & values - set(names):
        free = f"{name}_inside"
        while free in values or free in names.values():
            free += "_"
        wanted[name] = free
    for graph in graphs:
        for node in graph.node:
            node.input[:] = [wanted.get(name, name) for name in node.input]
            node.output[:] = [wanted.get(name, name) for name in node.output]
        for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
            value.name = wanted.get(value.name, value.name)
        for sparse in graph.sparse_initializer:
            sparse.values.name = wanted.get(sparse.values.name, sparse.values.name)


def _graphs(graph: Any) -> list[Any]:
    """A graph and all that its nodes hold."""
    found, waiting = [], [graph]
    while waiting:
        one = waiting.pop()
        found.append(one)
        waiting += [
            inner
            for node in one.node
            for attribute in node.attribute
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs)
        ]
    return found


def leave_out_traces(model: Any) -> None:
    """Take off what exporters note of the code that they came through: it shows folders of whoever made the model."""
    for nodes in (model.graph.node, *(function.node for function in model.functions)):
        for node in nodes:
            node.ClearField("doc_string")
            del node.metadata_props[:]
    model.graph.ClearField("doc_string")
    model.ClearField("doc_string")


def agree(cases: Sequence[Case], outputs: Sequence[Feed]) -> bool:
    """Whether a graph answers as its source, up to rounding."""
    return all(
        name in own and _near(array, own[name])
        for case, own in zip(cases, outputs, strict=True)
        for name, array in case.outputs.items()
    )


def _near(expected: Array, own: Array) -> bool:
    if expected.shape != own.shape:
        return False
    if expected.dtype.kind not in "fc":
        return bool(np.array_equal(expected, own))
    left, right = expected.astype(np.float64), own.astype(np.float64)
    scale = float(np.max(np.abs(left[np.isfinite(left)]), initial=0.0))
    return bool(np.allclose(left, right, rtol=_AGREE, atol=_AGREE * scale, equal_nan=True))
