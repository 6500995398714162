"""Whether a file looks wholly copied. Cheap, by its structure's ends; the pipeline judges the rest.

Formats: ZIP (PKWARE APPNOTE 6.3.10, 4.3.14-16), the wire format of Protocol Buffers
(protobuf.dev/programming-guides/encoding), TOML 1.0.
"""

from __future__ import annotations

import os
import struct
import tomllib
import zipfile
from pathlib import Path
from typing import BinaryIO

ZIP_SUFFIXES = (".pt2", ".npz", ".keras")
_MAX_TOML = 256 * 1024
# A bigger directory would cost the engine more memory than the answer is worth; the worker, which has limits, reads it.
_MAX_DIRECTORY = 8 * 1024 * 1024
_MAX_FIELDS = 100_000
_END = b"PK\x05\x06"
_END64_LOCATOR = b"PK\x06\x07"


def is_complete(path: Path) -> bool:
    """Whether nothing seems missing at the end of a file. Formats it does not know are taken as complete.

    Never raises for bad content. Raises OSError when the file can not be read. Links are not followed.
    """
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        suffix = path.suffix.lower()
        if suffix == ".toml":
            return _toml(file, size)
        if suffix == ".onnx":
            return _onnx(file, size)
        if suffix in ZIP_SUFFIXES or file.read(4) == b"PK\x03\x04":
            return _zip(file, size)
        return True


def _toml(file: BinaryIO, size: int) -> bool:
    if size > _MAX_TOML:
        return True
    try:
        tomllib.loads(file.read().decode())
    except (ValueError, RecursionError):
        return False
    return True


def _zip(file: BinaryIO, size: int) -> bool:
    directory = _directory_size(file, size)
    if directory is None:
        return False
    if directory > _MAX_DIRECTORY:
        return True
    try:
        with zipfile.ZipFile(file) as archive:
            end = archive.start_dir
            return all(member.header_offset + member.compress_size <= end for member in archive.infolist())
    except (zipfile.BadZipFile, ValueError, EOFError, NotImplementedError, struct.error):
        return False


def _directory_size(file: BinaryIO, size: int) -> int | None:
    """Bytes of a zip's central directory; None without an end record."""
    tail_start = max(0, size - 65_557)
    file.seek(tail_start)
    tail = file.read(65_557)
    at = tail.rfind(_END)
    if at < 0 or len(tail) - at < 22:
        return None
    found: int = struct.unpack_from("<I", tail, at + 12)[0]
    locator = at - 20
    if locator >= 0 and tail[locator : locator + 4] == _END64_LOCATOR:
        file.seek(struct.unpack_from("<Q", tail, locator + 8)[0] % max(size, 1))
        record = file.read(56)
        if len(record) == 56:
            found = struct.unpack_from("<Q", record, 40)[0]
    return found


def _onnx(file: BinaryIO, size: int) -> bool:
    """Walks the lengths of the top-level fields: they must end exactly where the file does.

    A cut between two fields is told by the graph (7) or the operator sets (8) of a ModelProto, which every one has.
    """
    at = 0
    seen: set[int] = set()
    for _ in range(_MAX_FIELDS):
        if at == size:
            return {7, 8} <= seen
        file.seek(at)
        head = file.read(20)
        tag, used = _varint(head, 0)
        if not used or not tag >> 3:
            return False
        seen.add(tag >> 3)
        wire = tag & 7
        if wire == 0:
            _, end = _varint(head, used)
            step = end
        elif wire == 1:
            step = used + 8
        elif wire == 5:
            step = used + 4
        elif wire == 2:
            length, end = _varint(head, used)
            step = end + length if end else 0
        else:
            return False
        if not step or at + step > size:
            return False
        at += step
    return True


def _varint(data: bytes, start: int) -> tuple[int, int]:
    """The number and where it ends; (0, 0) when it is cut off or too long."""
    value = 0
    for place, byte in enumerate(data[start : start + 10]):
        value |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            return value, start + place + 1
    return 0, 0
