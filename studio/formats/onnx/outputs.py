"""Outputs that are no plain tensors, made into tensors: lists of dictionaries, sequences, optionals.

    seq(map(label, score))  of a ZipMap     one row of scores for each dictionary; the labels are kept as class labels
    seq(tensor)                             the tensors stacked along a new axis, if they always have one shape
    optional(…)                             what it holds

The names of the outputs stay. What the original answers is stacked in the same way, so that both can be compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from studio.core.errors import Refused
from studio.core.tensors import ORT_TYPES
from studio.formats.base import Array, Feed
from studio.formats.onnx.interface import type_words

_ML = "ai.onnx.ml"
_TENSOR = "tensor("
_UNSAID = "tensor(undefined)"  # the runtime finds the type by itself


@dataclass(frozen=True)
class PlainOutputs:
    """What was done. `maps`: labels by output; `sequences`, `optionals`: names of outputs; `labels`: of the classes."""

    maps: dict[str, tuple[Any, ...]]
    sequences: tuple[str, ...]
    optionals: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        """Class labels, where all dictionaries have the same and they say more than 0, 1, 2 …"""
        found = set(self.maps.values())
        if len(found) != 1:
            return ()
        labels = found.pop()
        return () if labels == tuple(range(len(labels))) else tuple(str(label) for label in labels)


def plain_outputs(model: Any) -> PlainOutputs:
    """Make every output a tensor. Changes the model in place. Raises Refused where that can not be done."""
    maps: dict[str, tuple[Any, ...]] = {}
    sequences: list[str] = []
    optionals: list[str] = []
    notes: list[str] = []
    for output in model.graph.output:
        kind = type_words(output.type)
        if kind in ORT_TYPES or kind == _UNSAID:
            continue
        if kind.startswith("seq(map("):
            maps[output.name] = _strip_zip_map(model, output)
            notes.append(
                f"The output '{output.name}' was a list of dictionaries. It is now one row of scores for each, in the "
                "order of the class labels."
            )
            continue
        inner = kind
        if inner.startswith("optional("):
            _unwrap(model, output)
            optionals.append(output.name)
            inner = inner[len("optional(") : -1]
            notes.append(f"The output '{output.name}' was optional. It is now the tensor that it holds.")
        if inner.startswith(f"seq({_TENSOR}"):
            _stack(model, output)
            sequences.append(output.name)
            notes.append(f"The output '{output.name}' was a sequence of tensors. It is now one tensor of all of them.")
        elif inner not in ORT_TYPES:
            raise Refused(
                f"The output '{output.name}' has the type {kind}, which can not be served.",
                "Answers carry plain tensors of numbers, booleans or strings.",
                f"Export it with a cast of '{output.name}' to 32-bit floats or integers."
                if inner.startswith(_TENSOR)
                else "Export it with tensors only.",
            )
    return PlainOutputs(maps, tuple(sequences), tuple(optionals), tuple(notes))


def _strip_zip_map(model: Any, output: Any) -> tuple[Any, ...]:
    from onnx import TensorProto, helper, numpy_helper

    node = next((one for one in model.graph.node if output.name in one.output), None)
    alone = node is not None and not any(output.name in other.input for other in model.graph.node)
    if node is None or not alone or (node.op_type, node.domain) != ("ZipMap", _ML):
        raise Refused(
            f"The output '{output.name}' is a list of dictionaries that no ZipMap makes at the end.",
            "Only those can be turned into rows of scores.",
            "Export it with tensors only (for scikit-learn: zipmap=False).",
        )
    labels: tuple[Any, ...] = ()
    for entry in node.attribute:
        if entry.name == "classlabels_int64s" and entry.ints:
            labels = tuple(entry.ints)
        elif entry.name == "classlabels_strings" and entry.strings:
            labels = tuple(text.decode("utf-8", "replace") for text in entry.strings)
    scores = node.input[0]
    shape = _unused(model, f"{output.name}_rows")
    model.graph.initializer.append(numpy_helper.from_array(np.array([-1, len(labels)], np.int64), shape))
    # A single row of scores without a batch comes out as one dictionary too: always rows, then.
    node.CopyFrom(helper.make_node("Reshape", [scores, shape], [output.name], name=node.name))
    _set_type(output, TensorProto.FLOAT, [None, len(labels)])
    return labels


def _unwrap(model: Any, output: Any) -> None:
    from onnx import helper

    held = _moved(model, output.name)
    model.graph.node.append(helper.make_node("OptionalGetElement", [held], [output.name]))
    inner = output.type.optional_type.elem_type
    output.type.CopyFrom(type(output.type).FromString(inner.SerializeToString()))


def _stack(model: Any, output: Any) -> None:
    from onnx import helper

    held = _moved(model, output.name)
    model.graph.node.append(helper.make_node("ConcatFromSequence", [held], [output.name], axis=0, new_axis=1))
    _set_type(output, output.type.sequence_type.elem_type.tensor_type.elem_type, None)


def _moved(model: Any, name: str) -> str:
    """Give the tensor behind an output another name, so that the output's own is free. Returns the new one."""
    from onnx import helper

    new = _unused(model, f"{name}_held")
    if any(name == entry.name for entry in (*model.graph.input, *model.graph.initializer)):
        model.graph.node.append(helper.make_node("Identity", [name], [new]))
        return new
    for node in model.graph.node:
        _rename(node, name, new)
    for info in model.graph.value_info:
        if info.name == name:
            info.name = new
    return new


