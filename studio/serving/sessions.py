"""ONNX Runtime sessions: load a target, warm it, run it.

The environment must hold `ORT_DISABLE_TELEMETRY=1` before onnxruntime is first imported, which is why it is set here
and imported inside functions.
"""

from __future__ import annotations

import ctypes
import functools
import os
import re
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from studio.core.errors import InvalidInput, StudioError, Unavailable
from studio.core.ort_format import HEAD, is_ort
from studio.core.routing import Target
from studio.core.tensors import DATATYPES, TensorSpec
from studio.serving import artefact
from studio.serving.batching import Rules, best_batch
from studio.serving.memory import give_back, resident_bytes
from studio.serving.problems import ModelFailed

if TYPE_CHECKING:
    from studio.serving.artefacts import Artefacts
    from studio.serving.executor import Lane

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

Array = npt.NDArray[Any]

MAX_ROWS = 64
"""Rows of requests that are run together at most."""
LARGE_BYTES = 1 << 20
"""Loading a graph from this size frees memory that is worth giving back; that holds up other threads for a moment."""
MEASURE_SECONDS = 0.2
"""Time that finding the best number of them may take while a model loads."""

_ONNX_BFLOAT16 = 16
"""onnx.TensorProto.BFLOAT16."""


_DTYPES: dict[str, np.dtype[Any]] = {
    datatype: np.dtype(name) for datatype, (name, _) in DATATYPES.items() if datatype != "BF16"
}


@functools.cache
def _bfloat16() -> np.dtype[Any]:
    import ml_dtypes

    dtype: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
    return dtype


def dtype_of(datatype: str) -> np.dtype[Any]:
    """The numpy dtype of an OIP datatype, little-endian. BYTES are arrays of `str` objects."""
    return _bfloat16() if datatype == "BF16" else _DTYPES[datatype]


class Shared:
    """A session, and what was found out about it: one for all targets that are the same graph.

    `session` may be replaced by an equal one at any time (`studio.serving.artefacts`); a run that is under way keeps
    the one it began with. `mapped`: it came from a serving artefact. `models` are those that use it.
    """

    __slots__ = ("__weakref__", "load_seconds", "mapped", "memory_bytes", "models", "most", "session", "typical_ns")

    def __init__(self, session: Any, load_seconds: float = 0.0, mapped: bool = False) -> None:
        self.session = session
        self.load_seconds = load_seconds
        self.mapped = mapped
        self.memory_bytes = 0
        self.most = 1
        self.typical_ns = 0
        self.models: weakref.WeakSet[LoadedModel] = weakref.WeakSet()


