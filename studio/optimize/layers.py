"""Which nodes of a graph are quantised together: layers with weights, and what carries their results to the next.

A *layer* is a convolution or a matrix multiplication with constant weights. Between two quantised layers, operators
that ONNX Runtime computes on 8-bit integers (or moves without looking) carry integers too; what lies before the first,
after the last, or beside a layer that stays in 32 bits is left alone. In graphs with attention nothing is carried:
softmax, the mask's huge negative numbers and products of two activations do not survive 8 bits.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from studio.optimize import graphs

LAYERS = {"Conv": 1, "Gemm": 1, "MatMul": 1}
"""Operators with 8-bit kernels on the CPU, and the place of their weights."""
_MERGED = frozenset({"Relu", "Clip"})
"""Activations that vanish into the rounding of a convolution's result."""
_CARRIED = _MERGED | {
    "Add",
    "AveragePool",
    "Concat",
    "Flatten",
    "GlobalAveragePool",
    "LeakyRelu",
    "MaxPool",
    "Mul",
    "Pad",
    "Reshape",
    "Resize",
    "Sigmoid",
    "Slice",
    "Split",
    "Squeeze",
    "Transpose",
    "Unsqueeze",
}
_ATTENTION = frozenset(
    {
        "Attention",
        "DecoderMaskedMultiHeadAttention",
        "GroupQueryAttention",
        "MultiHeadAttention",
        "PackedAttention",
        "QAttention",
    }
)
_FLOAT = 1  # onnx.TensorProto.FLOAT


def layers_of(model: Any) -> list[str]:
    """Names of the main graph's layers with constant 32-bit weights, in the order of the graph."""
    floats = _floats(model)
    return [node.name for node in model.graph.node if _is_layer(node, floats)]


def has_layers(model: Any) -> bool:
    """Whether there is any layer to quantise; nodes need no names."""
    floats = _floats(model)
    return any(_is_layer(node, floats) for node in model.graph.node)


def _floats(model: Any) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.dims) for name, tensor in graphs.weights(model).items() if tensor.data_type == _FLOAT}


def _is_layer(node: Any, floats: dict[str, tuple[int, ...]]) -> bool:
    if node.op_type not in LAYERS or node.domain not in ("", "ai.onnx") or node.input[0] in floats:
        return False
    shape = floats.get(node.input[1], ())
    if node.op_type == "Conv":
        return len(shape) >= 3
    if len(shape) != 2:  # a stack of matrices has no axis of output channels that the kernels know
        return False
    # A bias that is broadcast has fewer numbers than there are channels to scale.
    return node.op_type == "MatMul" or len(node.input) < 3 or not node.input[2] or _is_row(floats, node.input[2], shape)


def _is_row(floats: dict[str, tuple[int, ...]], name: str, matrix: tuple[int, ...]) -> bool:
    return len(floats.get(name, ())) == 1 and floats[name][0] in matrix and floats[name][0] > 1


def type_layers(model: Any) -> None:
    """Write down what shape inference can not tell beside fused operators: that layers read and give 32-bit floats."""
    from onnx import helper

    known = {entry.name for entry in (*model.graph.value_info, *model.graph.input, *model.graph.output)}
    wanted = set(layers_of(model))
    for node in model.graph.node:
        for name in (node.input[0], node.output[0]) if node.name in wanted else ():
            if name not in known:
                known.add(name)
                model.graph.value_info.append(helper.make_tensor_value_info(name, _FLOAT, None))


def has_attention(model: Any) -> bool:
    """Whether activations are multiplied with activations, or an operator does that inside."""
    constant = set(graphs.weights(model))
    return any(
        node.op_type in _ATTENTION
        or (node.op_type in ("MatMul", "FusedMatMul", "Einsum") and not any(name in constant for name in node.input))
        for node in graphs.all_nodes(model.graph)
    )


def operators_of(model: Any) -> tuple[str, ...]:
    """Operators whose inputs and outputs may be rounded. A mask's values, which break histograms, are none of them."""
    return tuple(sorted(LAYERS if has_attention(model) else {*LAYERS, *_CARRIED}))


