"""A loaded model: a target with its session, and how it runs."""

from __future__ import annotations

import ctypes
import functools
import re
import time
import weakref
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from studio.core.errors import InvalidInput, StudioError
from studio.core.routing import Target
from studio.core.tensors import DATATYPES, NAMELESS
from studio.serving.batching import Rules
from studio.serving.problems import ModelFailed

if TYPE_CHECKING:
    from studio.serving.executor import Lane

Array = npt.NDArray[Any]

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
    the one it began with. `wide` is another of it with more threads a run, if there is one. `mapped`: it came from a
    serving artefact. `models` are those that use it.
    """

    __slots__ = (
        "__weakref__",
        "load_seconds",
        "mapped",
        "memory_bytes",
        "models",
        "most",
        "session",
        "typical_ns",
        "wide",
    )

    def __init__(self, session: Any, load_seconds: float = 0.0, mapped: bool = False) -> None:
        self.session = session
        self.wide: Any = None
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
        self.rules = Rules(target.signature, model=target.model)
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
        self,
        inputs: Mapping[str, Array],
        outputs: Sequence[str] | None = None,
        options: Any = None,
        alone: bool = False,
    ) -> list[Array]:
        """The named outputs in that order, or all in the order of the signature. `options`: see `run_options`.

        `alone`: nothing else runs, so it may have more threads than one of many. Blocks for as long as the model runs.
        Raises InvalidInput where the runtime blames the inputs, ModelFailed for every other failure.
        """
        names = self._names if outputs is None else list(outputs)
        session = (alone and self.shared.wide) or self.shared.session
        try:
            if self._bf16:
                return _run_bf16(session, inputs, names, options)
            results: list[Array] = session.run(names, inputs, options)
            return results
        except StudioError:
            raise
        except Exception as error:
            raise _run_error(self.target, inputs, error) from error


def _run_bf16(session: Any, inputs: Mapping[str, Array], names: list[str], options: Any) -> list[Array]:
    """numpy has no bfloat16 that the runtime knows, so those tensors travel as OrtValues of raw 16-bit words."""
    from onnxruntime import OrtValue

    feeds = {}
    for name, array in inputs.items():
        if array.dtype == _bfloat16():
            words = np.ascontiguousarray(array).view(np.uint16).reshape(array.shape)  # it makes 1-d of 0-d
            feeds[name] = OrtValue.ortvalue_from_numpy_with_onnx_type(words, _ONNX_BFLOAT16)
        else:
            feeds[name] = OrtValue.ortvalue_from_numpy(array)
    return [_array_of(value) for value in session.run_with_ort_values(names, feeds, options)]


def _array_of(value: Any) -> Array:
    if value.data_type() != "tensor(bfloat16)":
        array: Array = value.numpy()
        return array
    shape = tuple(value.shape())
    raw = ctypes.string_at(value.data_ptr(), 2 * int(np.prod(shape, dtype=np.int64)))
    return np.frombuffer(raw, dtype=_bfloat16()).reshape(shape)


_PREFIX = re.compile(r"^\[ONNXRuntimeError\]\s*:\s*\d+\s*:\s*\w+\s*:\s*")
_PATHS = re.compile(r"(?:[A-Za-z]:)?(?:/[^\s/:'\"]+){2,}(?::\d+)?")
_MAX_WORDS = 600


def runtime_words(error: Exception) -> str:
    """What the runtime said, in one line, without its error code and without file paths."""
    text = _PATHS.sub("…", _PREFIX.sub("", " ".join(str(error).split())))
    return text[:_MAX_WORDS].rstrip(" .") or type(error).__name__


def _disagreement(target: Target, inputs: Mapping[str, Array]) -> str:
    """Which two inputs have different sizes for what the model calls the same; '' for none."""
    seen: dict[str, tuple[str, int]] = {}
    for spec in target.signature.inputs:
        for dim, size in zip(spec.shape, inputs[spec.name].shape, strict=False):
            if isinstance(dim, int) or dim == NAMELESS:
                continue
            other, first = seen.setdefault(dim, (spec.name, size))
            if size != first:
                return f"The size '{dim}' is {first} in input '{other}', and {size} in '{spec.name}'."
    return ""


def _run_error(target: Target, inputs: Mapping[str, Array], error: Exception) -> StudioError:
    from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument

    if disagreement := _disagreement(target, inputs):
        return InvalidInput(f"The inputs of '{target.name}' do not go together.", disagreement)
    if isinstance(error, InvalidArgument):
        return InvalidInput(f"'{target.name}' does not accept these inputs.", f"{runtime_words(error)}.")
    return ModelFailed(
        f"'{target.name}' failed on these inputs.",
        f"{runtime_words(error)}.",
        "Check the shapes and values that you send, or try the same request on another version.",
    )
