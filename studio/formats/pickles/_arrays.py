"""Descriptions of numpy arrays in a pickle: their data types, and what joblib writes before the bytes of an array.

Only descriptions exactly as numpy and joblib write them are understood. From any other, how many bytes follow could not
be told for certain; and numpy believes whatever flags and offsets the state of a data type gives, so that a lying one
turns bytes into pointers. Source: joblib/numpy_pickle.py (NumpyArrayWrapper), numpy's descriptor.c (arraydescr_reduce).
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
_OBJECT_FLAGS = 63  # reference counted, pickled as a list, …: all that numpy sets for objects
_PLAIN_FLAGS = 8 | 16 | 128  # wants initialising, needs Python, aligned
_DEEPEST = 16


@dataclass(frozen=True)
class ArrayShape:
    """`size` in bytes. `objects`: a pickle follows instead. `padded`: one byte says how many to leave out first."""

    size: int
    objects: bool
    padded: bool


@dataclass(frozen=True)
class Item:
    """One element of an array."""

    size: int
    objects: bool


def array_of(state: Any) -> ArrayShape | None:
    """What follows a wrapper with this state (a studio.formats.pickles._values.Table). None: it can not be told."""
    known = getattr(state, "known", None)
    if (
        known is None
        or state.odd
        or not state.whole
        or not _KEYS - {"numpy_array_alignment_bytes"} <= set(known) <= _KEYS
    ):
        return None
    shape, alignment = known["shape"], known.get("numpy_array_alignment_bytes")
    item = item_of(known["dtype"])
    if item is None or not _sizes(shape) or not (alignment is None or type(alignment) is int):
        return None
    size = prod(shape) * item.size
    if size > _LARGEST:
        return None
    return ArrayShape(size, item.objects, padded=alignment is not None)


def _sizes(value: Any) -> bool:
    return isinstance(value, tuple) and all(type(size) is int and 0 <= size < _LARGEST for size in value)


def item_of(made: Any, depth: int = 0) -> Item | None:
    """What a `numpy.dtype(code, align, copy)` with its state describes. None where numpy would not write it so."""
    if depth > _DEEPEST or str(getattr(made, "maker", "")) != "numpy.dtype" or made.states > 1:
        return None
    args, state = made.args, made.state
    match = _CODE.fullmatch(args[0]) if len(args) == 3 and type(args[0]) is str else None
    if match is None or args[1] not in (False, True) or args[2] not in (False, True):
        return None
    number, width, time, objects, flexible, length = match.groups()
    if not made.states:
        return None if flexible else Item(int(width or 8), bool(objects))
    # Written over one that numpy itself uses, a state would change it everywhere.
    if not args[2] or not isinstance(state, tuple) or len(state) not in (8, 9):
        return None
    base, names, fields, size, _, flags = state[2:8]
    if type(flags) is not int or type(size) is not int:
        return None
    if objects:
        return Item(8, True) if (base, names, fields, size, flags) == (None, None, None, -1, _OBJECT_FLAGS) else None
    if flags & ~_PLAIN_FLAGS:
        return None
    if number or time:
        width = width or "8"
        plain = (base, names, fields, size, flags) == (None, None, None, -1, 0)
        return Item(int(width), False) if plain and int(width) in _SIZES.get(number, {8}) else None
    if size != int(length) * (4 if flexible == "U" else 1):
        return None
    if flexible == "V":
        return Item(size, False) if _structure(base, names, fields, size, depth) else None
    return Item(size, False) if (base, names, fields) == (None, None, None) else None


def _structure(base: Any, names: Any, fields: Any, size: int, depth: int) -> bool:
    """Whether the parts of a structure, or of an array as an element, lie inside of it and hold no objects."""
    if base is not None:
        if not (isinstance(base, tuple) and len(base) == 2 and names is None and fields is None and _sizes(base[1])):
            return False
        item = item_of(base[0], depth + 1)
        return item is not None and not item.objects and item.size * prod(base[1]) == size
    if names is None and fields is None:
        return True
    table = getattr(fields, "known", None)
    if table is None or fields.odd or not fields.whole or not isinstance(names, tuple):
        return False
    if any(type(name) is not str for name in names) or set(names) != set(table) or len(names) != len(table):
        return False
    for entry in table.values():
        if not (isinstance(entry, tuple) and len(entry) == 2 and type(entry[1]) is int and entry[1] >= 0):
            return False
        item = item_of(entry[0], depth + 1)
        if item is None or item.objects or entry[1] + item.size > size:
            return False
    return True
