"""Charts that stand still, drawn by plotext. Import only where stdout is a terminal: plotext costs 0.4 s."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Sequence

import plotext

from studio.cli.output import coloured
from studio.core.comparison import Comparison
from studio.core.metrics import Point

HEIGHT = 13
MARKERS = ("braille", "hd", "dot", "+")
MARKER_WORDS = ("fine line", "thick line", "dots", "crosses")
Series = tuple[str, Sequence[float], Sequence[float]]


def line_chart(title: str, series: Sequence[Series], width: int, height: int = HEIGHT, colour: bool = True) -> str:
    """Lines over seconds. Each of `series` is (label, seconds, values); they differ without colour too."""
    figure = plotext.figure
    figure.clear()
    figure.theme("simple" if colour else "colorless")
    figure.plot_size(width, height)
    for i, (_, seconds, values) in enumerate(series):
        signal = figure.signal(list(seconds), list(values), marker=MARKERS[i % len(MARKERS)])
        signal.lines()
        figure.draw(signal)
    figure.title(title)
    figure.label("seconds")
    drawn = str(figure.build().string())
    legend = "   ".join(f"{label}: {MARKER_WORDS[i % len(MARKERS)]}" for i, (label, _, _) in enumerate(series))
    lines = [line.removeprefix("\x1b[0m").removesuffix("\x1b[0m").rstrip() for line in drawn.splitlines()]
    text = "\n".join(line + ("\x1b[0m" if "\x1b" in line else "") for line in lines)
    return text + (f"\n     {legend}" if len(series) > 1 else "")


def comparison_charts(comparison: Comparison) -> str:
    """Latency and throughput of every arm over the time of the measurement; empty without enough points."""
    width = min(100, shutil.get_terminal_size().columns)
    colour = coloured(sys.stdout)
    parts = []
    for title, pick in (
        ("p50 latency, ms", lambda point: point.p50),
        ("p99 latency, ms", lambda point: point.p99),
        ("requests a second", lambda point: point.requests),
    ):
        series = _series(comparison, pick)
        if series:
            parts.append(line_chart(title, series, width, colour=colour))
    return "\n\n".join(parts)


def _series(comparison: Comparison, pick: Callable[[Point], float | None]) -> list[Series]:
    begin = min((point.at for arm in comparison.arms for point in arm.series), default=0.0)
    found: list[Series] = []
    for arm in comparison.arms:
        known = [(point.at - begin, value) for point in arm.series if (value := pick(point)) is not None]
        if len(known) >= 2:
            found.append((f"{arm.label} {arm.target}", [at for at, _ in known], [value for _, value in known]))
    return found
