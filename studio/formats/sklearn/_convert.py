"""From a loaded estimator to a graph that answers as it does: 32-bit floats where they are enough, else 64-bit ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from studio.core.errors import Refused, StepFailed, StudioError
from studio.formats.base import Array, Bounds, Case, Feed, Kit
from studio.formats.boosters._doubles import too_fine
from studio.formats.sklearn import _missing as missing
from studio.formats.sklearn._adapt import adapted, last, settle, transforms_target, without_target
from studio.formats.sklearn._columns import NUMBER, TEXT, WHOLE, Column, columns_of, feature_names, width
from studio.formats.sklearn._functions import undo_target
from studio.formats.sklearn._onnx import datatype, locale_for, to_onnx
from studio.formats.sklearn._outputs import declare, flatten_labels, forms, name_inputs, name_outputs
from studio.formats.sklearn._rows import drawn
from studio.formats.sklearn._samples import sample_arrays, sampled, together
from studio.formats.sklearn._source import (
    INPUT,
    LABEL,
    PREDICTION,
    PROBABILITIES,
    SCORES,
    TEXTS,
    Source,
    check_fitted,
)
from studio.formats.sklearn._trees import add_edges, graph_of, tail_of

_ROWS = 200
_AGREE = 1e-4  # of an output's scale
_TIE = 1e-5
_OTHERS = 0.02  # share of labels that differ
_LOST = 1e-2  # of an output's scale, by rounding alone
_LOOKED_AT = 60
_DECLARED = (3, 7)
_GAPS = 40
_NAMES = 40
_KINDS = {"BYTES": TEXT, "BOOL": NUMBER}


@dataclass(frozen=True)
class Made:
    graph: Path
    cases: tuple[Case, ...]
    notes: tuple[str, ...]
    class_labels: tuple[str, ...]
    source: Source


@dataclass(frozen=True)
class _Work:
    """What conversions are tried with.

    `rows`: plausible inputs in 64-bit floats; `samples`: the user's, as they were saved; `rounded`: the settings say
    FP32, so that the source too is asked about rounded values; `path`: where the graph goes; `folder`: for files.
    """

    source: Source
    rows: Feed
    samples: Feed | None
    rounded: bool
    locale: str
    path: Path
    folder: Path
    kit: Kit


@dataclass(frozen=True)
class _Attempt:
    """A graph, and how far its answers are from the source's: the largest difference over its output's scale.

    `clear`: rows whose class is not decided by less than rounding.
    """

    graph: Any
    doubles: bool
    distance: float
    clear: Array


def convert(model: Any, folder: Path, samples: Path | None, out_dir: Path, kit: Kit) -> Made:
    """Write `model.onnx`, and run the source for it. `folder`: for files in between.

    Raises Refused naming what can not be converted.
    """
    model = settle(model)
    check_fitted(model)
    columns = columns_of(model)
    if not columns:
        raise Refused(
            f"This {type(model).__name__} does not say how many columns it takes.",
            "It was trained by a scikit-learn that did not keep it, or takes no table.",
            "Train and save it again with scikit-learn 1.0 or newer.",
        )
    tail = tail_of(without_target(model), folder)
    if tail is not None:
        add_edges(tail, columns)
    columns = _as_told(columns, samples, kit)
    source = Source(model, columns, _each_alone(model, columns, samples, kit))
    rows = _as_inputs(source, drawn(columns, _ROWS))
    types = {one.datatype for one in kit.settings.inputs.values()}
    work = _Work(
        source, rows, sampled(source, samples), "FP32" in types, locale_for(model), out_dir / "model.onnx", folder, kit
    )
    kit.report(0.5, "converting to ONNX")
    told = "FP64" in types
    fine = tail is not None and tail.before is None and too_fine(tail.ensemble) is not None
    best = _attempt(work, doubles=told or (fine and not work.rounded))
    if (
        not best.doubles
        and not work.rounded
        and best.distance > _AGREE
        and any(column.used and column.kind == NUMBER for column in columns)
    ):
        kit.report(0.6, "converting to ONNX with 64-bit floats")
        try:
            other = _attempt(work, doubles=True)
        except StudioError:
            other = best  # not every operator has them
        best = other if other.distance < best.distance / 4 else best
        if not best.doubles:
            _check_digits(work, best)
    work.path.write_bytes(best.graph.SerializeToString())
    kit.report(0.8, "running the original")
    cases = _cases(work, best)
    gaps, note = _gaps(work, best)
    notes = (*_notes(source, best, work.locale), *note)
    return Made(work.path, (*cases, *gaps), notes, _labels(model), source)


def _gaps(work: _Work, made: _Attempt) -> tuple[tuple[Case, ...], tuple[str, ...]]:
    """A run with values missing, where the source takes such; a note where the graph answers those otherwise."""
    if any(column.missing for column in work.source.columns):
        return (), ()  # the drawn rows have gaps already
    feed = missing.with_gaps(_typed(_first(work.rows, _GAPS), made.doubles))
    if feed is None:
        return (), ()
    try:
        expected = work.source.answers(feed, forms(made.graph))
    except StudioError:
        return (), ()  # the source refuses missing values
    try:
        own = work.kit.run(work.path, (feed,))[0]
    except StudioError:
        return (), (missing.NOTE,)
    return ((), (missing.NOTE,)) if missing.differ(expected, own) else ((Case(inputs=feed, outputs=expected),), ())


def _attempt(work: _Work, doubles: bool) -> _Attempt:
    source, path = work.source, work.path
    graph = _graph(work, doubles)
    path.write_bytes(graph.SerializeToString())
    feeds = tuple(_typed(_first(work.rows, count), doubles) for count in _DECLARED)
    answers = _run(source.model, path, feeds, work.kit)
    if flatten_labels(graph, _DECLARED[0], answers[0]):
        path.write_bytes(graph.SerializeToString())
        answers = work.kit.run(path, feeds)
    declare(graph, _DECLARED, answers)
    path.write_bytes(graph.SerializeToString())
    distance, clear = _strayed(work, graph, doubles, work.rows)
    if work.samples is not None:
        distance = max(distance, _strayed(work, graph, doubles, work.samples)[0])
    return _Attempt(graph, doubles, distance, clear)


def _strayed(work: _Work, graph: Any, doubles: bool, rows: Feed) -> tuple[float, Array]:
    """How far the graph's answers are from the source's, and which rows are not decided by less than rounding."""
    expected = work.source.answers(_asked(work, rows), forms(graph))
    own = work.kit.run(work.path, (_typed(rows, doubles),))[0]
    return _farthest(expected, own)


def _farthest(expected: Feed, own: Feed) -> tuple[float, Array]:
    clear = ~_tied(expected)
    found = 0.0
    for name, values in expected.items():
        if values.dtype.kind == "f":
            found = max(found, _distance(values, own[name], clear))
        elif values.shape == own[name].shape and clear.any():
            other = float((values[clear] != own[name][clear]).mean())
            found = max(found, other if other > _OTHERS else 0.0)
    return found, clear


def _asked(work: _Work, rows: Feed) -> Feed:
    """What the source is asked about: the values as a user has them, unless the user said to round them."""
    return _typed(rows, doubles=False) if work.rounded else rows


def _check_digits(work: _Work, made: _Attempt) -> None:
    """Raises Refused where rounding one column to 32 bits changes the source's own answers, and no graph avoids it."""
    wanted = forms(made.graph)
    exact = work.source.answers(work.rows, wanted)
    for name, values in work.rows.items():
        if values.dtype.kind != "f":
            continue
        for place in range(min(values.shape[1], _LOOKED_AT)):
            rounded = values.copy()
            rounded[:, place] = values[:, place].astype(np.float32)
            try:
                far, _ = _farthest(exact, work.source.answers({**work.rows, name: rounded}, wanted))
            except StudioError:
                far = float("inf")  # a category that is none any more
            if far > _LOST:
                column = name if work.source.alone else work.source.columns[place].name
                largest = float(np.nanmax(np.abs(values[:, place])))
                raise Refused(
                    f"The numbers of '{column}' have more digits than 32-bit floats hold (up to {largest:.10g}).",
                    "With these rounded, the original itself answers otherwise; with 64-bit floats it has no ONNX form "
                    "that answers as it does.",
                    f"Subtract an offset from '{column}' or scale it before the training, and save the model again.",
                )


