"""The outputs of a graph that skl2onnx made: one plain tensor each, named for what they are, declared as they come."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from studio.formats._sklearn_adapt import last
from studio.formats._sklearn_onnx import BATCH
from studio.formats._sklearn_source import PREDICTION, PROBABILITIES, SCORES
from studio.formats.base import Feed
from studio.formats.onnx_names import rename_outputs

_KINDS = {TensorProto.STRING: "O", TensorProto.INT64: "i", TensorProto.DOUBLE: "d"}


def name_outputs(graph: Any, model: Any) -> None:
    """Give the outputs their names, in place, and each target of several its own probabilities."""
    final = last(model)
    _split(graph, final)
    names = [output.name for output in graph.graph.output]
    new: dict[str, str] = {}
    if not hasattr(model, "predict_proba"):
        new[PROBABILITIES] = SCORES
    if len(names) == 1:
        new[names[0]] = PREDICTION if hasattr(model, "predict") else "transformed"
    rename_outputs(graph, {old: name for old, name in new.items() if old in names})


def _split(graph: Any, final: Any) -> None:
    """Probabilities of several targets: a sequence, or a tensor whose first size is the targets."""
    classes = getattr(final, "classes_", None)
    if not isinstance(classes, list):
        return
    found = [
        (place, output)
        for place, output in enumerate(graph.graph.output)
        if output.name == PROBABILITIES
        and (output.type.HasField("sequence_type") or len(output.type.tensor_type.shape.dim) == 3)
    ]
    if not found:
        return
    place, output = found[0]
    sequence = output.type.HasField("sequence_type")
    kind = (output.type.sequence_type.elem_type if sequence else output.type).tensor_type.elem_type
    added = []
    for target, own in enumerate(classes):
        name = f"{PROBABILITIES}_{target}"
        _constant(graph, f"{name}_place", np.asarray(target, np.int64))
        if sequence:
            graph.graph.node.append(helper.make_node("SequenceAt", [PROBABILITIES, f"{name}_place"], [name]))
        else:
            _constant(graph, f"{name}_zero", np.asarray([0], np.int64))
            _constant(graph, f"{name}_size", np.asarray([len(own)], np.int64))
            _constant(graph, f"{name}_axis", np.asarray([1], np.int64))
            wide = f"{name}_wide"
            graph.graph.node.append(helper.make_node("Gather", [PROBABILITIES, f"{name}_place"], [wide], axis=0))
            bounds = [f"{name}_zero", f"{name}_size", f"{name}_axis"]
            graph.graph.node.append(helper.make_node("Slice", [wide, *bounds], [name]))
        added.append(helper.make_tensor_value_info(name, kind, [BATCH, len(own)]))
    del graph.graph.output[place]
    graph.graph.output.extend(added)


def _constant(graph: Any, name: str, value: Any) -> None:
    graph.graph.initializer.append(numpy_helper.from_array(value, name))


def forms(graph: Any) -> dict[str, tuple[int, str]]:
    """For each output its number of dimensions, and what it holds: O texts, i integers, f and d floats."""
    found: dict[str, tuple[int, str]] = {}
    for output in graph.graph.output:
        tensor = output.type.tensor_type
        found[output.name] = (len(tensor.shape.dim), _KINDS.get(tensor.elem_type, "f"))
    return found


def declare(graph: Any, rows: Sequence[int], answers: Sequence[Feed]) -> None:
    """Declare the outputs' sizes as they were seen to be, for runs of these numbers of rows. Changes the graph."""
    for output in graph.graph.output:
        shapes = [np.shape(answer[output.name]) for answer in answers]
        sizes: list[str | int | None] = []
        for place in range(len(shapes[0])):
            seen = [shape[place] for shape in shapes]
            free = seen == list(rows)
            sizes.append(BATCH if free else seen[0] if len(set(seen)) == 1 else None)
        kind = output.type.tensor_type.elem_type
        output.type.CopyFrom(helper.make_tensor_type_proto(kind, sizes))
