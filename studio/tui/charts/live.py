"""A chart that follows a series. Its body stands still; only a narrow tip at the right is painted every frame.

The window's right edge lies on a multiple of a chunk of time, at or after now. New points fall into the last chunk,
which is the tip. When now passes the edge the window moves on by one chunk, and only then is the body painted. Textual
repaints a dirty region from the widget's left edge on, so body and tip are widgets of their own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.widget import Widget

from studio.tui.charts.painted import Painted
from studio.tui.charts.raster import Series
from studio.tui.charts.render import (
    Better,
    Chart,
    Layout,
    Symbols,
    axis_line,
    header_height,
    header_lines,
    layout_of,
    plot_lines,
    scale_for,
    window_of,
)
from studio.tui.charts.scale import Scale, TimeAxis

__all__ = ["LiveChart", "Series"]

_CHUNKS = 12  # a window is this many chunks: the body is painted once in `span / 12` seconds


class LiveChart(Widget):
    """Lines over the last `span` seconds. Holds no timer: whoever owns the data calls `show`.

    `span` seconds are shown, or [`start`, `start` + `span`] where `start` is set: then the window stands still, and
    `axis='elapsed'` counts from its start. Points more than `gap` seconds apart are not joined. These three may be
    changed between calls.
    """

    DEFAULT_CSS: ClassVar[str] = """
    LiveChart { height: 1fr; width: 1fr; min-height: 3; layout: vertical; }
    LiveChart Horizontal { height: 1fr; width: 1fr; }
    LiveChart #head { height: 1; }
    LiveChart #body { height: 1fr; width: 1fr; }
    LiveChart #tip { height: 1fr; width: 1; }
    """

    def __init__(
        self,
        title: str,
        unit: str,
        better: Better = "",
        *,
        span: float = 60.0,
        axis: TimeAxis = "clock",
        symbols: Symbols = "braille",
        gap: float | None = 5.0,
        id: str | None = None,
        classes: str | None = None,
    ) -> None:
        super().__init__(id=id, classes=classes)
        self.span = span
        self.start: float | None = None
        self.gap = gap
        self._chart = Chart(
            title=title, unit=unit, series=(), start=0, end=span, better=better, axis=axis, symbols=symbols
        )
        self._now: float | None = None
        self._scale: Scale | None = None
        self._painted: tuple[object, ...] = ()
        self._head, self._body, self._tip = Painted(id="head"), Painted(id="body"), Painted(id="tip")

    def compose(self) -> ComposeResult:
        yield self._head
        with Horizontal():
            yield self._body
            yield self._tip

    @property
    def series(self) -> tuple[Series, ...]:
        return self._chart.series

    @property
    def symbols(self) -> Symbols:
        return self._chart.symbols

    @symbols.setter
    def symbols(self, value: Symbols) -> None:
        self._chart = replace(self._chart, symbols=value)
        self._redraw()

    def show(self, series: Sequence[Series], now: float | None = None) -> None:
        """Show these series. `now` in the seconds of their points; default: the time of the newest point."""
        self._chart = replace(self._chart, series=tuple(series))
        self._now = now
        self._paint()

    def on_resize(self) -> None:
        self._redraw()

    def _redraw(self) -> None:
        self._painted = ()
        self._scale = None
        self._paint()

    def _paint(self) -> None:
        width, height = self.size
        if width < 1 or height < 1 or not self.is_mounted:
            return
        head = header_height(self._chart, width, height)
        if self._head.styles.height is None or self._head.styles.height.value != head:
            self._head.styles.height = head
        plot = max(0, height - head - (height >= 3))
        gutter = self._scale.label_width + 1 if self._scale else 0
        chart, chunk = self._windowed(max(1, width - gutter))
        scale = scale_for(chart, plot, self._scale)
        layout = layout_of(width, height, head, scale)
        if layout.columns != width - gutter:
            chart, chunk = self._windowed(max(1, layout.columns))
        self._scale = scale
        self._show_parts(chart, scale, layout, chunk)

    def _windowed(self, columns: int) -> tuple[Chart, int]:
        """The chart over its window, and the number of columns of a chunk: the width of the tip."""
        chunk = max(1, round(columns / _CHUNKS))
        span = self.span if self.span > 0 else 1.0
        if self.start is not None:
            chart = replace(self._chart, start=self.start, end=self.start + span, origin=self.start, gap=self.gap)
            return chart, chunk
        now = self._now if self._now is not None else self._newest()
        seconds = span / columns * chunk
        end = math.ceil(now / seconds - 1e-9) * seconds
        return replace(self._chart, start=end - span, end=end, gap=self.gap), chunk

    def _newest(self) -> float:
        times = [series.points[-1][0] for series in self._chart.series if series.points]
        return max((at for at in times if math.isfinite(at)), default=0.0)

    def _show_parts(self, chart: Chart, scale: Scale, layout: Layout, chunk: int) -> None:
        self._head.show_lines(header_lines(chart, self.size.width, layout.header))
        window = window_of(chart, layout.columns)
        # A standing window fills from the left, so its newest points are wherever now is: paint all, lines that differ.
        tip = chunk if self.start is None and layout.columns > 2 * chunk else 0
        if self._tip.styles.width is None or self._tip.styles.width.value != tip:
            self._tip.styles.width = tip
        seam = layout.columns - tip
        state = (
            chart.start,
            chart.end,
            scale,
            layout,
            chart.symbols,
            _settled(chart, window.start + window.step * seam),
        )
        moved = state != self._painted
        self._painted = state
        axis = axis_line(chart, window, layout)
        if moved or not tip:
            lines = plot_lines(chart, window, scale, layout)
            self._body.show_lines([_cut(line, 0, layout.gutter + seam) for line in [*lines, *([axis] * layout.axis)]])
        if tip:
            lines = plot_lines(chart, window, scale, layout, first=seam)
            corner = _cut(axis, layout.gutter + seam, layout.gutter + layout.columns)
            self._tip.show_lines([*lines, *([corner] * layout.axis)])


def _settled(chart: Chart, seam: float) -> tuple[object, ...]:
    """What tells whether the points left of the seam are the ones that were painted."""
    parts: list[object] = []
    for series in chart.series:
        points = [point for point in series.points if chart.start <= point[0] < seam]
        # The line to the first point beyond the seam begins left of it.
        beyond = next((point for point in series.points if point[0] >= seam), None)
        parts.append((series.index, len(points), points[:1], points[-1:], beyond))
    return tuple(parts)


def _cut(line: tuple[tuple[str, str], ...], start: int, end: int) -> tuple[tuple[str, str], ...]:
    """Cells [start, end) of a line whose characters are one cell each."""
    runs: list[tuple[str, str]] = []
    at = 0
    for text, role in line:
        part = text[max(0, start - at) : max(0, end - at)]
        if part:
            runs.append((part, role))
        at += len(text)
    return tuple(runs)
