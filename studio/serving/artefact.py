"""A serving artefact: a graph as ONNX Runtime optimised it for this machine, its weights packed and ready to be mapped.

It loads in milliseconds, and every session of it, in this process and in others, shares one copy of the weights. It
holds for one graph, one version of the runtime and one kind of processor, which its name is made of. Artefacts are a
cache: they may be deleted at any time, and are made again.

`<folder>/<key>/` holds `model.onnx`, `weights.bin` and `made.json`. What is used must be what was written: the files'
sizes and times of change have to be those that were sealed, or, where a copy or a restored backup changed the times,
their hashes. The answers that were seen when it was made are compared again when it is loaded.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import platform
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from studio.core import codec
from studio.core.errors import StudioError
from studio.core.routing import Target

if TYPE_CHECKING:
    from studio.serving.loaded import Array

FORMAT = 1
GRAPH = "model.onnx"
WEIGHTS = "weights.bin"
MADE = "made.json"
TEMP_PREFIX = ".tmp-"
ABANDONED_SECONDS = 3600.0
"""What is half made for longer was left behind by a process that was killed."""
TOLERANCE = 1e-5
"""Largest difference from the original, as a part of the largest value of an output."""
HEAD = 1024
"""Values of each output that are kept to compare with."""


@dataclass(frozen=True, kw_only=True)
class Seal:
    """One file as it was written. `changed_ns` is its ctime, which no program can set."""

    size: int
    changed_ns: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Made:
    """What `made.json` says. `refused`: why there is no artefact of this graph, '' if there is.

    `answers`: the first values of each output for an input of zeros; empty where the model refuses zeros. `most` and
    `typical_ns` were measured on the original: rows that are worth running together, and the time of a run of one.
    """

    format: int
    graph: str
    runtime: str
    machine: str
    refused: str = ""
    files: dict[str, Seal] = field(default_factory=dict)
    answers: dict[str, tuple[float, ...]] = field(default_factory=dict)
    most: int = 1
    typical_ns: int = 0


@functools.cache
def machine() -> str:
    """The kind of processor, with what it can do, in one hash: layouts of weights depend on it."""
    words = [platform.system(), platform.machine()]
    cpu = Path("/proc/cpuinfo")
    if cpu.exists():
        wanted = ("model name", "flags", "Features", "CPU part")
        seen: dict[str, str] = {}
        for line in cpu.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() in wanted:
                seen.setdefault(name.strip(), value.strip())
        words += [seen.get(name, "") for name in wanted]
    elif sys.platform == "darwin":
        asked = subprocess.run(
            ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string", "hw.optional"], capture_output=True, check=False
        )
        words.append(hashlib.sha256(asked.stdout).hexdigest())
    return hashlib.sha256("\0".join(words).encode()).hexdigest()


@functools.cache
def runtime() -> str:
    """The version of ONNX Runtime."""
    import onnxruntime

    return str(onnxruntime.__version__)


def key_of(graph: str) -> str:
    """The name of the artefact of a graph, given by its SHA-256, on this machine."""
    text = f"{FORMAT}\0{graph}\0{runtime()}\0{machine()}"
    return hashlib.sha256(text.encode()).hexdigest()[:40]


def place_of(folder: Path, graph: str) -> Path:
    """Where a graph's artefact lies, or would lie."""
    return folder / key_of(graph)


