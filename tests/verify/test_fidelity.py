"""Figures of fidelity, against values worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from studio.core.errors import InvalidInput, Refused
from studio.verify.fidelity import compare, fidelity_of


def one(reference: np.ndarray, other: np.ndarray, labels: np.ndarray | None = None):
    return compare([{"y": reference}], [{"y": other}], ["y"], labels, "labelled" if labels is not None else "samples")


def test_figures_are_those_of_the_formulas() -> None:
    found = one(np.array([[3.0, 4.0], [0.0, 2.0]]), np.array([[3.0, 4.5], [0.0, 2.0]])).outputs[0]
    signal, noise = 9 + 16 + 4, 0.25
    dot, other = 9 + 18 + 4, 9 + 20.25 + 4
    assert found.cosine == pytest.approx(dot / math.sqrt(signal * other))
    assert found.sqnr_db == pytest.approx(10 * math.log10(signal / noise))
    assert found.max_abs == pytest.approx(0.5)
    assert found.max_rel == pytest.approx(0.5 / 4)
    assert found.top1_agreement == 1.0
    assert found.non_finite == 0


def test_identical_outputs_have_no_noise_to_measure() -> None:
    rows = np.random.default_rng(1).standard_normal((20, 3)).astype(np.float32)
    found = one(rows, rows.copy()).outputs[0]
    assert (found.cosine, found.sqnr_db, found.max_abs, found.top1_agreement) == (pytest.approx(1), None, 0.0, 1.0)


def test_a_constant_answer_has_a_high_cosine_and_no_correlation() -> None:
    prices = 200 + np.random.default_rng(1).standard_normal((50, 1))
    found = one(prices, np.full_like(prices, 200.0)).outputs[0]
    assert found.cosine is not None and found.cosine > 0.999
    assert found.correlation is not None and abs(found.correlation) < 0.5


def test_a_reference_that_never_moves_has_no_correlation_to_ask_for() -> None:
    constant = np.full((10, 3), 7.0)
    assert one(constant, constant + 1e-5).outputs[0].correlation is None


def test_rows_with_nan_never_agree_and_are_counted() -> None:
    reference = np.array([[1.0, 2.0], [2.0, 1.0], [0.0, 5.0]])
    other = reference.copy()
    other[0, 0] = np.nan  # the largest score is still the right one
    other[2, 1] = np.inf
    found = one(reference, other).outputs[0]
    assert found.non_finite == 2
    assert found.top1_agreement == pytest.approx(1 / 3)
    assert found.max_abs == 0.0


def test_infinity_that_the_reference_has_too_is_no_fault() -> None:
    values = np.array([[1.0, -np.inf], [2.0, 3.0]])
    assert one(values, values.copy()).outputs[0].non_finite == 0


def test_all_zero_against_something_is_not_agreement() -> None:
    assert one(np.ones((4, 2)), np.zeros((4, 2))).outputs[0].cosine == 0.0


def test_integers_and_strings_are_compared_by_equality() -> None:
    classes = one(np.array([1, 2, 3, 9]), np.array([1, 2, 4, 4])).outputs[0]
    assert (classes.top1_agreement, classes.max_rel, classes.max_abs) == (0.5, 0.5, 5.0)
    assert classes.cosine is None
    words = one(np.array(["a", "b"], object), np.array(["a", "c"], object)).outputs[0]
    assert (words.top1_agreement, words.max_abs) == (0.5, 1.0)


def test_runs_of_different_sizes_count_as_rows_together() -> None:
    rows = np.random.default_rng(0).standard_normal((7, 3))
    parts = [{"y": rows[:1]}, {"y": rows[1:3]}, {"y": rows[3:]}]
    found = compare(parts, parts, ["y"], None, "samples", (1, 2, 4))
    assert (found.samples, found.batch_sizes) == (7, (1, 2, 4))


@pytest.mark.parametrize(
    ("output", "labels", "expected"),
    [
        (np.array([1, 0, 1, 1]), np.array([1, 0, 0, 1]), 0.75),
        (np.array([[0.1, 0.9], [0.8, 0.2]]), np.array([1, 1]), 0.5),
        (np.array([[0.9], [0.2], [0.4]]), np.array([1, 0, 1]), 2 / 3),
        (np.array(["cat", "dog"], object), np.array(["cat", "cat"]), 0.5),
        (np.array([[1.5], [2.5]]), np.array([1.4, 2.6]), None),  # real numbers: no classes
        (np.array([[11.0], [12.0]]), np.array([1, 0]), None),  # no probability
    ],
)
def test_accuracy_reads_classes_where_there_are_any(output, labels, expected) -> None:
    found = one(output, output, labels)
    assert found.accuracy == (None if expected is None else pytest.approx(expected))
    assert found.reference_accuracy == found.accuracy


def test_runs_that_do_not_correspond_are_refused() -> None:
    with pytest.raises(InvalidInput):
        compare([{"y": np.ones(2)}], [], ["y"])
    with pytest.raises(Refused, match=r"\[3\]"):
        one(np.ones(2), np.ones(3))
    with pytest.raises(Refused, match="missing"):
        compare([{"y": np.ones(2)}], [{"z": np.ones(2)}], ["y"])


def test_each_row_of_two_graphs_runs_once_alone_and_in_batches(net, rows) -> None:
    labels = np.zeros(120, np.int64)
    found = fidelity_of(net("other", spoil="noise"), net("reference"), rows, labels, "labelled", batchable=True)
    assert found.samples == 120
    assert {1, 32} <= set(found.batch_sizes)
    assert found.outputs[0].cosine == pytest.approx(1, abs=1e-5)
    assert found.outputs[0].sqnr_db is not None and found.outputs[0].sqnr_db > 50
    alone = fidelity_of(net("other", spoil="noise"), net("reference"), rows)
    assert alone.batch_sizes == (1,)
    assert alone.outputs[0].cosine == pytest.approx(found.outputs[0].cosine, abs=1e-9)


NAN = np.nan


def test_a_variant_that_hides_nan_is_told_and_its_rows_are_nobodys_hits() -> None:
    reference = np.eye(4)[np.arange(40) % 4]
    reference[3] = NAN
    reference[5, 2] = np.inf
    hidden = reference.copy()
    hidden[3] = [0, 0, 0, 9]
    hidden[5, 2] = 7
    found = one(reference, hidden, np.arange(40) % 4)
    (out,) = found.outputs
    assert (out.non_finite, out.changed_non_finite) == (0, 5)
    assert (found.samples, found.unjudged, found.judged) == (40, 1, 39)
    # Row 5 has an answer, infinity; row 3 has none, for either side.
    assert (out.top1_agreement, found.accuracy, found.reference_accuracy) == (1.0, 38 / 39, 38 / 39)
    assert found.scores is not None and found.reference_scores is not None
    assert found.scores.confusion == found.reference_scores.confusion
    same = one(reference, reference.copy(), np.arange(40) % 4)
    assert (same.outputs[0].changed_non_finite, same.unjudged, same.accuracy) == (0, 1, 38 / 39)


def test_infinity_of_the_other_sign_is_not_the_same() -> None:
    assert one(np.array([[np.inf, 1.0]]), np.array([[-np.inf, 1.0]])).outputs[0].changed_non_finite == 1
    assert one(np.array([[np.inf, 1.0]]), np.array([[NAN, 1.0]])).outputs[0].changed_non_finite == 1


def test_a_reference_without_any_answer_can_not_be_agreed_with() -> None:
    nothing = np.full((30, 4), NAN)
    found = one(nothing, nothing.copy(), np.arange(30) % 4)
    assert (found.judged, found.accuracy, found.scores) == (0, None, None)
    assert found.outputs[0].top1_agreement is None and found.outputs[0].changed_non_finite == 0


def test_errors_of_regression_leave_out_what_the_reference_does_not_answer() -> None:
    labels = np.linspace(0, 10, 30)
    reference = labels[:, None] + 0.5
    reference[4] = NAN
    found = one(reference, np.nan_to_num(reference), labels)
    assert found.scores is not None and found.scores.rmse == pytest.approx(0.5)
    assert found.reference_scores == found.scores and found.outputs[0].changed_non_finite == 1


@pytest.mark.parametrize("labels", [np.arange(30) % 2 == 1, np.arange(30) % 2, (np.arange(30) % 2).astype(np.float32)])
def test_a_single_probability_agrees_where_it_is_on_the_same_side(labels: np.ndarray) -> None:
    reference = np.where(np.asarray(labels, int) == 1, 0.8, 0.3)
    other = reference.copy()
    other[:3] = 0.9, 0.4, 0.6  # rows 0, 1 and 2 change sides
    found = one(reference[:, None], other[:, None], labels)
    assert found.task == "binary"
    assert (found.outputs[0].top1_agreement, found.accuracy) == (0.9, 0.9)
    assert found.reference_accuracy == 1.0
    raw = one(9 * reference[:, None], 9 * other[:, None], labels)
    assert (raw.task, raw.outputs[0].top1_agreement) == ("binary", None)
