"""Whether a file looks wholly copied. Cheap, by its structure's ends; the pipeline judges the rest.

Formats: ZIP (PKWARE APPNOTE 6.3.10, 4.3.14-16), the wire format of Protocol Buffers
(protobuf.dev/programming-guides/encoding), TOML 1.0, tar (POSIX.1-2001, "ustar Interchange Format"), gzip (RFC 1952,
2.3.1), bzip2 (its end-of-stream magic), xz (The .xz File Format 1.1, 2.1.2), safetensors (its README, "Format").
Those that only frameworks write: studio.inbox.endings.
"""

from __future__ import annotations

import json
import os
import struct
import tomllib
import zipfile
from pathlib import Path
from typing import BinaryIO

from studio.core.toml_lines import lines_of
from studio.inbox.endings import model_ends

ZIP_SUFFIXES = (".pt2", ".npz", ".keras")
_MAX_TOML = 64 * 1024
_MAX_HEADER = 16 * 1024 * 1024
_BLOCK = 512
_BZIP2_END = 0x177245385090
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
        head = file.read(_BLOCK)
        if suffix in ZIP_SUFFIXES or head[:4] == b"PK\x03\x04":
            return _zip(file, size)
        if suffix == ".safetensors":
            return _safetensors(file, size)
        return model_ends(file, size, head, suffix) and _archive(file, size, head, path.name.lower())


def _toml(file: BinaryIO, size: int) -> bool:
    if size > _MAX_TOML:
        return True
    try:
        text = file.read().decode("utf-8-sig")
        if lines_of(text).too_deep:
            return True  # tomllib would take minutes to say so; the worker says it at once
        tomllib.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _archive(file: BinaryIO, size: int, head: bytes, name: str) -> bool:
    """Whether a tar, plain or compressed, has its end."""
    if head[257:262] == b"ustar":
        return size % _BLOCK == 0 and not any(_tail(file, size, 2 * _BLOCK))
    if head[:2] == b"\x1f\x8b" and name.endswith((".tar.gz", ".tgz", ".mar")):
        # The end holds the length of what was compressed, and a tar is made of blocks: by chance one cut in 512 fits.
        return size >= 18 and int.from_bytes(_tail(file, size, 4), "little") % _BLOCK == 0
    if head[:6] == b"\xfd7zXZ\x00":
        return _tail(file, size, 2) == b"YZ"
    if head[:3] == b"BZh":
        # 48 bits of magic and 32 of checksum, not at a whole byte, and up to 7 bits to fill the last one.
        bits = int.from_bytes(_tail(file, size, 11), "big")
        return any((bits >> (32 + shift)) & (2**48 - 1) == _BZIP2_END for shift in range(8))
    return True


def _tail(file: BinaryIO, size: int, count: int) -> bytes:
    file.seek(max(0, size - count))
    return file.read(count)


def _safetensors(file: BinaryIO, size: int) -> bool:
    """Whether the file is as long as its header says. What is no safetensors file, the pipeline judges."""
    file.seek(0)
    start = file.read(8)
    length = int.from_bytes(start, "little")
    if len(start) < 8:
        return False
    if not 0 < length <= _MAX_HEADER:
        return True
    try:
        table = json.loads(file.read(length))
        ends = [one["data_offsets"][1] for name, one in table.items() if name != "__metadata__"]
        return bool(size >= 8 + length + max(ends, default=0))
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        return size > 8 + length


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
