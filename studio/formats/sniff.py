"""Looking at bytes without parsing the file: magic numbers, archive listings, the outer fields of protobuf."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

_MOST_MEMBERS = 200_000


def head(path: Path, size: int = 512) -> bytes:
    """The first bytes of a file; empty when it is no readable plain file."""
    try:
        with path.open("rb") as file:
            return file.read(size)
    except OSError:
        return b""


def zip_names(path: Path) -> list[str] | None:
    """Member names of a zip archive. None when it is none, or its directory is broken."""
    if head(path, 2) != b"PK":
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()[:_MOST_MEMBERS]
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return None


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


def fields(file: BinaryIO, start: int, end: int, most: int = 100_000) -> Iterator[Field]:
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
