"""Operands of opset 1 to 6, aligned by an attribute, aligned by their shapes as later opsets do.

onnx.version_converter adds one size too many when an operand is aligned from an axis on (a bias of shape [4] added to
[n, 4, 8, 8] with axis=1 becomes [4, 1, 1, 1]); so that is done here, before it runs.
Source: onnx, docs/Changelog.md, "Add-6": `axis` is where the second operand's sizes begin in the first's; "PRelu-6".
"""

from __future__ import annotations

from typing import Any

_BINARY = ("Add", "Sub", "Mul", "Div", "Pow", "And", "Or", "Xor", "Equal", "Less", "Greater")


def operands_aligned(model: Any) -> Any:
    """A copy in which no operator aligns by an axis. All shapes of `model` must be known; where a rank is not, the
    operator is left as it is.
    """
    from onnx import helper

    copy = type(model)()
    copy.CopyFrom(model)
    ranks = _ranks(copy.graph)
    nodes = []
    for place, node in enumerate(copy.graph.node):
        axis = next((entry.i for entry in node.attribute if entry.name == "axis"), None)
        if node.op_type == "PRelu":
            axis = 1  # one slope a channel
        if node.op_type in (*_BINARY, "PRelu") and node.domain in ("", "ai.onnx") and axis is not None:
            first, second = (ranks.get(name) for name in node.input[:2])
            if first is not None and second is not None:
                start = axis + first if axis < 0 else axis
                missing = first - start - second
                if missing > 0:
                    name = f"{node.input[1]}_aligned_{place}"
                    axes = list(range(second, second + missing))
                    nodes.append(helper.make_node("Unsqueeze", [node.input[1]], [name], axes=axes))
                    node.input[1] = name
                kept = [entry for entry in node.attribute if entry.name != "axis"]
                copies = [type(entry).FromString(entry.SerializeToString()) for entry in kept]
                del node.attribute[:]
                node.attribute.extend(copies)
        nodes.append(type(node).FromString(node.SerializeToString()))
    del copy.graph.node[:]
    copy.graph.node.extend(nodes)
    return copy


def _ranks(graph: Any) -> dict[str, int]:
    found = {tensor.name: len(tensor.dims) for tensor in graph.initializer}
    for entry in (*graph.input, *graph.output, *graph.value_info):
        if entry.type.tensor_type.HasField("shape"):
            found[entry.name] = len(entry.type.tensor_type.shape.dim)
    return found
