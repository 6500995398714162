"""Numbers as a datatype: what fits it, and how it is rounded. Imports numpy."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def fitted(array: Array, dtype: np.dtype[Any]) -> Array | None:
    """The numbers as `dtype`, each rounded once, to the nearest that it holds; None where one is out of its range.

    NaN and infinities stay what they are in a floating-point type. Whole numbers may become booleans where they are 0
    or 1. Fractions are not for whole-number types: the caller sees to that.
    """
    if array.dtype == dtype or not array.size:
        return array.astype(dtype, copy=False)
    if dtype.kind in "iub":
        low, high = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
        # As Python's numbers, since numpy compares signed with unsigned ones as floats.
        if int(array.min()) < low or int(array.max()) > high:
            return None
        return array.astype(dtype)
    with np.errstate(over="ignore"):
        result = array.astype(dtype)
    return result if bool((np.isfinite(result) | ~np.isfinite(array)).all()) else None


def whole(values: Any) -> Array | None:
    """Whole numbers from 0 to 2**64 - 1 as UINT64, None for anything else.

    numpy makes floats of a list with numbers below and above 2**63, and so other numbers of them.
    """
    exact = np.array(values, dtype=object)
    if not exact.size or not all(type(value) is int for value in exact.flat):
        return None
    return exact.astype(np.uint64) if exact.min() >= 0 and exact.max() < 2**64 else None
