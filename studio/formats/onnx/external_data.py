"""External data of ONNX tensors, read without trusting a word of it.

A tensor may say that its values lie in another file, and names it. ONNX Runtime and onnx have each missed some of the
places where such a tensor can hide, and some of the names that lead elsewhere. So every TensorProto of a model is found
by walking its protobuf description, and every file is opened component by component, below the model's own folder.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from math import prod
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from studio.core.errors import InvalidInput, Refused

_TENSOR = "onnx.TensorProto"
_EXTERNAL = 1  # onnx.TensorProto.EXTERNAL
# To go through, not to list: a worker may read the files of an arrival without their folder (open(2), "O_PATH").
_FOLDER = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC
_FIX = "Save the model again with its weights inside, or beside it: onnx.save(model, path, save_as_external_data=True)."


def tensors(message: Any) -> Iterator[Any]:
    """Every TensorProto at any depth of a protobuf message: initialisers, sparse ones, attributes, subgraphs,
    functions, training information, and whatever else a later version of ONNX lets hold one.
    """
    stack = [message]
    while stack:
        here = stack.pop()
        if here.DESCRIPTOR.full_name == _TENSOR:
            yield here
            continue
        for name, repeated in _paths(here.DESCRIPTOR):
            if repeated:
                stack.extend(getattr(here, name))
            elif here.HasField(name):
                stack.append(getattr(here, name))


@cache
def _paths(descriptor: Any) -> tuple[tuple[str, bool], ...]:
    """Fields through which a TensorProto can be reached: name, and whether it repeats."""
    return tuple(
        (field.name, not field.has_presence)
        for field in descriptor.fields
        if field.message_type is not None and _reaches(field.message_type, frozenset())
    )


def _reaches(descriptor: Any, seen: frozenset[str]) -> bool:
    if descriptor.full_name == _TENSOR:
        return True
    if descriptor.full_name in seen:
        return False
    deeper = seen | {descriptor.full_name}
    return any(field.message_type is not None and _reaches(field.message_type, deeper) for field in descriptor.fields)


def external(message: Any) -> list[Any]:
    """The tensors whose values lie in another file."""
    return [tensor for tensor in tensors(message) if tensor.data_location == _EXTERNAL]


@dataclass(frozen=True)
class Slice:
    """Where a tensor's bytes lie: a location below the model's folder, an offset and a length in bytes."""

    location: str
    offset: int
    length: int


def slice_of(tensor: Any) -> Slice:
    """What an external tensor says of its bytes. Raises Refused for names and sizes that can not be right."""
    entries = {_text(entry.key): _text(entry.value) for entry in tensor.external_data}
    name = tensor.name or "unnamed tensor"
    location = entries.get("location", "")
    _check_location(name, location)
    expected = byte_size(tensor)
    offset, length = _count(name, entries, "offset", 0), _count(name, entries, "length", expected)
    if length != expected:
        raise Refused(
            f"The weights of '{name}' are said to take {length} bytes.",
            f"Their shape {list(tensor.dims)} takes {expected}.",
            _FIX,
        )
    return Slice(location, offset, length)


def check_apart(model: Any, path: Path) -> None:
    """Raises Refused where a tensor of the model in `path` takes the bytes of that file itself for its values."""
    for tensor in external(model):
        if PurePosixPath(slice_of(tensor).location) == PurePosixPath(path.name):
            raise Refused(
                f"The weights of '{tensor.name or 'unnamed tensor'}' are said to lie in the model's own file.",
                "There the graph itself lies: its bytes are no weights, and no exporter writes that.",
                _FIX,
            )


def _text(value: str | bytes) -> str:
    """A string field; the protobuf library gives bytes where they are no UTF-8, which no file of ours is named by."""
    return value if isinstance(value, str) else value.decode("utf-8", "backslashreplace")


def _check_location(name: str, location: str) -> None:
    parts = PurePosixPath(location).parts
    bad = not location or "\0" in location or "\\" in location or location.startswith("/") or not parts
    if bad or ".." in parts or any(":" in part for part in parts[:1]) or "\n" in location:
        raise Refused(
            f"The weights of '{name}' lie outside the model's folder: {location[:200]!r}.",
            "A model that names files elsewhere could read anything on this machine into its answers.",
            _FIX,
        )


def _count(name: str, entries: dict[str, str], key: str, default: int) -> int:
    text = entries.get(key, "")
    if text == "":
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise Refused(f"The weights of '{name}' have an impossible {key}: {text[:60]!r}.", fix=_FIX)
    return int(text)


def byte_size(tensor: Any) -> int:
    """Bytes that a tensor's values take: elements times size, packed for 2 and 4 bits. Raises Refused for others."""
    bits = _BITS.get(tensor.data_type)
    if bits is None or any(dim < 0 for dim in tensor.dims):
        raise Refused(
            f"The weights of '{tensor.name or 'unnamed tensor'}' can not lie in a file.",
            f"Type {tensor.data_type} with the shape {list(tensor.dims)} has no size in bytes.",
            _FIX,
        )
    elements: int = prod(tensor.dims)
    return (elements * bits + 7) // 8


