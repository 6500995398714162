"""Universal Binary JSON as XGBoost writes it, read with bounds: a damaged file raises ValueError and nothing else.

Source: ubjson.org, "Type Reference" and "Container Types" (draft 12); lengths are big-endian and signed.
"""

from __future__ import annotations

from typing import Any

import numpy as np

_NUMBERS = {b"i": ">i1", b"U": ">u1", b"I": ">i2", b"l": ">i4", b"L": ">i8", b"d": ">f4", b"D": ">f8"}
_WHOLE = (b"i", b"U", b"I", b"l", b"L")
_CONSTANTS: dict[bytes, Any] = {b"T": True, b"F": False, b"Z": None}
_DEEPEST = 64


def loads(data: bytes) -> Any:
    """The document in `data`; arrays of one type become numpy arrays. Raises ValueError saying where it is broken."""
    reader = _Reader(data)
    value = reader.value(reader.take(1), 0)
    rest = data[reader.at :].strip(b"N\0")
    if rest:
        raise ValueError(f"there are {len(rest)} bytes after the end of the document")
    return value


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data, self.at = data, 0

    def take(self, count: int) -> bytes:
        if count < 0 or count > len(self._data) - self.at:
            raise ValueError(f"it ends, or lies about a length, at byte {self.at}")
        self.at += count
        return self._data[self.at - count : self.at]

    def marker(self) -> bytes:
        mark = self.take(1)
        while mark == b"N":
            mark = self.take(1)
        return mark

    def number(self, mark: bytes) -> Any:
        kind = np.dtype(_NUMBERS[mark])
        return np.frombuffer(self.take(kind.itemsize), kind)[0].item()

    def length(self, mark: bytes) -> int:
        if mark not in _WHOLE:
            raise ValueError(f"there is no length at byte {self.at - 1}")
        return int(self.number(mark))

    def text(self, mark: bytes) -> str:
        return self.take(self.length(mark)).decode("utf-8", "replace")

    def value(self, mark: bytes, depth: int) -> Any:
        if depth > _DEEPEST:
            raise ValueError("it is nested too deeply")
        if mark in _NUMBERS:
            return self.number(mark)
        if mark in _CONSTANTS:
            return _CONSTANTS[mark]
        if mark == b"S":
            return self.text(self.take(1))
        if mark == b"C":
            return self.take(1).decode("latin-1")
        if mark == b"[":
            return self.array(depth)
        if mark == b"{":
            return self.object(depth)
        raise ValueError(f"there is no value at byte {self.at - 1}")

    def head(self) -> tuple[bytes, int | None]:
        """Type and count of a container, where they are given."""
        kind, count = b"", None
        if self._data[self.at : self.at + 1] == b"$":
            self.at += 1
            kind = self.take(1)
        if self._data[self.at : self.at + 1] == b"#":
            self.at += 1
            count = self.length(self.take(1))
            if count < 0:
                raise ValueError(f"a length is negative at byte {self.at}")
        elif kind:
            raise ValueError(f"a typed container has no count at byte {self.at}")
        return kind, count

    def array(self, depth: int) -> Any:
        kind, count = self.head()
        if kind in _NUMBERS and count is not None:
            number = np.dtype(_NUMBERS[kind])
            return np.frombuffer(self.take(count * number.itemsize), number).astype(number.newbyteorder("="))
        found: list[Any] = []
        if count is None:
            while (mark := self.marker()) != b"]":
                found.append(self.value(mark, depth + 1))
            return found
        self._room(count)
        for _ in range(count):
            found.append(self.value(kind or self.marker(), depth + 1))
        return found

    def object(self, depth: int) -> dict[str, Any]:
        kind, count = self.head()
        found: dict[str, Any] = {}
        if count is None:
            while (mark := self.marker()) != b"}":
                key = self.text(mark)
                found[key] = self.value(self.marker(), depth + 1)
            return found
        self._room(count)
        for _ in range(count):
            key = self.text(self.marker())
            found[key] = self.value(kind or self.marker(), depth + 1)
        return found

    def _room(self, count: int) -> None:
        # Constants take no bytes in a typed container: without this, a few bytes could ask for any amount of memory.
        if count > len(self._data) - self.at:
            raise ValueError(f"it lies about a length at byte {self.at}")
