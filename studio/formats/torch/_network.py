"""A PyTorch model as a network that can be trained, and the way of a changed one back to ONNX. Imports torch."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch

from studio.core.errors import Refused, StudioError
from studio.core.tensors import Signature
from studio.formats.base import Kit, Network, answered
from studio.formats.onnx.files import INLINE_LIMIT, parse
from studio.formats.torch._exported import agree, declare, leave_out_traces
from studio.formats.torch._exporters import capture, trace, unscripted
from studio.formats.torch._model import Flat, Free, TorchModel
from studio.formats.torch._rebuilt import rebuilt
from studio.formats.torch._sizes import exporting_sizes, other_sizes
from studio.formats.torch.common import said

_NEAR = 1e-4  # of an output's scale


def trainable(model: TorchModel, graph: Path, kit: Kit) -> Network:
    """The network behind `model`, with the names and free sizes of the reference `graph` that it became.

    It is taken through torch.export, so that sizes which the user's own code computes follow the layers; where that
    does not work, it is the user's module itself. Raises Refused for a TorchScript module that does not go that way.
    """
    _take_names(model, kit.signature(graph))
    expected = model.call(model.example)
    kit.report(None, "making layers of its operators")
    module, problem = _layered(model)
    layered = module is not None and _alike(module, model.example, expected)
    if not layered:
        if model.scripted:
            raise Refused(
                "This TorchScript module can not be trained.",
                problem or "With its operators made layers again, it answered otherwise.",
                "Drop the model as a program of torch.export.save, or with the Python that makes it.",
            )
        module = model.flat
        for parameter in module.parameters():
            parameter.requires_grad_(parameter.is_floating_point())
    return Network(module=module, export=lambda changed, out: _write(changed, model, graph, out, kit, layered))


def _take_names(model: TorchModel, signature: Signature) -> None:
    if (len(signature.inputs), len(signature.outputs)) != (len(model.names), len(model.outputs)):
        raise Refused(
            "The network has other inputs or outputs than its reference graph.",
            f"It takes {len(model.names)} tensors and gives {len(model.outputs)}; the graph takes "
            f"{len(signature.inputs)} and gives {len(signature.outputs)}.",
        )
    model.names = tuple(spec.name for spec in signature.inputs)
    model.outputs = tuple(spec.name for spec in signature.outputs)
    free: Free = tuple(
        {axis: size for axis, size in enumerate(spec.shape) if isinstance(size, str) and size != "?"}
        for spec in signature.inputs
    )
    model.free = free


def _layered(model: TorchModel) -> tuple[Any, str]:
    """The model as a graph of layers, or None and why not."""
    example = exporting_sizes(model)
    dynamic = tuple(dict.fromkeys(free, torch.export.Dim.DYNAMIC) for free in model.free)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            flat = unscripted(model.flat, example) if model.scripted else model.flat
            program = torch.export.export(flat, example, dynamic_shapes=(dynamic,))
            return Flat(rebuilt(program.module(check_guards=False)), example, {}), ""
    except (StudioError, MemoryError):
        raise
    except Exception as error:  # it says why in a dozen ways
        return None, said(error)


def _alike(module: Any, example: tuple[torch.Tensor, ...], expected: tuple[torch.Tensor, ...]) -> bool:
    try:
        with torch.no_grad():
            answers = module(*example)
    except Exception:  # sizes that were fixed on the way
        return False
    return len(answers) == len(expected) and all(
        own.shape == other.shape and _near(own, other) for own, other in zip(answers, expected, strict=True)
    )


def _near(own: torch.Tensor, other: torch.Tensor) -> bool:
    if not other.is_floating_point():
        return bool(torch.equal(own, other))
    scale = float(other.abs().max()) if other.numel() else 0.0
    return bool(torch.allclose(own, other, rtol=_NEAR, atol=_NEAR * scale, equal_nan=True))


def _write(module: Any, like: TorchModel, graph: Path, out: Path, kit: Kit, layered: bool) -> None:
    """Write a changed network with the interface of `graph`, and see that both answer alike. Raises Refused."""
    module.eval()
    model = TorchModel(module, like.names, like.outputs, like.example, free=like.free)
    cases = answered(model.run, tuple(model.feed(model.resized(sizes)) for sizes in ({}, *other_sizes(model))))
    known = parse(graph).graph
    inputs, outputs = ({value.name: _declared(value) for value in side} for side in (known.input, known.output))
    failures: list[StudioError] = []
    # What was captured once can not be traced, since it computes with symbols for its sizes.
    for export in (trace, capture) if not layered else (capture,):
        try:
            made = export(model).model
        except Refused as error:
            failures.append(error)
            continue
        if made.ByteSize() > INLINE_LIMIT:
            raise Refused("The variant would be larger than 2 GB.", "A self-contained ONNX file can not be.")
        declare(made, inputs, outputs)
        leave_out_traces(made)
        with tempfile.TemporaryDirectory(dir=out.parent) as folder:
            tried = Path(folder) / "model.onnx"
            tried.write_bytes(made.SerializeToString())
            if agree(cases, kit.run(tried, tuple(case.inputs for case in cases))):
                tried.replace(out)
                return
        failures.append(Refused("The graph of the changed network does not answer as the network does."))
    raise failures[-1]


def _declared(value: Any) -> tuple[int | str, ...]:
    dims = value.type.tensor_type.shape.dim
    return tuple(dim.dim_value if dim.HasField("dim_value") else dim.dim_param or "?" for dim in dims)