def _graph(work: _Work, doubles: bool) -> Any:
    source = work.source
    named = _inputs(source, doubles)
    # skl2onnx changes names that are no names in Python.
    inputs = [(f"input_{place}", kind, size) for place, (_, kind, size) in enumerate(named)]
    model = adapted(source.model, source.columns, source.alone, doubles)
    tail = tail_of(model, work.folder)
    if tail is not None:
        before = None if tail.before is None else to_onnx(tail.before, inputs, work.locale)
        graph = graph_of(tail, before, doubles)
    else:
        graph = to_onnx(model, inputs, work.locale)
        missing.follow(graph, model)
        name_outputs(graph, source.model)
    if tail is None or tail.before is not None:
        name_inputs(graph, {inner: name for (inner, _, _), (name, _, _) in zip(inputs, named, strict=True)})
    final = last(source.model)
    if transforms_target(final):
        undo_target(graph, final.transformer_, PREDICTION)
    return graph


def _run(model: Any, path: Path, feeds: tuple[Feed, ...], kit: Kit) -> list[Feed]:
    try:
        return kit.run(path, feeds)
    except (Refused, StepFailed) as error:
        raise Refused(
            f"The graph that skl2onnx makes of this {type(model).__name__} does not run.",
            f"{error.why}",
            "Train it with other settings, or another estimator; the job's log has the whole report.",
        ) from error


