"""Ranks, and what can be said with them: the rank correlation of embeddings, the area under a ROC curve."""

from __future__ import annotations

import numpy as np

from studio.verify.session import Array

MOST_ROWS = 512
"""Rows whose pairs are compared at most: 512 have 130 816 pairs."""
FEWEST_ROWS = 5


def average_ranks(values: Array) -> Array:
    """The rank of each of `values` [n], from 1; equal ones share the mean of their ranks."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[inverse.ravel()])


def spearman(one: Array, other: Array) -> float | None:
    """Spearman's rank correlation of two sequences [n]: Pearson's correlation of their ranks, ties averaged.

    None where one of them has the same value everywhere. C. Spearman, "The Proof and Measurement of Association
    between Two Things", American Journal of Psychology 15 (1904).
    """
    left, right = average_ranks(one), average_ranks(other)
    left, right = left - left.mean(), right - right.mean()
    lengths = float(np.linalg.norm(left) * np.linalg.norm(right))
    return float(np.clip(np.dot(left, right) / lengths, -1, 1)) if lengths > 0 else None


def rank_correlation(reference: Array, other: Array) -> float | None:
    """Whether the same rows are near each other in two sets of embeddings [rows, …], float64.

    Spearman's ρ between the cosine similarities of all pairs of rows in the one set and in the other: search and
    clustering go by that order alone. It is representational similarity analysis (N. Kriegeskorte, M. Mur,
    P. Bandettini, Frontiers in Systems Neuroscience 2:4, 2008) with cosines. Rows with values that are not finite are
    left out; of more than 512 rows, 512 spread evenly are taken. None for fewer than 5 rows, and where the reference's
    rows are all equally near each other.
    """
    left, right = reference.reshape(len(reference), -1), other.reshape(len(other), -1)
    good = np.isfinite(left).all(axis=1) & np.isfinite(right).all(axis=1)
    left, right = left[good], right[good]
    if len(left) < FEWEST_ROWS:
        return None
    if len(left) > MOST_ROWS:
        index = np.linspace(0, len(left) - 1, MOST_ROWS).round().astype(np.intp)
        left, right = left[index], right[index]
    pairs = np.triu_indices(len(left), 1)
    near = _similarities(left)[pairs]
    if float(np.ptp(near)) < 1e-9:
        return None
    found = spearman(near, _similarities(right)[pairs])
    return 0.0 if found is None else found  # rows that collapsed into one follow no order


def _similarities(rows: Array) -> Array:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    unit = np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0)
    # Differences in the last digits are rounding, and no order.
    return np.asarray((unit @ unit.T).round(12))


def area_under_curve(scores: Array, positive: Array) -> float | None:
    """The area under the ROC curve of `scores` [n] for rows that are `positive` [n], ties counted half.

    By the rank-sum statistic: (Σ ranks of positives − p (p + 1) / 2) / (p q), p and q the numbers of positive and
    other rows (J. A. Hanley, B. J. McNeil, Radiology 143, 1982). None without rows of both kinds.
    """
    p = int(np.count_nonzero(positive))
    q = len(positive) - p
    if not p or not q:
        return None
    return float((average_ranks(scores)[positive].sum() - p * (p + 1) / 2) / (p * q))
