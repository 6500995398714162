"""What an ONNX graph takes and gives, looked at before any runtime does: what can not be served is said in words."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from studio.core.errors import InvalidInput, NeedsSettings, Refused
from studio.core.tensors import ORT_TYPES, Dim, TensorSpec
from studio.formats.settings.file import ModelSettings

_PLAIN = "Requests and answers carry plain tensors of numbers, booleans or strings."
_LONGEST_NAME = 60_000  # samples are kept in a zip archive, whose names end at 65 535 bytes


def asked(model: Any) -> list[Any]:
    """The inputs that a caller gives: those without a default value among the initialisers."""
    given = {tensor.name for tensor in model.graph.initializer}
    given |= {sparse.values.name for sparse in model.graph.sparse_initializer}
    return [entry for entry in model.graph.input if entry.name not in given]


def check(model: Any) -> None:
    """Raises Refused for graphs without inputs or outputs, for inputs that are no plain tensors, and for names that
    can not be kept; InvalidInput for names that are no text. Outputs are judged later, since many can be turned into
    tensors.
    """
    _check_texts(model)
    inputs = asked(model)
    if not inputs:
        defaults = bool(model.graph.input)
        raise Refused(
            "The model takes nothing: "
            + ("every input has a default value." if defaults else "its graph has no inputs."),
            "An endpoint answers requests that carry tensors.",
            "Export it again with the data as an input instead of a constant.",
        )
    if not model.graph.output:
        raise Refused("The model gives nothing: its graph has no outputs.", fix="Export it again with its outputs.")
    for entry in inputs:
        kind = type_words(entry.type)
        if kind not in ORT_TYPES:
            raise Refused(
                f"The input '{entry.name}' has the type {kind}, which can not be served.", _PLAIN, _input_fix(kind)
            )
    for entry in (*inputs, *model.graph.output):
        if "\0" in entry.name or len(entry.name.encode()) > _LONGEST_NAME:
            raise Refused(
                f"A tensor has a name that can not be kept: {entry.name[:40]!r}, {len(entry.name)} characters.",
                "Names may have any characters but NUL, and 60 000 bytes.",
                "Rename that input or output and export the model again.",
            )


def _check_texts(model: Any) -> None:
    """Strings of the older protobuf syntax may hold any bytes, and come as bytes where they are no UTF-8."""
    for text in _texts(model):
        if isinstance(text, bytes):
            raise InvalidInput(
                f"The model has a name that is no text: {text[:40]!r}.",
                "Names in ONNX are UTF-8. The file is damaged, or was written by a broken tool.",
                "Copy it again, or export it again.",
            )


def _texts(model: Any) -> Iterator[Any]:
    yield from (entry.domain for entry in model.opset_import)
    stack = [model.graph, *model.functions]
    yield from (text for function in model.functions for text in (function.name, function.domain))
    for entry in (*model.graph.input, *model.graph.output):
        yield entry.name
        yield from (dim.dim_param for dim in entry.type.tensor_type.shape.dim)
    while stack:
        here = stack.pop()
        for node in here.node:
            yield node.op_type
            yield node.domain
            yield from node.input
            yield from node.output
            for attribute in node.attribute:
                yield attribute.name
                stack += [attribute.g] if attribute.HasField("g") else []
                stack += attribute.graphs
    yield from (tensor.name for tensor in model.graph.initializer)


def _input_fix(kind: str) -> str:
    if kind.startswith("seq("):
        return "Export it so that it takes one tensor for each element, or one tensor of all."
    if kind.startswith("map("):
        return "Put the steps before it (a DictVectorizer) into your app, and export the rest."
    if kind.startswith("optional("):
        return "Export it with a plain tensor there, or without that input."
    return "Export it with 32-bit floats or integers there, and a cast behind them."


def type_words(kind: Any) -> str:
    """A TypeProto as ONNX Runtime writes it: 'tensor(float)', 'seq(map(int64,tensor(float)))'."""
    which = kind.WhichOneof("value")
    if which == "tensor_type":
        return f"tensor({_element(kind.tensor_type.elem_type)})"
    if which == "sequence_type":
        return f"seq({type_words(kind.sequence_type.elem_type)})"
    if which == "map_type":
        return f"map({_element(kind.map_type.key_type)},{type_words(kind.map_type.value_type)})"
    if which == "optional_type":
        return f"optional({type_words(kind.optional_type.elem_type)})"
    if which == "sparse_tensor_type":
        return f"sparse_tensor({_element(kind.sparse_tensor_type.elem_type)})"
    return "value of a type that it does not tell"


_ELEMENTS = {"FLOAT": "float", "DOUBLE": "double", "BFLOAT16": "bfloat16"}


def _element(number: int) -> str:
    import onnx

    names: dict[int, str] = {value: name for name, value in onnx.TensorProto.DataType.items()}
    name = names.get(number, f"type {number}")
    return _ELEMENTS.get(name, name.lower())


def tidied(model: Any) -> list[str]:
    """Make what a caller can not mean into what was meant; a sentence for each change. Changes the model in place."""
    return [*_zero_sizes(model), *_twice(model)]


def _zero_sizes(model: Any) -> list[str]:
    found = []
    for entry in asked(model):
        for dim in entry.type.tensor_type.shape.dim:
            if dim.WhichOneof("value") == "dim_value" and dim.dim_value <= 0:
                # ONNX Runtime takes negative sizes as free ones, but 0 as nothing but empty tensors.
                found += [entry.name] if dim.dim_value == 0 else []
                dim.ClearField("dim_value")
    if not found:
        return []
    for entry in model.graph.output:
        for dim in entry.type.tensor_type.shape.dim:
            if dim.WhichOneof("value") == "dim_value" and dim.dim_value <= 0:
                dim.ClearField("dim_value")
    del model.graph.value_info[:]
    names = ", ".join(f"'{name}'" for name in dict.fromkeys(found))
    return [f"It declares sizes of 0 for {names}, which old exporters write for any size. They were made free."]


def _twice(model: Any) -> list[str]:
    names = [entry.name for entry in model.graph.output]
    if len(set(names)) == len(names):
        return []
    kept: dict[str, Any] = {}
    for entry in model.graph.output:
        kept.setdefault(entry.name, type(entry).FromString(entry.SerializeToString()))
    del model.graph.output[:]
    model.graph.output.extend(kept.values())
    doubled = ", ".join(f"'{name}'" for name in sorted({name for name in names if names.count(name) > 1}))
    return [f"It names {doubled} more than once among its outputs. Each is answered once."]


def shaped(model: Any, settings: ModelSettings, samples: Path | None) -> list[str]:
    """Give inputs that declare no shape at all one: of the settings, else of the samples. A sentence on what was done.

    Changes the model in place. Raises NeedsSettings naming the inputs that neither tells, since a runtime would take
    them for single numbers.
    """
    unknown = [entry for entry in asked(model) if not entry.type.tensor_type.HasField("shape")]
    if not unknown:
        return []
    ranks = _sample_ranks(samples, [entry.name for entry in asked(model)])
    notes, missing = [], []
    for entry in unknown:
        given = settings.inputs.get(entry.name)
        shape: tuple[Dim, ...] | None = given.shape if given else None
        origin = "the settings file"
        if shape is None and entry.name in ranks:
            shape = ("batch", *(f"{entry.name}_{place}" for place in range(1, ranks[entry.name])))
            shape, origin = shape[: ranks[entry.name]], "the sample inputs"
        if shape is None:
            missing.append(entry.name)
            continue
        _set_shape(entry, shape)
        notes.append(f"It does not tell the shape of '{entry.name}'. {list(shape)} was taken from {origin}.")
    if missing:
        names = ", ".join(f"'{name}'" for name in missing)
        raise NeedsSettings(
            f"The model does not tell the shape of its input{'s' if len(missing) > 1 else ''} {names}.",
            tuple(missing),
            "Not even the number of dimensions is in the file.",
            f'Say it in a settings file of the same stem: [inputs."{missing[0]}"] shape = ["batch", 4].',
            tuple(TensorSpec(one.name, ORT_TYPES[type_words(one.type)], ()) for one in unknown if one.name in missing),
        )
    return notes


def _set_shape(entry: Any, shape: tuple[Dim, ...]) -> None:
    entry.type.tensor_type.shape.SetInParent()
    for size in shape:
        dim = entry.type.tensor_type.shape.dim.add()
        if isinstance(size, int):
            dim.dim_value = size
        else:
            dim.dim_param = size


def _sample_ranks(samples: Path | None, names: list[str]) -> dict[str, int]:
    """Numbers of dimensions by input; empty where the samples can not be read, which is told when they are used."""
    if samples is None:
        return {}
    import numpy as np

    try:
        with np.load(samples, allow_pickle=False) as archive:
            ranks = {name: int(archive[name].ndim) for name in archive.files}
    except Exception:  # numpy raises anything on a damaged archive
        return {}
    inputs = {name: rank for name, rank in ranks.items() if name != "labels" or name in names}
    return {names[0]: next(iter(inputs.values()))} if len(names) == len(inputs) == 1 else inputs


def several(names: list[str], what: str) -> InvalidInput:
    """The error for several models in one arrival."""
    return InvalidInput(
        f"There are {len(names)} {what} in this arrival: {', '.join(names[:5])}.",
        "An arrival becomes one version of one model.",
        "Drop each of them alone, or in a folder of its own.",
    )
