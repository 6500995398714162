"""A loaded estimator as the source that its graph is compared with: what it answers, by the names of the outputs."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator

from studio.core.errors import InvalidInput, Refused, StepFailed
from studio.formats.base import Array, Feed
from studio.formats.sklearn._adapt import estimators_in, last
from studio.formats.sklearn._columns import TEXT, Column, feature_names, width

INPUT, TEXTS = "input", "text"
LABEL, PROBABILITIES, SCORES, PREDICTION = "label", "probabilities", "scores", "prediction"


@dataclass(frozen=True)
class Source:
    """`alone`: each used column is an input of its own; else one input, or a list of texts, holds all of them."""

    model: Any
    columns: Sequence[Column]
    alone: bool

    @property
    def names(self) -> dict[str, Column | None]:
        """The inputs. None: all columns together."""
        if self.alone:
            return {column.name: column for column in self.columns if column.used}
        return {(TEXTS if width(self.model) is None else INPUT): None}

    def answers(self, feed: Feed, wanted: dict[str, tuple[int, str]]) -> Feed:
        """What it answers, by output: `wanted` gives each output's dimensions and kind of numpy type.

        Raises StepFailed when it refuses the inputs, Refused when it has no such answers.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                given = self._given(feed, list(wanted))
            except (Refused, MemoryError):
                raise
            except Exception as error:  # estimators raise whatever numpy does
                raise StepFailed(
                    f"The original {type(self.model).__name__} failed on inputs of {_rows(feed)} rows.",
                    f"{type(error).__name__}: {(str(error).strip() or 'no reason given').splitlines()[0][:300]}.",
                    "Drop sample inputs with it: an .npz of the same stem with one array per input.",
                ) from error
        return {name: _shaped(name, given[name], *form) for name, form in wanted.items()}

    def _given(self, feed: Feed, wanted: Sequence[str]) -> dict[str, Any]:
        try:
            return _answers(self.model, self.table(feed, np.float64), wanted)
        except ValueError as error:
            if "dtype" not in str(error):
                raise
        # Trained on 32-bit floats, compiled code such as that of KMeans takes no others.
        return _answers(self.model, self.table(feed, np.float32), wanted)

    def table(self, feed: Feed, kind: type) -> Any:
        """What the estimator takes: a list of texts, an array, or a data frame where types differ."""
        if not self.alone:
            (values,) = feed.values()
            if width(self.model) is None:
                return [str(text) for text in values.ravel()]
            table = values.astype(kind) if values.dtype.kind == "f" else values
            return _framed(table, self.model) if _by_name(self.model) else table
        rows = _rows(feed)
        listed: list[Array] = []
        for column in self.columns:
            values = feed[column.name][:, 0] if column.used else np.zeros(rows)
            if column.kind == TEXT and column.missing:
                values = np.where(values == "", np.array(np.nan, dtype=object), values)
            listed.append(values.astype(kind) if values.dtype.kind == "f" else values)
        if feature_names(self.model):
            import pandas

            return pandas.DataFrame(dict(zip(feature_names(self.model), listed, strict=True)))
        return np.stack([values.astype(object) for values in listed], axis=1)


def _by_name(model: Any) -> bool:
    """Whether a step picks its columns by their names."""
    return bool(feature_names(model)) and any(type(one).__name__ == "ColumnTransformer" for one in estimators_in(model))


def _framed(table: Array, model: Any) -> Any:
    import pandas

    return pandas.DataFrame(table, columns=list(feature_names(model)))


def _rows(feed: Feed) -> int:
    return len(next(iter(feed.values())))


def _answers(model: Any, table: Any, names: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    final = last(model)
    if LABEL in names or PREDICTION in names:
        found[LABEL] = found[PREDICTION] = model.predict(table)
    several = [name for name in names if name.startswith(f"{PROBABILITIES}_")]
    if PROBABILITIES in names:
        found[PROBABILITIES] = model.predict_proba(table)
    elif several:
        found.update(zip(several, model.predict_proba(table), strict=True))
    if SCORES in names:
        if hasattr(model, "decision_function"):
            found[SCORES] = _each_class(final, np.asarray(model.decision_function(table)))
        else:
            found[SCORES] = model.transform(table)
    if "transformed" in names:
        found["transformed"] = model.transform(table)
    if "index" in names:
        found["distance"], found["index"] = model.kneighbors(table)
    missing = [name for name in names if name not in found]
    if missing:
        raise Refused(f"The original has no answer that corresponds to the output '{missing[0]}'.")
    return found


def _each_class(final: Any, scores: Array) -> Array:
    """Scores of two classes as one column each, as the graph gives them."""
    if scores.ndim > 1 or len(getattr(final, "classes_", ())) != 2:
        return scores
    one_against_one = type(final).__name__ == "OneVsOneClassifier"
    return np.stack([1 - scores if one_against_one else -scores, scores], axis=1)


def _shaped(name: str, values: Any, dims: int, kind: str) -> Array:
    array = np.asarray(values.toarray() if hasattr(values, "toarray") else values)
    if array.ndim == 1 and dims == 2:
        array = array.reshape(-1, 1)
    elif array.ndim == 2 and dims == 1 and array.shape[1] == 1:
        array = array[:, 0]
    if kind == "O":
        return np.asarray([str(one) for one in array.ravel()], dtype=object).reshape(array.shape)
    if kind == "i":
        return array.astype(np.int64)
    return array.astype(np.float64 if kind == "d" else np.float32)


def check_fitted(model: Any) -> None:
    """Raises Refused for what was never trained, or can not answer for new inputs."""
    from sklearn.exceptions import NotFittedError
    from sklearn.utils.validation import check_is_fitted

    kind = type(model).__name__
    if not isinstance(model, BaseEstimator):
        raise Refused(
            f"The file holds a {kind}, which is no estimator.",
            "Only estimators and pipelines of them answer for inputs.",
            "Save the fitted estimator itself, alone: joblib.dump(model, 'model.joblib').",
        )
    try:
        check_is_fitted(model)
    except NotFittedError as error:
        raise Refused(
            f"This {kind} was not trained.", "It has no fitted attributes.", "Call fit on it before saving it."
        ) from error
    except AttributeError as error:
        raise InvalidInput(
            f"Parts of this {kind} are missing.",
            f"{error}.",
            "It is damaged, or was saved by another scikit-learn: train it again with this one, and save it.",
        ) from error
    if not any(hasattr(model, method) for method in ("predict", "transform", "kneighbors")):
        raise Refused(
            f"A {kind} answers for its training data alone.",
            "It has neither predict nor transform for new inputs.",
            "Train an estimator on its labels, for example KNeighborsClassifier, and save that.",
        )
