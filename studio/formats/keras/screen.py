"""What a Keras file would run or reach when it is loaded, found without loading it.

A `.keras` file is a zip with `config.json`, `metadata.json` and `model.weights.h5`; a whole-model `.h5` is an HDF5 file
with the configuration as its attribute `model_config`. The configuration is JSON whose entries name classes. Everything
is refused or asked about that is no building block of Keras itself: Lambda layers carry bytecode, others pickles, and a
name can stand for any function of an installed package (CVE-2024-3660, CVE-2025-1550, CVE-2026-1462). HDF5 files can
point outside of themselves, and declare arrays far larger than they are. Sources:
keras.io/api/models/model_saving_apis, HDF5 File Format Specification 3.0.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from studio.core.errors import InvalidInput, Refused

CONFIG, METADATA, WEIGHTS = "config.json", "metadata.json", "model.weights.h5"
_LARGEST_CONFIG = 64 * 1024 * 1024
_MOST_MEMBERS = 10_000
_EXPANSION = 200  # weights do not compress by more, except those that are all the same
_FREE_BYTES = 64 * 1024 * 1024  # up to which an array may be declared without being stored
_MOST_OBJECTS = 200_000

# Entries that stand for plain values. Source: keras.saving.serialize_keras_object.
_VALUES = frozenset(
    {"__keras_tensor__", "__tensor__", "__numpy__", "__bytes__", "__ellipsis__", "__slice__", "__tuple__"}
)
_CARRIES_CODE = {
    "Lambda": "a Lambda layer, which is Python bytecode",
    "__lambda__": "a Python function as bytecode",
    "TorchModuleWrapper": "a pickled PyTorch module",
}
_OTHER_FRAMEWORK = {"TFSMLayer": "TensorFlow", "JaxLayer": "JAX", "FlaxLayer": "JAX", "TFLayer": "TensorFlow"}
_KERAS2_OPERATIONS = frozenset({"TFOpLambda", "SlicingOpLambda", "ClassMethod", "InstanceMethod", "InstanceProperty"})

Known = Callable[[str, str, bool], bool]
"""Whether `(module, name, is_function)` is a building block of Keras. `module` is empty in files of Keras 2."""


@dataclass(frozen=True)
class Findings:
    """`code`: what the file itself would run. `foreign`: names that are no part of Keras, whose code is elsewhere."""

    code: tuple[str, ...]
    foreign: tuple[str, ...]


def findings(config: Any, known: Known) -> Findings:
    """Walk a model's configuration. Raises Refused for layers of other frameworks."""
    code: set[str] = set()
    foreign: set[str] = set()
    for entry in _entries(config):
        kind, inner = entry["class_name"], entry.get("config")
        name = inner.get("name", "") if isinstance(inner, dict) else ""
        if kind in _VALUES:
            continue
        if kind in _CARRIES_CODE:
            code.add(f"{_CARRIES_CODE[kind]}{f' ({name})' if isinstance(name, str) and name else ''}")
        elif kind in _OTHER_FRAMEWORK:
            raise Refused(
                f"The model has a {kind}: a layer that runs {_OTHER_FRAMEWORK[kind]}.",
                "It reaches outside of the file.",
                "Export the model to ONNX, or as a TensorFlow SavedModel, where it was made; then drop that.",
            )
        elif kind in _KERAS2_OPERATIONS:
            raise Refused(
                f"The model applies the TensorFlow function '{name or kind}' between its layers.",
                "Keras 2 wrote such functions into .h5 files in a way that Keras 3 can not read.",
                "In Python with TensorFlow: tf.keras.models.load_model(FILE).export('NAME'); drop the folder NAME.",
            )
        else:
            _check(entry, kind, inner, known, foreign)
    return Findings(tuple(sorted(code)), tuple(sorted(foreign)))