def _distance(expected: Array, own: Array, clear: Array) -> float:
    if expected.shape != own.shape:
        return float("inf")
    left, right = expected[clear].astype(np.float64), own[clear].astype(np.float64)
    good = np.isfinite(left)
    if not np.isfinite(right[good]).all():
        return float("inf")
    scale = float(np.abs(left[good]).max(initial=0.0))
    return float(np.abs(left[good] - right[good]).max(initial=0.0)) / (scale or 1.0)


def _inputs(source: Source, doubles: bool) -> list[tuple[str, str, int | None]]:
    used = [column for column in source.columns if column.used]
    if source.alone:
        return [(column.name, datatype(column, doubles), 1) for column in used]
    if width(source.model) is None:
        return [(TEXTS, "BYTES", None)]
    return [(INPUT, datatype(together(used), doubles), len(source.columns))]


def _as_told(columns: list[Column], samples: Path | None, kit: Kit) -> list[Column]:
    """Kinds of columns as the user's settings or samples give them, by name."""
    told = {name: one.datatype for name, one in kit.settings.inputs.items() if one.datatype}
    for name, array in sample_arrays(samples).items():
        told.setdefault(name, "BYTES" if array.dtype.kind in "US" else "")
    for column in columns:
        kind = told.get(column.name, "")
        if kind == "BYTES" and column.choices is None:
            column.kind = TEXT
        elif kind.startswith("INT") and column.kind == NUMBER and column.choices is not None:
            column.kind = WHOLE
        elif kind.startswith("FP") and column.kind == WHOLE:
            column.kind = NUMBER
    return columns


def _each_alone(model: Any, columns: Sequence[Column], samples: Path | None, kit: Kit) -> bool:
    """Whether each column becomes an input: where texts and numbers mix, some are not used, or the user names one."""
    if width(model) is None:
        return False
    names = {column.name for column in columns}
    if names & (set(kit.settings.inputs) | set(sample_arrays(samples))):
        return True
    if not all(column.used for column in columns):
        return True
    kinds = {column.kind for column in columns if column.used}
    return TEXT in kinds and (len(kinds) > 1 or bool(feature_names(model)))


def _as_inputs(source: Source, values: list[Array]) -> Feed:
    """Drawn columns as inputs: [rows, 1] each, or [rows, columns] of all, or texts [rows]."""
    if source.alone:
        pairs = zip(source.columns, values, strict=True)
        return {column.name: array.reshape(-1, 1) for column, array in pairs if column.used}
    if width(source.model) is None:
        return {TEXTS: values[0]}
    kind = together([column for column in source.columns if column.used]).kind
    if kind == TEXT:
        return {INPUT: np.stack([array.astype(object) for array in values], axis=1)}
    table = np.stack([array.astype(np.float64) for array in values], axis=1)
    return {INPUT: table.astype(np.int64) if kind == WHOLE else table}


