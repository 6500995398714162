"""Compressed streams around a pickle, as joblib.dump writes them: read with bounds on size, ratio and memory.

Source: joblib/compressor.py (the first bytes of each), RFC 1950 (zlib), RFC 1952 (gzip).
"""

from __future__ import annotations

import bz2
import importlib
import lzma
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from studio.core.errors import InvalidInput, Refused

_PIECE = 256 * 1024
_DICTIONARY = 256 << 20  # an LZMA header may ask for a window of 4 GB; the largest preset takes 64 MB
MOST_BYTES = 8 << 30
MOST_RATIO = 300
_ALWAYS = 256 << 20  # below this, any ratio is fine

_NAMES = {"zlib": "zlib", "gzip": "gzip", "bz2": "bzip2", "xz": "xz", "lzma": "LZMA", "lz4": "LZ4"}


def compression(head: bytes) -> str | None:
    """How a stream that begins so is compressed: zlib, gzip, bz2, xz, lzma, lz4. None when it is not."""
    if head[:1] == b"\x78" and len(head) > 1 and not int.from_bytes(head[:2], "big") % 31:
        return "zlib"
    if head[:3] == b"\x1f\x8b\x08":
        return "gzip"
    if head[:3] == b"BZh":
        return "bz2"
    if head[:6] == b"\xfd7zXZ\x00":
        return "xz"
    if head[:4] == b"\x04\x22\x4d\x18":
        return "lz4"
    # LZMA has no mark: properties as every encoder writes them, a size of a dictionary, and no length.
    if len(head) >= 13 and head[0] == 0x5D and head[1:3] == b"\x00\x00" and head[5:13] in (b"\xff" * 8, b"\0" * 8):
        return "lzma"
    return None


def inflated_head(path: Path, kind: str, size: int = 64 * 1024) -> bytes:
    """The first bytes of what is compressed; fewer, or none, when the stream is damaged or can not be read here."""
    found = bytearray()
    try:
        with path.open("rb") as file:
            for part in _pieces(file, kind, 4096):
                found += part
                if len(found) >= size:
                    break
    except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError, Refused, RuntimeError, MemoryError):
        pass
    return bytes(found[:size])


def inflate(path: Path, kind: str, target: Path) -> None:
    """Write what is compressed to a file. Raises InvalidInput for a damaged stream or a bomb, Refused without LZ4."""
    packed = path.stat().st_size
    written = 0
    try:
        with path.open("rb") as file, target.open("wb") as out:
            for part in _pieces(file, kind, _PIECE):
                written += len(part)
                if written > MOST_BYTES or (written > _ALWAYS and written > packed * MOST_RATIO):
                    raise InvalidInput(
                        f"'{path.name}' is much larger than it seems.",
                        f"From {packed} bytes, it unpacked to over {written} before Studio stopped.",
                        "Save it without compression: joblib.dump(model, 'model.joblib', compress=0).",
                    )
                out.write(part)
    except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError, RuntimeError) as error:
        raise InvalidInput(
            f"'{path.name}' can not be unpacked.",
            f"It begins as {_NAMES[kind]}, but: {str(error)[:200] or type(error).__name__}.",
            "Copy it again, wholly.",
        ) from error


def _pieces(file: BinaryIO, kind: str, piece: int) -> Iterator[bytes]:
    """What is compressed, at most `piece` bytes at a time. Streams may follow each other, as gzip allows."""
    make = _decompressor(kind)
    stream, data = make(), b""
    while True:
        if stream.eof:
            data = stream.unused_data or file.read(piece)
            if not data or compression(data) != kind:
                return  # joblib as well leaves alone what stands behind
            stream = make()
        elif not data and _hungry(stream):
            data = file.read(piece)
            if not data:
                raise EOFError("it ends in the middle")
        part = stream.decompress(data, piece)
        data = getattr(stream, "unconsumed_tail", b"")
        if part:
            yield part


def _hungry(stream: Any) -> bool:
    return bool(getattr(stream, "needs_input", True))


def _decompressor(kind: str) -> Callable[[], Any]:
    if kind in ("zlib", "gzip"):
        return lambda: zlib.decompressobj(zlib.MAX_WBITS if kind == "zlib" else zlib.MAX_WBITS | 16)
    if kind == "bz2":
        return bz2.BZ2Decompressor
    if kind in ("xz", "lzma"):
        return lambda: lzma.LZMADecompressor(lzma.FORMAT_AUTO, memlimit=_DICTIONARY)
    try:
        lz4: Any = importlib.import_module("lz4.frame")
    except ImportError as error:
        raise Refused(
            "This file is compressed with LZ4.",
            "The Python package 'lz4' is not installed where Studio runs.",
            "Save it with another compression, joblib.dump(model, 'model.joblib', compress=3), or: pip install lz4.",
        ) from error
    made: Callable[[], Any] = lz4.LZ4FrameDecompressor
    return made
