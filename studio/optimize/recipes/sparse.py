"""sparse: the smallest weights of each layer become zero (magnitude pruning).

ONNX Runtime computes with zeros as with all else: nothing gets faster, and the file stays as large. What shrinks is the
compressed file, for a download or a backup; both sizes are in the parameters. Accuracy falls off a cliff soon: small
convolutional nets lose it with the first third of their weights.

A step before others, mostly: a variant that is neither smaller nor faster is not worth offering by itself.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np

from studio.core.errors import Refused
from studio.optimize import graphs
from studio.optimize.base import Given, Option, Recipe, Work

_FLOAT = 1  # onnx.TensorProto.FLOAT
_PLACES = {
    "Conv": (1,),
    "ConvTranspose": (1,),
    "Gemm": (1,),
    "MatMul": (0, 1),
    "Attention": (1,),
    "LSTM": (1, 2),
    "GRU": (1, 2),
}
_FEWEST = 64  # weights of a tensor
_CHUNK = 2**20


def applies(model: Any, given: Given) -> str:
    """'' or why there is nothing to prune."""
    if quantised := graphs.already_quantised(model):
        return f"it is quantised already ({quantised}); prune before quantising"
    if not _prunable(model):
        return f"it has no layers with 32-bit weights, only {graphs.operator_words(model)}"
    return ""


def _prunable(model: Any) -> dict[str, Any]:
    floats = {name: tensor for name, tensor in graphs.weights(model).items() if tensor.data_type == _FLOAT}
    names = {
        node.input[place]
        for node in graphs.all_nodes(model.graph)
        for place in _PLACES.get(node.op_type, ())
        if place < len(node.input)
    }
    return {name: tensor for name, tensor in floats.items() if name in names and int(np.prod(tensor.dims)) >= _FEWEST}


def apply(work: Work) -> dict[str, str]:
    """Write the graph with a share of its weights set to zero. Raises Refused."""
    from onnx import numpy_helper

    work.report(0.0, "reading the graph")
    model = graphs.load(work.src)
    tensors = _prunable(model)
    if not tensors:
        raise Refused("Nothing was pruned.", "There are no layers with 32-bit weights.")
    amount = work.number("amount")
    arrays = {name: numpy_helper.to_array(tensor) for name, tensor in tensors.items()}
    limit = None
    if work.text("scope") == "model":
        limit = _threshold(np.concatenate([np.abs(array).ravel() for array in arrays.values()]), amount)
    zeros = 0
    for number, (name, array) in enumerate(arrays.items()):
        work.report(0.1 + 0.5 * number / len(arrays), "setting small weights to zero")
        sizes = np.abs(array)
        pruned = np.where(sizes <= (_threshold(sizes.ravel(), amount) if limit is None else limit), 0, array)
        zeros += int(np.count_nonzero(pruned == 0))
        tensors[name].CopyFrom(numpy_helper.from_array(pruned.astype(np.float32), tensors[name].name))
    work.report(0.6, "writing the variant")
    graphs.save(model, work.out)
    graphs.check_loads(work.out, work.src)
    work.report(0.7, "compressing, to see what it gains")
    whole = sum(array.size for array in arrays.values())
    before, after = _compressed(work.src), _compressed(work.out)
    work.report(1.0, "done")
    return {
        "zeros": f"{zeros / whole:.1%} of {whole} weights in {len(arrays)} tensors",
        "speed": "the same: ONNX Runtime computes with zeros as with all else",
        "compressed size": f"{after} bytes instead of {before} (zlib); the file itself is as large as before",
    }


def _threshold(sizes: Any, amount: float) -> float:
    """The size up to which a share `amount` of the weights lies; below all of them where that is none."""
    count = int(len(sizes) * amount)
    return float(np.partition(sizes, count - 1)[count - 1]) if count else -1.0


def _compressed(path: Path) -> int:
    """Bytes of the file and of the weights beside it that it names, compressed with zlib."""
    import onnx
    from onnx.external_data_helper import ExternalDataInfo, uses_external_data

    tensors = graphs.weights(onnx.load(path, load_external_data=False)).values()
    beside = {path.parent / ExternalDataInfo(tensor).location for tensor in tensors if uses_external_data(tensor)}
    total = 0
    for each in (path, *sorted(beside)):
        packer = zlib.compressobj()
        with each.open("rb") as file:
            while chunk := file.read(_CHUNK):
                total += len(packer.compress(chunk))
        total += len(packer.flush())
    return total


RECIPE = Recipe(
    name="sparse",
    title="Small weights set to zero: compresses better, runs no faster",
    applies=applies,
    apply=apply,
    options=(
        Option(name="amount", default=0.3, help="share of the weights to set to zero", low=0.01, high=0.99),
        Option(
            name="scope",
            default="layer",
            help="whether the share holds for each layer, or for all weights of the model together",
            choices=("layer", "model"),
        ),
    ),
)
