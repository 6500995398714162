"""A chart as lines: title and legend with current values, value axis, plot with a faint grid, time axis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import tzinfo
from typing import Literal

from rich.style import Style
from textual.strip import Strip

from studio.tui.charts import braille, linear
from studio.tui.charts.frame import Line, Run, cells_line, fitted, length, shorten, strip_of
from studio.tui.charts.raster import Cells, Envelope, Series, Window, envelope, visible
from studio.tui.charts.scale import Scale, TimeAxis, finite, scale_of, time_ticks, value_label

Better = Literal["lower", "higher", ""]
Symbols = Literal["braille", "line", "ascii"]

_COLUMNS = {"braille": braille.COLUMNS, "line": linear.COLUMNS, "ascii": linear.COLUMNS}
_DRAW = {"braille": braille.draw, "line": linear.draw_lines, "ascii": linear.draw_ascii}
_GRID = {"braille": braille.grid, "line": linear.grid_line, "ascii": linear.grid_ascii}
_KEYS: Mapping[str, tuple[str, ...]] = {"braille": braille.KEYS, "line": linear.LINE_KEYS, "ascii": linear.ASCII_KEYS}
_LEVELS = (200, 24, 18, 14, 11, 8, 4, 2, 1)  # how far labels of a legend are shortened, step by step
_BARE = 2


@dataclass(frozen=True, kw_only=True)
class Chart:
    """What to draw. Time is in seconds; the window is [`start`, `end`]. Points further apart than `gap` are not joined.

    `origin` is zero of an 'elapsed' axis (default `start`); `zone` the time zone of a 'clock' axis (default: local).
    """

    title: str
    unit: str
    series: tuple[Series, ...]
    start: float
    end: float
    better: Better = ""
    axis: TimeAxis = "ago"
    symbols: Symbols = "braille"
    gap: float | None = None
    origin: float | None = None
    zone: tzinfo | None = None


@dataclass(frozen=True)
class Layout:
    """Where the parts of a chart go: lines of header, plot and time axis, and columns left of the plot."""

    header: int
    plot: int
    axis: int
    gutter: int
    columns: int


def header_height(chart: Chart, width: int, height: int) -> int:
    """Lines of title and legend: two from nine lines on, or from six where title and values do not fit into one."""
    if height < 6:
        return 1 if height >= 3 else 0
    least = [run for series in chart.series for run in (("  ", ""), (f"A {value_label(series.last())}", ""))]
    short = min(len(chart.title), len(chart.unit) or len(chart.title))
    return 2 if height >= 9 or length(least) + short > width else 1


def layout_of(width: int, height: int, header: int, scale: Scale) -> Layout:
    """The layout for a size and so many header lines. A chart too narrow for its value labels goes without them."""
    axis = 1 if height >= 3 else 0
    gutter = scale.label_width + 1
    if width - gutter < 8:
        gutter = 0
    return Layout(header, max(0, height - header - axis), axis, gutter, max(0, width - gutter))


def scale_for(chart: Chart, plot: int, held: Scale | None = None) -> Scale:
    """The value axis over `plot` lines for what is in the chart's window."""
    return scale_of([v for series in chart.series for v in visible(series, chart.start, chart.end)], plot, held)


def render(chart: Chart, width: int, height: int) -> tuple[Line, ...]:
    """The whole chart: `height` lines of exactly `width` cells."""
    if width < 1 or height < 1:
        return ()
    header = header_height(chart, width, height)
    scale = scale_for(chart, max(0, height - header - (height >= 3)))
    layout = layout_of(width, height, header, scale)
    window = window_of(chart, layout.columns)
    lines = header_lines(chart, width, layout.header)
    lines += plot_lines(chart, window, scale, layout)
    if layout.axis:
        lines.append(axis_line(chart, window, layout))
    return tuple(fitted(line, width) for line in lines)


def render_strips(chart: Chart, width: int, height: int, styles: Mapping[str, Style]) -> list[Strip]:
    """The whole chart as Textual strips; `styles` as from `palette.role_styles`."""
    return [strip_of(line, width, styles) for line in render(chart, width, height)]


def window_of(chart: Chart, columns: int) -> Window:
    """The chart's window in cells. A window without length is taken as one second."""
    span = chart.end - chart.start
    return Window(chart.start, (span if span > 0 else 1.0) / max(1, columns), columns)


def plot_lines(chart: Chart, window: Window, scale: Scale, layout: Layout, first: int = 0) -> list[Line]:
    """The lines of the plot from cell column `first` on; the value labels are part of it when `first` is 0."""
    width, height = window.columns - first, layout.plot
    if height < 1:
        return []
    per_cell = _COLUMNS[chart.symbols]
    dots = Window(window.start, window.step / per_cell, window.columns * per_cell)
    envelopes: list[Envelope] = []
    for series in chart.series:
        spans = envelope(series, dots, scale, chart.gap, first * per_cell)
        envelopes.append((series.index, {column - first * per_cell: span for column, span in spans.items()}))
    phase = int(finite(round(window.start / dots.step) if dots.step else 0) or 0) + first * per_cell
    cells = _DRAW[chart.symbols](envelopes, max(0, width), height, phase)
    if any(spans for _, spans in envelopes) or first:
        _rule(cells, chart.symbols, scale, height)
    else:
        _say(cells, "nothing measured yet")
    lines = [cells_line(row, roles) for row, roles in zip(cells.characters, cells.roles, strict=True)]
    if first or not layout.gutter:
        return lines
    return [(left, *line) for left, line in zip(_value_labels(chart, scale, layout), lines, strict=True)]


