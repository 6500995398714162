"""Long lists of numbers in JSON, read by a SIMD parser straight into numpy's memory, without a Python object a number.

`load` gives the same document as `json_text.load_json` but for such lists, which become `Numbers`. Whatever the parser
refuses, and whatever is not a plain regular list of numbers, is left to the ordinary way, and so are all complaints.

Source: simdjson's `as_buffer` flattens nested lists silently, ragged ones too, so here every row is measured, and the
brackets of the whole text are counted: no list can hide where a number should be.
"""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np

from studio.core.fitting import rounded
from studio.core.tensors import FLOATS
from studio.serving.http import Body
from studio.serving.loaded import Array, dtype_of

FROM_BYTES = 2048
"""Below this the ordinary way is as fast."""
FROM_NUMBERS = 64
"""Shorter lists are made into Python's own."""
KEPT_BYTES = 4 * 1024 * 1024
"""A parser keeps memory of a dozen times what it has parsed; one that had more is not kept."""
MAX_DIMS = 32
MAX_DEPTH = 16
EXACT = 2.0**53
"""Whole numbers up to this are themselves as doubles."""
_HAS_PARSER = importlib.util.find_spec("simdjson") is not None
Path = tuple[str, ...]
"""The keys that lead to a value; '' for each list on the way."""
_local = threading.local()


class Numbers:
    """A regular list of numbers, nested as `shape` says. It has to be used before the next document is loaded."""

    __slots__ = ("_source", "shape")

    def __init__(self, source: Any, shape: tuple[int, ...]) -> None:
        self._source = source
        self.shape = shape

    def as_list(self) -> list[Any]:
        """The list, as any other parser gives it."""
        found: list[Any] = self._source.as_list()
        return found

    def as_array(self, datatype: str) -> Array | None:
        """The tensor; None where that takes a closer look at the numbers."""
        dtype = dtype_of(datatype)
        if datatype in FLOATS:
            try:
                doubles = np.frombuffer(self._source.as_buffer(of_type="d"))
            except (TypeError, ValueError):  # null, text, true and false are among them
                return None
            if doubles.size != prod(self.shape):
                return None
            if not _within(doubles, -EXACT, EXACT) or (datatype == "FP16" and not _within(doubles, -65504.0, 65504.0)):
                return None
            return rounded(doubles, dtype).reshape(self.shape)
        if dtype.kind in "iu":
            try:
                whole = np.frombuffer(self._source.as_buffer(of_type="i"), np.int64)
            except (TypeError, ValueError):  # fractions, or beyond 63 bits
                return None
            limits = np.iinfo(dtype)
            if whole.size != prod(self.shape) or not _within(whole, limits.min, limits.max):
                return None
            return whole.astype(dtype, copy=False).reshape(self.shape)
        return None


def _within(array: Array, low: float, high: float) -> bool:
    return bool(array.min() >= low) and bool(array.max() <= high)


class _Other(Exception):
    """This document goes the ordinary way."""


def load(body: Body | memoryview, ordinary: Callable[[Body | memoryview], Any], places: Callable[[Path], bool]) -> Any:
    """The document, with `Numbers` for long lists in these places. `ordinary` reads what is not read here; raises what
    that raises."""
    # This parser takes a byte order mark, which JSON that is sent must not have (RFC 8259, 8.1).
    if len(body) < FROM_BYTES or not _HAS_PARSER or bytes(body[:1]) == b"\xef":
        return ordinary(body)
    try:
        root = _parsed(body)
        lists = _Lists(places)
        document = lists.python(root, ())
        # In a string, a bracket counts as well: then it is not this way, and not wrong.
        if not lists.long or lists.count != _brackets(body):
            raise _Other
    except (_Other, TypeError, ValueError, RuntimeError, LookupError):  # it does not find keys with a NUL in them
        return ordinary(body)
    return document


def _parsed(body: Body | memoryview) -> Any:
    from simdjson import Parser

    if len(body) > KEPT_BYTES:
        return Parser().parse(body)
    parser = getattr(_local, "parser", None)
    if parser is not None:
        try:
            return parser.parse(body)
        except RuntimeError:  # something of the last document is still alive, an error's traceback maybe
            pass
    parser = _local.parser = Parser()
    return parser.parse(body)


def _brackets(body: Body | memoryview) -> int:
    if isinstance(body, memoryview):
        return int(np.count_nonzero(np.frombuffer(body, np.uint8) == 0x5B))
    return body.count(b"[")


class _Lists:
    """Turns the parser's objects into Python's, but for long lists of numbers; counts all lists that it has seen."""

    def __init__(self, places: Callable[[Path], bool]) -> None:
        from simdjson import Array as Listed
        from simdjson import Object

        self._places = places
        self.count = 0
        self.long = 0
        self._listed, self._object = Listed, Object

    def python(self, value: Any, path: Path) -> Any:
        if len(path) > MAX_DEPTH:
            raise _Other
        kind = type(value)
        if kind is self._object:
            keys = list(value.keys())
            if len(set(keys)) != len(keys):
                raise _Other  # of equal keys the last one counts, and this parser gives the first
            return {key: self.python(value[key], (*path, key)) for key in keys}
        if kind is not self._listed:
            return value
        shape = self._shape(value)
        if prod(shape) >= FROM_NUMBERS:
            if not self._places(path):
                raise _Other
            self.count += self._rows(value, shape)
            self.long += 1
            return Numbers(value, shape)
        self.count += 1
        if len(value) > FROM_NUMBERS:
            raise _Other
        return [self.python(item, (*path, "")) for item in value]

    def _shape(self, value: Any) -> tuple[int, ...]:
        """As the first element of each level has it; () where no numbers are at its end."""
        shape: list[int] = []
        while type(value) is self._listed:
            size = len(value)
            if not size or len(shape) == MAX_DIMS:
                return ()
            shape.append(size)
            value = value[0]
        return tuple(shape) if type(value) in (int, float) else (0,)

    def _rows(self, value: Any, shape: tuple[int, ...]) -> int:
        """How many lists it is made of. Raises _Other where they are not alike."""
        if len(value) != shape[0]:
            raise _Other
        if len(shape) == 1:
            return 1
        inner = shape[1:]
        total = 1
        for item in value:
            if type(item) is not self._listed:
                raise _Other
            total += self._rows(item, inner)
        return total
