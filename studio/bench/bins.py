"""Latency in fine logarithmic bins, a quarter of a percent wide: small enough to send, fine enough to compare.

`studio.core.histogram` is for the server, where adding must be quick; its bins of 3 % would blur the difference of two
arms. Bin `i` holds e^(i w) to e^((i+1) w) microseconds.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

WIDTH = 0.0025
COUNT = 8290  # up to 1000 s

Counts = npt.NDArray[np.float64]


def binned(microseconds: list[float]) -> dict[int, int]:
    """Counts by bin. Values below 1 us count as 1 us."""
    if not microseconds:
        return {}
    logs = np.log(np.maximum(np.asarray(microseconds), 1.0))
    index, counts = np.unique(np.minimum((logs / WIDTH).astype(np.int64), COUNT - 1), return_counts=True)
    return dict(zip(index.tolist(), counts.tolist(), strict=True))


def dense(bins: Mapping[int, int]) -> Counts:
    """All `COUNT` bins as an array."""
    counts = np.zeros(COUNT)
    if bins:
        counts[np.fromiter(bins.keys(), np.int64)] = np.fromiter(bins.values(), np.float64)
    return counts


def log_quantiles(counts: Counts, qs: tuple[float, ...], first: int = 0) -> npt.NDArray[np.float64]:
    """Natural logarithms of the quantiles in microseconds, shape (len(qs), rows), of counts (rows, bins).

    `first` is the index of the first bin given. Linear within a bin. NaN for a row without counts.
    """
    running = np.cumsum(counts, axis=1)
    totals = running[:, -1]
    rows = np.arange(len(counts))
    found = []
    for q in qs:
        rank = q * totals
        index = np.argmax(running >= rank[:, None] - 1e-9, axis=1)
        inside = counts[rows, index]
        below = running[rows, index] - inside
        with np.errstate(invalid="ignore", divide="ignore"):
            share = np.clip((rank - below) / inside, 0.0, 1.0)
        found.append(np.where(totals > 0, (first + index + share) * WIDTH, np.nan))
    return np.stack(found)


def quantiles_ms(counts: Counts, qs: tuple[float, ...]) -> tuple[float | None, ...]:
    """Quantiles in milliseconds of one array of all bins; None when it is empty."""
    if not counts.any():
        return (None,) * len(qs)
    logs = log_quantiles(counts[None, :], qs)[:, 0]
    return tuple(float(value) for value in np.exp(logs) / 1000.0)
