"""Axes: 1-2-5 ticks, bounds that hold still, and labels that fit."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, tzinfo
from typing import Literal

TimeAxis = Literal["ago", "clock", "elapsed"]
"""How time is written: seconds before the right edge, the local time of day, or seconds since an origin."""

LIMIT = 1e300  # beyond this, differences overflow
_TIME_STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400)
_SUFFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


@dataclass(frozen=True)
class Scale:
    """A value axis: `low` < `high`, ticks inside, one label a tick."""

    low: float
    high: float
    ticks: tuple[float, ...]
    labels: tuple[str, ...]

    @property
    def label_width(self) -> int:
        return max((len(label) for label in self.labels), default=0)

    def fraction(self, value: float) -> float:
        """Where a value lies between `low` (0.0) and `high` (1.0); clamped."""
        return min(1.0, max(0.0, (value - self.low) / (self.high - self.low)))


def finite(value: float | None) -> float | None:
    """The value when it can be drawn: None for None, NaN and the infinities; magnitudes above 1e300 are clamped."""
    if value is None or not math.isfinite(value):
        return None
    return min(LIMIT, max(-LIMIT, value))


def step_of(span: float, count: int) -> float:
    """The smallest step of the form 1, 2 or 5 times a power of ten that cuts `span` > 0 into at most `count` parts."""
    raw = span / max(1, count)
    power = 10.0 ** math.floor(math.log10(raw))
    for factor in (1.0, 2.0, 5.0):
        if factor * power >= raw * (1 - 1e-9):
            return factor * power
    return 10.0 * power


def bounds_of(values: Iterable[float]) -> tuple[float, float]:
    """Bounds with a little air around finite values; down to zero when the values come near it anyway."""
    seen = list(values)
    if not seen:
        return 0.0, 1.0
    low, high = min(seen), max(seen)
    if low >= 0 and low <= 0.4 * high:
        low = 0.0
    elif high <= 0 and high >= 0.4 * low:
        high = 0.0
    span = high - low
    if span <= max(abs(low), abs(high)) * 1e-6 or span < 1e-200:
        air = max(abs(low), abs(high)) * 0.2
        return (low - air, high + air) if air > 1e-200 else (low - 1.0, high + 1.0)
    return low if low == 0 else low - span * 0.05, high if high == 0 else high + span * 0.05


def scale_of(values: Iterable[float], rows: int, held: Scale | None = None) -> Scale:
    """The scale for finite values over `rows` rows.

    `held` is kept while the values fit into it and fill at least 45 % of it, so that an axis does not twitch.
    """
    seen = list(values)
    if held is not None and seen:
        low, high = bounds_of(seen)
        if min(seen) >= held.low and max(seen) <= held.high and (high - low) >= 0.45 * (held.high - held.low):
            return held
    return _nice(*bounds_of(seen), rows)


def _nice(low: float, high: float, rows: int) -> Scale:
    step = step_of(high - low, max(1, min(5, (rows + 1) // 2)))
    # Bounds snap to a fine grid of the tick step: small changes of the data then leave them alone.
    fine = step / 4
    low, high = math.floor(low / fine + 1e-9) * fine, math.ceil(high / fine - 1e-9) * fine
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    ticks = [min(high, max(low, n * step)) for n in range(first, last + 1)]
    most = max(2, rows // 2) if rows > 2 else 1
    while len(ticks) > most:
        ticks = ticks[::2]
    if rows < 2:
        ticks = ticks[:1]
    return Scale(low, high, tuple(ticks), tuple(tick_labels(ticks, step)))


def tick_labels(ticks: Sequence[float], step: float) -> list[str]:
    """Labels with the decimals that tell neighbouring ticks apart; at most seven characters each."""
    largest = max((abs(tick) for tick in ticks), default=0.0)
    if largest >= 1e15 or (largest > 0 and largest < 1e-3):
        return [_scientific(tick) for tick in ticks]
    divisor, suffix = next(((size, mark) for size, mark in _SUFFIXES if largest >= 10 * size), (1.0, ""))
    shown = step / divisor
    decimals = max(0, -math.floor(math.log10(shown) + 1e-9)) if shown > 0 else 0
    if decimals > 4:
        return [_scientific(tick) for tick in ticks]
    return [_minus(f"{tick / divisor:.{decimals}f}{suffix}") if tick else "0" for tick in ticks]


def value_label(value: float | None) -> str:
    """A value in three significant digits and at most six characters: 9.30, 124, 12.3k, 1e300; a dash for None."""
    value = finite(value)
    if value is None:
        return "–"
    size = abs(value)
    if size == 0:
        return "0"
    if size < 9.5e-4 or size >= 9.995e14:
        return _scientific(value)
    for limit, mark in _SUFFIXES:
        if size >= 9.9995 * limit:
            return _minus(_digits(value / limit) + mark)
    return _minus(_digits(value) if size < 999.5 else f"{value:.0f}")


def _digits(value: float) -> str:
    size = abs(value)
    limits = ((0.09995, 4), (0.9995, 3), (9.995, 2), (99.95, 1))
    return f"{value:.{next((decimals for limit, decimals in limits if size < limit), 0)}f}"


def _scientific(value: float) -> str:
    if value == 0:
        return "0"
    mantissa, _, exponent = f"{value:.0e}".partition("e")
    return _minus(f"{mantissa}e{int(exponent)}")


def _minus(text: str) -> str:
    return text.replace("-", "−", 1) if text.startswith("-") else text


def time_step(seconds: float, count: int) -> float:
    """A step that people count time in, which cuts `seconds` into at most `count` parts."""
    raw = seconds / max(1, count)
    if raw < 1:
        return step_of(seconds, max(1, count)) if seconds > 0 else 1.0
    return float(next((step for step in _TIME_STEPS if step >= raw), 86400 * math.ceil(raw / 86400)))


def time_label(at: float, step: float, axis: TimeAxis, origin: float, zone: tzinfo | None = None) -> str:
    """One label. `origin` is the right edge for 'ago', the start for 'elapsed'; 'clock' takes Unix seconds.

    A clock label is `14:03` on a full minute and `:15` within it, which says enough at a glance and is short.
    """
    if axis == "clock":
        return _clock(at, step, zone)
    seconds = at - origin
    if axis == "ago" and abs(seconds) < step / 2:
        return "now"
    return _minus(_span(seconds, step)) if abs(seconds) >= step / 1000 else "0 s"


def _clock(at: float, step: float, zone: tzinfo | None) -> str:
    try:
        moment = datetime.fromtimestamp(at, zone)
    except (ValueError, OverflowError, OSError):  # outside of the calendar
        return "?"
    if step >= 86400:
        return moment.strftime("%d %b")
    return moment.strftime(":%S") if moment.second else moment.strftime("%H:%M")


def _span(seconds: float, step: float) -> str:
    if step >= 3600 and seconds % 3600 == 0:
        return f"{seconds / 3600:.0f} h"
    if step >= 60 and seconds % 60 == 0:
        return f"{seconds / 60:.0f} min"
    decimals = 0 if step >= 1 else min(3, math.ceil(-math.log10(step)))
    return f"{seconds:.{decimals}f} s"


def time_ticks(
    start: float, end: float, columns: int, axis: TimeAxis, origin: float | None = None, zone: tzinfo | None = None
) -> list[tuple[int, str]]:
    """(first column, label) of the labels of a time axis, left to right: whole, inside, at least two columns apart.

    Labels are centred on their moment; at the edges they are pushed inside by at most half their own width. 'ago'
    counts back from `end`, 'elapsed' from `origin` (default `start`).
    """
    if end <= start or columns < 3:
        return []
    base = end if axis == "ago" else start if origin is None else origin
    per_second = columns / (end - start)
    placed: list[tuple[int, str]] = []
    for count in range(max(1, columns // 8), 0, -1):
        step = time_step(end - start, count)
        placed = _place(start, end, columns, step, per_second, axis, base, zone)
        if placed:
            return placed
    return placed


def _place(
    start: float,
    end: float,
    columns: int,
    step: float,
    per_second: float,
    axis: TimeAxis,
    base: float,
    zone: tzinfo | None,
) -> list[tuple[int, str]]:
    """All labels of one step, or nothing when two of them come too close or one does not fit."""
    anchor = 0.0 if axis == "clock" else base
    first = math.ceil((start - anchor) / step - 1e-6)
    last = math.floor((end - anchor) / step + 1e-6)
    labels: list[tuple[int, str]] = []
    free_from = 0
    for n in range(first, last + 1):
        at = anchor + n * step
        text = time_label(at, step, axis, base, zone)
        column = min(columns - len(text), max(0, round((at - start) * per_second - len(text) / 2)))
        if column < free_from:
            return []
        labels.append((column, text))
        free_from = column + len(text) + 2
    return labels
