"""Charts that stand still, drawn by plotext 6, which is imported when the first one is drawn.

Every function gives plain text, at most `width` cells wide and, but for `bars`, exactly `height` lines. With `color` it
carries ANSI codes of the terminal's own 16 colours, which `as_text` turns into a Rich text for a widget.

plotext has one figure for the whole process, so drawings from several threads wait for one another.
"""

from __future__ import annotations

import functools
import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ParamSpec

from studio.tui.charts.frame import shorten
from studio.tui.charts.scale import Scale, finite, scale_of, value_label

if TYPE_CHECKING:
    from rich.text import Text

_RESET = re.compile(r"\x1b\[[0-9;]*m")
_FRONT, _BEATEN = "green", "default"
_lock = threading.Lock()
_P = ParamSpec("_P")


def _alone(draw: Callable[_P, str]) -> Callable[_P, str]:
    @functools.wraps(draw)
    def locked(*args: _P.args, **kwargs: _P.kwargs) -> str:
        with _lock:
            return draw(*args, **kwargs)

    return locked


@dataclass(frozen=True)
class Candidate:
    """One point of a trade-off: a label, its latency in milliseconds, and what is traded for it."""

    label: str
    latency: float
    value: float


def pareto_front(candidates: Sequence[Candidate], better: str = "higher") -> set[str]:
    """Labels of the candidates that no other beats: at least as fast and as good, and better in one of the two."""
    sign = 1 if better == "higher" else -1

    def beats(a: Candidate, b: Candidate) -> bool:
        gain = sign * (a.value - b.value)
        return a.latency <= b.latency and gain >= 0 and (a.latency < b.latency or gain > 0)

    return {one.label for one in candidates if not any(beats(other, one) for other in candidates)}


