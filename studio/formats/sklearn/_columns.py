"""What a fitted estimator tells of the columns it takes: their kind, and values such as it was trained on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np

from studio.formats.base import Array

_MOST_WORDS = 5000

_OF_POSITIVE = frozenset({"log", "log1p", "log2", "log10", "sqrt", "reciprocal"})

# They look at no column themselves.
_HANDING_ON = ("TransformedTargetRegressor", "FrozenEstimator", "VotingClassifier", "VotingRegressor")

OUTPUTS = ("label", "probabilities", "scores", "prediction", "transformed", "index", "distance", "variable")

NUMBER, WHOLE, TEXT = "number", "whole", "text"


@dataclass(eq=False)
class Column:
    """One column of a model's input. Everything but its place and name is found out, and may stay unknown.

    `kind`: number, whole (categories that are whole numbers) or text. `choices`: categories. `words`: of a text that is
    taken apart, `letters` where single letters are. `center`, `spread`; `low`, `high`: of numbers; `edges`: numbers
    that it is compared with, `exact` as 64-bit floats; `positive`: only such can be taken. `missing`: it may be
    missing. `open`: unknown categories are taken too. `used`: anything looks at it.
    """

    place: int
    name: str
    kind: str = NUMBER
    choices: Array | None = None
    words: tuple[str, ...] = ()
    letters: bool = False
    center: float | None = None
    spread: float = 1.0
    low: float | None = None
    high: float | None = None
    edges: list[float] = field(default_factory=list)
    exact: bool = False
    positive: bool = False
    missing: bool = False
    open: bool = False
    used: bool = False


def columns_of(model: Any) -> list[Column]:
    """The columns of what `model` takes, in order. A single one for a list of texts. Empty when it does not tell."""
    count = width(model)
    names = feature_names(model)
    if count is None:
        column = Column(0, "text", kind=TEXT, used=True)
        _look(model, [column])
        return [column] if column.words or column.letters else []
    columns = [Column(place, _input_name(names[place]) if names else f"column_{place}") for place in range(count)]
    _look(model, columns)
    return columns


def _input_name(name: str) -> str:
    """A column's name as that of an input, which can not be the name of an output too."""
    return f"{name}_" if name.partition("_")[0] in OUTPUTS else name


def width(model: Any) -> int | None:
    """How many columns it takes; None for texts, which come as a list."""
    try:
        return int(model.n_features_in_)
    except (AttributeError, TypeError, ValueError):
        inner = _first(model)
        return None if inner is None else width(inner)


def feature_names(model: Any) -> tuple[str, ...]:
    """The names of the columns that it was trained on; empty where they had none."""
    try:
        return tuple(str(name) for name in model.feature_names_in_)
    except (AttributeError, TypeError):
        return ()


def _first(model: Any) -> Any:
    """What a Pipeline, FeatureUnion or search hands its input to."""
    steps = getattr(model, "steps", None) or getattr(model, "transformer_list", None)
    if steps:
        return next((step for _, step in steps if step is not None and not isinstance(step, str)), None)
    return getattr(model, "best_estimator_", None)


def positions(wanted: Any, count: int, names: Sequence[str]) -> list[int]:
    """The columns that a ColumnTransformer means by an index, a name, a slice, a mask, or several of them."""
    if isinstance(wanted, slice):
        if isinstance(wanted.start, str) or isinstance(wanted.stop, str):
            start = list(names).index(wanted.start) if wanted.start is not None else 0
            stop = list(names).index(wanted.stop) + 1 if wanted.stop is not None else count
            return list(range(start, stop, wanted.step or 1))
        return list(range(count))[wanted]
    if isinstance(wanted, (str, int, np.integer)):
        wanted = [wanted]
    listed = list(np.asarray(wanted).tolist()) if not isinstance(wanted, list) else wanted
    if listed and all(isinstance(one, (bool, np.bool_)) for one in listed):
        return [place for place, chosen in enumerate(listed) if chosen]
    return [list(names).index(one) if isinstance(one, str) else int(one) % max(1, count) for one in listed]


