"""Inputs such as a model was trained on, as far as it tells: what a conversion is compared on where no samples came."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from studio.formats.base import Array
from studio.formats.sklearn._columns import TEXT, WHOLE, Column

_SEED = 11
_RARELY = 0.06
_UNKNOWN = "something else"
_NO_WORDS = ("qwx", "zzyzx", "Ünbekannt", "7")
_JOINTS = (" ", " ", " ", " ", ", ", ". ", " - ", "\n", "! ")


def drawn(columns: Sequence[Column], count: int) -> list[Array]:
    """`count` values for each column: 64-bit floats as a user has them, whole numbers, or texts. Always the same.

    The first row is an ordinary one: nothing in it is missing, unknown or on a threshold.
    """
    generator = np.random.default_rng(_SEED)
    return [_column(generator, column, count) for column in columns]


def _column(generator: np.random.Generator, column: Column, count: int) -> Array:
    rare = generator.random(count) < _RARELY
    rare[0] = False
    if column.kind == TEXT:
        if column.words or column.letters:
            return _texts(generator, column, count)
        choices = column.choices if column.choices is not None and len(column.choices) else np.asarray(["a"], object)
        values = np.asarray(generator.choice(choices, count), dtype=object)
        if column.missing:
            values[rare] = ""
        elif column.open:
            values[rare] = _UNKNOWN
        return values
    if column.choices is not None:
        values = np.asarray(generator.choice(column.choices, count))
        if column.open:
            values[rare] = column.choices.max() + 1
    else:
        values = _numbers(generator, column, count)
    if column.positive:
        values = np.abs(values)
    if column.kind == WHOLE:
        return values.astype(np.int64)
    if column.missing and not (column.open and column.choices is not None):
        values = np.where(rare, np.nan, values)
    return values.astype(np.float64)


def _numbers(generator: np.random.Generator, column: Column, count: int) -> Array:
    if column.edges:
        edges = np.asarray(column.edges)
        edges = edges[np.isfinite(edges)].astype(np.float64 if column.exact else np.float32)
        if len(edges):
            return _around(generator, edges, count)
    if column.low is not None and column.high is not None:
        margin = 0.05 * (column.high - column.low)
        return np.asarray(generator.uniform(column.low - margin, column.high + margin, count))
    return np.asarray(generator.normal(column.center or 0.0, column.spread, count))


def _around(generator: np.random.Generator, edges: Array, count: int) -> Array:
    """Values over and beside the range of thresholds, and on and next to them, where a comparison is easily wrong."""
    low, high = float(edges.min()), float(edges.max())
    margin = 0.25 * (high - low) or max(1.0, 0.1 * abs(low))
    values = generator.uniform(low - margin, high + margin, count)
    kind = edges.dtype.type
    chosen = generator.choice(edges, count)
    side = generator.integers(0, 3, count)
    up, down = np.nextafter(chosen, kind(np.inf)), np.nextafter(chosen, kind(-np.inf))
    on_edge = generator.random(count) < 0.5
    on_edge[0] = False
    return np.where(on_edge, np.choose(side, [chosen, up, down]), values).astype(np.float64)


def _texts(generator: np.random.Generator, column: Column, count: int) -> Array:
    words = column.words or tuple("abcdefgh")
    found = np.empty(count, dtype=object)
    for row in range(count):
        size = int(generator.integers(3, 13))
        text = ""
        for place in range(size):
            word = words[int(generator.integers(len(words)))]
            draw = generator.random()
            if row and draw < _RARELY:
                word = _NO_WORDS[int(generator.integers(len(_NO_WORDS)))]
            elif draw < 0.3:
                word = word.upper() if draw < 0.15 else word.capitalize()
            text += word + (_JOINTS[int(generator.integers(len(_JOINTS)))] if place < size - 1 else "")
        # Where letters count, so do blanks, of which scikit-learn takes several for one: _sklearn_convert notes it.
        found[row] = re.sub(r"\s\s+", " ", text) if column.letters else text
    return found
