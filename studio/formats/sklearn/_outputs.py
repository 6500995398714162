"""The outputs of a graph that skl2onnx made: one plain tensor each, named for what they are, declared as they come."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from studio.formats.base import Feed
from studio.formats.onnx.names import rename_outputs
from studio.formats.sklearn._adapt import last
from studio.formats.sklearn._onnx import BATCH
from studio.formats.sklearn._source import LABEL, PREDICTION, PROBABILITIES, SCORES

_KINDS = {TensorProto.STRING: "O", TensorProto.INT64: "i", TensorProto.DOUBLE: "d"}


def name_outputs(graph: Any, model: Any) -> None:
    """Give the outputs their names, in place, and each target of several its own probabilities."""
    final = last(model)
    _split(graph, final)
    if type(final).__name__ == "VotingClassifier" and final.voting == "hard":
        _drop(graph, PROBABILITIES)  # votes that are not counted by class
    if type(final).__name__ == "MLPClassifier" and final.n_outputs_ > 1 and final.out_activation_ == "logistic":
        _last_columns(graph, PROBABILITIES, final.n_outputs_)  # not those of all labels' opposites
    if type(final).__name__ == "MLPRegressor" and final.n_outputs_ > 1:
        _rows_of(graph, graph.graph.output[0].name, final.n_outputs_)  # not one column below the other
    _texts(graph, final)
    _without_solving(graph)
    names = [output.name for output in graph.graph.output]
    new: dict[str, str] = {}
    if not hasattr(model, "predict_proba"):
        new[PROBABILITIES] = SCORES
    if len(names) == 1 and names[0] != LABEL:
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


def name_inputs(graph: Any, names: dict[str, str]) -> None:
    """Give inputs (keys) other names (values), in place. A value inside that has one of these gets another itself."""
    taken = set(_all_names(graph.graph))
    wanted = {old: new for old, new in names.items() if old != new}
    for name in set(wanted.values()) & taken - wanted.keys():
        inner = f"inner_{name}"
        while inner in taken:
            inner += "_"
        wanted[name] = inner
        taken.add(inner)
    if wanted:
        _rename(graph.graph, wanted)


def _all_names(graph: Any) -> Iterator[str]:
    yield from (entry.name for entry in (*graph.input, *graph.output, *graph.initializer, *graph.value_info))
    for node in graph.node:
        yield from (*node.input, *node.output)
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _all_names(attribute.g)


def _rename(graph: Any, names: dict[str, str]) -> None:
    """Every value of these names, in the graphs inside as well: no two become one."""
    for entry in (*graph.input, *graph.output, *graph.initializer, *graph.value_info):
        entry.name = names.get(entry.name, entry.name)
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _rename(attribute.g, names)


def _drop(graph: Any, name: str) -> None:
    for output in graph.graph.output:
        if output.name == name:
            graph.graph.output.remove(output)
            return


def _moved(graph: Any, name: str) -> str:
    """Free the name of an output for a node that makes it anew. Returns the name of what it was."""
    rename_outputs(graph, {name: f"{name}_before"})
    for output in graph.graph.output:
        if output.name == f"{name}_before":
            output.name = name
    return f"{name}_before"


def _last_columns(graph: Any, name: str, count: int) -> None:
    before = _moved(graph, name)
    for part, value in (("starts", -count), ("ends", np.iinfo(np.int64).max), ("axes", 1)):
        _constant(graph, f"{name}_{part}", np.asarray([value], np.int64))
    bounds = [f"{name}_{part}" for part in ("starts", "ends", "axes")]
    graph.graph.node.append(helper.make_node("Slice", [before, *bounds], [name]))


def _rows_of(graph: Any, name: str, count: int) -> None:
    before = _moved(graph, name)
    _constant(graph, f"{name}_rows", np.asarray([-1, count], np.int64))
    graph.graph.node.append(helper.make_node("Reshape", [before, f"{name}_rows"], [name]))


def _texts(graph: Any, final: Any) -> None:
    """Labels as the texts that they are, where the graph was made for their places."""
    classes = getattr(final, "classes_", None)
    if not isinstance(classes, np.ndarray) or classes.dtype.kind not in "OUS":
        return
    for output in graph.graph.output:
        if output.name == LABEL and output.type.tensor_type.elem_type == TensorProto.INT64:
            before = _moved(graph, LABEL)
            _constant(graph, f"{LABEL}_texts", np.asarray([str(one) for one in classes], dtype=object))
            graph.graph.node.append(helper.make_node("Gather", [f"{LABEL}_texts", before], [LABEL]))
            output.type.tensor_type.elem_type = TensorProto.STRING
            return


def _without_solving(graph: Any) -> None:
    """L⁻¹·B in place of solving L·X = B for a constant L, which ONNX Runtime has no operator for."""
    constants = {tensor.name: tensor for tensor in graph.graph.initializer}
    for node in graph.graph.node:
        if (node.op_type, node.domain) == ("Solve", "com.microsoft") and node.input[0] in constants:
            matrix = numpy_helper.to_array(constants[node.input[0]])
            name = f"{node.output[0]}_inverse"
            _constant(graph, name, np.linalg.inv(matrix.astype(np.float64)).astype(matrix.dtype))
            node.CopyFrom(helper.make_node("MatMul", [name, node.input[1]], list(node.output), name=node.name))


def flatten_labels(graph: Any, rows: int, answer: Feed) -> bool:
    """Make [rows, 1] and [1, rows] labels [rows], as scikit-learn gives them. Returns whether anything changed."""
    if LABEL not in answer or np.shape(answer[LABEL]) not in ((rows, 1), (1, rows)):
        return False
    before = _moved(graph, LABEL)
    _constant(graph, f"{LABEL}_flat", np.asarray([-1], np.int64))
    graph.graph.node.append(helper.make_node("Reshape", [before, f"{LABEL}_flat"], [LABEL]))
    for output in graph.graph.output:
        if output.name == LABEL:
            output.type.CopyFrom(helper.make_tensor_type_proto(output.type.tensor_type.elem_type, [BATCH]))
    return True


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
