"""Giving the outputs of an ONNX graph other names, wherever they are used."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def rename_outputs(model: Any, names: dict[str, str]) -> None:
    """Give graph outputs (keys) new names (values), in place. No input may have one of the new names.

    A value inside the graph that has such a name already gets another one. An output that is an input or a constant
    itself is handed on by an Identity. Source: onnx IR, "Names Within a Graph".
    """
    graph = model.graph
    wanted = {old: new for old, new in names.items() if old != new}
    taken = set(_names(graph))
    constants, inputs = set(_constants(graph)), {entry.name for entry in graph.input}
    in_the_way = {new for new in wanted.values() if new in taken and new not in wanted}
    moved = {name: _fresh(name, taken) for name in sorted(in_the_way | (wanted.keys() & constants - inputs))}
    handed_on = [old for old in wanted if old in constants | inputs]
    places = [wanted.get(entry.name, entry.name) for entry in graph.output]
    _rename(graph, {old: new for old, new in wanted.items() if old not in handed_on}, moved, top=True)
    for entry, name in zip(graph.output, places, strict=True):
        entry.name = name
    for old in handed_on:
        node = graph.node.add()
        node.op_type, node.name = "Identity", _fresh(f"{wanted[old]}_as_output", taken)
        node.input.append(moved.get(old, old))
        node.output.append(wanted[old])


def _rename(graph: Any, wanted: dict[str, str], moved: dict[str, str], top: bool = False) -> None:
    """Rename values of a graph and of the graphs inside its nodes.

    `moved` means every value of that name. `wanted` those of the outermost graph: an inner graph's own are others.
    """
    if not top:
        own = {*_constants(graph), *(entry.name for entry in graph.input)}
        own |= {name for node in graph.node for name in node.output}
        wanted = {old: new for old, new in wanted.items() if old not in own}
    names = {**wanted, **moved}
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
        for inner in _inner(node):
            _rename(inner, wanted, moved)
    for entry in (*graph.input, *graph.value_info, *graph.output, *graph.initializer):
        entry.name = names.get(entry.name, entry.name)
    for sparse in graph.sparse_initializer:
        sparse.values.name = names.get(sparse.values.name, sparse.values.name)
    for note in graph.quantization_annotation:
        note.tensor_name = names.get(note.tensor_name, note.tensor_name)
        for pair in note.quant_parameter_tensor_names:
            pair.value = names.get(pair.value, pair.value)


def _inner(node: Any) -> Iterator[Any]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _constants(graph: Any) -> list[str]:
    return [entry.name for entry in graph.initializer] + [entry.values.name for entry in graph.sparse_initializer]


def _names(graph: Any) -> Iterator[str]:
    """Every name of a value, in the graphs inside too."""
    yield from _constants(graph)
    yield from (entry.name for entry in (*graph.input, *graph.value_info, *graph.output))
    for node in graph.node:
        yield from node.input
        yield from node.output
        for inner in _inner(node):
            yield from _names(inner)


def _fresh(name: str, taken: set[str]) -> str:
    number = 1
    while f"{name}_{number}" in taken:
        number += 1
    taken.add(f"{name}_{number}")
    return f"{name}_{number}"
