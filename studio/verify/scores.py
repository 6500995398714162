"""Figures of predictions against labels, one prediction a row. With numpy alone: scikit-learn is an extra.

accuracy  share of rows whose class is the label
macro-F1  mean over the classes that occur of 2 tp / (2 tp + fp + fn): a rare class weighs as much as a common one
AUC       area under the ROC curve; of more than two classes, the mean over each class against the rest
RMSE, MAE √(mean (y − x)²), mean |y − x|
R²        1 − Σ (y − x)² / Σ (y − mean y)²
"""

from __future__ import annotations

import numpy as np

from studio.core.manifest import Confusion, Scores
from studio.verify.ranks import area_under_curve
from studio.verify.session import Array

MOST_CLASSES = 30
"""A confusion matrix of more classes is a table that nobody reads; it is left out."""
_IN_ORDER = 0.9


def classification_scores(labels: Array, predicted: Array, scores: Array | None) -> Scores:
    """`labels` and `predicted` [n] hold integers or strings alike; `scores` [n, classes] in the order of the classes.

    A single column of `scores` is of the second of two classes. AUC is None where the order of the columns is not
    known: when there are others than 0, 1, 2 …, and not as many classes as columns.
    """
    labels, predicted = _texts(labels, predicted)
    classes, codes = np.unique(np.concatenate([labels, predicted]), return_inverse=True)
    truth, guess = codes[: len(labels)], codes[len(labels) :]
    counts = np.bincount(truth * len(classes) + guess, minlength=len(classes) ** 2).reshape(len(classes), -1)
    hits = np.diag(counts)
    f1 = 2 * hits / (counts.sum(axis=0) + counts.sum(axis=1))
    confusion = None
    if len(classes) <= MOST_CLASSES:
        confusion = Confusion(
            classes=tuple(str(one) for one in classes), counts=tuple(tuple(int(n) for n in row) for row in counts)
        )
    auc = None if scores is None else _auc(labels, classes, scores)
    return Scores(f1=float(f1.mean()) if len(classes) else None, auc=auc, confusion=confusion)


def regression_scores(labels: Array, predicted: Array) -> Scores:
    """Both [n], float64. Rows whose prediction is not finite make every figure None: no mean would be honest."""
    if not len(labels) or not np.isfinite(predicted).all():
        return Scores()
    error = predicted - labels
    spread = float(np.square(labels - labels.mean()).sum())
    return Scores(
        rmse=float(np.sqrt(np.square(error).mean())),
        mae=float(np.abs(error).mean()),
        r2=1 - float(np.square(error).sum()) / spread if spread > 0 else None,
    )


def in_order(labels: Array, predicted: Array, scores: Array) -> bool:
    """Whether the columns of `scores` [n, classes ≥ 2] are in the order that `classification_scores` takes them to be.

    `predicted` [n], which the model gave beside them, shows it: the largest score must stand where its class does. In
    one row of ten it need not, since some models calibrate their scores apart from their answer.
    """
    labels, predicted = _texts(labels, predicted)
    columns = _columns(np.unique(np.concatenate([labels, predicted])), scores.shape[1])
    if columns is None:
        return False
    largest = np.argmax(np.where(np.isnan(scores), -np.inf, scores), axis=1)
    return bool((columns[largest] == predicted).mean() >= _IN_ORDER)


def _auc(labels: Array, classes: Array, scores: Array) -> float | None:
    scores = scores.reshape(len(scores), -1).astype(np.float64)
    if not np.isfinite(scores).all():
        return None
    if scores.shape[1] == 1:
        return area_under_curve(scores[:, 0], labels == classes[1]) if len(classes) == 2 else None
    columns = _columns(classes, scores.shape[1])
    if columns is None:
        return None
    if scores.shape[1] == 2:
        return area_under_curve(scores[:, 1] - scores[:, 0], labels == columns[1])
    chances = _chances(scores)
    areas = [area_under_curve(chances[:, at], labels == one) for at, one in enumerate(columns)]
    known = [area for area in areas if area is not None]
    return float(np.mean(known)) if known else None


def _columns(classes: Array, count: int) -> Array | None:
    """The class of each column: positions, else the sorted classes, as scikit-learn has them, where all occur."""
    if classes.dtype.kind in "biu" and classes.min() >= 0 and classes.max() < count:
        return np.arange(count)
    return classes if len(classes) == count else None


def _chances(scores: Array) -> Array:
    """Rows that are no probabilities yet are made so, since columns of raw scores differ by a shift from row to row."""
    if np.all(scores >= 0) and np.allclose(scores.sum(axis=1), 1, atol=1e-3):
        return scores
    raised = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=1, keepdims=True))


def _texts(labels: Array, predicted: Array) -> tuple[Array, Array]:
    """Both as integers, or both as text."""
    if labels.dtype.kind in "biuf" and predicted.dtype.kind in "biuf":
        return labels.astype(np.int64), predicted.astype(np.int64)
    return labels.astype(str), predicted.astype(str)