def _check(entry: dict[str, Any], kind: Any, inner: Any, known: Known, foreign: set[str]) -> None:
    module, registered = entry.get("module"), entry.get("registered_name")
    is_function = kind == "function"
    name = inner if is_function else kind
    if not isinstance(name, str) or not isinstance(module, str | None) or not isinstance(registered, str | None):
        foreign.add(str(name)[:80])
        return
    if registered and registered not in (name, kind):
        foreign.add(registered[:80])
    elif ("module" in entry and module is None) or not known(module or "", name, is_function):
        foreign.add(f"{module}.{name}"[:80] if module and module != "builtins" else name[:80])


def _entries(config: Any) -> Iterator[dict[str, Any]]:
    """Every entry that names a class, the deepest too, without recursion. What was only for training is left out."""
    waiting = [config]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            if "class_name" in value:
                yield value
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value


def parse_config(text: bytes | str, path: Path) -> Any:
    """A model's configuration. Raises InvalidInput when it is no JSON object."""
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(
            f"The configuration inside '{path.name}' is no readable JSON.", f"{error}.", "Save the model again."
        ) from error
    if not isinstance(config, dict) or "class_name" not in config:
        raise InvalidInput(f"The configuration inside '{path.name}' describes no model.", fix="Save the model again.")
    return config


def read_archive(path: Path) -> bytes:
    """The configuration in a `.keras` file. Raises InvalidInput for archives that are damaged or built to hurt."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            names = [member.filename for member in members]
            _check_members(path, members, names)
            return archive.read(CONFIG)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, RuntimeError, EOFError) as error:
        raise InvalidInput(
            f"'{path.name}' is a damaged archive.", f"{error}.", "Copy it again, or save it again."
        ) from error


def _check_members(path: Path, members: list[zipfile.ZipInfo], names: list[str]) -> None:
    def refuse(why: str) -> InvalidInput:
        return InvalidInput(f"'{path.name}' is not built as Keras builds its files.", why, "Save the model again.")

    if len(names) > _MOST_MEMBERS or len(set(names)) != len(names):
        raise refuse("It has too many members, or two of the same name.")
    for member in members:
        parts = member.filename.split("/")
        if member.filename.startswith("/") or ".." in parts or "\\" in member.filename:
            raise refuse(f"The member '{member.filename[:80]}' lies outside of the archive.")
        if member.file_size > max(_FREE_BYTES, _EXPANSION * member.compress_size):
            raise refuse(f"The member '{member.filename[:80]}' would unpack to {member.file_size:,} bytes.")
    if next(member for member in members if member.filename == CONFIG).file_size > _LARGEST_CONFIG:
        raise refuse("Its configuration is larger than 64 MB.")


def check_hdf5(file: Any, path: Path) -> None:
    """Look at every link and array of an open h5py.File. Raises InvalidInput for what lies outside or is inflated."""
    import h5py

    def refuse(why: str) -> InvalidInput:
        return InvalidInput(f"'{path.name}' is not built as Keras builds its files.", why, "Save the model again.")

    groups, seen = [("", file["/"])], 0
    while groups:
        place, group = groups.pop()
        for name in group:
            seen += 1
            if seen > _MOST_OBJECTS:
                raise refuse("It has too many parts.")
            where = f"{place}/{name}"
            link = group.get(name, getlink=True)
            if not isinstance(link, h5py.HardLink):
                raise refuse(f"{where} is a link to another place.")
            item = group[name]
            if isinstance(item, h5py.Group):
                if where.count("/") > 100:
                    raise refuse("Its groups are nested too deeply.")
                groups.append((where, item))
            elif isinstance(item, h5py.Dataset):
                if item.external or item.is_virtual:
                    raise refuse(f"The array {where} lies in another file.")
                declared, stored = item.size * item.dtype.itemsize if item.size else 0, item.id.get_storage_size()
                if declared > max(_FREE_BYTES, _EXPANSION * stored):
                    raise refuse(f"The array {where} declares {declared:,} bytes, and holds {stored:,}.")
