"""What a model does, told from its outputs and the labels; and which rules that adds to the gates.

    classification  scores [rows, classes], or a class a row, of more than two classes
    binary          the same with two classes, or one score a row and labels of 0 and 1
    regression      one value a row
    embedding       rows of a vector space: told by name, or by rows of length 1
    other           everything else: sequences, images, boxes

Where nothing tells scores from an embedding they are taken as scores, which is the stricter reading: the largest one
has to stay the same.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from studio.core.manifest import Fidelity, Gate, Scores, TaskKind
from studio.core.settings import GateSettings
from studio.verify.scores import classification_scores, in_order, regression_scores
from studio.verify.session import Array

Role = Literal["classes", "scores", "value", "embedding", "other"]
_EMBEDDING = re.compile(r"embed|pool|hidden|feature|sentence|vector", re.IGNORECASE)
_SCORES = re.compile(r"logit|prob|score|class|label|softmax", re.IGNORECASE)
_LEAST_WIDTH = 8  # rows of fewer numbers that have length 1 have it by chance, or are not worth the name


def is_float(array: Array) -> bool:
    """Whether an array holds floats of any width. bfloat16 comes from ml_dtypes and has numpy's kind 'V'."""
    return array.dtype.kind == "f" or array.dtype.name == "bfloat16"


def role_of(name: str, rows: Array) -> Role:
    """What an output [rows, …] of that name is."""
    rows = squeezed(rows)
    if not is_float(rows):
        return "classes" if rows.ndim == 1 else "other"
    if rows.ndim == 1:
        return "value"
    if 0 in rows.shape[1:]:
        return "other"
    if _EMBEDDING.search(name) and not _SCORES.search(name):
        return "embedding"
    if rows.ndim > 2 or rows.ndim == 0:
        return "other"
    return "scores" if _SCORES.search(name) or not _of_length_one(rows.astype(np.float64)) else "embedding"


def squeezed(rows: Array) -> Array:
    """[rows, 1] as [rows]."""
    return rows[:, 0] if rows.ndim == 2 and rows.shape[1] == 1 else rows


def _of_length_one(rows: Array) -> bool:
    if rows.shape[1] < _LEAST_WIDTH or not len(rows) or (np.all(rows >= 0) and np.allclose(rows.sum(axis=1), 1, 1e-2)):
        return False
    return bool(np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-3))


@dataclass(frozen=True)
class Answers:
    """What was said of all rows: `predicted` classes [rows], `scores` [rows, classes], `values` [rows]."""

    predicted: Array | None = None
    scores: Array | None = None
    values: Array | None = None


def answers_of(outputs: Mapping[str, Array], labels: Array) -> Answers:
    """The answers in outputs that have one entry for each label.

    The class is the first integer or string output with one value a row, else the largest of the first scores, else,
    for labels of 0 and 1, whether a single score between 0 and 1 exceeds 0.5. Labels that are real numbers have none,
    and neither have words where the model answers with numbers alone: which score is whose would be guessed.
    """
    arrays = [(name, squeezed(array)) for name, array in outputs.items() if array.ndim and len(array) == len(labels)]
    floats = [(name, array.astype(np.float64)) for name, array in arrays if is_float(array)]
    values = next((array for _, array in floats if array.ndim == 1), None)
    if labels.dtype.kind == "f" and not np.array_equal(labels, np.round(labels)):
        return Answers(values=values)
    numbers = labels.dtype.kind in "biuf"
    binary = numbers and set(np.unique(labels)) <= {0, 1}
    scores = next((array for name, array in floats if array.ndim == 2 and role_of(name, array) == "scores"), None)
    whole = "biu" if numbers else "OUS"
    predicted = next((array for _, array in arrays if array.ndim == 1 and array.dtype.kind in whole), None)
    if predicted is None and not numbers:
        return Answers()
    if predicted is not None and scores is not None and not in_order(labels, predicted, scores):
        scores = None
    if predicted is None and numbers and scores is not None:
        predicted = np.where(np.isnan(scores).all(axis=1), -1, top(scores))
    if predicted is None and binary and values is not None and np.all((values >= 0) & (values <= 1)):
        predicted = (values > 0.5).astype(np.int64)
    if scores is None and binary and values is not None:
        scores = values[:, None]
    return Answers(predicted, scores, values)


