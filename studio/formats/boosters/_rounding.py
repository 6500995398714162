"""64-bit thresholds as 32-bit floats, so that comparisons come out the same."""

from __future__ import annotations

from typing import Any

import numpy as np

from studio.formats.base import Array


def rounded_down(values: Array) -> Array:
    """The largest 32-bit floats that are not above the values: for a 32-bit x, x ≤ either is the same."""
    with np.errstate(over="ignore"):
        near = np.asarray(values).astype(np.float32)
    above = near.astype(np.float64) > values
    return np.asarray(np.where(above, np.nextafter(near, np.float32(-np.inf)), near), np.float32)


def as_kind(values: Array, kind: Any) -> Array:
    """Thresholds as what values are compared as: np.float32 (`rounded_down`) or np.float64."""
    return rounded_down(values) if kind is np.float32 else np.asarray(values, kind)