def seal(path: Path) -> Seal:
    """A file as it is now. Raises OSError."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return Seal(size=status.st_size, changed_ns=status.st_ctime_ns, sha256=digest.hexdigest())


def read(folder: Path, graph: str) -> Made | None:
    """What is known of a graph's artefact; None where there is none, or one that is not what was written.

    That one is dropped. Using an artefact marks it as used.
    """
    place = place_of(folder, graph)
    try:
        data = (place / MADE).read_bytes()
    except OSError:
        return None
    try:
        made = codec.decode(data, Made, "serving artefact")
    except StudioError:
        made = None
    wanted = (FORMAT, graph, runtime(), machine())
    if (
        made is None
        or (made.format, made.graph, made.runtime, made.machine) != wanted
        or not (made.refused or made.files)
        or not all(_unchanged(place / name, sealed) for name, sealed in made.files.items())
    ):
        drop(folder, graph)
        return None
    with contextlib.suppress(OSError):
        os.utime(place)
    return made


def _unchanged(path: Path, sealed: Seal) -> bool:
    try:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode) or status.st_size != sealed.size:
            return False
        return status.st_ctime_ns == sealed.changed_ns or seal(path).sha256 == sealed.sha256
    except OSError:
        return False


def drop(folder: Path, graph: str) -> None:
    """Delete a graph's artefact. Sessions that have mapped its files keep them."""
    shutil.rmtree(place_of(folder, graph), ignore_errors=True)


def sweep(folder: Path, most: int) -> None:
    """Delete what was left half made, what holds for another machine or runtime, and what was not used for longest,
    until all of it takes at most `most` bytes."""
    entries: list[tuple[float, int, Path]] = []
    for place in [Path(entry.path) for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=False)]:
        with contextlib.suppress(OSError):
            used = place.stat().st_mtime
            if place.name.startswith(TEMP_PREFIX):
                if time.time() - used > ABANDONED_SECONDS:
                    shutil.rmtree(place, ignore_errors=True)
            elif _foreign(place):
                shutil.rmtree(place, ignore_errors=True)
            else:
                size = sum(file.stat().st_size for file in place.iterdir())
                entries.append((used, size, place))
    held = sum(size for _, size, _ in entries)
    for _, size, place in sorted(entries):
        if held <= most:
            break
        shutil.rmtree(place, ignore_errors=True)
        held -= size


def keep_only(folder: Path, wanted: Callable[[str], bool]) -> None:
    """Delete the artefacts of graphs, by their SHA-256, that are not wanted: of a model that was deleted, its weights
    must not stay behind. Blocks; does nothing where there is no cache."""
    try:
        places = [Path(entry.path) for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return
    for place in places:
        try:
            made = codec.decode((place / MADE).read_bytes(), Made, "serving artefact")
        except (OSError, StudioError):
            continue  # half made, or damaged: swept when another is made
        if not wanted(made.graph):
            shutil.rmtree(place, ignore_errors=True)


def _foreign(place: Path) -> bool:
    try:
        made = codec.decode((place / MADE).read_bytes(), Made, "serving artefact")
    except (OSError, StudioError):
        return True
    return (made.format, made.runtime, made.machine) != (FORMAT, runtime(), machine())


def alike(expected: list[Array], got: list[Array]) -> bool:
    """Whether all outputs agree: in shape, in type, exactly or nearly so where they are floating-point numbers."""
    return all(_alike(one, other) for one, other in zip(expected, got, strict=True))


def _alike(one: Any, other: Any) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if one.dtype.kind in "OUSiub":
        return bool((one == other).all())
    return close(np.asarray(one, np.float64), np.asarray(other, np.float64))


def close(one: Array, other: Array) -> bool:
    """Equal up to `TOLERANCE` of the largest finite value, NaN and infinities in the same places."""
    finite = np.isfinite(one)
    scale = float(np.abs(one[finite]).max()) if finite.any() else 0.0
    return np.allclose(one, other, rtol=0.0, atol=TOLERANCE * max(scale, 1e-30), equal_nan=True)


def heads(target: Target, arrays: list[Array]) -> dict[str, tuple[float, ...]]:
    """The first values of each output that are finite numbers."""
    found = {}
    for spec, array in zip(target.signature.outputs, arrays, strict=True):
        if isinstance(array, np.ndarray) and array.dtype.kind not in "OUS":
            values = array.reshape(-1)[:HEAD].astype(np.float64)
            if np.isfinite(values).all():
                found[spec.name] = tuple(values.tolist())
    return found