@_alone
def pareto(
    candidates: Sequence[Candidate],
    *,
    width: int,
    height: int,
    value: str = "cosine",
    better: str = "higher",
    color: bool = False,
) -> str:
    """Latency (x) against `value` (y). ● = on the front, ○ = beaten by another; each is named beside its mark."""
    known = [c for c in candidates if finite(c.latency) is not None and finite(c.value) is not None]
    if not known or width < 24 or height < 6:
        return _words("nothing measured yet" if not known else "too small for a plot", width, height)
    figure, plotext = _figure(width, height - 1)
    xs = scale_of([c.latency for c in known], max(4, width // 6))
    ys = scale_of([c.value for c in known], height - 3)
    _rule(figure, xs, ys)
    front = pareto_front(known, better)
    for one in sorted(known, key=lambda c: c.label in front):
        mark, shade = ("●", _FRONT) if one.label in front else ("○", _BEATEN)
        marker = plotext.colorize(mark, shade) if color and shade != "default" else mark
        figure.draw(figure.signal([one.latency], [one.value], marker=marker))
    columns, rows = width - ys.label_width - 1, height - 3
    for label, x, y, side in _placed(known, xs, ys, columns, rows):
        figure.draw(figure.text(x, y, label, alignment=side))
    words = f"● on the front  ○ beaten   x: p50 ms, lower is better   y: {value}, {better} is better"
    return _finish(figure, color) + "\n" + _caption(words, f"● front  ○ beaten  x: p50 ms  y: {value}", width)


@_alone
def histogram(
    bins: Sequence[tuple[float, float, int]], *, width: int, height: int, unit: str = "ms", color: bool = False
) -> str:
    """Counts of (low, high, count) bins of equal or unequal width, as upright bars over their range."""
    known = [(low, high, count) for low, high, count in bins if count > 0 and finite(low) is not None and high >= low]
    if not known or width < 24 or height < 6:
        return _words("nothing measured yet" if not known else "too small for a plot", width, height)
    figure, _ = _figure(width, height - 1)
    low, high = min(one[0] for one in known), max(one[1] for one in known)
    words = f"requests by latency in {unit}: {sum(one[2] for one in known)}, {value_label(low)} to {value_label(high)}"
    xs = scale_of([low, high], max(4, width // 6))
    heights = _columns(known, xs.low, xs.high, max(8, width - 8))
    ys = scale_of([0.0, *heights], height - 3)
    step = (xs.high - xs.low) / len(heights)
    figure.draw(figure.bar([xs.low + (n + 0.5) * step for n in range(len(heights))], heights, width=1, lines=False))
    _rule(figure, xs, ys)
    return _finish(figure, color) + "\n" + _caption(words, unit, width)


def bars(
    labels: Sequence[str], values: Sequence[float | None], *, width: int, unit: str = "", color: bool = False
) -> str:
    """Lying bars from zero, one line each, with label and value in words: the only chart here that needs no plotext."""
    known = [finite(value) for value in values]
    most = max((value for value in known if value is not None), default=0.0)
    column = min(max((len(label) for label in labels), default=0), max(4, width // 3))
    lines: list[str] = []
    for label, value in zip(labels, known, strict=True):
        figure = f"{value_label(value)} {unit}".strip() if value is not None else "–"
        room = max(0, width - column - len(figure) - 3)
        eighths = round((value or 0.0) / most * room * 8) if most > 0 and (value or 0) > 0 else 0
        bar = "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip() + (" " if eighths else "")
        lines.append(f"{shorten(label, column):<{column}}  {bar}{figure}"[:width])
    return "\n".join(lines)


def as_text(drawing: str) -> Text:
    """A drawing as Rich text for a widget; ANSI colours become styles."""
    from rich.text import Text

    return Text.from_ansi(drawing, no_wrap=True, overflow="crop", end="")


def _figure(width: int, height: int) -> tuple[Any, Any]:
    """plotext's one figure, emptied, without colours and without the upper and right axes."""
    import plotext

    plotext.terminal.limit(False, False)  # the size is what was asked for, not what the terminal has
    figure = plotext.figure
    figure.clear()
    figure.plot_size(width, height)
    figure.theme("colorless")
    for axis in ("x", "y"):
        figure.axes(False, axis=axis, side=1)
    return figure, plotext


def _rule(figure: Any, xs: Scale, ys: Scale) -> None:
    for axis, scale in (("x", xs), ("y", ys)):
        ruler = figure.ruler(axis, 0)
        ruler.lim(scale.low, scale.high)
        ruler.ticks(list(scale.ticks), list(scale.labels))


def _finish(figure: Any, color: bool) -> str:
    drawing = str(figure.build())
    figure.clear()
    if not color:
        drawing = _RESET.sub("", drawing)
    return "\n".join(line.rstrip() for line in drawing.rstrip("\n").split("\n"))


def _placed(
    candidates: Sequence[Candidate], xs: Scale, ys: Scale, columns: int, rows: int
) -> list[tuple[str, float, float, str]]:
    """(label, x, y, alignment) beside each mark, moved a line up or down where another label or mark is in the way."""
    per_column, per_row = (xs.high - xs.low) / max(1, columns - 1), (ys.high - ys.low) / max(1, rows - 1)
    spots = [
        (round(xs.fraction(c.latency) * (columns - 1)), round(ys.fraction(c.value) * (rows - 1))) for c in candidates
    ]
    taken = set(spots)
    placed: list[tuple[str, float, float, str]] = []
    for one, (column, row) in zip(candidates, spots, strict=True):
        for dy, right in ((0, True), (0, False), (1, True), (-1, True), (1, False), (-1, False)):
            first = column + 2 if right else column - 1 - len(one.label)
            cells = {(x, row + dy) for x in range(first - 1, first + len(one.label) + 1)}
            if (
                first < 0
                or first + len(one.label) > columns
                or not 0 <= row + dy < rows
                or cells & (taken - {(column, row)})
            ):
                continue
            taken |= cells
            x = xs.low + (first if right else first + len(one.label) - 1) * per_column
            placed.append((one.label, x, ys.low + (row + dy) * per_row, "left" if right else "right"))
            break
    return placed


def _columns(bins: Sequence[tuple[float, float, int]], low: float, high: float, columns: int) -> list[float]:
    """Counts spread over equal columns: each gets the share of a bin that lies in it."""
    heights = [0.0] * columns
    step = (high - low) / columns
    for start, end, count in bins:
        left, right = (start - low) / step, (end - low) / step
        for n in range(max(0, int(left)), min(columns - 1, int(right)) + 1):
            inside = min(right, n + 1) - max(left, n)
            heights[n] += count * (inside / (right - left) if right > left else 1.0)
    return heights


def _caption(words: str, short: str, width: int) -> str:
    return words if len(words) <= width else shorten(short, width)


def _words(words: str, width: int, height: int) -> str:
    lines = [""] * max(1, height)
    lines[len(lines) // 2] = shorten(words, width).center(max(0, width)).rstrip()
    return "\n".join(lines)
