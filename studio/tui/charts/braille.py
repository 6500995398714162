"""Braille cells: 2 × 4 dots each. Series share a cell; the one with most dots in it gives the colour.

Dots are numbered by Unicode: the pattern of U+2800 + bits, bit for (column, row) as in `_BITS`.
"""

from __future__ import annotations

from collections.abc import Sequence

from studio.tui.charts.raster import Cells, Envelope, empty

COLUMNS, ROWS = 2, 4
KEYS = ("───", "╌╌╌", "···", "─·─")
GRID = "⠁⠂⠄⡀"  # one dot, at each of the four heights

_BITS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))
# Drawn and left dots, over and over. A is solid; the others read as other lines without colour.
_PATTERNS = ((1,), (1, 1, 1, 1, 0, 0, 0), (1, 1, 0, 0), (1, 1, 1, 1, 0, 0, 1, 0, 0))
_SPIKE = 3  # dots: a column taller than this is drawn in full, whatever the pattern, so that no spike is lost


def draw(envelopes: Sequence[Envelope], width: int, height: int, phase: int) -> Cells:
    """Cells of a plot, `height` lines of `width`. `phase` is the number of the first dot column since time 0."""
    cells = empty(width, height)
    counts: dict[tuple[int, int], list[int]] = {}
    dots = height * ROWS
    for index, envelope in envelopes:
        pattern = _PATTERNS[index % len(_PATTERNS)]
        for column, (low, high) in envelope.items():
            top, bottom = _row(high, dots), _row(low, dots)
            if bottom - top < _SPIKE and not pattern[(phase + column) % len(pattern)]:
                continue
            x, bits = column // COLUMNS, _BITS[column % COLUMNS]
            if not 0 <= x < width:
                continue
            for y in range(top, bottom + 1):
                seen = counts.setdefault((y // ROWS, x), [0] * 5)
                seen[0] |= bits[y % ROWS]
                seen[1 + index % 4] += 1
    for (line, x), (bits_set, *share) in counts.items():
        cells.characters[line][x] = chr(0x2800 + bits_set)
        cells.roles[line][x] = f"series{share.index(max(share))}"
    return cells


def grid(fraction: float, height: int) -> tuple[int, str]:
    """(line, character) of a faint grid line at a fraction of the height; 0.0 is the bottom."""
    row = _row(fraction, height * ROWS)
    return row // ROWS, GRID[row % ROWS]


def _row(fraction: float, rows: int) -> int:
    return min(rows - 1, max(0, round((1.0 - fraction) * (rows - 1))))
