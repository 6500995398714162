"""A copy of an estimator that skl2onnx converts, and that answers the same. Imports scikit-learn.

Every change is one of layout (dense instead of sparse), of where a column is looked for, or to an estimator whose
formula is the same; the conversion is compared with the original afterwards.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.compose import ColumnTransformer
from sklearn.pipeline import Pipeline

from studio.formats.base import Array
from studio.formats.sklearn._columns import Column, feature_names, positions

Change = Callable[[Any], Any]


def adapted(model: Any, columns: Sequence[Column], alone: bool, doubles: bool) -> Any:
    """The copy. `alone`: each used column is an input of its own. `doubles`: inputs are 64-bit floats."""
    made = without_target(copy.deepcopy(model, _shared(model)))
    made = _Rewriting(_change(doubles)).of(made)
    if alone:
        kept = {column.place: place for place, column in enumerate(column for column in columns if column.used)}
        first = _first_transformers(made)
        if not first and not hasattr(_leading(made), "categories_"):
            return _put_together(made, len(kept))
        for one in first:
            one.transformers_ = [
                (name, inner, [kept[place] for place in places if place in kept])
                for name, inner, places in one.transformers_
            ]
    return made


def _put_together(model: Any, count: int) -> Any:
    """The model behind a step that makes one table of its inputs."""
    together = ColumnTransformer([("columns", "passthrough", list(range(count)))])
    together.transformers_ = list(together.transformers)
    together.n_features_in_ = count
    return Pipeline([("columns", together), ("model", model)])


def _leading(model: Any) -> Any:
    """What a pipeline hands its input to."""
    while hasattr(model, "steps"):
        model = next((step for _, step in model.steps if step is not None and not isinstance(step, str)), None)
    return model


def _shared(model: Any) -> dict[int, Any]:
    """A memo for deepcopy that leaves arrays of numbers as they are: nothing here changes one."""
    values = [value for one in estimators_in(model) for value in getattr(one, "__dict__", {}).values()]
    return {id(value): value for value in values if isinstance(value, np.ndarray) and value.dtype != object}


def settle(model: Any) -> Any:
    """The original itself, set to answer in this process alone. Searches give way to what they found."""

    def change(one: Any) -> Any:
        if getattr(one, "n_jobs", None) not in (None, 1):
            one.n_jobs = None
        return _found(one)

    return _Rewriting(change).of(model)


def estimators_in(model: Any) -> list[Any]:
    """Every estimator in it, itself included, outermost first."""
    found: list[Any] = []

    def see(one: Any) -> Any:
        found.append(one)
        return one

    _Rewriting(see).of(model)
    return found


def last(model: Any) -> Any:
    """What answers at the end of a pipeline."""
    while hasattr(model, "steps"):
        steps = [step for _, step in model.steps if step is not None and not isinstance(step, str)]
        if not steps:
            return model
        model = steps[-1]
    return model


def without_target(model: Any) -> Any:
    """A model whose last step transforms its target, with the regressor inside in place of that; else itself."""
    final = last(model)
    if not transforms_target(final):
        return model
    if final is model:
        return without_target(final.regressor_)
    model = copy.copy(model)
    model.steps = [*model.steps[:-1], (model.steps[-1][0], without_target(model.steps[-1][1]))]
    return model


def transforms_target(final: Any) -> bool:
    return type(final).__name__ == "TransformedTargetRegressor" and hasattr(final, "regressor_")


class _Rewriting:
    """Applies a change to every estimator inside of others, lists, tuples and dictionaries; each one once."""

    def __init__(self, change: Change) -> None:
        self._change = change
        self._done: dict[int, Any] = {}
        self._alive: list[Any] = []  # so that no id is given twice

    def of(self, value: Any) -> Any:
        if isinstance(value, (str, bytes, int, float, type)) or value is None:
            return value
        if isinstance(value, np.ndarray) and value.dtype != object:
            return value
        if id(value) in self._done:
            return self._done[id(value)]
        self._alive.append(value)
        self._done[id(value)] = value
        made = self._rewritten(value)
        self._done[id(value)] = made
        return made

    def _rewritten(self, value: Any) -> Any:
        if isinstance(value, BaseEstimator) or type(value).__module__.startswith("sklearn."):
            made = self._change(value)
            if made is not value:
                return self.of(made)
            for name, part in list(getattr(value, "__dict__", {}).items()):
                changed = self.of(part)
                if changed is not part:
                    value.__dict__[name] = changed
            if isinstance(value, dict):
                self._entries(value)
        elif isinstance(value, dict):
            self._entries(value)
        elif isinstance(value, list):
            value[:] = [self.of(part) for part in value]
        elif isinstance(value, tuple):
            parts = [self.of(part) for part in value]
            if any(new is not old for new, old in zip(parts, value, strict=True)):
                return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
        elif isinstance(value, np.ndarray) and value.size < 100_000:
            for place in np.ndindex(value.shape):
                value[place] = self.of(value[place])
        return value

    def _entries(self, value: dict[Any, Any]) -> None:
        for key, part in list(value.items()):
            changed = self.of(part)
            if changed is not part:
                value[key] = changed


def _found(one: Any) -> Any:
    """What a search or a frozen estimator stands for; the thing itself otherwise."""
    best = getattr(one, "best_estimator_", None)
    if best is not None:
        return best
    return one.estimator if type(one).__name__ == "FrozenEstimator" else one


def _change(doubles: bool) -> Change:
    inner: set[int] = set()  # steps that transform

    def change(one: Any) -> Any:
        kind = type(one).__name__
        one = _found(one)
        if kind == "Pipeline":
            inner.update(id(step) for _, step in one.steps[:-1])
        elif kind == "ColumnTransformer" and hasattr(one, "transformers_"):
            one.transformers_ = [
                (name, step, positions(wanted, int(one.n_features_in_), feature_names(one)))
                for name, step, wanted in one.transformers_
            ]
        elif kind in ("VotingClassifier", "VotingRegressor") and getattr(one, "flatten_transform", False):
            one.flatten_transform = False  # of transform, which a classifier is not asked for
        elif kind == "KBinsDiscretizer" and one.encode == "onehot":
            one.encode = "onehot-dense"
        elif kind == "RandomTreesEmbedding":
            one.sparse_output = False
        elif kind == "NearestNeighbors":
            one.radius = None
        elif kind in ("CountVectorizer", "TfidfVectorizer") and hasattr(one, "stop_words_"):
            del one.stop_words_  # the converter would leave out whole documents that equal one
        elif kind == "SimpleImputer" and np.asarray(getattr(one, "statistics_", 0)).dtype.kind in "OUS":
            one.missing_values = ""
        elif kind in ("OneVsOneClassifier", "GaussianProcessClassifier") and _text_classes(one):
            one.classes_ = np.arange(len(one.classes_))
            if kind == "GaussianProcessClassifier" and len(one.classes_) == 2:
                one.base_estimator_.classes_ = one.classes_
        elif kind == "BayesianRidge" and hasattr(one, "coef_"):
            return _linear(one)
        elif kind == "LinearDiscriminantAnalysis" and len(getattr(one, "classes_", ())) == 2 and id(one) not in inner:
            return _logistic(one)
        elif kind == "TreePredictor" and not doubles:
            one.nodes = one.nodes.copy()
            one.nodes["num_threshold"] = rounded_down(one.nodes["num_threshold"])
        return one

    return change


def _text_classes(one: Any) -> bool:
    classes = getattr(one, "classes_", None)
    return isinstance(classes, np.ndarray) and classes.dtype.kind in "OUS"


def rounded_down(values: Array) -> Array:
    """The largest 32-bit floats that are not above the values: for 32-bit inputs, x ≤ both is the same."""
    with np.errstate(over="ignore"):
        near = values.astype(np.float32)
    above = near.astype(np.float64) > values
    near[above] = np.nextafter(near[above], np.float32(-np.inf))
    return near.astype(np.float64)


def _linear(one: Any) -> Any:
    """BayesianRidge.predict is X·coef + intercept."""
    from sklearn.linear_model import LinearRegression

    made = LinearRegression()
    made.coef_, made.intercept_, made.n_features_in_ = one.coef_, one.intercept_, one.n_features_in_
    return made


def _logistic(one: Any) -> Any:
    """With two classes, LinearDiscriminantAnalysis.predict_proba is σ(X·coef + intercept)."""
    from sklearn.linear_model import LogisticRegression

    made = LogisticRegression()
    made.coef_, made.intercept_ = one.coef_, one.intercept_
    made.classes_, made.n_features_in_ = one.classes_, one.n_features_in_
    return made


def _first_transformers(model: Any) -> list[Any]:
    """The ColumnTransformers that see a model's own input."""
    if type(model).__name__ == "ColumnTransformer":
        return [model]
    if getattr(model, "_preprocessor", None) is not None:
        return _first_transformers(model._preprocessor)
    steps = getattr(model, "steps", None)
    if steps:
        first = next((step for _, step in steps if step is not None and not isinstance(step, str)), None)
        return _first_transformers(first)
    listed = getattr(model, "transformer_list", None)
    if listed:
        return [found for _, inner in listed for found in _first_transformers(inner)]
    inner = getattr(model, "estimators_", None)
    if isinstance(inner, list):
        return [found for one in inner for found in _first_transformers(one)]
    return []
