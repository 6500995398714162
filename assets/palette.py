"""Make a PNG smaller by giving it a palette of at most 256 colours: screens of text have few that matter.

Reads what Chromium writes: 8-bit RGB or RGBA, not interlaced (PNG specification, third edition). Transparency is
dropped.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np

_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def shrink(path: Path) -> None:
    """Rewrite a PNG with a palette. Raises ValueError for a kind of PNG that this does not read."""
    path.write_bytes(_encode(*_reduce(_decode(path.read_bytes()))))


def _decode(data: bytes) -> np.ndarray:
    """Pixels, uint8 [height, width, 3]."""
    if data[:8] != _SIGNATURE:
        raise ValueError("not a PNG")
    at, packed, header = 8, b"", b""
    while at < len(data):
        (length,), kind = struct.unpack_from(">I", data, at), data[at + 4 : at + 8]
        body = data[at + 8 : at + 8 + length]
        header, packed = (body if kind == b"IHDR" else header), (packed + body if kind == b"IDAT" else packed)
        at += 12 + length
    width, height, depth, colours, _, _, interlaced = struct.unpack(">IIBBBBB", header)
    if depth != 8 or colours not in (2, 6) or interlaced:
        raise ValueError("not an 8-bit RGB PNG")
    step = 3 if colours == 2 else 4
    rows = np.frombuffer(zlib.decompress(packed), np.uint8).reshape(height, 1 + width * step)
    above = np.zeros((width, step), np.uint8)
    pixels = np.empty((height, width, step), np.uint8)
    for number, row in enumerate(rows):
        above = pixels[number] = _unfilter(int(row[0]), row[1:].reshape(width, step), above)
    return pixels[:, :, :3]


def _unfilter(kind: int, line: np.ndarray, above: np.ndarray) -> np.ndarray:
    """One row, uint8 [width, channels]; PNG specification, section 9.2."""
    if kind == 0:
        return line
    if kind == 1:
        return np.cumsum(line, axis=0, dtype=np.uint8)
    if kind == 2:
        return line + above
    left, corner = [0] * line.shape[1], [0] * line.shape[1]
    done = []
    for given, up in zip(line.tolist(), above.tolist(), strict=True):
        predict = _paeth if kind == 4 else _average
        left = [(value + predict(a, b, c)) & 255 for value, a, b, c in zip(given, left, up, corner, strict=True)]
        corner = up
        done.append(left)
    return np.array(done, np.uint8)


def _average(left: int, up: int, _: int) -> int:
    return (left + up) // 2


def _paeth(left: int, up: int, corner: int) -> int:
    from_left, from_up, from_corner = abs(up - corner), abs(left - corner), abs(left + up - 2 * corner)
    if from_left <= from_up and from_left <= from_corner:
        return left
    return up if from_up <= from_corner else corner


def _reduce(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Indices, uint8 [height, width], and a palette, uint8 [colours, 3].

    Colours that differ in low bits only become the most frequent of them, so that plain areas keep theirs exactly.
    """
    flat = pixels.reshape(-1, 3).astype(np.uint32)
    packed = flat[:, 0] << 16 | flat[:, 1] << 8 | flat[:, 2]
    colours, counts = np.unique(packed, return_counts=True)
    for bits in range(8):
        mask = (0xFF << bits & 0xFF) * 0x010101
        groups, of_colour = np.unique(colours & mask, return_inverse=True)
        if len(groups) <= 256:
            break
    order = np.argsort(counts, kind="stable")
    chosen = np.empty(len(groups), np.uint32)
    chosen[of_colour[order]] = colours[order]  # the last, most frequent one stays
    indices = of_colour[np.searchsorted(colours, packed)].astype(np.uint8).reshape(pixels.shape[:2])
    return indices, np.stack([chosen >> 16, chosen >> 8 & 255, chosen & 255], axis=1).astype(np.uint8)


def _encode(indices: np.ndarray, palette: np.ndarray) -> bytes:
    height, width = indices.shape
    rows = np.zeros((height, width + 1), np.uint8)
    rows[:, 1:] = indices
    return b"".join(
        [
            _SIGNATURE,
            _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),
            _chunk(b"PLTE", palette.tobytes()),
            _chunk(b"IDAT", zlib.compress(rows.tobytes(), 9)),
            _chunk(b"IEND", b""),
        ]
    )


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