def _look(model: Any, columns: list[Column]) -> None:
    """Put down what an estimator that is given these columns tells of them."""
    kind = type(model).__name__
    if model is None or isinstance(model, str) or not columns:
        if model == "passthrough":
            _use(columns)
        return
    if kind == "ColumnTransformer":
        names = feature_names(model)
        for _, inner, wanted in model.transformers_:
            if not (isinstance(inner, str) and inner == "drop"):
                _look(inner, [columns[place] for place in positions(wanted, len(columns), names)])
        return
    if hasattr(model, "steps"):
        for _, step in model.steps:
            _look(step, columns)
            kept = _kept(step, columns)
            if kept is None:
                return
            columns = kept
        return
    if hasattr(model, "transformer_list"):
        for _, inner in model.transformer_list:
            _look(inner, columns)
        return
    if hasattr(model, "best_estimator_"):
        _look(model.best_estimator_, columns)
        return
    if kind not in _HANDING_ON:
        _use(columns)
    _facts(model, columns)
    for inner, subset in _inner(model, len(columns)):
        _look(inner, [columns[place] for place in subset])


def _use(columns: Iterable[Column]) -> None:
    for column in columns:
        column.used = True


def _kept(step: Any, columns: list[Column]) -> list[Column] | None:
    """The columns behind a step of a pipeline that leaves their values alone; None behind one that does not."""
    if step is None or isinstance(step, str):
        return columns
    kind = type(step).__name__
    if kind in ("SimpleImputer", "KNNImputer") and not getattr(step, "add_indicator", False):
        return columns
    if kind == "FunctionTransformer" and step.func is None:
        return columns
    if hasattr(step, "get_support"):
        return [column for column, keep in zip(columns, step.get_support(), strict=False) if keep]
    return None


def _inner(model: Any, count: int) -> list[tuple[Any, Sequence[int]]]:
    """Estimators that an ensemble or a wrapper hands its columns to."""
    everything = range(count)
    for name in ("best_estimator_", "estimator_", "regressor_"):
        if hasattr(model, name):
            return [(getattr(model, name), everything)]
    if type(model).__name__ == "FrozenEstimator":
        return [(model.estimator, everything)]
    found = getattr(model, "estimators_", None)
    if found is None:
        calibrated = getattr(model, "calibrated_classifiers_", None)
        return [(calibrated[0].estimator, everything)] if calibrated else []
    listed = list(np.ravel(np.asarray(found, dtype=object))) if isinstance(found, np.ndarray) else list(found)
    subsets = getattr(model, "estimators_features_", None)
    if subsets is not None:
        return [(inner, list(map(int, subset))) for inner, subset in zip(listed[:20], subsets, strict=False)]
    return [(inner, everything) for inner in listed[:50]]


def _facts(model: Any, columns: list[Column]) -> None:
    """What one estimator keeps of its training data, by the names of its fitted attributes."""
    kind = type(model).__name__
    categories = getattr(model, "categories_", None)
    if isinstance(categories, list):
        for column, values in zip(columns, categories, strict=False):
            _category(column, np.asarray(values), getattr(model, "handle_unknown", "error") != "error")
    if hasattr(model, "analyzer"):
        _vocabulary(model, columns[0])
    if kind in ("SimpleImputer", "KNNImputer"):
        for column in columns:
            column.missing = True
    if kind == "FunctionTransformer" and getattr(model.func, "__name__", "") in _OF_POSITIVE:
        for column in columns:
            column.positive = True
    if getattr(model, "_preprocessor", None) is not None:
        _look(model._preprocessor, columns)
    if kind == "SimpleImputer" and np.asarray(model.statistics_).dtype.kind in "OUS":
        for column, value in zip(columns, model.statistics_, strict=False):
            if isinstance(value, str):
                column.kind = TEXT
    _scale(model, columns)
    _edges(model, columns)


def _category(column: Column, values: Array, open_: bool) -> None:
    known = [value for value in values.tolist() if value is not None and value == value]
    if any(isinstance(value, str) for value in known):
        column.kind = TEXT
        column.choices = np.asarray([value for value in known if isinstance(value, str)], dtype=object)
    elif known:
        column.choices = np.asarray(known, dtype=np.float64)
        if not np.any(column.choices % 1):
            column.kind = WHOLE if values.dtype.kind in "iu" else column.kind
    column.open = open_
    column.missing |= len(known) < len(values) and column.kind != TEXT


def _vocabulary(model: Any, column: Column) -> None:
    column.kind = TEXT
    known = (word for word in getattr(model, "vocabulary_", ("word",)) if isinstance(word, str))
    stops = sorted(model.get_stop_words() or ())[:: 1 if model.ngram_range[1] > 1 else 10][:100]
    column.words = (*islice(known, _MOST_WORDS), *stops)
    column.letters = model.analyzer != "word"


