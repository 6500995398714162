"""Converter environments: frameworks that are too large, or too particular, to be installed beside Studio.

Each is a virtual environment layered over Studio's own packages: what Studio has is found there, and only what is
missing, or has to be of another version, is installed into it. It is made on demand, once for all workspaces of a user,
and only a whole one ever has its name: it is made under another, tried, and then renamed.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from studio.core import codec
from studio.core.errors import InvalidInput, NotFound, StudioError
from studio.store.files import write_atomic

FOLDER_VARIABLE = "STUDIO_ENVIRONMENTS"
_MARK = "studio-environment.json"
# Packages whose version decides whether what was installed over them still fits.
_SHARED = ("ml_dtypes", "numpy", "onnx", "onnxruntime", "protobuf")


@dataclass(frozen=True, kw_only=True)
class Environment:
    """What an environment is made of. `requirements` for pip; `modules` must import when it is done.

    `download` and `installed`: about how many bytes. `replaces`: packages of Studio that it has of another version.
    `alone`: more requirements, installed without what they ask for.
    """

    name: str
    title: str
    requirements: tuple[str, ...]
    modules: tuple[str, ...]
    download: int
    installed: int
    replaces: tuple[str, ...] = ()
    alone: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Made:
    """The mark inside a finished environment. `size` in bytes, `made` in Unix seconds."""

    name: str
    requirements: tuple[str, ...]
    size: int
    made: float


_PC = "sys_platform == 'linux' and platform_machine == 'x86_64'"
_NO_PC = "sys_platform != 'linux' or platform_machine != 'x86_64'"
ENVIRONMENTS = {
    one.name: one
    for one in (
        Environment(
            name="tensorflow",
            title="TensorFlow SavedModel, frozen graphs, TensorFlow Lite",
            requirements=(
                f"tensorflow-cpu==2.21.0; {_PC}",
                f"tensorflow==2.21.0; {_NO_PC}",
                "tf2onnx==1.17.0",
            ),
            modules=("tensorflow", "tf2onnx"),
            download=290_000_000,
            installed=1_400_000_000,
        ),
        Environment(
            name="paddle",
            title="PaddlePaddle models",
            requirements=("paddlepaddle==3.3.1",),
            # It asks for an older onnx, a tidier and a folder of constants, and converts without any of them.
            alone=("paddle2onnx==2.1.0",),
            modules=("paddle", "paddle2onnx"),
            download=200_000_000,
            installed=770_000_000,
        ),
    )
}


def environment_called(name: str) -> Environment:
    """Raises NotFound."""
    if name not in ENVIRONMENTS:
        known = ", ".join(ENVIRONMENTS)
        raise NotFound(f"There is no converter environment {name!r}.", fix=f"There are: {known}.")
    return ENVIRONMENTS[name]


def environments_folder() -> Path:
    """Where environments are kept: STUDIO_ENVIRONMENTS, else the user's data folder."""
    named = os.environ.get(FOLDER_VARIABLE)
    return Path(named).expanduser() if named else platformdirs.user_data_path("ort-studio", False) / "environments"


def place_of(environment: Environment) -> Path:
    """The folder that the finished environment has: another one for other versions of it, of Python or of Studio."""
    versions = [f"{name}={_version(name)}" for name in _SHARED]
    wanted = (*environment.requirements, *environment.alone)
    parts = (*wanted, platform.python_version(), platform.machine(), *base_packages(), *versions)
    digest = hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()
    return environments_folder() / f"{environment.name}-{digest[:12]}"


def base_packages() -> list[Path]:
    """The folders of packages that this interpreter uses."""
    return [
        Path(entry).resolve()
        for entry in dict.fromkeys(sys.path)
        if Path(entry).name in ("site-packages", "dist-packages") and Path(entry).is_dir()
    ]


def interpreter_in(place: Path) -> Path:
    return place / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def find(environment: Environment) -> Path | None:
    """The interpreter of a finished environment. None where there is none, or its Python is gone."""
    place = place_of(environment)
    return interpreter_in(place) if (place / _MARK).is_file() and interpreter_in(place).exists() else None


def is_included(environment: Environment) -> bool:
    """Whether Studio's own interpreter has all of it, so that none has to be made."""
    return all(importlib.util.find_spec(module) is not None for module in environment.modules)


def mark(environment: Environment, place: Path) -> None:
    """Note in a folder that it is finished, and how large it is."""
    made = Made(name=environment.name, requirements=environment.requirements, size=_size(place), made=time.time())
    write_atomic(place / _MARK, codec.encode_pretty(made))


def made_environments() -> list[tuple[Path, Made]]:
    """Every finished environment with its folder, those of other versions too."""
    found: list[tuple[Path, Made]] = []
    for path in sorted(environments_folder().glob(f"*/{_MARK}")):
        try:
            found.append((path.parent, codec.decode(path.read_bytes(), Made, "environment")))
        except (OSError, InvalidInput):
            continue
    return found


def remove(name: str) -> int:
    """Delete every environment of that name, those of other versions too. Returns the bytes. Raises StudioError."""
    environment_called(name)
    freed = 0
    for place, made in made_environments():
        if made.name == name:
            freed += made.size
            # Renamed first: a deletion that is interrupted must not leave half of one under its name.
            gone = place.with_name(f".{place.name}.removed")
            try:
                shutil.rmtree(gone, ignore_errors=True)
                place.rename(gone)
                shutil.rmtree(gone)
            except OSError as error:
                raise StudioError(
                    f"The environment in {place} could not be removed.", f"{error.strerror}.", "Delete that folder."
                ) from error
    return freed


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "none"


def _size(folder: Path) -> int:
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            total += os.lstat(os.path.join(root, name)).st_size  # noqa: PTH118 - tens of thousands of files
    return total
