"""Looking at bytes without parsing the file: magic numbers, archive listings, the outer fields of protobuf."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, Literal

_LONGEST_END = 65_557 + 76  # a comment, the end record, and the two of zip64
_LARGEST_DIRECTORY = 4 * 1024 * 1024  # some 50,000 members: more is no model, and would take its time
_END, _END64_LOCATOR, _ENTRY = b"PK\x05\x06", b"PK\x06\x07", b"PK\x01\x02"
_ENTRY_FIELDS = struct.Struct("<8xH18xHHH12x")
_MOST_FIELDS = 20_000  # functions of a large model are a few thousand


def head(path: Path, size: int = 512) -> bytes:
    """The first bytes of a file; empty when it is no readable plain file."""
    try:
        with path.open("rb") as file:
            return file.read(size)
    except OSError:
        return b""


def zip_names(path: Path) -> list[str] | None:
    """Member names of a zip archive. None when it is none, or its directory is broken or enormous.

    Reads the directory alone, once for all who ask. Source: PKWARE APPNOTE 6.3.10, 4.3.12 and 4.3.14-16.
    """
    try:
        if head(path, 2) != b"PK":
            return None
        seen = path.stat()
        names = _directory(str(path), seen.st_size, seen.st_mtime_ns, seen.st_ino)
    except (OSError, ValueError, struct.error):
        return None
    return None if names is None else list(names)


@lru_cache(maxsize=32)
def _directory(path: str, size: int, _mtime: int, _inode: int) -> tuple[str, ...] | None:
    with Path(path).open("rb") as file:
        file.seek(max(0, size - _LONGEST_END))
        tail = file.read(_LONGEST_END)
        at = tail.rfind(_END)
        if at < 0 or len(tail) - at < 22:
            return None
        length = int.from_bytes(tail[at + 12 : at + 16], "little")
        stop = size - len(tail) + at
        if tail[at - 20 : at - 16] == _END64_LOCATOR and at >= 20:
            stop = int.from_bytes(tail[at - 12 : at - 4], "little")
            file.seek(stop)
            length = int.from_bytes(file.read(56)[40:48], "little")
        if not 0 <= length <= min(_LARGEST_DIRECTORY, stop):
            return None
        file.seek(stop - length)
        return _names(file.read(length))


def _names(directory: bytes) -> tuple[str, ...]:
    found = []
    at = 0
    while at + 46 <= len(directory) and directory[at : at + 4] == _ENTRY:
        flags, name, extra, comment = _ENTRY_FIELDS.unpack_from(directory, at)
        raw = directory[at + 46 : at + 46 + name]
        found.append(raw.decode("utf-8" if flags & 0x800 else "cp437", "replace").partition("\0")[0])
        at += 46 + name + extra + comment
    if at != len(directory):
        raise ValueError("the directory of the archive is broken")
    return tuple(found)


@dataclass(frozen=True)
class Field:
    """One outer field of a protobuf message: its number, wire type, value of a varint, and payload's place."""

    number: int
    wire: int
    value: int
    start: int
    length: int


class Broken(ValueError):
    """`kind`: the bytes are no protobuf, or stop in the middle of a field."""

    def __init__(self, kind: Literal["foreign", "truncated"]) -> None:
        super().__init__(kind)
        self.kind = kind


def fields(file: BinaryIO, start: int, end: int, most: int = _MOST_FIELDS) -> Iterator[Field]:
    """The outer fields of a protobuf message between two offsets; payloads are skipped, not read. Raises Broken.

    Source: protobuf encoding, "Message structure".
    """
    at = start
    for _ in range(most):
        if at == end:
            return
        file.seek(at)
        window = file.read(min(24, end - at))
        tag, used = _varint(window, 0)
        number, wire = tag >> 3, tag & 7
        if number == 0 or wire not in (0, 1, 2, 5):
            raise Broken("foreign")
        if wire == 0:
            value, used = _varint(window, used)
            yield Field(number, wire, value, at, 0)
            at += used
            continue
        length = {1: 8, 5: 4}.get(wire, 0)
        if wire == 2:
            length, used = _varint(window, used)
        if at + used + length > end:
            raise Broken("truncated")
        yield Field(number, wire, 0, at + used, length)
        at += used + length
    raise Broken("foreign")


def _varint(window: bytes, at: int) -> tuple[int, int]:
    value = 0
    for place in range(10):
        if at + place >= len(window):
            raise Broken("truncated")
        byte = window[at + place]
        value |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            return value, at + place + 1
    raise Broken("foreign")
