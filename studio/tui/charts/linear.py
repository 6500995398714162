"""Symbol sets for terminals without braille: box-drawing lines, and plain ASCII. One point a cell."""

from __future__ import annotations

from collections.abc import Sequence

from studio.tui.charts.raster import Cells, Envelope, empty

COLUMNS = 1
LINE_KEYS = ("───", "╌╌╌", "┈┈┈", "━━━")
ASCII_KEYS = ("*", "o", "+", "x")

# level, upright, rise from, rise to, fall from, fall to
_LINES = ("─│╯╭╮╰", "╌╎╯╭╮╰", "┈┊╯╭╮╰", "━┃┛┏┓┗")


def draw_lines(envelopes: Sequence[Envelope], width: int, height: int, phase: int) -> Cells:
    """Cells of a plot in box-drawing characters; the baseline is drawn last, on top."""
    cells = empty(width, height)
    for index, envelope in reversed(envelopes):
        level, upright, rise_from, rise_to, fall_from, fall_to = list(_LINES[index % len(_LINES)])
        before: int | None = None
        for column in range(width):
            span = envelope.get(column)
            if span is None:
                before = None
                continue
            top, bottom = _row(span[1], height), _row(span[0], height)
            # The end of a column that jumps is its side further from where the line came from.
            here = top if before is None or before - top >= bottom - before else bottom
            for line in range(top, bottom + 1):
                _set(cells, line, column, upright, index)
            if before is None or before == here:
                _set(cells, here, column, level, index)
            elif here < before:
                _set(cells, before, column, rise_from, index)
                _set(cells, here, column, rise_to, index)
                _between(cells, here, before, column, upright, index)
            else:
                _set(cells, before, column, fall_from, index)
                _set(cells, here, column, fall_to, index)
                _between(cells, before, here, column, upright, index)
            before = here
    return cells


def draw_ascii(envelopes: Sequence[Envelope], width: int, height: int, phase: int) -> Cells:
    """Cells of a plot in ASCII: every series has its own mark; the baseline is drawn last, on top."""
    cells = empty(width, height)
    for index, envelope in reversed(envelopes):
        for column, (low, high) in envelope.items():
            if 0 <= column < width:
                for line in range(_row(high, height), _row(low, height) + 1):
                    _set(cells, line, column, ASCII_KEYS[index % len(ASCII_KEYS)], index)
    return cells


def grid_line(fraction: float, height: int) -> tuple[int, str]:
    return _row(fraction, height), "┈"


def grid_ascii(fraction: float, height: int) -> tuple[int, str]:
    return _row(fraction, height), "."


def _between(cells: Cells, top: int, bottom: int, column: int, character: str, index: int) -> None:
    for line in range(top + 1, bottom):
        _set(cells, line, column, character, index)


def _set(cells: Cells, line: int, column: int, character: str, index: int) -> None:
    cells.characters[line][column] = character
    cells.roles[line][column] = f"series{index % 4}"


def _row(fraction: float, rows: int) -> int:
    return min(rows - 1, max(0, round((1.0 - fraction) * (rows - 1))))