def _typed(feed: Feed, doubles: bool) -> Feed:
    kind = np.float64 if doubles else np.float32
    return {name: array.astype(kind) if array.dtype.kind == "f" else array for name, array in feed.items()}


def _first(feed: Feed, count: int) -> Feed:
    return {name: array[:count] for name, array in feed.items()}


def _cases(work: _Work, made: _Attempt) -> tuple[Case, ...]:
    """Runs of the source: the user's samples or drawn rows, and all of the drawn ones in one batch."""
    wanted = forms(made.graph)
    ordered = np.argsort(~made.clear, kind="stable")
    rows = {name: array[ordered] for name, array in work.rows.items()}
    bounds: dict[str, Bounds] = dict(rows)
    failure: StudioError | None = None
    for runs in work.kit.runs(work.kit.signature(work.path), bounds):
        try:
            cases = tuple(Case(inputs=feed, outputs=work.source.answers(feed, wanted)) for feed in runs)
        except StudioError as error:
            failure = error
            continue
        more = [_first(rows, int(made.clear.sum()))] if made.clear.any() else []
        if work.samples is not None:
            clear = ~_tied(work.source.answers(_asked(work, work.samples), wanted))
            more += [{name: array[clear] for name, array in work.samples.items()}] if clear.any() else []
        # The source is asked about the values as they are, the graph about what its own inputs hold of them.
        asked = tuple(
            Case(inputs=_typed(one, made.doubles), outputs=work.source.answers(_asked(work, one), wanted))
            for one in more
        )
        return (*cases, *asked)
    raise failure or Refused("There are no inputs to run the model on.")


def _tied(answers: Feed) -> Array:
    """Rows whose class is decided by less than rounding: either answer is right there."""
    count = len(next(iter(answers.values())))
    tied = np.zeros(count, bool)
    for name, scores in answers.items():
        one = name.partition("_")[0]
        if LABEL in answers and one in (PROBABILITIES, SCORES) and scores.ndim == 2 and scores.shape[1] > 1:
            top = np.sort(scores.astype(np.float64), axis=1)
            tied |= top[:, -1] - top[:, -2] < _TIE * max(1.0, float(np.abs(top).max(initial=0.0)))
            tied |= (np.abs(scores - 0.5) < _TIE).any(axis=1) if answers[LABEL].ndim == 2 else False
        elif LABEL in answers and one == SCORES:
            flat = scores.reshape(count, -1)
            tied |= (np.abs(flat) < _TIE * max(1.0, float(np.abs(flat).max(initial=0.0)))).any(axis=1)
    return tied


def _labels(model: Any) -> tuple[str, ...]:
    classes = getattr(last(model), "classes_", None)
    if classes is None or isinstance(classes, list) or np.ndim(classes) != 1:
        return ()
    whole = np.asarray(classes).dtype.kind == "f" and not np.any(np.asarray(classes) % 1)
    labels = tuple(str(int(label) if whole else label) for label in classes)
    return () if labels == tuple(str(place) for place in range(len(labels))) else labels


def _notes(source: Source, made: _Attempt, locale: str) -> tuple[str, ...]:
    notes: list[str] = []
    names = feature_names(source.model)
    if names and not source.alone:
        rest = f" … and {len(names) - _NAMES} more" if len(names) > _NAMES else ""
        notes.append(f"Columns of '{INPUT}', in order: {', '.join(names[:_NAMES])}{rest}.")
    unused = [column.name for column in source.columns if not column.used]
    if unused and source.alone:
        notes.append(f"Left out, because nothing looks at them: {', '.join(unused[:_NAMES])}.")
    empty = [column.name for column in source.columns if column.kind == TEXT and column.missing]
    if empty:
        notes.append(f"An empty text stands for a missing value: {', '.join(empty[:_NAMES])}.")
    if any(column.letters for column in source.columns):
        notes.append(
            "It counts letters: two blanks are two here, while scikit-learn takes runs of white space for one."
        )
    if made.doubles:
        notes.append("It takes 64-bit floats: with 32-bit ones its answers strayed from the original's.")
    if locale not in ("", "C"):
        notes.append(f"Lower-casing texts needs the locale {locale} wherever it is served.")
    return tuple(notes)
