"""What conversions are given to work with: sessions, signatures, and inputs to run on."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from studio.core import codec
from studio.core.errors import CodeFile, NeedsTrust
from studio.core.manifest import InputsKind
from studio.core.rows import row_layout
from studio.core.tensors import Dim, Signature, TensorSpec
from studio.formats.base import Array, Feed
from studio.formats.clock import running
from studio.formats.settings.file import ModelSettings
from studio.pipeline.facts import check_inputs
from studio.verify.inputs import (
    LABELS,
    Bounds,
    LoadedSamples,
    draw_inputs,
    load_samples,
    row_count,
    split_runs,
    take_rows,
    usual_bounds,
)
from studio.verify.session import Session, open_session, run, signature_of

BATCHES = (1, 2, 5)
_LARGE_BATCHES = (4, 8)
_SAMPLES_BATCH = 32
_SEED = 20
_DRAWN_ROWS = 64
_DRAWN_BYTES = 16 * 1024 * 1024

Ranges = Mapping[str, Bounds]


@dataclass(frozen=True)
class Attempt:
    """One way to make up inputs: sizes for free dimensions other than the batch, and bounds of values by input."""

    signature: Signature
    ranges: Ranges
    rows: int = 1

    def draw(self, rows: int) -> Feed:
        return draw_inputs(self.signature, rows, _SEED, self.ranges)


class WorkKit:
    """Implements studio.formats.base.Kit, and remembers which inputs the model was run on."""

    def __init__(
        self,
        samples: Path | None,
        settings: ModelSettings,
        report: Callable[[float | None, str], None],
        threads: int = 1,
        trusted: tuple[str, ...] = (),
    ) -> None:
        self._samples, self._settings, self._report = samples, settings, report
        self._threads, self._trusted = threads, frozenset(trusted)
        self._ranges = {name: one.range for name, one in settings.inputs.items() if one.range is not None}
        self._attempt: Attempt | None = None
        self._signatures: dict[Path, Signature] = {}
        self.loaded: LoadedSamples | None = None

    @property
    def settings(self) -> ModelSettings:
        return self._settings

    def trust(self, code: tuple[CodeFile, ...], why: str = "") -> None:
        if not all(file.sha256 in self._trusted for file in code):
            raise NeedsTrust(code, why)

    @property
    def threads(self) -> int:
        return self._threads

    def report(self, progress: float | None, detail: str) -> None:
        self._report(progress, detail)

    def signature(self, graph: Path) -> Signature:
        return signature_of(self.session(graph, optimised=False))

    def run(self, graph: Path, runs: tuple[Feed, ...], optimised: bool = True) -> list[Feed]:
        session = self.session(graph, optimised)
        return [self.run_once(session, feed) for feed in runs]

    def session(self, graph: Path, optimised: bool = True) -> Session:
        """A session; a graph that loads for ever ends this process."""
        with running():
            return open_session(graph, self._threads, optimised)

    def run_once(self, session: Session, feed: Feed) -> Feed:
        """All outputs by name; a run that never ends ends this process."""
        with running():
            return run(session, feed)

    def runs(self, signature: Signature, ranges: Ranges | None = None) -> Iterator[tuple[Feed, ...]]:
        if self._samples is not None:
            check_inputs(self._settings, signature)
            self.loaded = load_samples(self._samples, signature)
            self._attempt = None
            yield _sample_runs(signature, self.loaded.inputs)
            return
        for attempt in attempts(with_sizes(signature, self._settings), {**(ranges or {}), **self._ranges}):
            self._attempt = attempt
            batches = BATCHES if attempt.rows == 1 else _LARGE_BATCHES
            yield _drawn_runs(signature, attempt, batches)

    @property
    def kind(self) -> InputsKind:
        return self.loaded.kind if self.loaded else "synthetic"

    def bounds(self, signature: Signature) -> dict[str, tuple[float, float]]:
        """Between which two values made-up inputs lay, by name; without those that were drawn in another way."""
        if self.loaded is not None:
            return {}
        ranges: Ranges = self._attempt.ranges if self._attempt else self._ranges
        found: dict[str, tuple[float, float]] = {}
        for spec in signature.inputs:
            given = ranges.get(spec.name)
            two = usual_bounds(spec) if given is None else given
            if isinstance(two, tuple) and len(two) == 2 and all(isinstance(one, int | float) for one in two):
                found[spec.name] = float(two[0]), float(two[1])
        return found

    def count(self, signature: Signature, inputs: Feed) -> int:
        """How many samples the inputs are: rows, one a run where the model has no batch. Samples that came with one
        dimension more than the model takes are counted as they came."""
        layout = row_layout(signature)
        rows = row_count(layout, inputs)
        if layout is None or layout.rows == 1:
            return rows
        shapes = [spec.shape for spec in signature.inputs if spec.name in layout.names]
        return rows // layout.unit if self._ranks() == [len(shape) + 1 for shape in shapes] else rows

    def _ranks(self) -> list[int]:
        """Dimensions of the user's sample inputs, as they came."""
        if self._samples is None:
            return []
        with np.load(self._samples, allow_pickle=False) as archive:
            return [archive[name].ndim for name in archive.files if name != LABELS]

    def inputs(self, signature: Signature) -> tuple[Feed, Array | None]:
        """All samples with their labels, or made-up rows such as the model was seen to accept."""
        if self.loaded is not None:
            return self.loaded.inputs, self.loaded.labels
        attempt = self._attempt or Attempt(with_sizes(signature, self._settings), self._ranges)
        one = attempt.draw(attempt.rows)
        layout = row_layout(signature)
        if layout is None:
            return one, None
        row_bytes = sum(array.nbytes for array in one.values()) / max(1, row_count(layout, one))
        rows = int(np.clip(_DRAWN_BYTES // max(1, row_bytes), max(BATCHES), _DRAWN_ROWS))
        return attempt.draw(-(-rows // attempt.rows) * attempt.rows), None


def _sample_runs(signature: Signature, inputs: Feed) -> tuple[Feed, ...]:
    """Samples as batches of 1, 2, 5 and 32, each on rows of its own as far as they go; fixed batches one by one."""
    layout = row_layout(signature)
    if layout is None:
        return (inputs,)
    count = row_count(layout, inputs)
    sizes: tuple[int, ...] = (
        (*BATCHES, _SAMPLES_BATCH) if layout.unit == 1 and count >= sum(BATCHES) + _SAMPLES_BATCH else BATCHES
    )
    sizes = tuple(size for size in sizes if size <= count) if layout.unit == 1 else (layout.rows,)
    if _one_a_run(signature):
        sizes = (1,) * min(8, count)
    runs, at = [], 0
    for size in sizes:
        runs.append(take_rows(layout, inputs, at, size))
        at += size
    return tuple(runs)


def _drawn_runs(signature: Signature, attempt: Attempt, batches: tuple[int, ...]) -> tuple[Feed, ...]:
    layout = row_layout(signature)
    if layout is None or layout.rows > 1:
        return (attempt.draw(1),)
    rows = attempt.draw(sum(batches))
    if _one_a_run(signature):
        return tuple(take_rows(layout, rows, row, 1) for row in range(3))
    starts = np.cumsum((0, *batches[:-1]))
    return tuple(take_rows(layout, rows, int(start), size) for start, size in zip(starts, batches, strict=True))


def _one_a_run(signature: Signature) -> bool:
    """Whether a run takes one row and never more: there is no batch, or its size is 1 and nothing else."""
    layout = row_layout(signature)
    if layout is None:
        return False
    return layout.whole or all(spec.shape[0] == 1 for spec in signature.inputs if spec.name in layout.names)


def attempts(signature: Signature, ranges: Ranges) -> Iterator[Attempt]:
    """Ways to make up inputs, likeliest first.

    Integers are often positions in a table whose size the signature does not tell, so ever smaller ones are tried; free
    sides of images may have to be as large as those that a network was trained on; some models take even batches alone.
    """
    # Masks and segment ids have one usual value, and do not look anything up.
    ids = [spec.name for spec in signature.inputs if (usual := usual_bounds(spec)) and usual[0] < usual[1]]
    small = dict.fromkeys(ids, (0.0, 1.0))
    zero = dict.fromkeys(ids, (0.0, 0.0))
    yield Attempt(signature, ranges)
    if small:
        yield Attempt(signature, {**ranges, **small})
        yield Attempt(signature, {**ranges, **zero})
    if any(isinstance(dim, str) for spec in signature.inputs for dim in spec.shape[1:]):
        for size in (64, 224, 1, 16):
            yield Attempt(_sized(signature, size), ranges)
    yield Attempt(signature, ranges, rows=4)


def _sized(signature: Signature, size: int) -> Signature:
    def sized(spec: TensorSpec) -> TensorSpec:
        dims: tuple[Dim, ...] = tuple(size if isinstance(dim, str) else dim for dim in spec.shape[1:])
        return replace(spec, shape=(*spec.shape[:1], *dims))

    return replace(signature, inputs=tuple(sized(spec) for spec in signature.inputs))


def with_sizes(signature: Signature, settings: ModelSettings) -> Signature:
    """The signature with free sizes, except the leading one, as the user's settings give them. Raises InvalidInput."""
    check_inputs(settings, signature)
    shapes = {name: one.shape for name, one in settings.inputs.items() if one.shape is not None}

    def sized(spec: TensorSpec) -> TensorSpec:
        given = shapes.get(spec.name)
        if given is None:
            return spec
        dims = (dim if isinstance(size, str) else size for dim, size in zip(spec.shape, given, strict=True))
        return replace(spec, shape=(*spec.shape[:1], *list(dims)[1:]))

    return replace(signature, inputs=tuple(sized(spec) for spec in signature.inputs))


def save_samples(path: Path, inputs: Feed, labels: Array | None) -> Path:
    """Write an `.npz` that load_samples reads back: strings as text, 16-bit brain floats as 32-bit ones, no pickles."""
    arrays: dict[str, Any] = {name: _plain(array) for name, array in inputs.items()}
    if labels is not None:
        arrays[LABELS] = labels
    # np.savez takes arrays as keywords, and so none of the names of its own parameters.
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)
    return path


def save_example(path: Path, signature: Signature, inputs: Feed) -> Path | None:
    """Write the smallest run of the inputs as a request body of the Open Inference Protocol v2, data flat.

    None, and no file, where a value is NaN or infinite, which JSON can not say.
    """
    one = split_runs(signature, inputs)[0]
    if any(array.dtype.kind in "fV" and not np.isfinite(_plain(array)).all() for array in one.values()):
        return None
    tensors = [
        {
            "name": spec.name,
            "shape": list(np.shape(one[spec.name])),
            "datatype": spec.datatype,
            "data": _values(one[spec.name]),
        }
        for spec in signature.inputs
    ]
    path.write_bytes(codec.encode({"inputs": tensors}))
    return path


def _values(array: Array) -> list[Any]:
    # Nine digits tell any two 32-bit floats apart; a float64 of the same value would print seventeen.
    flat = _plain(array).ravel()
    if flat.dtype.kind == "f" and flat.dtype.itemsize <= 4:
        return [float(str(value)) for value in flat]
    return list(flat.tolist())


def _plain(array: Array) -> Array:
    if array.dtype.kind == "O":
        return array.astype(np.str_)
    return array.astype(np.float32) if array.dtype.name == "bfloat16" else array