class LoadedModel:
    """A target with its session. One session serves any number of threads (`run` releases the GIL).

    `warm_error` tells what the run on zeros failed with, '' if it went well: many models refuse zeros, or sizes of 1,
    and still serve, so it is recorded and not fatal. `last_used` is `time.monotonic()`. `rules` say which requests may
    run together, `typical_ns` is what a run of one row took when it was loaded, `shared` its session and who else uses
    that, `lane` belongs to the executor.
    """

    __slots__ = (
        "__weakref__",
        "_bf16",
        "_names",
        "lane",
        "last_used",
        "rules",
        "shared",
        "target",
        "typical_ns",
        "warm_error",
    )

    def __init__(self, target: Target, shared: Shared) -> None:
        self.target = target
        self.shared = shared
        self.warm_error = ""
        self.last_used = time.monotonic()
        self._names = [spec.name for spec in target.signature.outputs]
        specs = (*target.signature.inputs, *target.signature.outputs)
        self._bf16 = any(spec.datatype == "BF16" for spec in specs)
        self.rules = Rules(target.signature)
        self.typical_ns = 0
        self.lane: Lane | None = None
        shared.models.add(self)

    @property
    def load_seconds(self) -> float:
        return self.shared.load_seconds

    @property
    def memory_bytes(self) -> int:
        """What it was seen to take, shared out over the targets that use the same session."""
        return self.shared.memory_bytes // max(len(self.shared.models), 1)

    @staticmethod
    def run_options() -> Any:
        """Options of one run, through which another thread can stop it between two nodes (`terminate`)."""
        from onnxruntime import RunOptions

        options = RunOptions()
        options.log_severity_level = 4
        return options

    def run(
        self, inputs: Mapping[str, Array], outputs: Sequence[str] | None = None, options: Any = None
    ) -> list[Array]:
        """The named outputs in that order, or all in the order of the signature. `options`: see `run_options`.

        Blocks for as long as the model runs. Raises InvalidInput where the runtime blames the inputs, ModelFailed
        for every other failure.
        """
        names = self._names if outputs is None else list(outputs)
        try:
            if self._bf16:
                return self._run_bf16(inputs, names, options)
            results: list[Array] = self.shared.session.run(names, inputs, options)
            return results
        except StudioError:
            raise
        except Exception as error:
            raise _run_error(self.target, error) from error

    def _run_bf16(self, inputs: Mapping[str, Array], names: list[str], options: Any) -> list[Array]:
        """numpy has no bfloat16 that the runtime knows, so those tensors travel as OrtValues of raw 16-bit words."""
        from onnxruntime import OrtValue

        feeds = {}
        for name, array in inputs.items():
            if array.dtype == _bfloat16():
                words = np.ascontiguousarray(array).view(np.uint16)
                feeds[name] = OrtValue.ortvalue_from_numpy_with_onnx_type(words, _ONNX_BFLOAT16)
            else:
                feeds[name] = OrtValue.ortvalue_from_numpy(array)
        return [_array_of(value) for value in self.shared.session.run_with_ort_values(names, feeds, options)]


def _array_of(value: Any) -> Array:
    if value.data_type() != "tensor(bfloat16)":
        array: Array = value.numpy()
        return array
    shape = tuple(value.shape())
    raw = ctypes.string_at(value.data_ptr(), 2 * int(np.prod(shape, dtype=np.int64)))
    return np.frombuffer(raw, dtype=_bfloat16()).reshape(shape)


_shared: weakref.WeakValueDictionary[tuple[str, str, int], Shared] = weakref.WeakValueDictionary()
_sharing = threading.Lock()


def load(target: Target, threads: int, artefacts: Artefacts | None = None) -> LoadedModel:
    """Load and warm one target, from its artefact where there is one, with the session of another target where that
    is the same graph. Blocks; the runtime releases the GIL meanwhile. Raises Unavailable."""
    if not Path(target.path).is_file():
        raise Unavailable(f"'{target.name}' could not be loaded.", "Its file is missing from the store.")
    key = (target.path, target.sha256, threads)
    with _sharing:
        shared = _shared.get(key)
    if shared is not None:
        model = _checked(target, shared)
        _measured(model)
        return model
    model = _fresh(target, threads, artefacts)
    with _sharing:
        _shared[key] = model.shared
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
        model.rules = Rules(model.target.signature, model.shared.most)


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


_PREFIX = re.compile(r"^\[ONNXRuntimeError\]\s*:\s*\d+\s*:\s*\w+\s*:\s*")
_PATHS = re.compile(r"(?:[A-Za-z]:)?(?:/[^\s/:'\"]+){2,}(?::\d+)?")
_MAX_WORDS = 600


def runtime_words(error: Exception) -> str:
    """What the runtime said, in one line, without its error code and without file paths."""
    text = _PATHS.sub("…", _PREFIX.sub("", " ".join(str(error).split())))
    return text[:_MAX_WORDS].rstrip(" .") or type(error).__name__


def _run_error(target: Target, error: Exception) -> StudioError:
    from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument

    if isinstance(error, InvalidArgument):
        return InvalidInput(f"'{target.name}' does not accept these inputs.", f"{runtime_words(error)}.")
    return ModelFailed(
        f"'{target.name}' failed on these inputs.",
        f"{runtime_words(error)}.",
        "Check the shapes and values that you send, or try the same request on another version.",
    )