def _rule(cells: Cells, symbols: Symbols, scale: Scale, height: int) -> None:
    for tick in scale.ticks:
        y, character = _GRID[symbols](scale.fraction(tick), height)
        for x, seen in enumerate(cells.characters[y]):
            if seen == " ":
                cells.characters[y][x], cells.roles[y][x] = character, "faint"


def _say(cells: Cells, words: str) -> None:
    row = cells.characters[len(cells.characters) // 2]
    words = shorten(words, len(row))
    start = (len(row) - len(words)) // 2
    for x, character in enumerate(words, start):
        row[x], cells.roles[len(cells.characters) // 2][x] = character, "label"


def _value_labels(chart: Chart, scale: Scale, layout: Layout) -> list[Run]:
    labels = [""] * layout.plot
    known = any(visible(series, chart.start, chart.end) for series in chart.series)
    for tick, label in zip(scale.ticks, scale.labels, strict=True):
        y, _ = _GRID[chart.symbols](scale.fraction(tick), layout.plot)
        if known and not labels[y]:
            labels[y] = label
    return [(f"{label:>{layout.gutter - 1}} ", "label") for label in labels]


def axis_line(chart: Chart, window: Window, layout: Layout) -> Line:
    """The labels of the time axis, under the plot."""
    row = [" "] * (layout.gutter + window.columns)
    for column, text in time_ticks(chart.start, window.end, window.columns, chart.axis, chart.origin, chart.zone):
        row[layout.gutter + column : layout.gutter + column + len(text)] = text
    return (("".join(row), "label"),)


def header_lines(chart: Chart, width: int, lines: int) -> list[Line]:
    """Title and legend, in one line or two. What does not fit is left out whole: first the words, the values last."""
    title: list[Run] = [(chart.title, "title")] + ([(f" {chart.unit}", "label")] if chart.unit else [])
    unit: list[Run] = [(chart.unit, "title")] if chart.unit else []
    heads = [title, title[:1], unit]
    hint: list[Run] = [(f"{chart.better} is better", "label")] if chart.better else []
    if lines >= 2:
        return [_apart(_first_fit([*heads, []], width), hint, width), legend_line(chart, width)]
    if lines < 1:
        return []
    for level in _LEVELS:
        legend = _legend(chart, level)
        for head in heads[:2] if level > _BARE else [*heads, []]:
            line = [*head, *([("  ", "")] if head and legend else []), *legend]
            if length(line) <= width:
                return [_apart(line, hint, width)]
    return [fitted(legend_line(chart, width), width)]


def legend_line(chart: Chart, width: int) -> Line:
    """The legend alone: key, label and current value of every series, shortened as the width asks."""
    for level in _LEVELS:
        runs = _legend(chart, level)
        if length(runs) <= width:
            return tuple(runs)
    entries = [(value_label(series.last()), f"letter{series.index % 4}") for series in chart.series]
    while len(entries) > 1 and length(_spaced([[entry] for entry in entries])) > width:
        entries.pop()
    return tuple(_spaced([[entry] for entry in entries])) if length(entries) <= width else ()


def _legend(chart: Chart, level: int) -> list[Run]:
    """Labels in at most `level` cells. With only letters left the line keys go, then the third digits of values."""
    entries: list[list[Run]] = []
    for series in chart.series:
        role = series.index % 4
        label = shorten(series.label, max(2, level))
        entry: list[Run] = [(_KEYS[chart.symbols][role] + " ", f"series{role}")] if level > _BARE else []
        if label:
            entry.append((label + " ", f"letter{role}"))
        value = value_label(series.last())
        if level < _BARE and len(value) == 4 and value[1] == ".":
            value = f"{series.last():.1f}"
        entries.append([*entry, (value, "")])
    return _spaced(entries, " " if level < _BARE else "  ")


def _spaced(entries: Sequence[Sequence[Run]], gap: str = "  ") -> list[Run]:
    runs: list[Run] = []
    for entry in entries:
        runs += [(gap, ""), *entry] if runs else entry
    return runs


def _first_fit(choices: Sequence[list[Run]], width: int) -> list[Run]:
    return next((runs for runs in choices if length(runs) <= width), [])


def _apart(left: Sequence[Run], right: Sequence[Run], width: int) -> Line:
    """Both ends of a line; the right one only where two columns stay free between them."""
    room = width - length(left) - length(right)
    return (*left, (" " * room, ""), *right) if right and room >= 2 else tuple(left)
