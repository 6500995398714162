"""ONNX Runtime sessions: load a target, warm it, run it.

The environment must hold `ORT_DISABLE_TELEMETRY=1` before onnxruntime is first imported, which is why it is set here
and imported inside functions.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from studio.core.errors import StudioError, Unavailable
from studio.core.ort_format import HEAD, is_ort
from studio.core.routing import Target
from studio.core.tensors import TensorSpec
from studio.serving import artefact
from studio.serving.batching import Rules, best_batch
from studio.serving.loaded import Array, LoadedModel, Shared, dtype_of, runtime_words
from studio.serving.memory import LARGE_BYTES, give_back, resident_bytes

if TYPE_CHECKING:
    from studio.serving.artefacts import Artefacts

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

MAX_ROWS = 64
"""Rows of requests that are run together at most."""
MEASURE_SECONDS = 0.2
"""Time that finding the best number of them may take while a model loads."""

_log = logging.getLogger("studio.serving")

_shared: weakref.WeakValueDictionary[tuple[str, str, int], Shared] = weakref.WeakValueDictionary()
_sharing = threading.Lock()


def load(target: Target, threads: int, artefacts: Artefacts | None = None) -> LoadedModel:
    """Load and warm one target, from its artefact where there is one, with the session of another target where that
    is the same graph. `threads` of a run; 0 = 1, and for one that runs alone as many as the target says.

    Blocks; the runtime releases the GIL meanwhile. Raises Unavailable.
    """
    if not Path(target.path).is_file():
        raise Unavailable(f"'{target.name}' could not be loaded.", "Its file is missing from the store.")
    key = (target.path, target.sha256, threads)
    with _sharing:
        shared = _shared.get(key)
    if shared is not None:
        model = _checked(target, shared)
        _measured(model)
    else:
        model = _fresh(target, threads or 1, artefacts)
        with _sharing:
            _shared[key] = model.shared
    if not threads:
        widen(model, artefacts)
    return model


def _fresh(target: Target, threads: int, artefacts: Artefacts | None) -> LoadedModel:
    before = resident_bytes()
    model = from_artefact(target, threads, artefacts.folder) if artefacts is not None else None
    if model is None:
        started = time.perf_counter()
        try:
            session = open_session(target.path, session_options(threads))
        except Exception as error:
            raise Unavailable(f"'{target.name}' could not be loaded.", f"{runtime_words(error)}.") from error
        model = _checked(target, Shared(session, time.perf_counter() - started))
        try:
            model.run(zeros(target.signature.inputs))
            _measure(model)
        except StudioError as error:
            model.warm_error = str(error)
    if Path(target.path).stat().st_size >= LARGE_BYTES:
        # What packing the weights needed and freed would stay with this process otherwise.
        give_back()
    # Others may load at the same time, and freed memory may be used again: never less than the file itself.
    model.shared.memory_bytes = max(resident_bytes() - before, Path(target.path).stat().st_size)
    if artefacts is not None and not model.shared.mapped:
        artefacts.want(model)
    return model


def widen(model: LoadedModel, artefacts: Artefacts | None) -> None:
    """Give it the session for requests that come alone, where that is faster and costs next to no memory: weights
    that are mapped are there once, and those of a small graph are nothing."""
    target, shared = model.target, model.shared
    if target.threads <= 1 or shared.wide is not None:
        return
    try:
        if shared.mapped and artefacts is not None:
            graph = artefact.place_of(artefacts.folder, target.sha256) / artefact.GRAPH
            wide = open_session(str(graph), session_options(target.threads, optimised=True))
        elif Path(target.path).stat().st_size < LARGE_BYTES:
            wide = open_session(target.path, session_options(target.threads))
        else:
            return
        wide.run(None, zeros(target.signature.inputs))
    except Exception as error:  # whatever is wrong, there is the other
        _log.warning("%s has no session of %d threads: %s", target.name, target.threads, runtime_words(error))
        return
    shared.wide = wide


def from_artefact(target: Target, threads: int, folder: Path) -> LoadedModel | None:
    """The model, of its serving artefact in this cache. None where there is none that answers as it should."""
    made = artefact.read(folder, target.sha256)
    if made is None or made.refused:
        return None
    place = artefact.place_of(folder, target.sha256)
    started = time.perf_counter()
    try:
        session = open_session(str(place / artefact.GRAPH), session_options(threads, optimised=True))
        model = _checked(target, Shared(session, time.perf_counter() - started, mapped=True))
        answers = _warmed(model)
    except Exception:  # a cache: whatever is wrong with it, there is the original
        artefact.drop(folder, target.sha256)
        return None
    if not _as_recorded(answers, made, target):
        artefact.drop(folder, target.sha256)
        return None
    model.shared.most, model.shared.typical_ns = made.most, made.typical_ns
    _measured(model)
    return model


def _warmed(model: LoadedModel) -> list[Array] | None:
    """What it answers to zeros; None where it refuses them."""
    try:
        return model.run(zeros(model.target.signature.inputs))
    except StudioError as error:
        model.warm_error = str(error)
        return None


def _as_recorded(answers: list[Array] | None, made: artefact.Made, target: Target) -> bool:
    if answers is None:
        return not made.answers
    found = artefact.heads(target, answers)
    return found.keys() == made.answers.keys() and all(
        artefact.close(np.array(values), np.array(found[name])) for name, values in made.answers.items()
    )


def session_options(threads: int, optimised: bool = False) -> Any:
    """How sessions are made. `optimised`: of a graph that is as it should run already."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Fatal ones alone: every failed run is answered in words, and its client should not be able to fill the log.
    options.log_severity_level = 4
    # Spinning threads burn a core between requests, and on shared machines they make latency worse.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    if optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return options


