"""PyTorch's two exporters. Imports torch.

Tracing (the older, `dynamo=False`) runs the model once and writes down the operators; capturing (the newer,
`dynamo=True`) follows its Python code. Measured with PyTorch 2.13 on 14 small networks and a MiniLM: tracing takes 0.01
to 0.8 s, capturing 0.5 to 7 s; each fails where the other does not (capturing at GRU behind a convolution and LSTM with
the batch second, tracing at padded nn.TransformerEncoder without the repair below). Programs of torch.export can not be
traced ("JIT Tracing of SymInts isn't supported").
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from studio.core.errors import Refused, StudioError
from studio.formats.torch._model import Flat, TorchModel, array_of
from studio.formats.torch._sizes import exporting_sizes
from studio.formats.torch.common import OPSET, said

_FUSED = ("_transformer_encoder_layer_fwd", "_nested_tensor_from_mask", "_native_multi_head_attention")


class FusedKernels(Refused):
    """Neither exporter can do anything with it: the model has to be traced again."""


@dataclass(frozen=True)
class Made:
    """An onnx.ModelProto, and how it was made. `fixed`: how often the user's code decided by values."""

    model: Any
    exporter: str
    fixed: int = 0


def trace(model: TorchModel) -> Made:
    """Raises Refused naming what has no ONNX form."""
    example = exporting_sizes(model)
    buffer = io.BytesIO()
    with _quiet() as caught, _told("PyTorch's older exporter"):
        torch.onnx.export(
            model.flat,
            example,
            buffer,
            dynamo=False,
            opset_version=OPSET,
            input_names=list(model.names),
            output_names=list(model.outputs),
            dynamic_axes={name: dict(free) for name, free in zip(model.names, model.free, strict=True) if free},
        )
    import onnx

    made = onnx.ModelProto.FromString(buffer.getvalue())
    buffer.close()
    _add_unread_inputs(made, model)
    # PyTorch's own layers only check the sizes of what they are given.
    own = str(Path(torch.nn.__file__).parent)
    warned = [one for one in caught if issubclass(one.category, torch.jit.TracerWarning)]
    return Made(made, "older", sum(not one.filename.startswith(own) for one in warned))


def capture(model: TorchModel) -> Made:
    """Raises Refused naming what has no ONNX form."""
    example = exporting_sizes(model)
    dynamic = tuple(dict.fromkeys(free, torch.export.Dim.DYNAMIC) for free in model.free)
    with _quiet(), _told("PyTorch's newer exporter"):
        flat = unscripted(model.flat, example) if model.scripted else model.flat
        exported = torch.onnx.export(
            flat,
            example,
            dynamo=True,
            verbose=False,
            opset_version=OPSET,
            input_names=list(model.names),
            output_names=list(model.outputs),
            dynamic_shapes=(dynamic,),
        )
        if exported is None:
            raise Refused("PyTorch's newer exporter gave no ONNX model.")
        made = exported.model_proto
    _add_unread_inputs(made, model)
    return Made(made, "newer")


def unscripted(flat: Any, example: tuple[torch.Tensor, ...]) -> Any:
    """A scripted module as one that can be captured. Raises anything.

    The converter is private to PyTorch, and the only one there is.
    """
    from torch._export.converter import TS2EPConverter

    return Flat(TS2EPConverter(flat, example).convert().module(check_guards=False), example, {})


def _add_unread_inputs(made: Any, model: TorchModel) -> None:
    """Declare inputs that the model never reads, which tracing leaves out: callers send them all the same."""
    import onnx

    left = {value.name: value for value in made.graph.input}
    if set(left) >= set(model.names):
        return
    for name, tensor, free in zip(model.names, model.example, model.free, strict=True):
        if name not in left:
            kind = onnx.helper.np_dtype_to_tensor_dtype(array_of(tensor).dtype)
            shape = [free.get(axis, int(size)) for axis, size in enumerate(tensor.shape)]
            left[name] = onnx.helper.make_tensor_value_info(name, kind, shape)
    ordered = [left[name] for name in model.names]
    del made.graph.input[:]
    made.graph.input.extend(ordered)


@contextlib.contextmanager
def _quiet() -> Iterator[list[warnings.WarningMessage]]:
    """PyTorch prints whole graphs, and warns of everything."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "torch._export", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    torch.onnx.register_custom_op_symbolic("aten::unflatten", _unflatten, 13)
    try:
        with (
            warnings.catch_warnings(record=True) as caught,
            contextlib.redirect_stdout(io.StringIO()),
            torch.no_grad(),
        ):
            warnings.simplefilter("always")
            yield caught
    finally:
        torch.onnx.unregister_custom_op_symbolic("aten::unflatten", 13)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextlib.contextmanager
def _told(exporter: str) -> Iterator[None]:
    try:
        yield
    except (StudioError, MemoryError):
        raise
    except Exception as error:
        text = str(error)
        if any(name in text for name in _FUSED):
            raise FusedKernels(
                "The model was traced with PyTorch's fused transformer kernels, which have no form in ONNX.",
                said(error),
                "Call torch.backends.mha.set_fastpath_enabled(False) before torch.jit.trace, and save it again.",
            ) from error
        raise Refused(
            f"{exporter} can not convert this model to ONNX.",
            said(error),
            "The job's log has PyTorch's whole report. Replace the operator that it names, and save the model again.",
        ) from error


def _unflatten(graph: Any, tensor: Any, dim: Any, sizes: Any) -> Any:
    """aten::unflatten of a last dimension. PyTorch's own loses the rank, at which nn.MultiheadAttention then fails."""
    from torch.onnx import symbolic_helper as helper
    from torch.onnx import symbolic_opset13

    rank, axis = helper._get_tensor_rank(tensor), helper._maybe_get_const(dim, "i")
    constant = helper._maybe_get_const(sizes, "is")
    parts = helper._unpack_list(sizes) if helper._is_packed_list(sizes) else ()
    count = len(constant) if isinstance(constant, list | tuple) else len(parts)
    if rank is None or not isinstance(axis, int) or axis % rank != rank - 1 or not count:
        return symbolic_opset13.unflatten(graph, tensor, dim, sizes)
    kept = [0] * (rank - 1)  # in Reshape: the size that is there
    if isinstance(constant, list | tuple):
        shape = graph.op("Constant", value_t=torch.tensor([*kept, *constant]))
    else:
        one = graph.op("Constant", value_t=torch.tensor([1]))
        sized = [graph.op("Reshape", part, one) for part in parts]
        lead = [graph.op("Constant", value_t=torch.tensor(kept))] if kept else []
        shape = graph.op("Concat", *lead, *sized, axis_i=0)
    out = graph.op("Reshape", tensor, shape)
    out.setType(tensor.type().with_sizes([None] * (rank - 1 + count)))
    return out
