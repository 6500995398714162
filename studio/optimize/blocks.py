"""Weights alone in 4 or 8 bits, one scale for each block: matrices as MatMulNBits, embeddings as GatherBlockQuantized.

The layout is that of ONNX Runtime's contrib operators of these names (docs/ContribOperators.md there): a matrix of K
rows and N columns is stored by column, in blocks of `block` rows, low bits first. Written here, since the runtime's own
tool passes Gemm and embeddings by, and needs a package that the runtime does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from studio.core.errors import Refused
from studio.optimize import graphs
from studio.optimize.base import Given, Option, Work

_FLOAT = 1  # onnx.TensorProto.FLOAT
_LEAST_SHARE = 0.1
"""Of all weights; with fewer in matrices and embeddings, nothing would come of it."""
_FEWEST = 256  # smaller matrices gain less than a node costs
_DOMAIN = "com.microsoft"
_EMBEDDING_BITS = 8  # looked up and not multiplied: 4 bits would save little, and harm much


@dataclass(frozen=True)
class Blocks:
    """`packed`: uint8 [rows, blocks, bytes a block]; `scales`: float32 [rows, blocks]; `zeros`: uint8 [rows, bytes]."""

    packed: npt.NDArray[np.uint8]
    scales: npt.NDArray[np.float32]
    zeros: npt.NDArray[np.uint8] | None


def quantise(weights: npt.NDArray[np.float32], bits: int, block: int, symmetric: bool) -> Blocks:
    """Round each row of `weights` [rows, K] in blocks of `block`; the last block is filled up with zeros.

    Symmetric: the number farthest from 0 becomes the lowest level, and zero the middle one. Else levels go from the
    block's lowest number to its highest, zero included.
    """
    rows, length = weights.shape
    count = -(-length // block)
    parts = np.zeros((rows, count * block), np.float32)
    parts[:, :length] = weights
    parts = parts.reshape(rows, count, block)
    highest, lowest = parts.max(axis=2), parts.min(axis=2)
    top = 2**bits - 1
    if symmetric:
        half = 2 ** (bits - 1)
        zeros = np.full(highest.shape, float(half), np.float32)
        scales = np.where(np.abs(highest) > np.abs(lowest), highest, lowest) / -half
    else:
        highest, lowest = np.maximum(highest, 0), np.minimum(lowest, 0)
        scales = (highest - lowest) / top
        zeros = np.where(scales == 0, 0, np.round(-lowest / np.where(scales == 0, 1, scales))).clip(0, top)
    steps = np.where(scales == 0, 1, scales)
    levels = np.round(parts / steps[:, :, None] + zeros[:, :, None]).clip(0, top).astype(np.uint8)
    return Blocks(
        _packed(levels, bits), scales.astype(np.float32), None if symmetric else _packed(zeros.astype(np.uint8), bits)
    )


def _packed(levels: npt.NDArray[np.uint8], bits: int) -> npt.NDArray[np.uint8]:
    if bits == 8:
        return levels
    if levels.shape[-1] % 2:
        levels = np.concatenate([levels, np.zeros((*levels.shape[:-1], 1), np.uint8)], axis=-1)
    return (levels[..., 0::2] | (levels[..., 1::2] << 4)).astype(np.uint8)


def applies(model: Any, given: Given) -> str:
    """'' or why there is nothing to gain."""
    if quantised := graphs.already_quantised(model):
        return f"it is quantised already ({quantised})"
    floats = _floats(model)
    matrices = [node for node in model.graph.node if _is_matrix(node, floats)]
    if not matrices:
        if any(node.op_type in ("MatMul", "Gemm") and node.input[1] in floats for node in model.graph.node):
            return "its matrix multiplications have too few weights to gain by storing them in blocks"
        return (
            "it has no matrix multiplication with constant 32-bit weights to store in blocks, "
            f"only {graphs.operator_words(model)}"
        )
    names = {node.input[1] for node in matrices} | {
        node.input[0] for node in model.graph.node if _is_embedding(node, floats)
    }
    whole = sum(int(np.prod(shape)) for shape in floats.values())
    share = sum(int(np.prod(floats[name])) for name in names) / whole
    if share < _LEAST_SHARE:
        return f"only {share:.0%} of its weights are in matrix multiplications; the rest would stay as it is"
    return ""


def _floats(model: Any) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.dims) for name, tensor in graphs.weights(model).items() if tensor.data_type == _FLOAT}


def _is_matrix(node: Any, floats: dict[str, tuple[int, ...]]) -> bool:
    if node.op_type not in ("MatMul", "Gemm") or node.domain not in ("", "ai.onnx"):
        return False
    shape = floats.get(node.input[1], ())
    if len(shape) != 2 or node.input[0] in floats or min(shape) < 2 or shape[0] * shape[1] < _FEWEST:
        return False
    return node.op_type == "MatMul" or not graphs.number(node, "transA", 0)


def _is_embedding(node: Any, floats: dict[str, tuple[int, ...]]) -> bool:
    shape = floats.get(node.input[0], ()) if node.op_type == "Gather" and node.domain in ("", "ai.onnx") else ()
    return (
        len(shape) == 2 and shape[0] * shape[1] >= _FEWEST and shape[1] % 16 == 0 and not graphs.number(node, "axis", 0)
    )


def apply(work: Work, bits: int) -> dict[str, str]:
    """Write the graph with its matrices and embeddings in blocks. Raises Refused where none is, or it does not load."""
    work.report(0.0, "reading the graph")
    model = graphs.load(work.src)
    graphs.constants_to_initialisers(model)
    graphs.fix_weights(model)
    block, accuracy = int(work.number("block")), int(work.number("accuracy"))
    writer = _Writer(model, bits, block, bool(work.options["symmetric"]), accuracy)
    floats = _floats(model)
    nodes = list(model.graph.node)
    made: list[Any] = []
    matrices = embeddings = 0
    for number, node in enumerate(nodes):
        work.report(0.1 + 0.7 * number / len(nodes), "rounding weights in blocks")
        if _is_matrix(node, floats):
            made += writer.matrix(node)
            matrices += 1
        elif work.options["embeddings"] and _is_embedding(node, floats):
            made.append(writer.embedding(node))
            embeddings += 1
        else:
            made.append(type(node).FromString(node.SerializeToString()))
    if not matrices:
        raise Refused("Nothing was quantised.", "There is no matrix multiplication with constant 32-bit weights.")
    del model.graph.node[:]
    model.graph.node.extend(made)
    graphs.drop_unused_weights(model)
    graphs.import_domain(model, _DOMAIN)
    work.report(0.8, "writing the variant")
    graphs.save(model, work.out)
    graphs.check_loads(work.out, work.src)
    work.report(1.0, "done")
    return {
        "method": "weights only, round to nearest",
        "weights": f"{bits} bits, blocks of {block}",
        "activations": "float32" if accuracy < 4 else "float32, rounded to 8 bits inside products",
        "matrices": str(matrices),
        "tables": f"{embeddings}, {_EMBEDDING_BITS} bits" if embeddings else "none",
    }


class _Writer:
    """Makes the nodes that replace others, and the tensors that they read. A weight of several nodes is stored once."""

    def __init__(self, model: Any, bits: int, block: int, symmetric: bool, accuracy: int) -> None:
        self._graph = model.graph
        self._tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        self._bits, self._block, self._symmetric, self._accuracy = bits, block, symmetric, accuracy
        self._stored: dict[tuple[str, bool, float], tuple[list[str], tuple[int, int]]] = {}

    def matrix(self, node: Any) -> list[Any]:
        """MatMulNBits, and an Add for what a Gemm adds."""
        from onnx import helper

        gemm = node.op_type == "Gemm"
        turned = gemm and bool(graphs.number(node, "transB", 0))
        factor = graphs.number(node, "alpha", 1.0) if gemm else 1.0
        names, (columns, rows) = self._matrix(node.input[1], turned, factor)
        added = node.input[2] if gemm and len(node.input) > 2 else ""
        result = f"{node.output[0]}_product" if added else node.output[0]
        more = {"accuracy_level": self._accuracy} if self._accuracy else {}
        product = helper.make_node(
            "MatMulNBits",
            [node.input[0], *names],
            [result],
            name=node.name or f"{result}_in_blocks",
            domain=_DOMAIN,
            K=rows,
            N=columns,
            bits=self._bits,
            block_size=self._block,
            **more,
        )
        if not added:
            return [product]
        scaled = self._scaled(added, graphs.number(node, "beta", 1.0), node.output[0])
        return [product, *scaled[1], helper.make_node("Add", [result, scaled[0]], [node.output[0]])]

    def embedding(self, node: Any) -> Any:
        """GatherBlockQuantized: the rows that are looked up are the only ones to be turned into floats."""
        from onnx import helper, numpy_helper

        table = node.input[0]
        values = numpy_helper.to_array(self._tensors[table])
        block = next(size for size in (128, 64, 32, 16) if size <= max(16, self._block) and values.shape[1] % size == 0)
        key = (table, False, 0.0)
        if key not in self._stored:
            found = quantise(values, _EMBEDDING_BITS, block, True)
            levels = found.packed.reshape(values.shape)
            self._stored[key] = (self._store(table, "rows", (levels, found.scales)), values.shape)
        names, _ = self._stored[key]
        return helper.make_node(
            "GatherBlockQuantized",
            [names[0], node.input[1], names[1]],
            [node.output[0]],
            name=node.name,
            domain=_DOMAIN,
            bits=_EMBEDDING_BITS,
            block_size=block,
            gather_axis=0,
            quantize_axis=1,
        )

    def _matrix(self, name: str, turned: bool, factor: float) -> tuple[list[str], tuple[int, int]]:
        from onnx import numpy_helper

        key = (name, turned, factor)
        if key not in self._stored:
            values = numpy_helper.to_array(self._tensors[name]) * np.float32(factor)
            by_column = np.ascontiguousarray(values if turned else values.T)
            found = quantise(by_column, self._bits, self._block, self._symmetric)
            arrays = (found.packed, found.scales.reshape(-1)) + (
                () if found.zeros is None else (found.zeros.reshape(-1),)
            )
            tag = f"blocks{'_turned' if turned else ''}{'' if factor == 1 else f'_{factor:g}'}"
            self._stored[key] = (self._store(name, tag, arrays), (by_column.shape[0], by_column.shape[1]))
        return self._stored[key]

    def _store(self, name: str, tag: str, arrays: tuple[npt.NDArray[Any], ...]) -> list[str]:
        from onnx import numpy_helper

        names = [f"{name}_{tag}_{part}" for part in ("levels", "scales", "zeros")[: len(arrays)]]
        self._graph.initializer.extend(
            numpy_helper.from_array(array, as_name) for array, as_name in zip(arrays, names, strict=True)
        )
        return names

    def _scaled(self, name: str, factor: float, output: str) -> tuple[str, list[Any]]:
        from onnx import helper, numpy_helper

        if factor == 1:
            return name, []
        self._graph.initializer.append(numpy_helper.from_array(np.float32(factor), f"{output}_beta"))
        return f"{output}_added", [helper.make_node("Mul", [name, f"{output}_beta"], [f"{output}_added"])]


def options(block: int) -> tuple[Option, ...]:
    """What both recipes let a user set."""
    return (
        Option(name="block", default=block, help="weights that share a scale", choices=(16, 32, 64, 128, 256)),
        Option(name="symmetric", default=True, help="zero in the middle of the levels, else a zero point by block"),
        Option(
            name="accuracy",
            default=4,
            help="what products are computed in: 0 as the runtime likes, 1 32-bit floats, 4 8-bit integers (fastest)",
            choices=(0, 1, 4),
        ),
        Option(name="embeddings", default=True, help="store embedding tables in 8 bits too"),
    )
