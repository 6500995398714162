"""Weights of TensorFlow Lite models that are whole numbers, in the file and in the graph made of it.

Where weights alone were quantised, TensorFlow Lite rounds what flows between the layers to whole numbers too, row by
row, as it runs. That is how it computes, not what the file says: here the same model is made with plain weights, which
tells how far the rounding moves its answers. Imports tensorflow and onnx. Layout: tensorflow/compiler/mlir/lite/schema.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import numpy_helper
from tensorflow.lite.python import schema_py_generated as schema
from tensorflow.lite.tools import flatbuffer_utils

from studio.formats.base import Array


def custom_operations(content: bytes) -> list[str]:
    """Names of operations that are no part of TensorFlow Lite."""
    model = schema.Model.GetRootAs(content, 0)
    codes = (model.OperatorCodes(place).CustomCode() for place in range(model.OperatorCodesLength()))
    return [code.decode("utf-8", "replace") for code in codes if code]


def with_plain_weights(content: bytes) -> bytes | None:
    """The same model with the weights of layers that compute in floats as floats. None where there are none such."""
    model = flatbuffer_utils.read_model_from_bytearray(bytearray(content))
    changed = False
    for graph in model.subgraphs:
        for operation in graph.operators:
            taken = [graph.tensors[place] for place in operation.inputs if place >= 0]
            if not taken or taken[0].type != schema.TensorType.FLOAT32:
                continue
            for tensor in taken[1:]:
                plain = _plain(tensor, model.buffers[tensor.buffer].data)
                if plain is not None:
                    model.buffers[tensor.buffer].data = plain.tobytes()
                    tensor.type, tensor.quantization = schema.TensorType.FLOAT32, None
                    changed = True
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model)) if changed else None


def _plain(tensor: Any, data: Any) -> Array | None:
    """The floats that a constant of 8-bit numbers stands for; None for anything else."""
    quantised = tensor.quantization
    if tensor.type != schema.TensorType.INT8 or data is None or not len(data):
        return None
    if quantised is None or quantised.scale is None or not len(quantised.scale):
        return None
    rows = np.frombuffer(bytes(data), np.int8).reshape(tensor.shape).astype(np.float32)
    scale = np.asarray(quantised.scale, np.float32)
    zero = np.zeros(1) if quantised.zeroPoint is None else np.asarray(quantised.zeroPoint)
    return _spread(rows, scale, zero.astype(np.float32), quantised.quantizedDimension)


def _spread(rows: Array, scale: Array, zero: Array, axis: int) -> Array:
    sizes = [1] * rows.ndim
    if scale.size > 1:
        sizes[axis] = -1
    wide = zero.reshape(sizes) if zero.size == scale.size else zero.reshape([1] * rows.ndim)
    return np.asarray((rows - wide) * scale.reshape(sizes), np.float32)


def compute_in_floats(model: Any) -> None:
    """Make a graph whose weights alone are whole numbers compute as the file says: with the floats they stand for.

    tf2onnx rounds some rows by the whole of their batch (DynamicQuantizeLinear), and ONNX Runtime rounds rows before a
    product with weights that are made floats just before it. Neither is what TensorFlow Lite does. Graphs that quantise
    what flows between the layers stay as they are.
    """
    graph = model.graph
    if any(node.op_type == "QuantizeLinear" for node in graph.node):
        return
    constants = {one.name: one for one in graph.initializer}
    rounding = {node.output[0]: node for node in graph.node if node.op_type == "DynamicQuantizeLinear"}
    same: dict[str, str] = {}
    gone: list[Any] = []
    for node in graph.node:
        if node.op_type != "DequantizeLinear" or node.output[0] in {value.name for value in graph.output}:
            continue
        if node.input[0] in rounding:
            same[node.output[0]] = rounding[node.input[0]].input[0]
            gone.append(node)
        elif all(name in constants for name in node.input if name):
            rows, scale, *zero = (numpy_helper.to_array(constants[name]) for name in node.input if name)
            axis = next((one.i for one in node.attribute if one.name == "axis"), 1) % max(rows.ndim, 1)
            none = np.zeros(1, np.float32)
            plain = _spread(rows.astype(np.float32), scale, zero[0].astype(np.float32) if zero else none, axis)
            graph.initializer.append(numpy_helper.from_array(plain, node.output[0]))
            gone.append(node)
    for node in graph.node:
        node.input[:] = [same.get(name, name) for name in node.input]
    for node in gone:
        graph.node.remove(node)
    _leave_out_unused(graph, list(rounding.values()))


def _leave_out_unused(graph: Any, nodes: list[Any]) -> None:
    used = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    for node in nodes:
        if not used & set(node.output):
            graph.node.remove(node)
    used = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    kept = [one for one in graph.initializer if one.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
