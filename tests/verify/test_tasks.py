"""What a model does, told from outputs and labels, and the figures and rules that follow."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from studio.core.manifest import Scores
from studio.core.settings import GateSettings
from studio.verify.fidelity import compare
from studio.verify.tasks import role_of, task_gates, task_of

RANDOM = np.random.default_rng(0)
LOGITS = RANDOM.standard_normal((30, 12))
CHANCES = np.exp(LOGITS) / np.exp(LOGITS).sum(axis=1, keepdims=True)
UNIT = RANDOM.standard_normal((30, 16)) / 4
UNIT /= np.linalg.norm(UNIT, axis=1, keepdims=True)


@pytest.mark.parametrize(
    ("name", "rows", "role"),
    [
        ("y", np.arange(4), "classes"),
        ("y", np.array(["a", "b"], object), "classes"),
        ("y", LOGITS[:, :1], "value"),
        ("y", LOGITS, "scores"),
        ("y", CHANCES, "scores"),
        ("y", UNIT, "embedding"),
        ("pooler_output", LOGITS, "embedding"),
        ("last_hidden_state", RANDOM.standard_normal((3, 5, 8)), "embedding"),
        ("class_embedding_logits", LOGITS, "scores"),
        ("boxes", RANDOM.standard_normal((3, 5, 4)), "other"),
        ("logits", np.empty((8, 0)), "other"),
        ("pooler_output", np.empty((8, 0)), "other"),
    ],
)
def test_an_output_is_known_by_shape_name_and_values(name: str, rows: np.ndarray, role: str) -> None:
    assert role_of(name, rows) == role


@pytest.mark.parametrize("rows", [np.empty((8, 0), np.float32), np.empty((8, 0, 3), np.float32)])
@pytest.mark.parametrize("name", ["logits", "pooler_output"])
def test_an_output_that_holds_nothing_agrees_with_itself(name: str, rows: np.ndarray) -> None:
    found = compare([{name: rows}], [{name: rows}], [name], None, "synthetic")
    assert found.outputs[0].top1_agreement is None and found.outputs[0].max_abs == 0


@pytest.mark.parametrize(
    ("outputs", "labels", "task"),
    [
        ({"y": LOGITS}, None, "classification"),
        ({"y": LOGITS[:, :2]}, None, "binary"),
        ({"label": np.zeros(30, int), "probabilities": CHANCES}, None, "classification"),
        ({"y": LOGITS[:, :1]}, None, "regression"),
        ({"y": UNIT}, None, "embedding"),
        ({"boxes": RANDOM.standard_normal((3, 5, 4))}, None, "other"),
        ({"y": LOGITS}, np.arange(30) % 12, "classification"),
        ({"y": CHANCES[:, :1]}, np.arange(30) % 2, "binary"),
        ({"y": LOGITS[:, :1]}, np.arange(30) % 2, "binary"),
        ({"y": LOGITS[:, :1]}, np.arange(30) * 7.0, "regression"),  # whole numbers, but no classes
        ({"y": LOGITS[:, 0]}, RANDOM.standard_normal(30), "regression"),
        ({"y": np.array(["a", "b", "c"] * 10, object)}, np.array(["a"] * 30), "classification"),
        ({"y": UNIT}, np.array(["a"] * 30), "embedding"),  # labels that nothing here answers
    ],
)
def test_the_task_follows(outputs: dict[str, np.ndarray], labels: np.ndarray | None, task: str) -> None:
    assert task_of(outputs, labels) == task


def test_top_k_counts_from_ten_classes_on() -> None:
    other = LOGITS.copy()
    order = np.argsort(-LOGITS, axis=1)
    rows = np.arange(30)
    # The fifth and the sixth of each row change places: four of five are still there.
    other[rows, order[:, 4]], other[rows, order[:, 5]] = LOGITS[rows, order[:, 5]], LOGITS[rows, order[:, 4]]
    found = compare([{"y": LOGITS}], [{"y": other}], ["y"]).outputs[0]
    assert (found.top1_agreement, found.topk_agreement) == (1.0, pytest.approx(0.8))
    few = compare([{"y": LOGITS[:, :9]}], [{"y": other[:, :9]}], ["y"]).outputs[0]
    assert few.topk_agreement is None
    spoilt = LOGITS.copy()
    spoilt[:15, 0] = np.nan
    assert compare([{"y": LOGITS}], [{"y": spoilt}], ["y"]).outputs[0].topk_agreement == pytest.approx(0.5)


def test_embeddings_are_judged_by_who_is_near_whom_and_not_by_their_largest_number() -> None:
    found = compare([{"y": UNIT}], [{"y": UNIT + 0.01 * RANDOM.standard_normal(UNIT.shape)}], ["y"])
    (out,) = found.outputs
    assert found.task == "embedding" and out.top1_agreement is None
    assert out.rank_correlation is not None and 0.98 < out.rank_correlation < 1
    (gate,) = task_gates(found, GateSettings())
    assert gate.passed and gate.rule == "rank correlation ≥ 0.98"
    mixed = compare([{"y": UNIT}], [{"y": UNIT[::-1].copy()}], ["y"])
    assert not task_gates(mixed, GateSettings())[0].passed


def test_a_rare_class_that_is_lost_shows_in_f1_where_accuracy_hides_it() -> None:
    labels = np.array([0] * 400 + [1] * 300 + [2] * 3)
    perfect = np.eye(3)[labels] + 0.1
    blind = perfect.copy()
    blind[labels == 2] = [1.0, 0.5, 0.2]
    found = compare([{"y": perfect}], [{"y": blind}], ["y"], labels, "labelled")
    assert found.task == "classification"
    assert found.accuracy is not None and found.accuracy > 0.99
    assert found.scores is not None and found.reference_scores is not None
    assert found.reference_scores.f1 == 1.0 and found.scores.f1 == pytest.approx(2 / 3, abs=0.01)
    assert found.scores.confusion is not None and found.scores.confusion.counts[2] == (3, 0, 0)
    failed = {gate.name for gate in task_gates(found, GateSettings()) if not gate.passed}
    assert "F1 drop" in failed


def test_a_single_raw_score_has_no_classes_and_still_an_area_under_its_curve() -> None:
    labels = np.arange(40) % 2
    scores = (labels * 4.0 - 2 + 0.1 * RANDOM.standard_normal(40))[:, None]
    found = compare([{"y": scores}], [{"y": -scores}], ["y"], labels, "labelled")
    assert (found.task, found.accuracy) == ("binary", None)
    assert found.reference_scores == Scores(auc=1.0) and found.scores == Scores(auc=0.0)
    assert [gate.name for gate in task_gates(found, GateSettings()) if not gate.passed] == ["AUC drop"]


def test_regression_is_judged_by_the_error_there_was_before() -> None:
    labels = np.linspace(0, 100, 200)
    reference = labels[:, None] + RANDOM.standard_normal((200, 1))
    found = compare([{"y": reference}], [{"y": reference + 0.8}], ["y"], labels, "labelled")
    assert found.task == "regression" and found.accuracy is None
    assert found.reference_scores is not None and found.reference_scores.rmse == pytest.approx(1, abs=0.2)
    (gate,) = task_gates(found, GateSettings())
    assert (gate.name, gate.passed) == ("RMSE rise", False) and gate.value is not None and gate.value > 0.1
    assert task_gates(found, replace(GateSettings(), max_rmse_rise=2.0))[0].passed
    same = compare([{"y": reference}], [{"y": reference + 1e-4}], ["y"], labels, "labelled")
    assert task_gates(same, GateSettings())[0].passed


@pytest.mark.parametrize("names", ["abcdefghijkl", "zyxwvutsrqpo"])
def test_words_as_labels_give_scores_no_order(names: str) -> None:
    labels = np.array(list(names))[LOGITS.argmax(axis=1)]
    found = compare([{"y": LOGITS}], [{"y": LOGITS}], ["y"], labels, "labelled")
    assert (found.accuracy, found.scores, found.reference_scores) == (None, None, None)
    assert found.task == "classification"


def test_the_order_of_scores_is_seen_where_the_model_names_the_class_too() -> None:
    names = np.array([f"class {number:02}" for number in range(12)])
    labels = np.concatenate([names, names, names[:6]])
    answer = names[LOGITS.argmax(axis=1)].astype(object)
    sorted_ = compare([{"c": answer, "p": CHANCES}], [{"c": answer, "p": CHANCES}], ["c", "p"], labels, "labelled")
    assert sorted_.scores is not None and sorted_.scores.auc is not None and sorted_.accuracy is not None
    turned = CHANCES[:, ::-1].copy()
    other = compare([{"c": answer, "p": turned}], [{"c": answer, "p": turned}], ["c", "p"], labels, "labelled")
    assert other.accuracy == sorted_.accuracy and other.scores is not None
    assert (other.scores.auc, other.scores.f1) == (None, sorted_.scores.f1)
