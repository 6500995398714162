"""Static quantisation of chosen layers: 8-bit activations and weights, as QuantizeLinear/DequantizeLinear pairs."""

from __future__ import annotations

import copy
import logging
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

from studio.core.errors import Refused
from studio.optimize import graphs, layers, processor
from studio.optimize.calibration import Ranges

_INFERRED = ("onnx.infer", "onnxruntime.quant")  # how the tools mark a graph whose shapes they have inferred


@contextmanager
def quiet() -> Iterator[None]:
    """Without the tools' warnings: they advise a pre-processing that fails on transformers and gains nothing here."""
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(previous)


def with_types(model: Any) -> Any:
    """The model with the type of every tensor written down: the quantiser passes over those it does not know."""
    import onnx

    try:
        typed = onnx.shape_inference.infer_shapes(model)
    except Exception as error:
        raise Refused("The graph's types can not be told.", graphs.first_line(error), "Export it again.") from error
    if not any((entry.key, entry.value) == _INFERRED for entry in typed.metadata_props):
        entry = typed.metadata_props.add()
        entry.key, entry.value = _INFERRED
    return typed


def quantise(typed: Any, ranges: Ranges, chosen: Collection[str]) -> Any:
    """A copy of the graph with the layers `chosen` quantised. Raises Refused.

    Activations unsigned and weights signed, one scale per output channel: the only one of the tools' combinations that
    ONNX Runtime has fast kernels for on x86; their default, signed and signed with one scale, runs slower than 32 bits.
    """
    import onnx
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    nodes = layers.nodes_of(typed, chosen)
    with quiet():
        try:
            quantiser = QDQQuantizer(
                copy.deepcopy(typed),
                per_channel=True,
                reduce_range=processor.saturates(),
                weight_qType=QuantType.QInt8,
                activation_qType=QuantType.QUInt8,
                tensors_range=ranges.fresh(),
                nodes_to_quantize=nodes,
                nodes_to_exclude=[],
                op_types_to_quantize=layers.operators_of(typed),
                extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
            )
            made = quantiser.quantize_model()
        except Exception as error:
            raise Refused("The graph can not be quantised.", graphs.first_line(error)) from error
    layers.drop_idle_rounding(made, nodes)
    graphs.drop_unused_weights(made)
    graphs.sort_nodes(made.graph)
    kept = [(entry.key, entry.value) for entry in made.metadata_props if (entry.key, entry.value) != _INFERRED]
    del made.metadata_props[:]
    for key, value in kept:
        entry = made.metadata_props.add()
        entry.key, entry.value = key, value
    return made