def _rename(node: Any, name: str, new: str) -> None:
    for names in (node.input, node.output):
        for place, one in enumerate(names):
            if one == name:
                names[place] = new
    for attribute in node.attribute:
        for body in (*((attribute.g,) if attribute.HasField("g") else ()), *attribute.graphs):
            inner = {one for node_ in body.node for one in node_.output} | {entry.name for entry in body.input}
            if name in inner:
                continue  # another tensor of the same name
            for node_ in body.node:
                _rename(node_, name, new)
            for entry in body.output:
                if entry.name == name:
                    entry.name = new


def _unused(model: Any, name: str) -> str:
    taken = {one for node in model.graph.node for one in (*node.input, *node.output)}
    taken |= {entry.name for entry in (*model.graph.initializer, *model.graph.input, *model.graph.output)}
    while name in taken:
        name += "_"
    return name


def _set_type(output: Any, element: int, shape: list[int | None] | None) -> None:
    from onnx import helper

    output.type.CopyFrom(helper.make_tensor_type_proto(element, shape))


def set_axis(model: Any, name: str, axis: int) -> None:
    """Stack the sequence behind an output along another axis."""
    for entry in model.graph.output:
        if entry.name == name:
            entry.type.tensor_type.ClearField("shape")
    node = next(one for one in model.graph.node if one.op_type == "ConcatFromSequence" and name in one.output)
    next(entry for entry in node.attribute if entry.name == "axis").i = axis


def axis_of(name: str, answers: Sequence[Feed], rows: Sequence[int]) -> int:
    """The axis along which a sequence is stacked so that rows come first, where it has any.

    `answers`: the original's outputs for runs of `rows` rows. 0 where the sequence has one tensor for each row, or
    where nothing follows the rows; 1 where each tensor has one row for each. Raises Refused where the tensors differ
    in shape.
    """
    for answer in answers:
        shapes = {np.shape(one) for one in answer[name]}
        if not shapes:
            raise _unstackable(name, "it was empty for some inputs")
        if len(shapes) > 1:
            words = " and ".join(str(list(shape)) for shape in sorted(shapes, key=str)[:3])
            raise _unstackable(name, f"they had shapes such as {words}")
    if all(len(answer[name]) == count for answer, count in zip(answers, rows, strict=True)) and len(set(rows)) > 1:
        return 0
    first = [np.shape(answer[name][0])[:1] for answer in answers]
    return 1 if first == [(count,) for count in rows] else 0


def _unstackable(name: str, why: str) -> Refused:
    return Refused(
        f"The output '{name}' is a sequence of tensors that can not be put into one.",
        f"Its tensors must always have one shape, and {why}.",
        "Export it with padded tensors, or with one output for each.",
    )


def plainly(answer: Feed, plain: PlainOutputs, axes: dict[str, int]) -> Feed:
    """What the original answered, its dictionaries and sequences stacked as the graph does it. Raises Refused."""
    return {name: _plainly(name, value, plain, axes) for name, value in answer.items()}


def _plainly(name: str, value: Any, plain: PlainOutputs, axes: dict[str, int]) -> Array:
    if name in plain.maps:
        return np.asarray([[row[label] for label in plain.maps[name]] for row in value], np.float32)
    if name in plain.optionals and value is None:
        raise Refused(
            f"The output '{name}' is optional, and held nothing for some inputs.",
            "Answers carry a tensor for every output.",
            "Export it with a tensor there that is always given.",
        )
    if name in plain.sequences:
        return np.stack([np.asarray(one) for one in value], axis=axes.get(name, 0))
    array: Array = value
    return array
