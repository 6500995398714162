"""Sparklines for table cells: plain text, one character a column."""

from __future__ import annotations

from collections.abc import Sequence

from studio.tui.charts.scale import finite

_BLOCKS = "▁▂▃▄▅▆▇█"
_ASCII = "_.-=^#"


def sparkline(values: Sequence[float | None], width: int, ascii_only: bool = False) -> str:
    """Exactly `width` characters, the newest value right; gaps are spaces. The top of the range is the largest value.

    More values than columns: each column shows its largest, so that a spike survives. The bottom is zero, or the least
    value where that is negative.
    """
    if width <= 0:
        return ""
    marks = _ASCII if ascii_only else _BLOCKS
    count = len(values)
    if count <= width:
        columns = [finite(value) for value in values]
    else:
        columns = []
        for n in range(width):
            part = [v for v in map(finite, values[n * count // width : (n + 1) * count // width]) if v is not None]
            columns.append(max(part, default=None))
    seen = [value for value in columns if value is not None]
    low, high = min([0.0, *seen]), max([0.0, *seen])
    span = high - low
    text = "".join(
        " " if v is None else marks[min(len(marks) - 1, int((v - low) / span * len(marks)))] if span else marks[0]
        for v in columns
    )
    return text.rjust(width)
