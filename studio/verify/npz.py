"""The arrays of an `.npz`: what they say of themselves is compared with what there is before memory is taken for it.

Source: numpy/lib/format.py (the header of an array), PKWARE APPNOTE 6.3.10 (the directory of the archive around it).
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from studio.core.errors import InvalidInput

_MAGIC = b"\x93NUMPY"
_MOST_RATIO = 300
_ALWAYS = 256 << 20  # below this, any ratio is fine: zeros and masks pack well
_FIX = "Save them with np.savez from arrays of numbers, booleans or strings."


def check_npz(path: Path) -> None:
    """Read the headers of all arrays. Raises InvalidInput for a file that can not be read, or claims what it lacks."""
    with _readable(path):
        with path.open("rb") as file:
            plain = file.read(len(_MAGIC)) == _MAGIC
            if plain:
                file.seek(0)
                _check(path, "array", file, path.stat().st_size)
                return
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            _check_ratio(path, members)
            for member in members:
                with archive.open(member) as stream:
                    if stream.read(len(_MAGIC)) != _MAGIC:
                        raise ValueError(f"'{member.filename[:100]}' in it is no array")
                with archive.open(member) as stream:
                    _check(path, member.filename.removesuffix(".npy"), stream, member.file_size)


def read_npz(path: Path) -> dict[str, npt.NDArray[Any]]:
    """All arrays by name; the one of a `.npy` is named `array`. Pickles are never loaded. Raises InvalidInput."""
    check_npz(path)
    with _readable(path):
        found = np.load(path, allow_pickle=False)
        if isinstance(found, np.ndarray):
            return {"array": found}
        with found as archive:
            return {name: archive[name] for name in archive.files}


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (
        ValueError,
        OSError,
        EOFError,
        KeyError,
        NotImplementedError,  # a way of packing that Python lacks
        RuntimeError,  # a password
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        pickled = "pickle" in str(error).lower()
        raise InvalidInput(
            f"The sample inputs '{path.name}' can not be read.",
            "They hold Python objects, or are no .npz file." if pickled else f"{str(error).rstrip('.')}.",
            _FIX,
        ) from error


def _check_ratio(path: Path, members: list[zipfile.ZipInfo]) -> None:
    size, packed = sum(member.file_size for member in members), path.stat().st_size
    if size > _ALWAYS and size > packed * _MOST_RATIO:
        raise InvalidInput(
            f"The sample inputs '{path.name}' are much larger than they seem.",
            f"The file has {_bytes(packed)}; its arrays would take {_bytes(size)}, which real samples hardly do.",
            "Save fewer rows, or save them unpacked: np.savez instead of np.savez_compressed.",
        )


def _check(path: Path, name: str, stream: Any, size: int) -> None:
    """Compare the header of one array with the `size` of its file in bytes, header included."""
    counted = _Counted(stream)
    version = np.lib.format.read_magic(counted)
    read: Any = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
        # Version 3 differs from 2 in the encoding of names of fields alone.
        (3, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if read is None:
        raise ValueError(f"'{name}' in it is an array of an unknown version")
    shape, _, dtype = read(counted)
    if dtype.hasobject:
        raise ValueError("an array of objects, which are pickled")
    if any(dim < 0 for dim in shape):
        raise ValueError(f"'{name}' in it has the impossible shape {list(shape)}")
    wanted, there = prod(shape) * dtype.itemsize, size - counted.seen
    if wanted > there:
        raise InvalidInput(
            f"The sample inputs '{path.name}' are damaged, or cut short.",
            f"'{name}' says that it is {dtype} {list(shape)}, which takes {_bytes(wanted)}; it has {_bytes(there)}.",
            "Save them again with np.savez, and copy the file wholly.",
        )


class _Counted:
    """A stream, and how much was read of it."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self.seen = stream, 0

    def read(self, size: int = -1, /) -> bytes:
        data = self._stream.read(size)
        self.seen += len(data)
        return data


def _bytes(count: int) -> str:
    for unit, size in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.1f} {unit}" if count < 1000 * size else f"{count // size:,} {unit}"
    return f"{count} bytes"
