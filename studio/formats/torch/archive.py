"""Looking into files of torch.save and torch.jit.save without loading them.

Both write a zip whose members lie in one folder: `data.pkl` (a pickle whose tensors refer to `data/0` …), `version`;
TorchScript also has `constants.pkl` and `code/`. Before PyTorch 1.6 torch.save wrote pickles one behind the other: a
magic number, the version of the protocol, the system, the object, the keys of the storages. Sources:
torch/serialization.py, caffe2/serialize/inline_container.h, torch/csrc/jit/serialization/export_module.cpp.
"""

from __future__ import annotations

import contextlib
import io
import re
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from studio.core.errors import InvalidInput
from studio.formats.pickles._values import Made
from studio.formats.pickles.screen import first_look, pickle_imports, screen_pickle, shown
from studio.formats.sniff import head, zip_names

LEGACY_MAGIC = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."
"""The pickle of torch.serialization.MAGIC_NUMBER, protocol 2: the first bytes of a file before PyTorch 1.6."""

_LOOK = 16 * 1024  # bytes of a pickle that are read to describe it
_LARGEST_PICKLE = 512 * 1024 * 1024
_SCRIPT_PICKLES = ("data.pkl", "constants.pkl", "traced_inputs.pkl")

# Names that only make tensors and containers. Loading goes through PyTorch's own restricted unpickler all the same.
_PLAIN = re.compile(
    r"(torch\.(cuda\.)?[A-Za-z0-9]+(Storage|Tensor)|torch\.storage\.(Typed|Untyped)Storage"
    r"|torch\._utils\._rebuild_\w+|torch\._tensor\._rebuild_from_type_v2|torch\.nn\.parameter\.Parameter"
    r"|torch\.(Tensor|Size|device|dtype|float\w*|bfloat16|u?int\d+|bool|complex\d+|bits\w*|qu?int\w*|per_\w+)"
    r"|torch\.serialization\._get_layout|collections\.(OrderedDict|Counter)"
    r"|(builtins|__builtin__)\.(set|bytearray|complex)|_codecs\.encode"
    r"|numpy\.dtype|numpy\._?core\.multiarray\.(scalar|_reconstruct)|numpy\.ndarray|numpy\.dtypes\.\w+DType)"
)
# What the C++ unpickler of TorchScript knows; it looks nothing up in Python. Source: torch/csrc/jit/…/unpickler.cpp.
_SCRIPT = re.compile(r"__torch__\..+|torch\.jit\._pickle\.\w+|torch\._utils\._rebuild_\w+")


def archive_kind(path: Path) -> str:
    """'script', 'pickle' or, for anything that is no zip of PyTorch's, an empty text."""
    names = zip_names(path)
    if not names:
        return ""
    root = names[0].partition("/")[0]
    inside = {name.removeprefix(f"{root}/") for name in names}
    if "data.pkl" not in inside:
        return ""
    if "constants.pkl" in inside and any(name.startswith("code/") for name in inside):
        return "script"
    return "pickle" if "version" in inside else ""


def is_legacy(path: Path) -> bool:
    """Whether torch.save of a PyTorch before 1.6 wrote it, or a newer one that was asked for the old layout."""
    return head(path, len(LEGACY_MAGIC)) == LEGACY_MAGIC


def is_pickled(path: Path) -> bool:
    """Whether pickle.dump wrote it, and of PyTorch's objects: told by the first names in it."""
    start = head(path, _LOOK)
    if start[:1] != b"\x80" or start.startswith(LEGACY_MAGIC):
        return False
    seen = first_look(start)
    return seen is not None and any(_of_torch(name.module) for name in seen.names)


def _of_torch(module: str) -> bool:
    return module == "torch" or module.startswith("torch.")


def first_words(path: Path) -> str:
    """What a pickled PyTorch file seems to hold, in a few words, from its first bytes."""
    start = b""
    try:
        if is_legacy(path):
            start = _object_start(head(path, _LOOK))
        elif is_pickled(path):
            start = head(path, _LOOK)
        else:
            with zipfile.ZipFile(path) as archive:
                member = next(name for name in archive.namelist() if name.partition("/")[2] == "data.pkl")
                with archive.open(member) as file:
                    start = file.read(_LOOK)
    except (zipfile.BadZipFile, zlib.error, OSError, ValueError, NotImplementedError, RuntimeError, EOFError):
        pass
    seen = first_look(start)
    if seen is None:
        return "PyTorch file"
    if isinstance(seen.value, Made) and seen.kind is not None and not _PLAIN.fullmatch(str(seen.kind)):
        return f"PyTorch module ({shown(str(seen.kind))})"
    return "PyTorch checkpoint"


def _object_start(start: bytes) -> bytes:
    """The old layout from its fourth pickle on."""
    file = io.BytesIO(start)
    with contextlib.suppress(InvalidInput):
        for _ in range(3):
            screen_pickle(file, "")
    return file.read()


def beyond(imports: Iterable[str], script: bool = False) -> tuple[str, ...]:
    """Those that make more than tensors and containers."""
    return tuple(name for name in imports if not (_PLAIN.fullmatch(name) or (script and _SCRIPT.fullmatch(name))))


def imports_of(path: Path, script: bool = False) -> tuple[str, ...]:
    """Everything that loading a file would look up. Imports torch. Raises InvalidInput for a damaged file."""
    if is_legacy(path):
        return legacy_imports(path)
    if is_pickled(path):
        with path.open("rb") as file:
            return pickle_imports(file, f"'{path.name}'")
    # PyTorch's own reader: of two members with one name it sees the one that the loader will see.
    reader = open_reader(path)
    names: set[str] = set()
    for name in _SCRIPT_PICKLES if script else ("data.pkl",):
        if reader.has_record(name):
            data = read_member(path, reader, name)
            names.update(pickle_imports(io.BytesIO(data), f"{name} in '{path.name}'"))
    return tuple(sorted(names))


def open_reader(path: Path) -> Any:
    """PyTorch's reader of an archive. Raises InvalidInput when it is none."""
    import torch

    try:
        return torch._C.PyTorchFileReader(str(path))
    except RuntimeError as error:
        raise InvalidInput(
            f"'{path.name}' is no readable PyTorch archive.", f"{str(error).splitlines()[0][:300]}.", "Save it again."
        ) from error


def read_member(path: Path, reader: Any, name: str) -> bytes:
    """The bytes of a member. Raises InvalidInput when it is missing, damaged, or far too large."""
    try:
        size = reader.get_record_size(name) if hasattr(reader, "get_record_size") else 0
        if size > _LARGEST_PICKLE:
            raise InvalidInput(f"'{path.name}' is damaged: {name} is {size} bytes long.")
        return bytes(reader.get_record(name))
    except RuntimeError as error:
        raise InvalidInput(
            f"'{path.name}' is damaged: {name} can not be read.",
            f"{str(error).splitlines()[0][:300]}.",
            "Copy it again.",
        ) from error


def legacy_imports(path: Path) -> tuple[str, ...]:
    """What the pickles of the old layout look up: five of them, then raw numbers."""
    names: set[str] = set()
    with path.open("rb") as file:
        for part in ("magic number", "protocol", "system", "object", "storages"):
            names.update(pickle_imports(file, f"the {part} of '{path.name}'"))
    return tuple(sorted(names))
