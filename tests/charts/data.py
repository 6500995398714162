"""Series that look like latencies, the same on every run."""

from __future__ import annotations

import math

from studio.tui.charts.raster import Series
from studio.tui.charts.render import Chart


def wave(
    base: float, swing: float, spikes: tuple[int, ...], gap: tuple[int, ...] = ()
) -> list[tuple[float, float | None]]:
    return [
        (float(t), None if t in gap else base + swing * math.sin(t / 6) + (5.0 if t in spikes else 0.0))
        for t in range(61)
    ]


A = Series("A digits:3-fp32", 0, wave(9.0, 1.5, (17, 41)))
B = Series("B digits:4-int8", 1, wave(5.5, 0.8, (30,), gap=(44, 45, 46, 47)))
C = Series("C digits:4-fp16", 2, wave(7.2, 0.5, ()))
D = Series("D digits:4-int4", 3, wave(3.1, 0.3, ()))


def chart(*series: Series, **options: object) -> Chart:
    plain: dict[str, object] = {"title": "p50", "unit": "ms", "start": 0.0, "end": 60.0, "better": "lower"}
    return Chart(series=series, **(plain | options))  # type: ignore[arg-type]