def answered(outputs: Mapping[str, Array], labels: Array | None) -> Array:
    """To which rows [rows] there is an answer: the scores, value or embedding hold no NaN. Infinity may be meant."""
    for name, array in outputs.items():
        fits = labels is None or len(array) == len(labels)
        if fits and is_float(array) and role_of(name, array) in ("scores", "value", "embedding"):
            return np.asarray(~np.isnan(array.astype(np.float64)).reshape(len(array), -1).any(axis=1))
    return np.ones(0 if labels is None else len(labels), bool)


def top(scores: Array) -> Array:
    """The position of each row's largest score; NaN is never it."""
    return np.asarray(np.argmax(np.where(np.isnan(scores), -np.inf, scores), axis=1))


def accuracy_of(answers: Answers, labels: Array) -> float | None:
    """Share of rows whose class equals the label; None when there are no classes."""
    if answers.predicted is None:
        return None
    if labels.dtype.kind in "biuf":
        return float((answers.predicted == labels).mean())
    return float(np.mean([str(a) == str(b) for a, b in zip(answers.predicted, labels, strict=True)]))


def scores_of(task: TaskKind, answers: Answers, labels: Array) -> Scores | None:
    """The figures that fit the task; None where there are none."""
    if task in ("classification", "binary"):
        if answers.predicted is not None:
            return classification_scores(labels, answers.predicted, answers.scores)
        if answers.scores is not None:
            return Scores(auc=classification_scores(labels, labels, answers.scores).auc)
    if task == "regression" and answers.values is not None and labels.dtype.kind in "biuf":
        return regression_scores(labels.astype(np.float64), answers.values)
    return None


def task_of(outputs: Mapping[str, Array], labels: Array | None) -> TaskKind:
    """The task, by the reference's outputs [rows, …] and, where there are any, the labels [rows]."""
    roles = {name: role_of(name, array) for name, array in outputs.items()}
    if labels is not None:
        found = answers_of(outputs, labels)
        if found.predicted is not None:
            widths = [array.shape[1] for name, array in outputs.items() if roles[name] == "scores"]
            # True and 1.0 are the class 1.
            classes = labels.astype(np.int64) if labels.dtype.kind in "bf" else labels
            kinds = len(np.unique(np.concatenate([classes.astype(str), found.predicted.astype(str)])))
            return "binary" if (max(widths) if widths else kinds) <= 2 else "classification"
        if found.values is not None and labels.dtype.kind in "biuf":
            return "binary" if set(np.unique(labels)) <= {0, 1} else "regression"
    for name, role in roles.items():
        if role == "scores":
            return "binary" if outputs[name].shape[1] == 2 else "classification"
    if "classes" in roles.values():
        return "classification"
    if "embedding" in roles.values():
        return "embedding"
    return "regression" if "value" in roles.values() else "other"


def task_gates(fidelity: Fidelity, gates: GateSettings) -> tuple[Gate, ...]:
    """The rules that come with the task. A rule without figures is left out.

    Embeddings are used by which rows are near each other, so that order is held. Where classes are of very different
    size, accuracy hides a rare one that is lost: macro-F1 does not. A single score may shift without a class changing
    at one threshold: AUC sees all of them. For regression, what was lost is measured in the error there was before.
    """
    found: list[Gate] = []
    ranks = [out.rank_correlation for out in fidelity.outputs if out.rank_correlation is not None]
    if ranks:
        least = gates.min_rank_correlation
        rule = f"rank correlation ≥ {least:g}"
        found.append(Gate(name="rank correlation", rule=rule, value=min(ranks), passed=min(ranks) >= least))
    own, base = fidelity.scores, fidelity.reference_scores
    if own is None or base is None:
        return tuple(found)
    for name, before, after, most in (
        ("F1 drop", base.f1, own.f1, gates.max_f1_drop),
        ("AUC drop", base.auc, own.auc, gates.max_auc_drop),
    ):
        if before is not None and after is not None:
            drop = before - after
            found.append(Gate(name=name, rule=f"{name} ≤ {most:g}", value=drop, passed=drop <= most + 1e-9))
    if base.rmse is not None and own.rmse is not None and base.rmse > 0:
        rise = own.rmse / base.rmse - 1
        most = gates.max_rmse_rise
        found.append(Gate(name="RMSE rise", rule=f"RMSE rise ≤ {most:g}", value=rise, passed=rise <= most + 1e-9))
    return tuple(found)
