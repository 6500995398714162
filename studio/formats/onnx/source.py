"""Running an ONNX model as it was dropped: what a converted graph is compared with.

ONNX Runtime without any optimisation where it loads the file; else onnx.reference, the definitions of the operators in
plain Python, which takes every version of the standard but is slow.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from studio.core.errors import Refused, StepFailed, StudioError
from studio.formats.base import Array, Feed, Kit
from studio.formats.onnx.external_data import Folder, external, slice_of

_BUDGET_SECONDS = 60.0
_AGREE = 1e-3  # of an output's scale: a conversion that strays further is not used


class Source(Protocol):
    """`what`: how notes name it."""

    what: str

    def run(self, runs: tuple[Feed, ...]) -> list[Feed]:
        """Outputs for each run, or for the first ones where the rest would take too long. Raises StudioError."""


class RuntimeSource:
    """ONNX Runtime, every operator as it is written."""

    what = "ONNX Runtime without optimisation"

    def __init__(self, path: Path, kit: Kit) -> None:
        self._path, self._kit = path, kit

    def run(self, runs: tuple[Feed, ...]) -> list[Feed]:
        return self._kit.run(self._path, runs, optimised=False)


class ReferenceSource:
    """onnx.reference. Raises Refused when it lacks an operator."""

    what = "the reference implementation of onnx"

    def __init__(self, model: Any) -> None:
        from onnx.reference import ReferenceEvaluator

        from studio.formats.onnx.upgrade import OLDEST_OPSET, opset_of

        legacy = []
        if opset_of(model) < OLDEST_OPSET:
            from studio.formats.onnx._legacy_ops import LEGACY

            legacy = LEGACY
        try:
            self._evaluator = ReferenceEvaluator(model, new_ops=legacy)
        except Exception as error:  # it raises whatever its operators raise
            raise Refused("onnx.reference can not run this graph.", f"{_words(error)}.") from error

    def run(self, runs: tuple[Feed, ...]) -> list[Feed]:
        found: list[Feed] = []
        started = time.monotonic()
        for feed in runs:
            try:
                with np.errstate(all="ignore"):
                    outputs = self._evaluator.run(None, feed)
            except MemoryError:
                raise
            except Exception as error:  # it raises whatever numpy raises
                shapes = ", ".join(f"{name} {list(np.shape(value))}" for name, value in feed.items())
                raise StepFailed(f"The model failed on inputs of shape {shapes}.", f"{_words(error)}.") from error
            found.append(dict(zip(self._evaluator.output_names, outputs, strict=True)))
            # The next run has up to three times as many rows.
            if 4 * (time.monotonic() - started) > _BUDGET_SECONDS:
                break
        return found


def _words(error: Exception) -> str:
    text = (str(error).strip() or type(error).__name__).splitlines()[0][:300].rstrip(".")
    return f"{type(error).__name__}: {text}"


def with_weights(model: Any, folder: Path) -> Any:
    """The model with its external data inside, however large. Changes it in place; what is unsafe is Refused."""
    with Folder(folder) as files:
        for tensor in external(model):
            tensor.raw_data = files.read(slice_of(tensor))
            tensor.ClearField("external_data")
            tensor.ClearField("data_location")
    return model


def loads(path: Path, kit: Kit) -> StudioError | None:
    """None when ONNX Runtime loads the file, else what it says."""
    try:
        kit.run(path, (), optimised=False)
    except StudioError as error:
        return error
    return None


def agree(expected: Feed, own: Feed) -> bool:
    """Whether two answers are the same up to rounding: shapes, kinds of values, and values."""
    return all(name in own and _near(np.asarray(array), np.asarray(own[name])) for name, array in expected.items())


def _near(expected: Array, own: Array) -> bool:
    if expected.shape != own.shape or expected.dtype != own.dtype:
        return False
    if expected.dtype.kind not in "fV":
        return bool(np.array_equal(expected, own))
    left, right = expected.astype(np.float64), own.astype(np.float64)
    scale = float(np.max(np.abs(left[np.isfinite(left)]), initial=0.0))
    return bool(np.allclose(left, right, rtol=_AGREE, atol=_AGREE * scale, equal_nan=True))
