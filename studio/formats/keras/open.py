"""Opening a Keras file: looked through first, and changed where Keras 3 could not read what Keras 2 wrote."""

from __future__ import annotations

import json
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from studio.core.errors import InvalidInput, Refused
from studio.formats.keras.config import in_single_precision, modernise, without_training
from studio.formats.keras.screen import CONFIG, METADATA, WEIGHTS, check_hdf5, parse_config, read_archive
from studio.formats.sniff import head


@dataclass(frozen=True)
class Source:
    """A file that Keras can load, and its configuration. `keras2`: the version that wrote it, if that was Keras 2."""

    path: Path
    config: Any
    keras2: str = ""
    halved: bool = False

    @property
    def notes(self) -> tuple[str, ...]:
        """What was changed on the way."""
        old = f"Keras {self.keras2} wrote it; it was read as Keras 3 understands it."
        half = "It computed in half precision with weights in single precision; the graph computes in single precision."
        return (*((old,) if self.keras2 else ()), *((half,) if self.halved else ()))


@contextmanager
def opened(path: Path) -> Iterator[Source]:
    """The file, looked through for links, bombs and the like; a changed copy where Keras 3 could not read it."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            source = _archive(path, Path(folder)) if head(path, 2) == b"PK" else _hdf5(path, Path(folder))
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
            raise _damaged(path, error) from error
        yield source


def _archive(path: Path, folder: Path) -> Source:
    import h5py

    config = parse_config(read_archive(path), path)
    halved = in_single_precision(config)
    changed = without_training(config) or halved
    version = _version(path)
    old = not version.startswith("3.")
    if old:
        modernise(config)
    with zipfile.ZipFile(path) as archive:
        if WEIGHTS in archive.namelist():
            inner = folder / WEIGHTS
            with archive.open(WEIGHTS) as reading, inner.open("wb") as writing:
                shutil.copyfileobj(reading, writing)
            try:
                with h5py.File(inner, "r") as file:
                    check_hdf5(file, path)
            except (OSError, KeyError, RuntimeError) as error:
                raise _damaged(path, error) from error
            inner.unlink()
        if not changed and not old:
            return _named(path, config, folder, ".keras")
        copy = folder / "model.keras"
        with zipfile.ZipFile(copy, "w") as rewritten:
            for member in archive.infolist():
                if member.filename == CONFIG:
                    rewritten.writestr(CONFIG, json.dumps(config))
                else:
                    with archive.open(member) as reading, rewritten.open(member.filename, "w") as writing:
                        shutil.copyfileobj(reading, writing)
    return Source(copy, config, version if old else "", halved)


def _version(path: Path) -> str:
    """The version of Keras that wrote a `.keras` file, '3.' where it does not tell."""
    with zipfile.ZipFile(path) as archive:
        try:
            told = json.loads(archive.read(METADATA))
        except (ValueError, RecursionError):
            return "3."
    return str(told.get("keras_version", "3.")) if isinstance(told, dict) else "3."


def _hdf5(path: Path, folder: Path) -> Source:
    import h5py

    try:
        with h5py.File(path, "r") as file:
            check_hdf5(file, path)
            text, version = file.attrs.get("model_config"), _text(file.attrs.get("keras_version")) or "1"
            if text is None:
                raise Refused(
                    f"'{path.name}' holds weights alone, not the model that they belong to.",
                    "There are no layers in it, only their numbers.",
                    "In Python: load them into the model, then model.save('NAME.keras'); drop that file.",
                )
    except (OSError, KeyError, RuntimeError, UnicodeDecodeError) as error:
        raise _damaged(path, error) from error
    config = parse_config(_text(text), path)
    without_training(config)
    halved, old = in_single_precision(config), not version.startswith("3.")
    if not old and not halved:
        return _named(path, config, folder, ".h5")
    if old:
        modernise(config)
    copy = folder / "model.h5"
    shutil.copyfile(path, copy)
    with h5py.File(copy, "r+") as file:
        file.attrs["model_config"] = json.dumps(config)
    return Source(copy, config, version if old else "", halved)


def _named(path: Path, config: Any, folder: Path, suffix: str) -> Source:
    """Keras chooses its reader by the suffix, and the arrival may have any name."""
    if path.suffix == suffix:
        return Source(path, config)
    link = folder / f"model{suffix}"
    link.symlink_to(path.resolve())
    return Source(link, config)


def _text(value: Any) -> str:
    return value.decode("utf-8") if isinstance(value, bytes) else str(value or "")


def _damaged(path: Path, error: Exception) -> InvalidInput:
    return InvalidInput(
        f"'{path.name}' is a damaged or truncated file.", f"{error}.", "Copy it again, or save the model again."
    )