# onnx.TensorProto.DataType -> bits an element. Source: onnx.proto, "DataType"; strings (8) have no fixed size.
_BITS = {
    1: 32, 2: 8, 3: 8, 4: 16, 5: 16, 6: 32, 7: 64, 9: 8, 10: 16, 11: 64, 12: 32, 13: 64, 14: 64, 15: 128, 16: 16,
    17: 8, 18: 8, 19: 8, 20: 8, 21: 4, 22: 4, 23: 4, 24: 8, 25: 2, 26: 2,
}  # fmt: skip


class Folder:
    """Files below one folder, each opened once and kept open: what was checked is what is read."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._files: dict[str, tuple[BinaryIO, int]] = {}

    def __enter__(self) -> Folder:
        return self

    def __exit__(self, *_: object) -> None:
        for file, _size in self._files.values():
            file.close()

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files that were opened."""
        return tuple(self._root / location for location in self._files)

    def open(self, part: Slice) -> BinaryIO:
        """The file of a slice, checked to hold it. Raises Refused or InvalidInput."""
        if part.location not in self._files:
            self._files[part.location] = _open_below(self._root, part.location)
        file, size = self._files[part.location]
        if part.offset + part.length > size:
            raise InvalidInput(
                f"The weights file '{part.location}' is too short.",
                f"The model needs {part.offset + part.length} bytes of it; it has {size}.",
                "Copy it again, wholly.",
            )
        return file

    def read(self, part: Slice) -> bytes:
        """The bytes of a slice."""
        file = self.open(part)
        file.seek(part.offset)
        data = file.read(part.length)
        if len(data) != part.length:
            raise InvalidInput(f"The weights file '{part.location}' changed while it was read.", fix="Drop it again.")
        return data


def _open_below(root: Path, location: str) -> tuple[BinaryIO, int]:
    """Open each component relative to the one before it, following no link. Returns the file and its size."""
    parts = [part for part in PurePosixPath(location).parts if part != "."]
    folder = os.open(root, _FOLDER)
    try:
        for part in parts[:-1]:
            deeper = os.open(part, _FOLDER | os.O_NOFOLLOW, dir_fd=folder)
            os.close(folder)
            folder = deeper
        # Without O_NONBLOCK, opening a named pipe would wait for a writer for ever.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        handle = os.open(parts[-1], flags, dir_fd=folder)
    except FileNotFoundError as error:
        raise InvalidInput(
            f"The weights file '{location}' is missing.",
            "The model keeps its weights in a file of that name beside it.",
            "Drop that file beside the model, under exactly this name; or both in one folder.",
        ) from error
    except OSError as error:
        raise (
            _link(location)
            if _is_link_error(error)
            else InvalidInput(f"The weights file '{location}' can not be opened.", f"{error.strerror}.")
        ) from error
    finally:
        os.close(folder)
    info = os.fstat(handle)
    if not stat.S_ISREG(info.st_mode) or info.st_nlink > 1:
        os.close(handle)
        raise (
            _hard_link(location)
            if stat.S_ISREG(info.st_mode)
            else Refused(f"'{location}', where the weights should lie, is no plain file.", fix=_FIX)
        )
    return os.fdopen(handle, "rb"), info.st_size


def _is_link_error(error: OSError) -> bool:
    # O_NOFOLLOW gives ELOOP for a link; with O_DIRECTORY, ENOTDIR (open(2)).
    import errno

    return error.errno in (errno.ELOOP, errno.ENOTDIR)


def _link(location: str) -> Refused:
    return Refused(
        f"The way to the weights file '{location}' leads through a symbolic link, or through a file.",
        "A link can lead to any file on this machine.",
        "Put the file itself beside the model, then drop them again.",
    )


def _hard_link(location: str) -> Refused:
    return Refused(
        f"The weights file '{location}' has more than one name (hard links).",
        "It could be another file of this machine under a second name, or change behind our back.",
        "Copy it instead of linking it (cp, not ln), then drop it again.",
    )
