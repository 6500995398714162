"""fused: the attention of a transformer as one operator, and what lies around it as a few.

ONNX Runtime's fusion of transformers (onnxruntime.transformers), for graphs whose attention it does not recognise when
it loads them. Whether it does depends on how the model was exported: graphs of torch's older exporter fuse, those of
the newer one keep their attention in pieces. By itself it brings no speed on a processor, and small models even lose
some; it has fewer nodes to load, and is a step before int8 for those who want that.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from studio.core.errors import Refused
from studio.optimize import graphs, qdq
from studio.optimize.base import Given, Option, Recipe, Work

_FUSED = ("Attention", "MultiHeadAttention")
_WHOLE = frozenset({*_FUSED, "GroupQueryAttention", "PackedAttention", "DecoderMaskedMultiHeadAttention", "QAttention"})


def applies(model: Any, given: Given) -> str:
    """'' or why there is no attention to fuse."""
    if quantised := graphs.already_quantised(model):
        return f"it is quantised already ({quantised}); fuse before quantising"
    counts = graphs.operator_counts(model)
    whole = sorted(_WHOLE & set(counts))
    if whole:
        return f"its attention is one operator already ({whole[0]} × {counts[whole[0]]})"
    if not _softmaxes(model):
        return f"it has no attention (a product of activations behind a Softmax), only {graphs.operator_words(model)}"
    return ""


def _softmaxes(model: Any) -> list[Any]:
    """Softmax nodes whose results are multiplied with other activations."""
    constant = set(graphs.weights(model))
    multiplied = {
        node.input[0] for node in model.graph.node if node.op_type == "MatMul" and node.input[1] not in constant
    }
    return [node for node in model.graph.node if node.op_type == "Softmax" and node.output[0] in multiplied]


def apply(work: Work) -> dict[str, str]:
    """Write the fused graph. Raises Refused when no attention was fused, or it does not load."""
    work.report(0.0, "reading the graph")
    with tempfile.TemporaryDirectory(dir=work.out.parent) as place:
        model = graphs.tidied(work.src, Path(place) / "tidied.onnx")
    heads, hidden = _sizes(model)
    heads, hidden = int(work.number("heads")) or heads, int(work.number("hidden")) or hidden
    version, attentions = model.ir_version, len(_softmaxes(model))
    work.report(0.3, "fusing operators")
    try:
        with qdq.quiet():
            from onnxruntime.transformers.optimizer import optimize_by_fusion

            fused = optimize_by_fusion(model, "bert", heads, hidden)
            counts = {name: count for name, count in fused.get_fused_operator_statistics().items() if count}
    except Exception as error:
        raise Refused("The graph can not be fused.", graphs.first_line(error)) from error
    found = sum(counts.get(name, 0) for name in _FUSED)
    if not found:
        raise Refused(
            "No attention was fused.",
            f"None of its {attentions} is written in a way that the runtime's fusion knows.",
            "Export the model with torch's older exporter (dynamo=False), or leave this recipe out.",
        )
    fused.model.ir_version = version
    graphs.import_domain(
        fused.model, "com.microsoft"
    )  # the tool forgets to, and the next step could not read the graph
    graphs.sort_nodes(fused.model.graph)
    work.report(0.8, "writing the variant")
    graphs.save(fused.model, work.out)
    graphs.check_loads(work.out, work.src)
    work.report(1.0, "done")
    return {
        "attention": f"{found} of {attentions} fused",
        "operators": ", ".join(f"{name} × {count}" for name, count in counts.items()),
        "heads": str(heads) if heads else "as the tool finds",
        "hidden": str(hidden) if hidden else "as the tool finds",
    }


def _sizes(model: Any) -> tuple[int, int]:
    """Heads and width of the first attention whose shapes tell, else 0, 0: the tool finds only constant ones.

    Behind a Softmax lies the product of queries and keys; the queries come from a Reshape to [batch, length, heads, …]
    of a product with a [width, width] matrix.
    """
    from onnx import numpy_helper

    constant = graphs.weights(model)
    made_by = {output: node for node in model.graph.node for output in node.output}

    def behind(name: str, through: tuple[str, ...], wanted: str) -> Any:
        for _ in range(8):
            node = made_by.get(name)
            if node is None or node.op_type == wanted:
                return node
            if node.op_type not in through:
                return None
            # Of a sum or product with a constant, the other part; of two activations, the first: scores before masks.
            name = next((each for each in node.input if each not in constant), "")
        return None

    for softmax in _softmaxes(model):
        product = behind(softmax.input[0], ("Add", "Div", "Mul", "Where"), "MatMul")
        reshape = product and behind(product.input[0], ("Transpose", "Div", "Mul"), "Reshape")
        matrix = reshape and behind(reshape.input[0], ("Add",), "MatMul")
        if not matrix or matrix.input[1] not in constant:
            continue
        shape = made_by.get(reshape.input[1])
        if reshape.input[1] in constant:
            entries = [int(size) for size in numpy_helper.to_array(constant[reshape.input[1]])]
        elif shape is not None and shape.op_type == "Concat":
            parts = [constant.get(name) for name in shape.input]
            entries = [int(numpy_helper.to_array(part).reshape(-1)[0]) if part is not None else 0 for part in parts]
        else:
            continue
        hidden = int(constant[matrix.input[1]].dims[1])
        if len(entries) == 4 and entries[2] > 0 and hidden % entries[2] == 0:
            return entries[2], hidden
    return 0, 0


RECIPE = Recipe(
    name="fused",
    title="Attention as one operator",
    applies=applies,
    apply=apply,
    options=(
        Option(name="heads", default=0, help="heads of the attention; 0 finds them in the graph", low=0, high=1024),
        Option(name="hidden", default=0, help="width of the model; 0 finds it in the graph", low=0, high=1048576),
    ),
)