def open_session(path: str, options: Any) -> Any:
    """A session. Raises whatever the runtime does."""
    import onnxruntime

    if is_ort_file(Path(path)):
        # It goes by the file name's ending otherwise, and blobs have none.
        options.add_session_config_entry("session.load_model_format", "ORT")
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _checked(target: Target, shared: Shared) -> LoadedModel:
    _check_names(target, shared.session)
    return LoadedModel(target, shared)


def _measure(model: LoadedModel) -> None:
    """How long a run takes, and how many rows are worth running together. Raises StudioError."""

    def run(rows: int) -> float:
        inputs = zeros(model.target.signature.inputs, rows)
        started = time.perf_counter()
        model.run(inputs)
        return time.perf_counter() - started

    model.shared.typical_ns = int(1e9 * min(run(1) for _ in range(2)))
    if _batches(model):
        model.shared.most = best_batch(run, MEASURE_SECONDS)
    _measured(model)


def _measured(model: LoadedModel) -> None:
    """Take over what was measured of its session."""
    model.typical_ns = model.shared.typical_ns
    if model.shared.most > 1 or _batches(model):
        model.rules = Rules(model.target.signature, model.shared.most, model.target.model)


def _batches(model: LoadedModel) -> bool:
    rules = Rules(model.target.signature, MAX_ROWS)
    return rules.place(zeros(model.target.signature.inputs), None)[1] is not None


def is_ort_file(path: Path) -> bool:
    """Whether a file is in ONNX Runtime's own format. False where it can not be read."""
    try:
        with path.open("rb") as file:
            return is_ort(file.read(HEAD))
    except OSError:
        return False


def _check_names(target: Target, session: Any) -> None:
    """A graph that lacks what its signature names would fail every request: better to refuse it now."""
    for side, specs, real in (
        ("input", target.signature.inputs, session.get_inputs()),
        ("output", target.signature.outputs, session.get_outputs()),
    ):
        missing = sorted({spec.name for spec in specs} - {entry.name for entry in real})
        if missing:
            raise Unavailable(f"'{target.name}' could not be loaded.", f"Its graph has no {side} '{missing[0]}'.")


def zeros(specs: Sequence[TensorSpec], rows: int = 1) -> dict[str, Array]:
    """One array of zeros (or empty strings) for every input; free dimensions are 1, a free leading one is `rows`."""
    arrays = {}
    for spec in specs:
        shape = [dim if isinstance(dim, int) and dim > 0 else 1 for dim in spec.shape]
        if spec.shape and isinstance(spec.shape[0], str):
            shape[0] = rows
        empty: Any = "" if spec.datatype == "BYTES" else 0
        arrays[spec.name] = np.full(shape, empty, dtype=dtype_of(spec.datatype))
    return arrays
