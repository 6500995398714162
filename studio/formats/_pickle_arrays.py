"""What joblib writes in a pickle before the bytes of an array: enough of it to know how many bytes follow.

Only descriptions exactly as joblib writes them are understood; from any other, where the pickle goes on could not be
told for certain. Source: joblib/numpy_pickle.py (NumpyArrayWrapper), numpy's descriptor.c (arraydescr_reduce).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import prod
from typing import Any

_CODE = re.compile(r"(?:([biufc])(\d{1,2})|([mM])8|(O)8|([SUV])(\d{1,18}))")
_SIZES = {"b": {1}, "i": {1, 2, 4, 8}, "u": {1, 2, 4, 8}, "f": {2, 4, 8, 12, 16}, "c": {8, 16, 24, 32}}
_KEYS = {"subclass", "shape", "order", "dtype", "allow_mmap", "numpy_array_alignment_bytes"}
_LARGEST = 2**62
_DEEPEST = 16


@dataclass(frozen=True)
class ArrayShape:
    """`size` in bytes. `objects`: a pickle follows instead. `padded`: one byte says how many to leave out first."""

    size: int
    objects: bool
    padded: bool


@dataclass(frozen=True)
class _Item:
    size: int
    objects: bool


def array_of(state: Any) -> ArrayShape | None:
    """What follows a wrapper with this state (a studio.formats._pickle_machine.Table). None: it can not be told."""
    known = getattr(state, "known", None)
    if (
        known is None
        or state.odd
        or not state.whole
        or not _KEYS - {"numpy_array_alignment_bytes"} <= set(known) <= _KEYS
    ):
        return None
    shape, alignment = known["shape"], known.get("numpy_array_alignment_bytes")
    item = _item(known["dtype"], 0)
    if item is None or not _sizes(shape) or not (alignment is None or type(alignment) is int):
        return None
    size = prod(shape) * item.size
    if size > _LARGEST:
        return None
    return ArrayShape(size, item.objects, padded=alignment is not None)


def _sizes(value: Any) -> bool:
    return isinstance(value, tuple) and all(type(size) is int and 0 <= size < _LARGEST for size in value)


def _item(made: Any, depth: int) -> _Item | None:
    """Size of one element of a `numpy.dtype(code, align, copy)` with its state."""
    if depth > _DEEPEST or str(getattr(made, "maker", "")) != "numpy.dtype" or made.states > 1:
        return None
    args = made.args
    code = args[0] if args and type(args[0]) is str else ""
    match = _CODE.fullmatch(code)
    if match is None or any(type(rest) not in (bool, int) for rest in args[1:]):
        return None
    number, width, time, objects, flexible, length = match.groups()
    state = made.state
    if made.states and (not isinstance(state, tuple) or len(state) not in (8, 9)):
        return None
    if number:
        return _Item(int(width), False) if int(width) in _SIZES[number] and _plain(state, False) else None
    if time or objects:
        return _Item(8, bool(objects)) if _plain(state, bool(objects)) else None
    size = int(length) * (4 if flexible == "U" else 1)
    if not made.states or state[5] != size:
        return None
    inner = _inner(state, depth) if flexible == "V" else [] if state[2:5] == (None, None, None) else None
    if inner is None:
        return None
    found = _Item(size, any(item.objects for item in inner))
    return found if _flagged(state) == found.objects else None


def _plain(state: Any, objects: bool) -> bool:
    return state is None or (state[2:6] == (None, None, None, -1) and _flagged(state) == objects)


def _flagged(state: tuple[Any, ...]) -> bool | None:
    """Whether the flags say that there are objects in it: numpy believes them."""
    return bool(state[7] & 1) if type(state[7]) is int else None


def _inner(state: tuple[Any, ...], depth: int) -> list[_Item] | None:
    """The parts of a structure, or of an array as an element."""
    base, names, fields = state[2:5]
    if base is not None:
        if not (isinstance(base, tuple) and len(base) == 2 and names is None and fields is None):
            return None
        item = _item(base[0], depth + 1)
        return None if item is None else [item]
    if names is None and fields is None:
        return []
    table = getattr(fields, "known", None)
    if table is None or fields.odd or not fields.whole or not isinstance(names, tuple) or set(names) != set(table):
        return None
    found: list[_Item] = []
    for entry in table.values():
        item = _item(entry[0], depth + 1) if isinstance(entry, tuple) and entry else None
        if item is None:
            return None
        found.append(item)
    return found
