"""Text with roles: what every chart and table here is made of before it becomes strips, plain text or pictures.

A line is a tuple of (text, role). Roles name meanings ('label', 'series0'); who shows the line gives them styles.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from rich.cells import cell_len, set_cell_size
from rich.segment import Segment
from rich.style import Style
from textual.strip import Strip

Run = tuple[str, str]
Line = tuple[Run, ...]


def length(line: Iterable[Run]) -> int:
    """Width of a line in cells."""
    return sum(cell_len(text) for text, _ in line)


def fitted(line: Iterable[Run], width: int) -> Line:
    """The line padded or cut to exactly `width` cells."""
    runs: list[Run] = []
    left = max(0, width)
    for text, role in line:
        size = cell_len(text)
        if size > left:
            text, size = set_cell_size(text, left), left
        if size:
            runs.append((text, role))
        left -= size
    if left:
        runs.append((" " * left, ""))
    return tuple(runs)


def cells_line(characters: Sequence[str], roles: Sequence[str]) -> Line:
    """One line from a character and a role for every cell; neighbours of one role become one run."""
    runs: list[Run] = []
    start = 0
    for index in range(1, len(roles) + 1):
        if index == len(roles) or roles[index] != roles[start]:
            runs.append(("".join(characters[start:index]), roles[start]))
            start = index
    return tuple(runs)


def shorten(text: str, width: int) -> str:
    """The text in at most `width` cells: whole words while the first one fits, then cut with an ellipsis."""
    if cell_len(text) <= width:
        return text
    if width <= 0:
        return ""
    words = text.split(" ")
    while len(words) > 1:
        words.pop()
        if cell_len(" ".join(words)) <= width:
            return " ".join(words)
    return set_cell_size(words[0], width - 1) + "…"


def plain(lines: Iterable[Line]) -> str:
    """Plain text, one line each, spaces at the end removed."""
    return "\n".join("".join(text for text, _ in line).rstrip() for line in lines)


def strip_of(line: Line, width: int, styles: Mapping[str, Style]) -> Strip:
    """A strip of exactly `width` cells. Roles without a style are drawn in the widget's own; no background is set."""
    return Strip([Segment(text, styles.get(role)) for text, role in fitted(line, width)], width)