def _scale(model: Any, columns: list[Column]) -> None:
    """Centre and spread from scalers, Gaussian models, and whatever kept rows of its training data."""
    count = len(columns)
    rows = None
    for name in ("_fit_X", "X_train_", "X_fit_", "support_vectors_", "cluster_centers_", "means_", "centroids_"):
        value: Any = getattr(model, name, None)
        value = value.toarray() if hasattr(value, "toarray") else value
        if isinstance(value, np.ndarray) and value.ndim == 2 and value.shape[1] == count and len(value):
            rows = value.astype(np.float64)
            break
    if rows is not None:
        rows = np.where(np.isfinite(rows), rows, 0.0)
        _spread(columns, rows.mean(axis=0), np.maximum(rows.std(axis=0), 1e-3 * np.abs(rows).max(axis=0)))
    for center, spread in (("mean_", "scale_"), ("center_", "scale_"), ("mean_", "explained_variance_")):
        at: Any = getattr(model, center, None)
        by: Any = getattr(model, spread, None)
        if _fits(at, count):
            wide = by if _fits(by, count) else np.full(count, np.sqrt(np.max(by)) if _sized(by) else 1.0)
            _spread(columns, at, wide)
            break
    theta, var = getattr(model, "theta_", None), getattr(model, "var_", None)
    if isinstance(theta, np.ndarray) and theta.ndim == 2 and theta.shape[1] == count and isinstance(var, np.ndarray):
        _spread(columns, theta.mean(axis=0), theta.std(axis=0) + np.sqrt(var.mean(axis=0)))
    low, high = getattr(model, "data_min_", None), getattr(model, "data_max_", None)
    if _fits(low, count) and _fits(high, count):
        _range(columns, low, high)
    elif _fits(getattr(model, "max_abs_", None), count):
        _range(columns, -model.max_abs_, model.max_abs_)
    quantiles = getattr(model, "quantiles_", None)
    if isinstance(quantiles, np.ndarray) and quantiles.ndim == 2 and quantiles.shape[1] == count:
        _range(columns, quantiles[0], quantiles[-1])
    if hasattr(model, "bin_edges_"):
        _range(columns, [edges[0] for edges in model.bin_edges_], [edges[-1] for edges in model.bin_edges_])
    counted = hasattr(model, "feature_count_") or hasattr(model, "feature_log_prob_")
    if counted or (type(model).__name__ == "PowerTransformer" and model.method == "box-cox"):
        for column in columns:
            column.positive = True


def _fits(value: Any, count: int) -> bool:
    return isinstance(value, np.ndarray) and value.shape == (count,) and value.dtype.kind in "fiu"


def _sized(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.size > 0


def _spread(columns: list[Column], center: Any, spread: Any) -> None:
    for column, at, by in zip(columns, center, spread, strict=False):
        if column.center is None and np.isfinite(at):
            column.center, column.spread = float(at), float(by) if by > 0 and np.isfinite(by) else 1.0


def _range(columns: list[Column], low: Any, high: Any) -> None:
    for column, least, most in zip(columns, low, high, strict=False):
        if column.low is None and np.isfinite(least) and np.isfinite(most):
            column.low, column.high = float(least), float(most)


def _edges(model: Any, columns: list[Column]) -> None:
    """Thresholds of trees: where an answer changes, and where numbers a bit too large fall on the other side."""
    tree = getattr(model, "tree_", None)
    if tree is not None:
        inner = tree.children_left != -1
        for feature, edge in zip(tree.feature[inner][:500], tree.threshold[inner][:500], strict=True):
            if 0 <= feature < len(columns):
                columns[feature].edges.append(float(edge))
    mapper = getattr(model, "_bin_mapper", None)
    if getattr(model, "_preprocessor", None) is not None:  # it puts categories first
        mask = [bool(one) for one in model.is_categorical_]
        columns = sorted(columns, key=lambda column: not mask[column.place] if column.place < len(mask) else True)
    for column, edges in zip(columns, getattr(mapper, "bin_thresholds_", ()), strict=False):
        if column.choices is None:
            column.edges.extend(float(edge) for edge in np.asarray(edges).ravel())
        column.missing |= column.kind != TEXT
