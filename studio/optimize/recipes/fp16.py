"""fp16: weights and arithmetic in 16-bit floats, inputs and outputs as they were. Half the size.

On most processors it is not faster: ONNX Runtime casts back to 32 bits where the CPU has no 16-bit arithmetic.
Values beyond ±65504, the largest 16-bit float, are clipped; fidelity shows whether that mattered.
"""

from __future__ import annotations

from math import prod
from typing import Any

from studio.core.errors import Refused
from studio.optimize import graphs
from studio.optimize.base import Given, Recipe, Work

_FEWEST = 256  # below this, the casts around the graph take more bytes than halving the weights saves
_FLOAT, _FLOAT16 = 1, 10  # onnx.TensorProto.FLOAT, FLOAT16


def applies(model: Any, given: Given) -> str:
    """'' or why there is nothing to halve."""
    if quantised := graphs.already_quantised(model):
        return f"its weights are quantised already ({quantised})"
    tensors = graphs.weights(model)
    blocked = _blocked()
    used = {
        name for node in graphs.all_nodes(model.graph) if node.op_type not in blocked for name in node.input if name
    }
    halves = sum(_elements(tensor) for tensor in tensors.values() if tensor.data_type == _FLOAT16)
    floats = sum(_elements(t) for name, t in tensors.items() if t.data_type == _FLOAT and name in used)
    if floats >= _FEWEST and floats > halves:
        return ""
    if halves:
        return "its weights are 16-bit floats already"
    kept = [name for name in graphs.operator_counts(model) if name in blocked]
    if kept:
        return f"its parameters sit in operators that only compute in 32 bits ({', '.join(kept[:3])})"
    return f"it has only {floats} 32-bit weights, too few to gain by halving them"


def _blocked() -> frozenset[str]:
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST

    return frozenset(DEFAULT_OP_BLOCK_LIST)


def _elements(tensor: Any) -> int:
    return prod(max(dim, 0) for dim in tensor.dims)


def apply(work: Work) -> dict[str, str]:
    """Write the 16-bit graph. Raises Refused when the result does not load or has another interface."""
    from onnxruntime.transformers import float16

    src, out, report = work.src, work.out, work.report
    report(0.0, "reading the graph")
    model = graphs.load(src)
    version = model.ir_version
    clipped = _beyond(model)
    report(0.2, "casting weights to 16 bits")
    try:
        model = float16.convert_float_to_float16(model, keep_io_types=True)
    except Exception as error:
        raise Refused("The graph can not be cast to 16-bit floats.", graphs.first_line(error)) from error
    model.ir_version = version
    # The converter appends its casts at the end, behind the nodes that read them.
    graphs.sort_nodes(model.graph)
    report(0.7, "writing the variant")
    graphs.save(model, out)
    graphs.check_loads(out, src)
    report(1.0, "done")
    casts = graphs.operator_counts(model).get("Cast", 0)
    return {
        "weights": "float16",
        "inputs and outputs": "unchanged",
        "casts": str(casts),
        "clipped values": str(clipped),
    }


def _beyond(model: Any) -> int:
    import numpy as np
    from onnx import numpy_helper

    floats = (tensor for tensor in graphs.weights(model).values() if tensor.data_type == _FLOAT)
    return sum(
        int(np.count_nonzero(np.isfinite(values) & (np.abs(values) > 65504.0)))
        for values in (numpy_helper.to_array(tensor) for tensor in floats)
    )


RECIPE = Recipe(name="fp16", title="16-bit floats", applies=applies, apply=apply)
