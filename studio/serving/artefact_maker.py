"""The process that makes one serving artefact: `python -m studio.serving.artefact_maker`, told what on stdin.

It runs with the lowest priority, beside a server that has long begun to answer. Nothing is kept that does not answer
like the original: on zeros, and on random inputs of one row and of three.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# Before anything imports onnxruntime.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import numpy as np

from studio.core import codec
from studio.core.errors import StudioError
from studio.core.routing import Target
from studio.serving import artefact
from studio.serving.artefact import GRAPH, MADE, WEIGHTS, Made, alike, heads
from studio.serving.loaded import Array, LoadedModel, Shared
from studio.serving.sessions import open_session, session_options, zeros

SMALLEST = 1024
"""Weights of fewer bytes stay in the graph."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """What to make: of which target, into which cache of at most `most_bytes`. `most`, `typical_ns`: see `Made`."""

    target: Target
    folder: str
    most_bytes: int
    most: int
    typical_ns: int


def make(order: Order) -> Made:
    """Make the artefact, or find that another process has. Raises OSError."""
    target, folder = order.target, Path(order.folder)
    with _alone(folder):
        made = artefact.read(folder, target.sha256)
        if made is None:
            made = _make(order, folder)
            artefact.sweep(folder, order.most_bytes)
        return made


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One artefact at a time, whichever process asked for it."""
    with (folder / "lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _make(order: Order, folder: Path) -> Made:
    target = order.target
    temp = folder / f"{artefact.TEMP_PREFIX}{secrets.token_hex(8)}"
    temp.mkdir(mode=0o700)
    try:
        made = _filled(order, temp)
        if sum(sealed.size for sealed in made.files.values()) > order.most_bytes:
            made = _nothing(order, "It is larger than the cache may be.")
        if not made.files:
            for name in (GRAPH, WEIGHTS):
                (temp / name).unlink(missing_ok=True)
        _write(temp / MADE, codec.encode(made))
        place = artefact.place_of(folder, target.sha256)
        shutil.rmtree(place, ignore_errors=True)
        temp.rename(place)
    finally:
        shutil.rmtree(temp, ignore_errors=True)
    return made


def _nothing(order: Order, why: str) -> Made:
    return Made(
        format=artefact.FORMAT,
        graph=order.target.sha256,
        runtime=artefact.runtime(),
        machine=artefact.machine(),
        refused=why,
    )


def _filled(order: Order, temp: Path) -> Made:
    target = order.target
    options = session_options(1)
    options.optimized_model_filepath = str(temp / GRAPH)
    options.add_session_config_entry("session.optimized_model_external_initializers_file_name", WEIGHTS)
    options.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", str(SMALLEST))
    options.add_session_config_entry("session.save_external_prepacked_constant_initializers", "1")
    try:
        original = LoadedModel(target, Shared(open_session(target.path, options)))
        mapped = open_session(str(temp / GRAPH), session_options(1, optimised=True))
        copy = LoadedModel(target, Shared(mapped))
    except Exception as error:  # the runtime can not save every graph
        return _nothing(order, f"{type(error).__name__}: {error}"[:300])
    answers: dict[str, tuple[float, ...]] = {}
    compared = 0
    for number, inputs in enumerate(_examples(target)):
        try:
            expected = original.run(inputs)
            again = original.run(inputs)
        except StudioError:
            continue
        if not alike(expected, again):
            return _nothing(order, "It does not answer the same twice, so nothing could be compared.")
        try:
            same = alike(expected, copy.run(inputs))
        except StudioError:
            same = False
        if not same:
            return _nothing(order, "It answers other numbers than the original.")
        compared += 1
        if number == 0:
            answers = heads(target, expected)
    if not compared:
        return _nothing(order, "No input could be made up that the model takes, so nothing could be compared.")
    files = {}
    for name in (GRAPH, WEIGHTS):
        path = temp / name
        if path.exists():
            with path.open("rb") as file:
                os.fsync(file.fileno())
            path.chmod(0o444)
            files[name] = artefact.seal(path)
    return Made(
        format=artefact.FORMAT,
        graph=target.sha256,
        runtime=artefact.runtime(),
        machine=artefact.machine(),
        files=files,
        answers=answers,
        most=order.most,
        typical_ns=order.typical_ns,
    )


def _examples(target: Target) -> Iterator[dict[str, Array]]:
    yield zeros(target.signature.inputs)
    rng = np.random.default_rng(3)
    for rows in (1, 3):
        yield {name: _random(rng, array) for name, array in zeros(target.signature.inputs, rows).items()}


def _random(rng: np.random.Generator, like: Array) -> Array:
    kind = like.dtype.kind
    if kind == "O":
        return like
    if kind in "iub":
        # Often indices: what lies within any vocabulary.
        return rng.integers(0, 2, like.shape).astype(like.dtype)
    return rng.normal(size=like.shape).astype(like.dtype)


def _write(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    path.chmod(0o444)


def main() -> None:
    """Entry of the process. Prints what was made."""
    os.nice(19)
    order = codec.decode(sys.stdin.buffer.read(), Order, "order")
    sys.stdout.buffer.write(codec.encode(make(order)))


if __name__ == "__main__":
    main()
