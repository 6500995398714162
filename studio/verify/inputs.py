"""Inputs to judge on: the user's samples from an `.npz`, or numbers drawn from the signature. And rows into runs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from studio.core.errors import InvalidInput, Refused
from studio.core.manifest import InputsKind
from studio.core.names import keyword_arguments
from studio.core.rows import RowLayout, row_layout
from studio.core.tensors import DATATYPES, Signature, TensorSpec
from studio.verify.npz import read_npz
from studio.verify.session import Array, Feed
from studio.verify.tasks import role_of

LABELS = "labels"
Bounds = tuple[float, float] | tuple[Array, Array] | tuple[str, ...] | Array
_MOST_VALUES = 2**36
_FREE_SIZE = 8  # a free size that is not the batch: a short sentence
_FREE_SIDE = 32  # a free height or width of an image


@dataclass(frozen=True)
class LoadedSamples:
    """`inputs` by name, rows first (of a model without a batch: one after the other); `labels` one a row."""

    inputs: Feed
    labels: Array | None
    kind: InputsKind


def row_count(layout: RowLayout | None, inputs: Feed) -> int:
    """Rows in the inputs; 1 where they do not divide."""
    return 1 if layout is None else min(len(inputs[name]) for name in layout.names) // layout.length


def take_rows(layout: RowLayout, inputs: Feed, start: int, rows: int) -> Feed:
    """`rows` rows from `start`, beginning again at the top where the inputs end. Inputs without rows stay whole."""
    return pick_rows(layout, inputs, np.arange(start, start + rows) % row_count(layout, inputs))


def pick_rows(layout: RowLayout, inputs: Feed, rows: Array) -> Feed:
    """The rows at the positions `rows` [n]. Inputs without rows stay whole."""
    index = (rows[:, None] * layout.length + np.arange(layout.length)).ravel()
    return {name: array[index] if name in layout.names else array for name, array in inputs.items()}


def rows_among(layout: RowLayout, inputs: Feed, feeds: Sequence[Feed]) -> int:
    """How many rows of the inputs there are among the rows of other feeds, each counted once."""
    there = {row for feed in feeds for row in row_digests(layout, feed)}
    return sum(row in there for row in row_digests(layout, inputs))


def row_digests(layout: RowLayout, inputs: Feed, rows: int = 1) -> Iterator[bytes]:
    """What tells rows, or runs of so many whole ones, from others of the same types and shapes."""
    names = sorted(layout.names)
    for start in range(0, row_count(layout, inputs) - rows + 1, rows):
        one = take_rows(layout, inputs, start, rows)
        content = b"".join(_content_of(one[name]) for name in names)
        yield hashlib.blake2b(content, digest_size=16).digest()


def _content_of(array: Array) -> bytes:
    return repr(array.tolist()).encode() if array.dtype == object else array.tobytes()


def split_runs(signature: Signature, inputs: Feed, batch: int = 1) -> list[Feed]:
    """The inputs as runs of at most `batch` rows, each row in one run. One run where they do not divide.

    A fixed batch of the graph decides over `batch`; rows that do not fill a last fixed batch are left out.
    """
    layout = row_layout(signature)
    if layout is None:
        return [inputs]
    count = row_count(layout, inputs)
    size = layout.rows if layout.unit > 1 else max(1, batch)
    last = count - count % size if layout.unit > 1 else count
    return [take_rows(layout, inputs, start, min(size, count - start)) for start in range(0, last, size)]


def by_row(signature: Signature, inputs: Sequence[Feed], answers: Sequence[Feed]) -> list[Feed]:
    """The answers to runs of one row each, with that row in front where an output has none: [10] becomes [1, 10].

    Answers of any other runs, and those that have rows along a later dimension of the inputs, are left as they are.
    """
    layout = row_layout(signature)
    if layout is None or any(row_count(layout, feed) != 1 for feed in inputs):
        return list(answers)
    inner = {dim for spec in signature.inputs for dim in spec.shape[1:] if isinstance(dim, str)} - {"?"}
    rowless = set()
    for spec in signature.outputs:
        shapes = {np.shape(answer[spec.name]) for answer in answers}
        shape = shapes.pop() if len(shapes) == 1 else (1,)
        if shape[:1] != (1,) and not (spec.shape and spec.shape[0] in inner):
            rowless.add(spec.name)
    return [
        {name: np.asarray(array)[None] if name in rowless else array for name, array in answer.items()}
        for answer in answers
    ]


def draw_inputs(signature: Signature, rows: int, seed: int, ranges: Mapping[str, Bounds] | None = None) -> Feed:
    """Made-up inputs that fit the signature, at least one run: good for parity and speed, never for accuracy.

    Floats are standard normal, integers 0 to 9 (uint8: 0 to 255), masks 1, segment ids 0, strings single letters;
    `ranges` gives bounds by input name (inclusive for integers) and draws evenly between them; arrays of bounds
    have one entry for each column of a float input; for strings, they are the words to draw. A single array holds rows,
    which are taken as they come, again and again. Every free leading size is `rows`; a size of the same name elsewhere
    too; other free sizes are 8, or 32 for the sides of images.
    """
    generator = np.random.default_rng(seed)
    layout = row_layout(signature)
    if layout is not None and layout.unit > 1:
        rows = -(-rows // layout.rows) * layout.unit
    sizes = {spec.shape[0]: rows for spec in signature.inputs if spec.shape and isinstance(spec.shape[0], str)}
    sizes.pop("?", None)
    drawn: Feed = {}
    for spec in signature.inputs:
        shape = [
            dim if isinstance(dim, int) else sizes.get(dim, rows if place == 0 else _free_size(spec, place))
            for place, dim in enumerate(spec.shape)
        ]
        if layout is not None and spec.name in layout.names:
            shape[0] = rows
        if prod(shape) > _MOST_VALUES:
            raise Refused(
                f"The input '{spec.name}' has sizes that no memory holds: {spec.describe()}.",
                "An input of these sizes could be neither sent nor run.",
                "Export the model again with the sizes that it takes.",
            )
        drawn[spec.name] = _draw(generator, spec, tuple(shape), (ranges or {}).get(spec.name))
    return drawn


def _free_size(spec: TensorSpec, place: int) -> int:
    return _FREE_SIDE if len(spec.shape) == 4 and place >= 1 else _FREE_SIZE


def _draw(generator: np.random.Generator, spec: TensorSpec, shape: tuple[int, ...], bounds: Bounds | None) -> Array:
    kind = numpy_dtype(spec.datatype)
    if isinstance(bounds, np.ndarray):
        return np.asarray(bounds[np.arange(shape[0] if shape else 1) % len(bounds)]).reshape(shape).astype(kind)
    if spec.datatype == "BYTES":
        words = [str(word) for word in bounds or "abcd"]
        return np.asarray(generator.choice(np.asarray(words, dtype=object), size=shape), dtype=object)
    if spec.datatype == "BOOL":
        return np.asarray(generator.random(shape) < 0.5)
    bounds = bounds or usual_bounds(spec)
    if bounds is None:
        return np.asarray(generator.standard_normal(shape)).astype(kind)
    if spec.datatype.startswith(("FP", "BF")):
        return np.asarray(generator.uniform(np.asarray(bounds[0]), np.asarray(bounds[1]), shape)).astype(kind)
    low, high = bounds
    return np.asarray(generator.integers(int(np.min(low)), int(np.max(high)), size=shape, endpoint=True)).astype(kind)


def usual_bounds(spec: TensorSpec) -> tuple[float, float] | None:
    """Between what integers are drawn when nobody says; None for what is drawn otherwise."""
    if spec.datatype in ("BOOL", "BYTES") or spec.datatype.startswith(("FP", "BF")):
        return None
    name = spec.name.lower()
    if "mask" in name:
        return 1, 1
    if "token_type" in name or "segment" in name:
        return 0, 0
    return 0, 255 if spec.datatype == "UINT8" else 9


def numpy_dtype(datatype: str) -> np.dtype[Any]:
    """The numpy dtype of an OIP datatype."""
    if datatype == "BF16":
        import ml_dtypes

        found: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
        return found
    return np.dtype(DATATYPES[datatype][0])


def load_samples(npz_path: str | Path, signature: Signature) -> LoadedSamples:
    """Sample inputs that fit the signature, cast to its types, from an `.npz`: one array per input, rows first.

    A single array of any name stands for the only input. `labels`, one a row, makes them labelled. Pickled arrays are
    never loaded. Raises InvalidInput saying which array does not fit, and how.
    """
    arrays = read_npz(Path(npz_path))
    names = [spec.name for spec in signature.inputs]
    labels = arrays.pop(LABELS, None) if LABELS not in names else None
    if len(names) == 1 and len(arrays) == 1:
        arrays = {names[0]: next(iter(arrays.values()))}
    missing, extra = [name for name in names if name not in arrays], [name for name in arrays if name not in names]
    if missing or extra:
        raise InvalidInput(
            "The sample inputs do not have the model's inputs.",
            f"The model takes {', '.join(names)}; the file has {', '.join(arrays) or 'no arrays'}.",
            f"For example: np.savez('samples.npz', {keyword_arguments(names)}, labels=…).",
        )
    layout = row_layout(signature)
    sizes: dict[str, int] = {}
    inputs = {spec.name: _fit(spec, arrays[spec.name], layout, sizes) for spec in signature.inputs}
    if layout is not None:
        _check_rows(layout, inputs)
    _check_numbers(inputs)
    if labels is None:
        return LoadedSamples(inputs, None, "samples")
    rows = None if layout is None or (layout.whole and row_count(layout, inputs) == 1) else row_count(layout, inputs)
    return LoadedSamples(inputs, _check_labels(labels, rows), "labelled")


def _fit(spec: TensorSpec, array: Array, layout: RowLayout | None, sizes: dict[str, int]) -> Array:
    rowed = layout is not None and spec.name in layout.names
    whole = layout is not None and layout.unit > 1 and array.ndim == len(spec.shape) + 1
    given = list(array.shape)
    if rowed and whole and array.shape[1:2] == spec.shape[:1]:
        # A model without a batch, and samples with one: each sample is a run of its own.
        array = array.reshape(-1, *array.shape[2:])
    wanted = ("rows", *spec.shape[1:]) if rowed else spec.shape
    ok = array.ndim == len(wanted)
    for have, want in zip(array.shape, wanted, strict=False):
        if isinstance(want, int):
            ok = ok and have == want
        elif want != "?":
            ok = ok and sizes.setdefault(want, have) == have
    if not ok:
        raise InvalidInput(
            f"The sample input '{spec.name}' has the shape {given}.",
            f"The model takes {spec.describe()}{_row_words(layout) if rowed else ''}.",
            "Save the samples with the shape that the model takes, rows first.",
        )
    return _cast(spec, array)


def _row_words(layout: RowLayout | None) -> str:
    if layout is None or layout.unit == 1:
        return ", one row per sample"
    return ", and several samples have their number in front of that"


def _cast(spec: TensorSpec, array: Array) -> Array:
    kind = numpy_dtype(spec.datatype)
    if spec.datatype == "BYTES":
        if array.dtype.kind in "US":
            return np.asarray([_text(item) for item in array.ravel()], dtype=object).reshape(array.shape)
    elif (
        array.dtype == kind
        or np.can_cast(array.dtype, kind, "same_kind")
        or (array.dtype.kind in "biu" and kind.kind in "fV")
    ):
        return np.asarray(array.astype(kind), order="C")
    elif array.dtype.kind in "iu" and kind.kind in "iu":
        limits = np.iinfo(kind)
        if not array.size or (array.min() >= limits.min and array.max() <= limits.max):
            return np.asarray(array.astype(kind), order="C")
    raise InvalidInput(
        f"The sample input '{spec.name}' holds {array.dtype} values.",
        f"The model takes {spec.datatype}, and these can not be cast without changing them.",
        f"Save the array as {DATATYPES[spec.datatype][0]}.",
    )


def _text(item: object) -> str:
    return item.decode("utf-8", "replace") if isinstance(item, bytes) else str(item)


def _check_rows(layout: RowLayout, inputs: Feed) -> None:
    counts = {name: len(inputs[name]) for name in sorted(layout.names)}
    if len(set(counts.values())) > 1 or min(counts.values()) < layout.unit:
        found = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise InvalidInput(
            "The sample inputs do not have the same number of rows, or too few.",
            f"Rows: {found}; the smallest run of this model takes {layout.unit}.",
            "Save one row per sample in every array.",
        )


def _check_numbers(inputs: Feed) -> None:
    if all(array.size and not _finite(array) for array in inputs.values()):
        names = ", ".join(f"'{name}'" for name in inputs)
        raise InvalidInput(
            f"The sample inputs hold no number: every value of {names} is NaN or infinite.",
            "Whatever a model answers to them says nothing about it.",
            "Save rows that the model was made for; empty ones come from a column that was not read as numbers.",
        )


def _finite(array: Array) -> bool:
    """Whether anything in it is a value; texts, integers and booleans always are."""
    return array.dtype.kind not in "fV" or bool(np.isfinite(array.astype(np.float64)).any())


def valueless_notes(samples: LoadedSamples | None) -> tuple[str, ...]:
    """A note on the inputs of which the samples have not one finite value; none without any."""
    inputs = samples.inputs if samples else {}
    names = [f"'{name}'" for name, array in inputs.items() if array.size and not _finite(array)]
    if not names:
        return ()
    return (f"The sample inputs have no value for {', '.join(names)}: all are NaN or infinite.",)


def with_classes(labels: Array | None, outputs: Feed) -> tuple[Array | None, tuple[str, ...]]:
    """The labels [rows], and notes, for a model whose `outputs` are one run's.

    Labels of which none is a class of the scores are left out: an accuracy of 0 would be of the labels, not the model.
    """
    if labels is None or labels.dtype.kind not in "iuf":
        return labels, ()
    arrays = {name: np.asarray(array) for name, array in outputs.items()}
    roles = {role_of(name, array) for name, array in arrays.items()}
    if not np.array_equal(labels, np.round(labels)):
        if "value" in roles or not roles & {"scores", "classes"}:
            return labels, ()
        odd = np.unique(labels[labels != np.round(labels)])
        return None, (
            f"No accuracy is known: the labels of the samples are no whole numbers ({_some(odd)}), and the model "
            "answers with classes. Give 'labels' the position of each row's class among the scores, from 0.",
        )
    if roles != {"scores"}:
        return labels, ()
    width = min(array.shape[1] for array in arrays.values())
    outside = labels[(labels < 0) | (labels >= width)]
    if not len(outside):
        return labels, ()
    shown = _some(np.unique(outside))
    fix = "Give 'labels' the position of each row's class among the scores, from 0."
    classes = f"the model has {width} scores, the classes 0 to {width - 1}"
    if len(outside) == len(labels):
        return None, (f"No accuracy is known: the labels of the samples are {shown}, but {classes}. {fix}",)
    some = f"{len(outside)} of {len(labels)} labels of the samples are none of its classes"
    return labels, (f"{some} ({shown}), and so count as wrong answers: {classes}. {fix}",)


def _some(values: Array) -> str:
    shown = [f"{value:.0f}" if value == np.round(value) else f"{value:g}" for value in values[:5]]
    return ", ".join(shown) + (" …" if len(values) > 5 else "")


def _check_labels(labels: Array, rows: int | None) -> Array:
    flat = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if flat.ndim != 1 or (rows is not None and len(flat) != rows):
        raise InvalidInput(
            f"The labels have the shape {list(labels.shape)}.",
            f"There must be one label for each of the {rows} samples." if rows is not None else "Labels are one a row.",
            "Save 'labels' as one class number (or the target value) per row.",
        )
    odd = np.flatnonzero(~np.isfinite(flat)) if flat.dtype.kind == "f" else np.empty(0)
    if len(odd):
        raise InvalidInput(
            f"{len(odd)} of the {len(flat)} labels are NaN or infinite.",
            f"Those of the rows {_some(odd)}, counted from 0.",
            "Leave those rows out, of the inputs too.",
        )
    return flat