def nodes_of(model: Any, layers: Collection[str]) -> list[str]:
    """Names of all nodes to quantise when `layers` are: those, and what carries integers between them."""
    chosen = set(layers)
    if has_attention(model):
        return sorted(chosen)
    nodes = {node.name: node for node in model.graph.node}
    bounds = _constants(model)
    carrying = {node.name for node in model.graph.node if _carries(node, bounds)}
    made_by = {output: node.name for node in model.graph.node for output in node.output if output}
    # Nodes are in topological order: a graph that the runtime has written itself.
    behind = _reached(model.graph.node, carrying, chosen, lambda node: [made_by.get(name, "") for name in node.input])
    readers: dict[str, list[str]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node.name)
    before = _reached(
        reversed(model.graph.node),
        carrying,
        chosen,
        lambda node: [to for name in node.output for to in readers.get(name, ())],
    )
    merged = {
        node.name
        for node in model.graph.node
        if node.op_type in _MERGED
        and node.name in carrying
        and made_by.get(node.input[0]) in chosen
        and nodes[made_by[node.input[0]]].op_type == "Conv"
    }
    return sorted(chosen | (behind & before) | merged)


def _constants(model: Any) -> dict[str, float]:
    """Constants of a single number."""
    from onnx import numpy_helper

    single = {name: tensor for name, tensor in graphs.weights(model).items() if list(tensor.dims) in ([], [1])}
    return {
        name: float(numpy_helper.to_array(tensor).reshape(-1)[0])
        for name, tensor in single.items()
        if tensor.data_type == _FLOAT
    }


def _carries(node: Any, constants: dict[str, float]) -> bool:
    if node.op_type != "Clip" or node.domain not in ("", "ai.onnx"):
        return node.op_type in _CARRIED and node.domain in ("", "ai.onnx")
    # The quantiser removes a Clip, since rounding cuts off at the range; but every such range holds 0.
    given = {entry.name: entry.f for entry in node.attribute}
    bounds = [constants.get(name) for name in node.input[1:] if name] + list(given.values())
    low = constants.get(node.input[1], 0.0) if len(node.input) > 1 and node.input[1] else given.get("min", 0.0)
    high = constants.get(node.input[2], 0.0) if len(node.input) > 2 and node.input[2] else given.get("max", 0.0)
    return None not in bounds and low <= 0 <= high


def _reached(nodes: Any, carrying: set[str], chosen: set[str], neighbours: Any) -> set[str]:
    """Carrying nodes that a chosen layer reaches through carrying nodes alone, in the order of `nodes`."""
    found: set[str] = set()
    for node in nodes:
        if node.name in carrying and any(name in chosen or name in found for name in neighbours(node)):
            found.add(node.name)
    return found


def drop_idle_rounding(model: Any, quantised: Collection[str]) -> int:
    """Take away the rounding of matrix products that only 32-bit operators read; how many there were.

    Their kernels give 32-bit results just as well, and what is rounded to 256 steps for nobody's sake (the scores of a
    classifier, most of all) is only less exact.
    """
    graph = model.graph
    chosen = set(quantised)
    given = {entry.name for entry in graph.output}
    made_by = {output: node for node in graph.node for output in node.output}
    readers: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    inside = {name for node in graph.node for body in graphs.bodies(node) for name in graphs.reads_of(body)}
    gone = []
    for rounding in [node for node in graph.node if node.op_type == "QuantizeLinear"]:
        maker = made_by.get(rounding.input[0])
        back = readers.get(rounding.output[0], [])
        if maker is None or maker.op_type not in ("MatMul", "Gemm") or maker.name not in chosen:
            continue
        if len(back) != 1 or back[0].op_type != "DequantizeLinear":
            continue
        result, users = back[0].output[0], readers.get(back[0].output[0], [])
        if result in inside or any(user.name in chosen for user in users):
            continue
        if result in given:
            if len(readers.get(rounding.input[0], [])) != 1:
                continue
            maker.output[0] = result
        else:
            for user in users:
                for place, name in enumerate(user.input):
                    if name == result:
                        user.input[place] = rounding.input[0]
        gone += [rounding, back[0]]
    for node in gone:
        graph.node.remove(node)
    return len(gone) // 2
