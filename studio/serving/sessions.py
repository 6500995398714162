"""ONNX Runtime sessions: load a target, warm it, run it.

The environment must hold `ORT_DISABLE_TELEMETRY=1` before onnxruntime is first imported, which is why it is set here
and imported inside functions.
"""

from __future__ import annotations

import ctypes
import os
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from studio.core.errors import InvalidInput, StudioError, Unavailable
from studio.core.ort_format import HEAD, is_ort
from studio.core.routing import Target
from studio.core.tensors import DATATYPES, TensorSpec
from studio.serving.batching import Rules, best_batch
from studio.serving.memory import resident_bytes
from studio.serving.problems import ModelFailed

if TYPE_CHECKING:
    from studio.serving.executor import Lane

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

Array = npt.NDArray[Any]

MAX_ROWS = 64
"""Rows of requests that are run together at most."""
MEASURE_SECONDS = 0.2
"""Time that finding the best number of them may take while a model loads."""

_ONNX_BFLOAT16 = 16
"""onnx.TensorProto.BFLOAT16."""


_DTYPES: dict[str, np.dtype[Any]] = {
    datatype: np.dtype(ml_dtypes.bfloat16 if datatype == "BF16" else name) for datatype, (name, _) in DATATYPES.items()
}


def dtype_of(datatype: str) -> np.dtype[Any]:
    """The numpy dtype of an OIP datatype, little-endian. BYTES are arrays of `str` objects."""
    return _DTYPES[datatype]


class LoadedModel:
    """A target with its session. One session serves any number of threads (`run` releases the GIL).

    `warm_error` tells what the run on zeros failed with, '' if it went well: many models refuse zeros, or sizes of 1,
    and still serve, so it is recorded and not fatal. `last_used` is `time.monotonic()`. `rules` say which requests may
    run together, `memory_bytes` what it was seen to take, `typical_ns` is what a run of one row took when it was
    loaded, `lane` belongs to the executor.
    """

    __slots__ = (
        "__weakref__",
        "_bf16",
        "_names",
        "_session",
        "lane",
        "last_used",
        "load_seconds",
        "memory_bytes",
        "rules",
        "target",
        "typical_ns",
        "warm_error",
    )

    def __init__(self, target: Target, session: Any, load_seconds: float) -> None:
        self.target = target
        self.load_seconds = load_seconds
        self.warm_error = ""
        self.last_used = time.monotonic()
        self._session = session
        self._names = [spec.name for spec in target.signature.outputs]
        specs = (*target.signature.inputs, *target.signature.outputs)
        self._bf16 = any(spec.datatype == "BF16" for spec in specs)
        self.rules = Rules(target.signature)
        self.typical_ns = 0
        self.memory_bytes = 0
        self.lane: Lane | None = None

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
            results: list[Array] = self._session.run(names, inputs, options)
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
            if array.dtype == ml_dtypes.bfloat16:
                words = np.ascontiguousarray(array).view(np.uint16)
                feeds[name] = OrtValue.ortvalue_from_numpy_with_onnx_type(words, _ONNX_BFLOAT16)
            else:
                feeds[name] = OrtValue.ortvalue_from_numpy(array)
        return [_array_of(value) for value in self._session.run_with_ort_values(names, feeds, options)]


def _array_of(value: Any) -> Array:
    if value.data_type() != "tensor(bfloat16)":
        array: Array = value.numpy()
        return array
    shape = tuple(value.shape())
    raw = ctypes.string_at(value.data_ptr(), 2 * int(np.prod(shape, dtype=np.int64)))
    return np.frombuffer(raw, dtype=ml_dtypes.bfloat16).reshape(shape)


def load(target: Target, threads: int) -> LoadedModel:
    """Load and warm one target. Blocks; the runtime releases the GIL meanwhile. Raises Unavailable."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Fatal ones alone: every failed run is answered in words, and its client should not be able to fill the log.
    options.log_severity_level = 4
    # Spinning threads burn a core between requests, and on shared machines they make latency worse.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    if not Path(target.path).is_file():
        raise Unavailable(f"'{target.name}' could not be loaded.", "Its file is missing from the store.")
    if is_ort_file(Path(target.path)):
        # It goes by the file name's ending otherwise, and blobs have none.
        options.add_session_config_entry("session.load_model_format", "ORT")
    before = resident_bytes()
    started = time.perf_counter()
    try:
        session = onnxruntime.InferenceSession(target.path, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise Unavailable(f"'{target.name}' could not be loaded.", f"{runtime_words(error)}.") from error
    _check_names(target, session)
    model = LoadedModel(target, session, time.perf_counter() - started)
    try:
        model.run(zeros(target.signature.inputs))
        _measure(model)
    except StudioError as error:
        model.warm_error = str(error)
    # Others may load at the same time, and freed memory may be used again: never less than the file itself.
    model.memory_bytes = max(resident_bytes() - before, Path(target.path).stat().st_size)
    return model


def _measure(model: LoadedModel) -> None:
    """How long a run takes, and how many rows are worth running together. Raises StudioError."""

    def run(rows: int) -> float:
        inputs = zeros(model.target.signature.inputs, rows)
        started = time.perf_counter()
        model.run(inputs)
        return time.perf_counter() - started

    model.typical_ns = int(1e9 * min(run(1) for _ in range(2)))
    rules = Rules(model.target.signature, MAX_ROWS)
    if rules.place(zeros(model.target.signature.inputs), None)[1] is not None:
        rules.most = best_batch(run, MEASURE_SECONDS)
        model.rules = rules


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
