"""Figures against labels and by ranks, against scikit-learn's and SciPy's on whatever hypothesis thinks of."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from studio.verify.ranks import area_under_curve, average_ranks, rank_correlation, spearman
from studio.verify.scores import classification_scores, regression_scores

FEW = settings(max_examples=40, deadline=None)
# Rounded, so that ties are common and nothing is a matter of the last digit.
NUMBERS = st.floats(-1000, 1000).map(lambda value: round(value, 1))


@pytest.mark.filterwarnings("ignore:A single label")
@FEW
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=40))
def test_f1_and_confusion_are_those_of_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    from sklearn.metrics import confusion_matrix, f1_score

    labels, predicted = (np.array(side) for side in zip(*pairs, strict=True))
    found = classification_scores(labels, predicted, None)
    assert found.f1 == pytest.approx(f1_score(labels, predicted, average="macro"))
    assert found.confusion is not None
    classes = np.unique([labels, predicted])
    assert np.array_equal(found.confusion.counts, confusion_matrix(labels, predicted, labels=classes))
    words = classification_scores(labels.astype(str), predicted.astype(str).astype(object), None)
    assert (words.f1, words.confusion) == (found.f1, found.confusion)


@FEW
@given(st.lists(st.tuples(st.booleans(), NUMBERS), min_size=2, max_size=60))
def test_the_area_under_the_curve_is_scikit_learns(rows: list[tuple[bool, float]]) -> None:
    from sklearn.metrics import roc_auc_score

    labels, scores = np.array([one for one, _ in rows], int), np.array([two for _, two in rows])
    if len(set(labels.tolist())) < 2:
        assert area_under_curve(scores, labels == 1) is None
        return
    expected = pytest.approx(roc_auc_score(labels, scores))
    assert area_under_curve(scores, labels == 1) == expected
    assert classification_scores(labels, labels, scores[:, None]).auc == expected
    # Two columns of raw scores: their difference orders the rows as the second probability does.
    assert classification_scores(labels, labels, np.stack([-scores, np.zeros_like(scores)], 1)).auc == expected


@FEW
@given(st.integers(0, 2**32 - 1), st.integers(3, 6), st.booleans())
def test_of_several_classes_each_is_put_against_the_rest(seed: int, classes: int, raw: bool) -> None:
    from sklearn.metrics import roc_auc_score

    random = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(classes), random.integers(0, classes, 30)])
    scores = random.standard_normal((len(labels), classes))
    chances = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    expected = pytest.approx(roc_auc_score(labels, chances, multi_class="ovr"))
    assert classification_scores(labels, labels, scores if raw else chances).auc == expected
    names = np.array([f"class {n}" for n in range(classes)])[labels]
    assert classification_scores(names, names, chances).auc == expected
    # Not every class occurs, and their names do not say which column is whose.
    assert classification_scores(names[labels > 0], names[labels > 0], chances[labels > 0]).auc is None


@FEW
@given(hnp.arrays(np.float64, st.tuples(st.integers(2, 30), st.just(2)), elements=NUMBERS))
def test_errors_of_regression_are_scikit_learns(rows: np.ndarray) -> None:
    from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error

    labels, predicted = rows.T
    found = regression_scores(labels, predicted)
    assert found.rmse == pytest.approx(root_mean_squared_error(labels, predicted), abs=1e-9)
    assert found.mae == pytest.approx(mean_absolute_error(labels, predicted), abs=1e-9)
    if np.ptp(labels) > 0:
        assert found.r2 == pytest.approx(r2_score(labels, predicted), rel=1e-6)
    else:
        assert found.r2 is None


def test_nan_among_predictions_leaves_no_error_to_tell() -> None:
    assert regression_scores(np.array([1.0, 2.0]), np.array([1.0, np.nan])).rmse is None
    scores = np.array([[0.2, np.nan], [0.4, 0.6]])
    assert classification_scores(np.array([0, 1]), np.array([0, 1]), scores).auc is None


def test_a_matrix_of_very_many_classes_is_left_out() -> None:
    labels = np.arange(31)
    found = classification_scores(labels, labels, None)
    assert found.confusion is None and found.f1 == 1.0


@FEW
@given(hnp.arrays(np.float64, st.tuples(st.just(2), st.integers(2, 40)), elements=NUMBERS))
def test_ranks_are_scipys(rows: np.ndarray) -> None:
    from scipy.stats import rankdata, spearmanr

    assert np.array_equal(average_ranks(rows[0]), rankdata(rows[0]))
    found = spearman(*rows)
    if any(np.ptp(side) == 0 for side in rows):
        assert found is None
    else:
        assert found == pytest.approx(spearmanr(*rows).statistic, abs=1e-9)


def test_embeddings_keep_their_order_under_turning_and_stretching_and_lose_it_in_noise() -> None:
    random = np.random.default_rng(3)
    rows = random.standard_normal((40, 16))
    turn = np.linalg.qr(random.standard_normal((16, 16)))[0]
    assert rank_correlation(rows, 3 * rows @ turn) == pytest.approx(1)
    near, far = (rank_correlation(rows, rows + size * random.standard_normal(rows.shape)) for size in (0.05, 3))
    assert near is not None and far is not None and 0.98 < near < 1 and far < 0.6
    # All rows the same: a cosine with the reference's mean may be high, and nothing can be searched any more.
    assert rank_correlation(rows + 3, np.full_like(rows, 3)) == 0.0


def test_rank_correlation_says_nothing_of_few_rows_and_leaves_out_what_is_not_finite() -> None:
    rows = np.random.default_rng(4).standard_normal((20, 8))
    assert rank_correlation(rows[:4], rows[:4]) is None
    assert rank_correlation(np.ones((20, 8)), np.ones((20, 8))) is None
    spoilt = rows.copy()
    spoilt[3, 2] = np.nan
    assert rank_correlation(rows, spoilt) == pytest.approx(1)
    many = np.random.default_rng(5).standard_normal((1200, 4))
    assert rank_correlation(many, many) == pytest.approx(1)
