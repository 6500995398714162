"""Bringing a graph to an operator set that ONNX Runtime runs and that the recipes can work on.

    below 13   converted to 17: 8-bit weights with one scale a channel came with opset 13
    above what the runtime knows   lowered, where every operator means the same in the newest that it knows; else
                                   converted down
    IR version above what the runtime knows   lowered: it changes how a file is written, not what it computes

A conversion is a proposal. Whether it computes the same is seen by running both (see onnx_model).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from studio.core.errors import Refused
from studio.formats.onnx.broadcast import operands_aligned
from studio.formats.onnx.external_data import tensors

WANTED_OPSET = 13
_SAFE_IR, _SAFE_OPSET, _SAFE_ML = 10, 21, 3  # every ONNX Runtime that Studio allows reads these
TARGET_OPSET = 17
OLDEST_OPSET = 7
"""What ONNX Runtime promises to run ("backward compatible with opset 7")."""

_DEFAULT = ("", "ai.onnx")
_ML = "ai.onnx.ml"
_EXTERNAL = 1  # onnx.TensorProto.EXTERNAL
_LARGE = 64 * 1024
_MARK = "set-aside:"


@dataclass(frozen=True)
class Limits:
    """The newest IR version and operator sets that the installed ONNX Runtime loads, and its own version."""

    ir: int
    opset: int
    ml: int
    runtime: str


@dataclass(frozen=True)
class Way:
    """A graph to try, made of one of opset `before`. `notes`: what changed, and why.

    `same`: every operator is as it was and means what it meant.
    """

    model: Any
    before: int
    notes: tuple[str, ...]
    same: bool


@cache
def limits() -> Limits:
    """Found by loading graphs of one node: the runtime tells its limits nowhere else. About 2 ms."""
    import onnx
    import onnxruntime

    opset, ml = onnx.defs.onnx_opset_version(), 8
    ir = _newest(range(onnx.IR_VERSION + 4, 3, -1), lambda number: _probe(number, 13, 1))
    return Limits(
        ir=ir,
        opset=_newest(range(opset + 4, 7, -1), lambda number: _probe(8, number, 1)),
        ml=_newest(range(ml, 1, -1), lambda number: _probe(8, 13, number)),
        runtime=onnxruntime.__version__,
    )


def _newest(numbers: range, probe: Any) -> int:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    for number in numbers:
        try:
            onnxruntime.InferenceSession(probe(number), options, providers=["CPUExecutionProvider"])
        except Exception:  # noqa: S112 - its exceptions share no base class, and refusing is the answer looked for
            continue
        return number
    return numbers.stop


def _probe(ir: int, opset: int, ml: int) -> bytes:
    from onnx import TensorProto, helper

    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "probe", value[:1], value[1:])
    imports = [helper.make_opsetid("", opset), helper.make_opsetid(_ML, ml)]
    data: bytes = helper.make_model(graph, opset_imports=imports, ir_version=ir).SerializeToString()
    return data


def opset_of(model: Any, domains: tuple[str, ...] = _DEFAULT) -> int:
    """The version of the operator set that a model imports; 1 where it imports none, as before IR version 3."""
    return max((entry.version for entry in model.opset_import if entry.domain in domains), default=1)


def ways(model: Any) -> Iterator[Way]:
    """Graphs to try, best first, the last one without a choice.

    Raises Refused, naming both versions and an operator, when there is none.
    """
    opset = opset_of(model)
    stays = opset >= OLDEST_OPSET
    if opset > _SAFE_OPSET and opset > limits().opset:
        yield from _lower(model, limits())
        return
    notes: tuple[str, ...] = ()
    if opset < WANTED_OPSET:
        try:
            yield Way(_convert(model, TARGET_OPSET), opset, (_upgrade_words(opset, stays),), same=False)
        except _Failed as error:
            if not stays:
                raise Refused(
                    f"The model uses opset {opset}, which ONNX Runtime {limits().runtime} does not run.",
                    f"It runs opset {OLDEST_OPSET} and later, and converting this one failed: {error}.",
                    f"Export it again with opset {TARGET_OPSET}.",
                ) from error
            notes = (stays_words(opset, str(error)),)
        if not stays:
            return
    yield Way(model, opset, notes, same=True)


def stays_words(opset: int, why: str) -> str:
    """The note of a graph that could not be upgraded."""
    return f"It stays at opset {opset}: {why.rstrip('.')}. Recipes that need opset {WANTED_OPSET} will not apply."


def _upgrade_words(opset: int, stays: bool) -> str:
    why = (
        f"recipes for 8 bits need opset {WANTED_OPSET}"
        if stays
        else f"ONNX Runtime {limits().runtime} does not run opset {opset}"
    )
    return f"Upgraded from opset {opset} to {TARGET_OPSET}, since {why}. The dropped file is kept as the source."


def fit_header(model: Any) -> tuple[str, ...]:
    """Make the numbers at the head of the file such as the runtime reads: what they stand for does not change.

    A sentence for each change. Changes the model in place. Raises Refused where something needs the newer number.
    """
    notes: list[str] = []
    if model.ir_version > _SAFE_IR and model.ir_version > (known := limits()).ir:
        _check_unknown(model, known)
        notes.append(
            f"Its IR version {model.ir_version} is newer than the {known.ir} that ONNX Runtime {known.runtime} reads. "
            "It was lowered; nothing in the graph needs the newer one."
        )
        model.ir_version = known.ir
    if not model.opset_import:
        entry = model.opset_import.add()
        entry.version = 1
        notes.append("It names no operator set, which means opset 1.")
    ml = opset_of(model, (_ML,))
    if ml > _SAFE_ML and ml > (known := limits()).ml:
        if ml > _newest_known(_ML):
            raise _too_new(f"{_ML} {ml}", f"{_ML} {known.ml}", "", known)
        changed = _changed(model, known.ml, ml, (_ML,))
        if changed:
            raise _too_new(f"{_ML} {ml}", f"{_ML} {known.ml}", changed[0], known)
        _import(model, known.ml, (_ML,))
        notes.append(f"Its operators of {_ML} are the same in versions {ml} and {known.ml}; it says {known.ml} now.")
    return tuple(notes)


def _check_unknown(model: Any, known: Limits) -> None:
    """Raises Refused where the file has something that the installed onnx can not read."""
    import onnx

    if model.ir_version <= onnx.IR_VERSION:
        return
    copy = type(model)()
    copy.CopyFrom(model)
    copy.DiscardUnknownFields()
    if copy.ByteSize() != model.ByteSize():
        raise Refused(
            f"The model's IR version {model.ir_version} is newer than the {known.ir} of ONNX Runtime {known.runtime}.",
            f"It holds something that onnx {onnx.__version__} does not know either.",
            f"Save it with IR version {known.ir}, or update onnx and onnxruntime.",
        )


def _lower(model: Any, known: Limits) -> Iterator[Way]:
    opset = opset_of(model)
    words = (
        f"Its opset {opset} is newer than the {known.opset} that ONNX Runtime {known.runtime} knows. "
        f"{{}} The dropped file is kept as the source."
    )
    if opset > _newest_known(""):
        raise _too_new(f"opset {opset}", f"opset {known.opset}", "", known)
    changed = _changed(model, known.opset, opset)
    if not changed:
        note = words.format(f"Every operator in it is the same in opset {known.opset}, which it says now.")
        lowered = type(model)()
        lowered.CopyFrom(model)
        _import(lowered, known.opset)
        yield Way(lowered, opset, (note,), same=True)
        return
    try:
        converted = _convert(model, known.opset)
    except _Failed as error:
        raise _too_new(f"opset {opset}", f"opset {known.opset}", changed[0], known) from error
    note = words.format(f"It was converted to opset {known.opset}, which defines {', '.join(changed[:3])} differently.")
    yield Way(converted, opset, (note,), same=False)


def _too_new(version: str, newest: str, operator: str, known: Limits) -> Refused:
    import onnx

    return Refused(
        f"The model uses {version}, and ONNX Runtime {known.runtime} knows up to {newest}.",
        f"{operator} is new or different there, and can not be converted back."
        if operator
        else f"The installed onnx {onnx.__version__} does not know that version either, so nothing can convert it.",
        f"Export it again with {newest}, or update onnxruntime.",
    )


def _newest_known(domain: str) -> int:
    """The newest version of an operator set that the installed onnx defines."""
    import onnx

    if domain == "":
        return int(onnx.defs.onnx_opset_version())
    versions = (one.since_version for one in onnx.defs.get_all_schemas_with_history() if one.domain == domain)
    return int(max(versions))


def _changed(model: Any, low: int, high: int, domains: tuple[str, ...] = _DEFAULT) -> list[str]:
    """Operators of a domain that are not the same in two versions of it, by name."""
    import onnx

    found = []
    for name in sorted(_operators(model, domains)):
        versions = []
        for version in (low, high):
            try:
                versions.append(onnx.defs.get_schema(name, version, domains[0]).since_version)
            except onnx.defs.SchemaError:
                versions.append(0)
        if versions[0] != versions[1] or not versions[0]:
            found.append(name)
    return found


def _operators(model: Any, domains: tuple[str, ...]) -> set[str]:
    found: set[str] = set()
    stack = [model.graph, *model.functions]
    while stack:
        for node in stack.pop().node:
            if node.domain in domains:
                found.add(node.op_type)
            for attribute in node.attribute:
                stack += [attribute.g] if attribute.HasField("g") else []
                stack += attribute.graphs
    return found


def _import(model: Any, version: int, domains: tuple[str, ...] = _DEFAULT) -> None:
    for holder in (model, *model.functions):
        for entry in holder.opset_import:
            if entry.domain in domains:
                entry.version = version


class _Failed(Exception):
    """The version converter gave up."""


def _convert(model: Any, target: int) -> Any:
    """A converted copy. Functions come inlined. Raises _Failed saying why."""
    import onnx.inliner

    aside = _set_aside(model)
    copy = type(model)()
    copy.CopyFrom(model)
    _put_back(model, aside)
    try:
        if copy.functions:
            copy = onnx.inliner.inline_local_functions(copy, convert_version=True)
        converted = _in_one_step(copy, target)
    except Exception as error:  # it raises whatever its C++ side throws
        raise _Failed(_reason(error)) from error
    _put_back(converted, aside)
    return converted


def _in_one_step(model: Any, target: int) -> Any:
    from onnx import shape_inference, version_converter

    known = model
    if opset_of(model) < OLDEST_OPSET:
        # Operators of opset 6 align their operands by attributes, later ones by shapes: the converter has to know them
        # all, and where it does not, it leaves operands as they are.
        known = shape_inference.infer_shapes(operands_aligned(shape_inference.infer_shapes(_fixed(model))))
    converted = version_converter.convert_version(known, target)
    _declare_as(converted, model)
    return converted


def _reason(error: Exception) -> str:
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    # "/project/onnx/…/helper.h:23: adapt: Assertion `false` failed: No Previous Version of X exists"
    return text.rpartition("failed: ")[2][:300].rstrip(". ")


def _set_aside(model: Any) -> list[bytes]:
    """Take large weights out of a model: the converter need not copy what it does not look at."""
    kept: list[bytes] = []
    for tensor in model.graph.initializer:
        if len(tensor.raw_data) > _LARGE:
            entry = tensor.external_data.add()
            entry.key, entry.value = "location", f"{_MARK}{len(kept)}"
            kept.append(tensor.raw_data)
            tensor.ClearField("raw_data")
            tensor.data_location = _EXTERNAL
    return kept


def _put_back(model: Any, kept: list[bytes]) -> None:
    for tensor in tensors(model):
        places = [entry.value for entry in tensor.external_data if entry.value.startswith(_MARK)]
        if places:
            tensor.raw_data = kept[int(places[0][len(_MARK) :])]
            tensor.ClearField("external_data")
            tensor.ClearField("data_location")


def _fixed(model: Any) -> Any:
    """A copy with every free size 1."""
    copy = type(model)()
    copy.CopyFrom(model)
    for entry in (*copy.graph.input, *copy.graph.output, *copy.graph.value_info):
        for dim in entry.type.tensor_type.shape.dim:
            if dim.WhichOneof("value") != "dim_value":
                dim.dim_value = 1
    return copy


def _declare_as(converted: Any, original: Any) -> None:
    """Declare the inputs and outputs as the original does: the converter knows sizes of 1, and names of its own."""
    del converted.graph.value_info[:]
    for now, before in ((converted.graph.input, original.graph.input), (converted.graph.output, original.graph.output)):
        types = {entry.name: entry.type for entry in before}
        for entry in now:
            if entry.name in types:
                entry.type.CopyFrom(types[entry.name])
