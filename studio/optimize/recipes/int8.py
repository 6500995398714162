"""int8: 8-bit weights, one scale per output channel; activations are quantised as they come (no calibration data).

Only matrix multiplications (and, where there are no convolutions, embeddings) are touched: a convolution quantised
this way becomes ConvInteger, which ONNX Runtime runs many times slower than the 32-bit original. One scale per channel,
since with one per tensor transformers lose several points of cosine.
"""

from __future__ import annotations

import logging
from typing import Any

from studio.core.errors import Refused
from studio.optimize import graphs, processor
from studio.optimize.base import Given, Recipe, Work

_FLOAT = 1  # onnx.TensorProto.FLOAT
_MATRIX = {"MatMul": (1,), "Gemm": (1,), "LSTM": (1, 2), "Attention": (1,)}  # operator -> places of its weights
_EMBEDDING = {"Gather": (0,)}
_TREES = ("TreeEnsembleClassifier", "TreeEnsembleRegressor", "TreeEnsemble")


def applies(model: Any, given: Given) -> str:
    """'' or why there is nothing to quantise."""
    if quantised := graphs.already_quantised(model):
        return f"it is quantised already ({quantised})"
    counts = graphs.operator_counts(model)
    # An embedding alone is a table: smaller, but there is no arithmetic to speed up.
    if _targets(model, _MATRIX):
        return ""
    trees = [name for name in _TREES if name in counts]
    if trees:
        return f"its work is a tree ensemble ({trees[0]}): comparisons, no weights to multiply with"
    if "Conv" in counts:
        return (
            f"its weights are in convolutions (Conv × {counts['Conv']}), which run many times slower "
            "when quantised without calibration data"
        )
    return f"it has no matrix multiplication with constant 32-bit weights, only {graphs.operator_words(model)}"


def _targets(model: Any, wanted: dict[str, tuple[int, ...]]) -> list[str]:
    """Operators, one entry a node of the main graph, whose weights are constant 32-bit floats."""
    floats = {name for name, tensor in graphs.weights(model).items() if tensor.data_type == _FLOAT}
    return [
        node.op_type
        for node in model.graph.node
        if all(place < len(node.input) and node.input[place] in floats for place in wanted.get(node.op_type, (99,)))
    ]


def apply(work: Work) -> dict[str, str]:
    """Write the quantised graph. Raises Refused when that fails, changes nothing or does not load."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    src, out, report = work.src, work.out, work.report
    report(0.0, "reading the graph")
    model = graphs.load(src)
    version = model.ir_version
    wanted = _MATRIX if "Conv" in graphs.operator_counts(model) else _MATRIX | _EMBEDDING
    found = _targets(model, wanted)
    graphs.constants_to_initialisers(model)
    graphs.fix_weights(model)
    # Shapes that exporters wrote down for weights contradict the transposed ones that the quantiser makes of Gemm.
    del model.graph.value_info[:]
    narrow = processor.saturates()
    report(0.2, "quantising weights")
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)  # it recommends a pre-processing that fails on transformers and gains nothing here
    try:
        quantize_dynamic(
            model,
            out,
            # The quantiser turns Gemm into MatMul first, and knows it only by that name.
            op_types_to_quantize=sorted(set(wanted) - {"Gemm"}),
            per_channel=True,
            reduce_range=narrow,
            weight_type=QuantType.QInt8,
            # Where shape inference finds no type (fused operators), it is a float.
            extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT, "MatMulConstBOnly": True},
        )
    except Exception as error:
        out.unlink(missing_ok=True)
        raise Refused("The graph can not be quantised.", graphs.first_line(error)) from error
    finally:
        logging.disable(previous)
    report(0.8, "writing the variant")
    made = onnx.load(out)
    if not graphs.already_quantised(made):
        out.unlink(missing_ok=True)
        raise Refused("Nothing was quantised.", "No weights were found where the quantiser can use them.")
    made.ir_version = max(version, 4)
    graphs.save(made, out)
    graphs.check_loads(out, src)
    report(1.0, "done")
    return {
        "method": "dynamic",
        "weights": f"int8 per channel{', 7 bits' if narrow else ''}",
        "activations": "uint8, ranges at run time",
        "operators": ", ".join(f"{name} × {found.count(name)}" for name in sorted(set(found))),
    }


RECIPE = Recipe(name="int8", title="8-bit weights, dynamic", applies=applies, apply=apply)
