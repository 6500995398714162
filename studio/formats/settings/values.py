"""How values of a settings file are read: each reader gives the value, or says in words what would be allowed."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from studio.core.errors import InvalidInput
from studio.core.names import check_alias

_MOST_DIMS = 16
_LARGEST_SIZE = 2**31 - 1

LARGEST_SIDE = 65_536
"""Pixels of an image's side at most."""


class Wrong(Exception):
    """A value that is not allowed. `why` says what is; `at` leads from the key to the part that is wrong."""

    def __init__(self, why: str, *at: str | int) -> None:
        super().__init__(why)
        self.why, self.at = why, at


def text(most: int, lines: bool = False, empty: bool = True) -> Callable[[Any], str]:
    """A text of at most `most` characters, without control characters; line ends where `lines`."""

    def read(value: Any) -> str:
        if not isinstance(value, str):
            raise Wrong(f"It is {_kind(value)}; it must be a text in quotes.")
        if len(value) > most:
            raise Wrong(f"It has {len(value):,} characters; at most {most:,} are allowed.")
        if any((ord(letter) < 32 and not (lines and letter in "\n\t")) or letter == "\x7f" for letter in value):
            raise Wrong("It has control characters, such as line ends; write it on one line.")
        if not empty and not value.strip():
            raise Wrong("It is empty.")
        return value

    return read


def several(one: Callable[[Any], Any], most: int, unique: bool = True) -> Callable[[Any], tuple[Any, ...]]:
    """A list of at most `most` values, each as `one` reads it."""

    def read(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise Wrong(f"It is {_kind(value)}; it must be a list in square brackets.")
        if len(value) > most:
            raise Wrong(f"It has {len(value):,} entries; at most {most:,} are allowed.")
        found: list[Any] = []
        seen: set[Any] = set()
        for place, item in enumerate(value):
            found.append(_inner(one, item, place))
            if unique and found[-1] in seen:
                raise Wrong(f"{item!r} is there twice.", place)
            seen.add(found[-1])
        return tuple(found)

    return read


def choice(options: Sequence[str], also: Mapping[str, str] | None = None) -> Callable[[Any], str]:
    """One of some words; `also` says what other words stand for, for the hint."""

    def read(value: Any) -> str:
        if value in options and isinstance(value, str):
            return value
        said = value if isinstance(value, str) else ""
        near = (also or {}).get(said.lower()) or nearest(said, options)
        raise Wrong(f"{_hint(near)}It is one of: {', '.join(options)}.")

    return read


def number(low: float | None = None, high: float | None = None) -> Callable[[Any], float]:
    """A finite number between bounds."""

    def read(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise Wrong(f"It is {_kind(value)}; it must be a number.")
        try:
            found = float(value)
        except OverflowError:
            found = math.inf
        if not math.isfinite(found):
            raise Wrong("It must be a finite number.")
        if (low is not None and found < low) or (high is not None and found > high):
            raise Wrong(f"It is {found:g}; it must be {_bounds(low, high)}.")
        return found

    return read


def whole(low: int, high: int) -> Callable[[Any], int]:
    """A whole number between bounds."""

    def read(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise Wrong(f"It is {_kind(value)}; it must be a whole number.")
        if not low <= value <= high:
            raise Wrong(f"It must be {_bounds(low, high)}.")
        return value

    return read


def yes_no(value: Any) -> bool:
    if not isinstance(value, bool):
        raise Wrong(f"It is {_kind(value)}; it must be true or false.")
    return value


def size(value: Any) -> int | str:
    """One size of a shape: a whole number, or the name of a free one."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise Wrong(f"It is {_kind(value)}; it must be a whole number, or a name for a free size.")
    if isinstance(value, str):
        return text(100, empty=False)(value)
    if value < 0:
        raise Wrong(f'It is {value}. For a free size write a name, for example "batch".')
    return whole(1, _LARGEST_SIZE)(value)


def shape(value: Any) -> tuple[int | str, ...]:
    """All sizes of an input, batch first."""
    found: tuple[int | str, ...] = several(size, _MOST_DIMS, unique=False)(value)
    return found


def span(value: Any) -> tuple[float, float]:
    """Two numbers, the smaller one first."""
    found = several(number(), 2, unique=False)(value)
    if len(found) != 2:
        raise Wrong(f"It has {len(found)} entries; it must be [lowest, highest].")
    if found[0] > found[1]:
        raise Wrong("The lowest value comes first.")
    return found[0], found[1]


def ratio(value: Any) -> float:
    """A number but 0, or a fraction as a text: "1/255"."""
    match = re.fullmatch(r"\s*([0-9.]{1,20})\s*/\s*([0-9.]{1,20})\s*", value) if isinstance(value, str) else None
    found = value
    if match:
        try:
            found = float(match[1]) / float(match[2])
        except (ValueError, ZeroDivisionError):
            raise Wrong(f"{value!r} is no fraction.") from None
    elif isinstance(value, str):
        raise Wrong('It must be a number, or a fraction such as "1/255".')
    found = number()(found)
    if found == 0:
        raise Wrong("It must not be 0: every pixel would be the same.")
    return found


def height_width(value: Any) -> tuple[int, int]:
    found = several(whole(1, LARGEST_SIDE), 2, unique=False)(value)
    if len(found) != 2:
        raise Wrong(f"It has {len(found)} entries; it must be [height, width].")
    return found[0], found[1]


def spreads(value: Any) -> tuple[float, ...]:
    found = several(number(), 4, unique=False)(value)
    for place, one in enumerate(found):
        if one <= 0:
            raise Wrong("A standard deviation is greater than 0.", place)
    return found


def file_name(value: Any) -> str:
    name = text(200, empty=False)(value)
    if "/" in name or "\\" in name or name in (".", ".."):
        raise Wrong("It is the name of a file beside the model, without any folder.")
    return name


def alias(value: Any) -> str:
    name = text(100)(value)
    if name:
        try:
            check_alias(name)
        except InvalidInput as error:
            raise Wrong(f"{error.what} {error.why}") from error
    return name


# -- words


def nearest(name: str, known: Sequence[str]) -> str:
    """The known word that was probably meant; empty when none is near."""
    lower = {one.lower(): one for one in reversed(known)}
    found = difflib.get_close_matches(name.lower()[:100], list(lower), 1)
    return lower[found[0]] if found else ""


def _hint(near: str) -> str:
    return f"Did you mean {near!r}? " if near else ""


def _inner(read: Callable[[Any], Any], value: Any, place: int) -> Any:
    try:
        return read(value)
    except Wrong as wrong:
        raise Wrong(wrong.why, place, *wrong.at) from wrong


def _bounds(low: float | None, high: float | None) -> str:
    if high is None:
        return f"at least {low:g}"
    return f"at most {high:g}" if low is None else f"from {low:g} to {high:g}"


def _kind(value: Any) -> str:
    """What a value is, in words."""
    if isinstance(value, bool):
        return "true or false"
    names = {str: "a text", int: "a number", float: "a number", list: "a list", dict: "a table"}
    return names.get(type(value), "a date or time")
