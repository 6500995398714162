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
    result = rounded(array, dtype)
    return result if bool((np.isfinite(result) | ~np.isfinite(array)).all()) else None


def rounded(array: Array, dtype: np.dtype[Any]) -> Array:
    """The numbers as a floating-point `dtype`, each the nearest that it holds; what is too large becomes infinite."""
    with np.errstate(over="ignore"):
        if dtype.name == "bfloat16" and array.dtype.itemsize >= 4:
            array = _odd(array)
        return array.astype(dtype, copy=False)


def _odd(array: Array) -> Array:
    """As 32-bit floats rounded to odd: what lies between two of them becomes the one whose last bit is 1. That bit then
    says so to a further rounding, and both together round once.

    Source: S. Boldo, G. Melquiond, "Emulation of FMA and correctly rounded sums: proved algorithms using rounding to
    odd", 2008. Casts from doubles to bfloat16 go by way of the nearest float, and so round twice.
    """
    if array.dtype.kind in "iu":
        # Doubles do not hold the last 11 of 64 bits: the same with these.
        rest = array & 0x7FF
        cut = ((array >= 2**53) | (array <= -(2**53))) & (rest != 0)
        array = np.where(cut, (array - rest) | 0x800, array).astype(np.float64)
    near = array.astype(np.float32)
    bits = near.view(np.uint32)
    # The magnitude is in the lower bits, whatever the sign is.
    bits = bits - (np.abs(near.astype(np.float64)) > np.abs(array))
    inexact = (near != array) & ~np.isnan(array)
    odd: Array = (bits | inexact).view(np.float32)
    return odd


def whole(values: Any) -> Array | None:
    """Whole numbers from 0 to 2**64 - 1 as UINT64, None for anything else.

    numpy makes floats of a list with numbers below and above 2**63, and so other numbers of them.
    """
    exact = np.array(values, dtype=object)
    if not exact.size or not all(type(value) is int for value in exact.flat):
        return None
    return exact.astype(np.uint64) if exact.min() >= 0 and exact.max() < 2**64 else None
