"""From series to columns: the lowest and highest value of the line within every column, so that spikes survive."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from studio.tui.charts.scale import Scale, finite

Spans = dict[int, tuple[float, float]]
"""Column → (lowest, highest), both as fractions of the height."""
Envelope = tuple[int, Spans]
"""The index of a series (0 = A) and its columns."""


@dataclass(frozen=True)
class Series:
    """A line of a chart: `points` are (time in seconds, value) in order of time; None, NaN and infinities are gaps.

    `index` 0 to 3 stands for A to D and gives line pattern and colour.
    """

    label: str
    index: int
    points: Sequence[tuple[float, float | None]]

    def last(self) -> float | None:
        """The newest value; None where the newest point is a gap."""
        return finite(self.points[-1][1]) if self.points else None


@dataclass(frozen=True)
class Window:
    """A stretch of time cut into columns. Column n is [start + n·step, start + (n+1)·step)."""

    start: float
    step: float
    columns: int

    @property
    def end(self) -> float:
        return self.start + self.step * self.columns

    def column(self, at: float) -> float:
        return (at - self.start) / self.step


@dataclass(frozen=True)
class Cells:
    """A plot area: a character and a role for every cell, line by line."""

    characters: list[list[str]]
    roles: list[list[str]]


def empty(width: int, height: int) -> Cells:
    return Cells([[" "] * width for _ in range(height)], [[""] * width for _ in range(height)])


def visible(series: Series, start: float, end: float) -> list[float]:
    """The finite values of a series between two moments, both included."""
    seen = (finite(value) for at, value in series.points if start <= at <= end)
    return [value for value in seen if value is not None]


def envelope(series: Series, window: Window, scale: Scale, gap: float | None = None, first: int = 0) -> Spans:
    """The columns from `first` on that the line of a series touches, with the lowest and highest fraction in each.

    Neighbouring points are joined unless one of them is a gap or they are more than `gap` seconds apart.
    """
    spans: Spans = {}
    before: tuple[float, float, float] | None = None
    for at, raw in series.points:
        value, x = finite(raw), window.column(at)
        if not math.isfinite(x):
            continue
        if value is None:
            before = None
            continue
        y = scale.fraction(value)
        if first <= x <= window.columns:
            # A point exactly on the right edge belongs to the last column.
            _widen(spans, min(window.columns - 1, int(x)), y, y)
        if before is not None and before[1] < x and (gap is None or at - before[0] <= gap):
            _join(spans, first, window.columns, before[1], before[2], x, y)
        before = (at, x, y)
    return spans


def _join(spans: Spans, first: int, end: int, x0: float, y0: float, x1: float, y1: float) -> None:
    if x1 < first or x0 > end:
        return
    slope = (y1 - y0) / (x1 - x0)
    for column in range(int(max(float(first), x0)), min(end - 1, int(min(float(end), x1))) + 1):
        a, b = y0 + (max(x0, column) - x0) * slope, y0 + (min(x1, column + 1) - x0) * slope
        _widen(spans, column, min(a, b), max(a, b))


def _widen(spans: Spans, column: int, low: float, high: float) -> None:
    old = spans.get(column)
    spans[column] = (low, high) if old is None else (min(old[0], low), max(old[1], high))
