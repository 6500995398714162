"""Operators of opset 1 to 6 that onnx.reference lacks, or has for training alone, written down from their definitions.

Source: onnx, docs/Changelog.md, "Version 1" to "Version 6 of the default ONNX operator set".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from onnx.reference.op_run import OpRun

from studio.formats.base import Array


def _aligned(a: Array, b: Array, broadcast: int | None, axis: int | None) -> Array:
    """The second operand, with `broadcast` set to fit into the first from `axis` on, or at its end."""
    if not broadcast:
        return b
    if axis is None:
        return b
    start = axis + a.ndim if axis < 0 else axis
    return b.reshape(b.shape + (1,) * (a.ndim - start - b.ndim))


def _binary(name: str, function: Callable[[Array, Array], Array]) -> type[Any]:
    def _run(
        self: Any, a: Array, b: Array, axis: int | None = None, broadcast: int | None = None, **_: object
    ) -> tuple[Array]:
        found = function(a, _aligned(a, b, broadcast, axis))
        return (np.asarray(found).astype(a.dtype if found.dtype != np.bool_ else np.bool_),)

    return type(name, (OpRun,), {"op_domain": "", "_run": _run})


def _divide(a: Array, b: Array) -> Array:
    if a.dtype.kind in "iu":
        return np.asarray(np.trunc(a / b))
    return np.asarray(a / b)


class Dropout(OpRun):  # type: ignore[misc]
    """Inference: nothing is dropped, whatever `is_test` says."""

    op_domain = ""

    def _run(self, data: Array, is_test: int | None = None, ratio: float | None = None, **_: object) -> tuple[Any, ...]:
        return (data, np.ones(data.shape, np.bool_))[: len(self.onnx_node.output)]


class Reshape(OpRun):  # type: ignore[misc]
    """The shape as an attribute; 0 keeps a size, -1 is what is left."""

    op_domain = ""

    def _run(self, data: Array, *rest: Array, shape: Any = None, **_: object) -> tuple[Array]:
        wanted = [int(size) for size in (rest[0] if rest else shape)]
        return (data.reshape([data.shape[place] if size == 0 else size for place, size in enumerate(wanted)]),)


class BatchNormalization(OpRun):  # type: ignore[misc]
    """Inference: the mean and the variance that were learnt, whatever `is_test` says."""

    op_domain = ""

    def _run(
        self, x: Array, scale: Array, bias: Array, mean: Array, var: Array, epsilon: float | None = None, **_: object
    ) -> tuple[Array]:
        scale, bias, mean, var = (one.reshape(-1, *(1,) * (x.ndim - 2)) for one in (scale, bias, mean, var))
        return (np.asarray(scale * (x - mean) / np.sqrt(var + (epsilon or 1e-5)) + bias).astype(x.dtype),)


LEGACY = [
    _binary("Add", np.add),
    _binary("Sub", np.subtract),
    _binary("Mul", np.multiply),
    _binary("Div", _divide),
    _binary("Pow", np.power),
    _binary("And", np.logical_and),
    _binary("Or", np.logical_or),
    _binary("Xor", np.logical_xor),
    _binary("Equal", np.equal),
    _binary("Less", np.less),
    _binary("Greater", np.greater),
    BatchNormalization,
    Dropout,
    Reshape,
]
