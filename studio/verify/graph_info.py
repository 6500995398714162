"""What a graph is made of: the facts that a manifest keeps of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from math import prod
from typing import Any

from studio.core.manifest import FileRef, Graph

_DEFAULT_DOMAINS = ("", "ai.onnx")


def describe(model: Any, file: FileRef, weights: tuple[FileRef, ...] = ()) -> Graph:
    """The manifest's graph for an onnx.ModelProto stored as `file`. External data need not be loaded.

    `parameters` counts the elements of all initialisers and constants, and the coefficients that `ai.onnx.ml` operators
    keep as attributes. `operators` counts nodes by name, bodies of branches, loops and functions included; names
    outside the default domain carry theirs ('com.microsoft.MatMulNBits').
    """
    return Graph(
        file=file,
        weights=weights,
        opset=max((entry.version for entry in model.opset_import if entry.domain in _DEFAULT_DOMAINS), default=0),
        ir_version=model.ir_version,
        parameters=_parameters(model),
        operators=dict(Counter(_name(node) for node in _nodes(model)).most_common()),
    )


def _name(node: Any) -> str:
    return node.op_type if node.domain in _DEFAULT_DOMAINS else f"{node.domain}.{node.op_type}"


def _graphs(graph: Any) -> Iterator[Any]:
    yield graph
    yield from _inner(graph.node)


def _inner(nodes: Any) -> Iterator[Any]:
    for node in nodes:
        for attribute in node.attribute:
            for body in (*((attribute.g,) if attribute.HasField("g") else ()), *attribute.graphs):
                yield from _graphs(body)


def _nodes(model: Any) -> Iterator[Any]:
    for graph in _graphs(model.graph):
        yield from graph.node
    for function in model.functions:
        yield from function.node
        for graph in _inner(function.node):
            yield from graph.node


def _parameters(model: Any) -> int:
    graphs = [*_graphs(model.graph), *(graph for function in model.functions for graph in _inner(function.node))]
    total = sum(_elements(tensor.dims) for graph in graphs for tensor in graph.initializer)
    total += sum(_elements(tensor.values.dims) for graph in graphs for tensor in graph.sparse_initializer)
    for node in _nodes(model):
        for attribute in node.attribute:
            if node.op_type == "Constant" or node.domain == "ai.onnx.ml":
                total += _elements(attribute.t.dims) if attribute.HasField("t") else len(attribute.floats)
    return total


def _elements(dims: Any) -> int:
    # Negative sizes are lies of a broken file, which other checks report.
    return prod(max(dim, 0) for dim in dims)
