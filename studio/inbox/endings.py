"""Whether a model file has its end, for formats that say where that is. What is none of them, is taken to have it.

Formats: pickle (PEP 307, PEP 3154: it ends with STOP), what joblib.dump puts around one (RFC 1950, RFC 1952), JSON
(RFC 8259) and Universal Binary JSON (ubjson.org) as XGBoost writes them, LightGBM's text (gbdt_model_text.cpp), HDF5
(File Format Specification 3.0, II.A), CatBoost (model.cpp: "CBM1", then the length of its core).
"""

from __future__ import annotations

import os
import zlib
from typing import BinaryIO

_LEGACY_TORCH = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."  # torch.serialization.MAGIC_NUMBER
_STOP = b"."
_FRAME = 0x95
_HDF5 = b"\x89HDF\r\n\x1a\n"
_TAIL = 1024 * 1024
_PIECE = 256 * 1024
# What is not seen to end within these bytes, unpacked, is left to the worker: a bomb would keep the engine busy.
_MOST_UNPACKED = 256 * 1024 * 1024


def model_ends(file: BinaryIO, size: int, head: bytes, suffix: str) -> bool:
    """Whether a file that begins with `head` goes on to its end. Never raises for bad content."""
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return _pickle(file, size, head)
    if suffix == ".json" and head.lstrip()[:1] in (b"{", b"["):
        return _last(file, size, 64).rstrip()[-1:] in (b"}", b"]")
    if suffix == ".ubj" and head[:1] == b"{":
        return _last(file, size, 1) == b"}"
    if head.startswith(b"tree\n"):
        return b"\nend of trees" in _last(file, size, _TAIL)
    if head.startswith(_HDF5):
        return size >= _hdf5_end(head)
    if head[:4] == b"CBM1":
        return size >= 8 + int.from_bytes(head[4:8], "little")
    if suffix in (".joblib", ".pkl", ".pickle"):
        return _unpacks(file, head)
    return True


def _pickle(file: BinaryIO, size: int, head: bytes) -> bool:
    if head.startswith(_LEGACY_TORCH):
        return True  # several pickles, then the bytes of its tensors
    if len(head) >= 11 and head[2] == _FRAME and size < 11 + int.from_bytes(head[3:11], "little"):
        return False
    return _last(file, size, 1) == _STOP


def _hdf5_end(head: bytes) -> int:
    """The end-of-file address of a superblock with addresses of 8 bytes; 0 for others."""
    version = head[8:9]
    width, place = {b"\0": (13, 40), b"\1": (13, 44), b"\2": (9, 28), b"\3": (9, 28)}.get(version, (0, 0))
    if not place or head[width : width + 1] != b"\x08":
        return 0
    end = int.from_bytes(head[place : place + 8], "little")
    return 0 if end == 2**64 - 1 else end


def _unpacks(file: BinaryIO, head: bytes) -> bool:
    """Whether a zlib or gzip stream comes to its end."""
    if head[:3] == b"\x1f\x8b\x08":
        window = 16 + zlib.MAX_WBITS
    elif head[:1] == b"\x78" and len(head) > 1 and not int.from_bytes(head[:2], "big") % 31:
        window = zlib.MAX_WBITS
    else:
        return True
    stream = zlib.decompressobj(window)
    file.seek(0)
    seen = 0
    try:
        while not stream.eof:
            data = stream.unconsumed_tail or file.read(_PIECE)
            if not data:
                return False
            seen += len(stream.decompress(data, _PIECE))
            if seen > _MOST_UNPACKED:
                return True
    except zlib.error:
        return False
    return True


def _last(file: BinaryIO, size: int, count: int) -> bytes:
    file.seek(-min(size, count), os.SEEK_END)
    return file.read(count)
