"""Weights in blocks of 4 or 8 bits: the layout, the operators that they go into, and where they do not apply."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from studio.core.errors import Refused
from studio.optimize import blocks, graphs
from studio.optimize.base import Given, Work, recipes

from .conftest import Run, save, value

BITS = {"int4": 4, "int8-weights": 8}


def make(name: str, src: Path, **options) -> tuple[Path, dict[str, str]]:
    out, told = src.with_name(f"{src.stem}-{name}.onnx"), []
    recipe = recipes()[name]
    work = Work(src=src, out=out, report=lambda share, text: told.append(share), options=recipe.settings(options))
    parameters = recipe.apply(work)
    assert told == sorted(told) and told[-1] == 1.0
    return out, parameters


def sqnr(reference: np.ndarray, got: np.ndarray) -> float:
    return float(10 * np.log10(np.sum(reference**2.0) / np.sum((reference - got) ** 2.0)))


def restored(found: blocks.Blocks, bits: int, length: int) -> np.ndarray:
    """Floats again, written from the operator's documentation: low bits first, (level - zero) · scale."""

    def unpacked(array: np.ndarray) -> np.ndarray:
        if bits == 8:
            return array.astype(int)
        return np.stack([array & 15, array >> 4], axis=-1).reshape(*array.shape[:-1], -1).astype(int)

    levels = unpacked(found.packed)
    zeros = 2 ** (bits - 1) if found.zeros is None else unpacked(found.zeros)[:, : levels.shape[1], None]
    floats = (levels - zeros) * found.scales[:, :, None]
    return floats.reshape(len(levels), -1)[:, :length]


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("length", [32, 96, 100, 31])
def test_no_weight_moves_further_than_a_step(bits: int, symmetric: bool, length: int) -> None:
    weights = np.random.default_rng(0).standard_normal((6, length)).astype(np.float32)
    weights[2] = 0
    weights[3] = np.abs(weights[3])
    found = blocks.quantise(weights, bits, 32, symmetric)
    assert found.packed.shape == (6, -(-length // 32), 32 * bits // 8) and (found.zeros is None) == symmetric
    got = restored(found, bits, length)
    steps = np.abs(np.repeat(found.scales, 32, axis=1)[:, :length])
    assert np.all(np.abs(got - weights) <= (1.01 if symmetric else 0.51) * steps + 1e-6)
    assert not got[2].any()


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
def test_blocks_are_those_of_the_runtime_s_own_tool(bits: int, symmetric: bool, tmp_path: Path) -> None:
    pytest.importorskip("onnx_ir")
    from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, MatMulNBitsQuantizer

    weight = np.random.default_rng(0).standard_normal((64, 48)).astype(np.float32)
    node = helper.make_node("MatMul", ["x", "w"], ["y"], name="m")
    src = save(tmp_path / "m.onnx", [node], [value("x", "n", 64)], [value("y", "n", 48)], {"w": weight})
    config = DefaultWeightOnlyQuantConfig(block_size=32, is_symmetric=symmetric, bits=bits)
    tool = MatMulNBitsQuantizer(onnx.load(src), algo_config=config)
    tool.process()
    theirs = [numpy_helper.to_array(tensor) for tensor in tool.model.model.graph.initializer]
    ours = blocks.quantise(np.ascontiguousarray(weight.T), bits, 32, symmetric)
    parts = [part for part in (ours.packed, ours.scales, ours.zeros) if part is not None]
    assert len(theirs) == len(parts)
    for mine, their in zip(parts, theirs, strict=True):
        if mine.dtype == np.uint8:  # halves may be rounded either way
            assert np.count_nonzero(mine.ravel() != their.ravel()) <= 0.01 * mine.size
        else:
            np.testing.assert_allclose(mine.ravel(), their.ravel(), rtol=1e-6)


@pytest.mark.parametrize(("name", "least"), [("int4", 17), ("int8-weights", 38)])
def test_text_gets_its_matrix_and_its_table_in_blocks(name: str, least: float, text_net: Path, outputs_of: Run) -> None:
    assert recipes()[name].applies(onnx.load(text_net), Given()) == ""
    out, parameters = make(name, text_net)
    model = onnx.load(out)
    counts = graphs.operator_counts(model)
    assert counts == {"GatherBlockQuantized": 1, "MatMulNBits": 1, "ReduceMean": 1}
    assert {tensor.data_type for tensor in model.graph.initializer} == {TensorProto.UINT8, TensorProto.FLOAT}
    assert parameters["matrices"] == "1" and parameters["tables"] == "1, 8 bits"
    assert parameters["weights"] == f"{BITS[name]} bits, blocks of 32"
    assert out.stat().st_size < 0.35 * text_net.stat().st_size
    ids = {"ids": np.random.default_rng(1).integers(0, 500, (6, 12))}
    assert sqnr(outputs_of(text_net, ids)["y"], outputs_of(out, ids)["y"]) > least


def test_tables_stay_where_that_is_asked(text_net: Path) -> None:
    out, parameters = make("int8-weights", text_net, embeddings=False)
    assert graphs.operator_counts(onnx.load(out))["Gather"] == 1 and parameters["tables"] == "none"


@pytest.mark.parametrize(
    "options", [{"block": 16}, {"block": 128}, {"symmetric": False}, {"accuracy": 0}, {"accuracy": 1}]
)
@pytest.mark.parametrize("name", BITS)
def test_every_option_makes_a_graph_that_agrees(name: str, options: dict, text_net: Path, outputs_of: Run) -> None:
    out, _ = make(name, text_net, **options)
    node = next(node for node in onnx.load(out).graph.node if node.op_type == "MatMulNBits")
    assert graphs.number(node, "block_size", 0) == options.get("block", 32)
    assert graphs.number(node, "accuracy_level", 0) == options.get("accuracy", 4)
    assert len(node.input) == (3 if options.get("symmetric", True) else 4)
    ids = {"ids": np.random.default_rng(1).integers(0, 500, (6, 12))}
    assert sqnr(outputs_of(text_net, ids)["y"], outputs_of(out, ids)["y"]) > (15 if name == "int4" else 37)


@pytest.mark.parametrize(
    ("attributes", "shape", "bias"),
    [
        ({"transB": 1}, (40, 64), (40,)),
        ({}, (64, 40), (1, 40)),
        ({"alpha": 0.5, "beta": 2.0}, (64, 40), (40,)),
        ({"alpha": 2.0, "transB": 1}, (40, 64), None),
    ],
)
def test_gemm_becomes_blocks_and_a_sum(attributes: dict, shape, bias, tmp_path: Path, outputs_of: Run) -> None:
    # The runtime's own tool leaves Gemm as it is.
    random = np.random.default_rng(0)
    weights = {"w": random.standard_normal(shape).astype(np.float32)}
    inputs = ["x", "w"]
    if bias:
        weights["b"] = random.standard_normal(bias).astype(np.float32) * 5
        inputs.append("b")
    node = helper.make_node("Gemm", inputs, ["y"], **attributes)
    src = save(tmp_path / "g.onnx", [node], [value("x", "n", 64)], [value("y", "n", 40)], weights)
    assert recipes()["int8-weights"].applies(onnx.load(src), Given()) == ""
    out, _ = make("int8-weights", src)
    assert "Gemm" not in graphs.operator_counts(onnx.load(out))
    feed = {"x": random.standard_normal((5, 64)).astype(np.float32)}
    assert sqnr(outputs_of(src, feed)["y"], outputs_of(out, feed)["y"]) > 35


def test_a_matrix_of_two_nodes_is_stored_once(tmp_path: Path, outputs_of: Run) -> None:
    random = np.random.default_rng(0)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("MatMul", ["h", "w"], ["y"])]
    weights = {"w": random.standard_normal((64, 64)).astype(np.float32) / 8}
    src = save(tmp_path / "t.onnx", nodes, [value("x", "n", 64)], [value("y", "n", 64)], weights)
    out, parameters = make("int8-weights", src)
    assert parameters["matrices"] == "2" and len(onnx.load(out).graph.initializer) == 2
    feed = {"x": random.standard_normal((5, 64)).astype(np.float32)}
    assert sqnr(outputs_of(src, feed)["y"], outputs_of(out, feed)["y"]) > 35


def test_a_weight_that_another_node_reads_as_floats_stays_beside_its_blocks(tmp_path: Path, outputs_of: Run) -> None:
    random = np.random.default_rng(0)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Add", ["h", "w"], ["y"])]
    weights = {"w": random.standard_normal((64, 64)).astype(np.float32)}
    src = save(tmp_path / "t.onnx", nodes, [value("x", 64, 64)], [value("y", 64, 64)], weights)
    out, _ = make("int8-weights", src)
    feed = {"x": random.standard_normal((64, 64)).astype(np.float32)}
    assert sqnr(outputs_of(src, feed)["y"], outputs_of(out, feed)["y"]) > 35


def test_where_nothing_could_be_stored_in_blocks_it_says_why(conv_net: Path, trees: Path, tmp_path: Path) -> None:
    recipe = recipes()["int4"]
    assert recipe.applies(onnx.load(trees), Given()).startswith("it has no matrix multiplication with constant 32-bit")
    out, _ = make("int4", conv_net)
    assert recipe.applies(onnx.load(out), Given()) == "it is quantised already (MatMulNBits)"
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    weights = {"w": np.ones((8, 8), np.float32)}
    src = save(tmp_path / "m.onnx", [node], [value("x", "n", 8)], [value("y", "n", 8)], weights)
    assert recipe.applies(onnx.load(src), Given()).startswith("its matrix multiplications have too few weights")
    # A classifier on top of large convolutions: 1 % of the weights.
    weights = {"k": np.ones((64, 64, 5, 5), np.float32), "w": np.ones((64, 16), np.float32)}
    nodes = [
        helper.make_node("Conv", ["x", "k"], ["c"]),
        helper.make_node("GlobalAveragePool", ["c"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("MatMul", ["f", "w"], ["y"]),
    ]
    src = save(tmp_path / "c.onnx", nodes, [value("x", "n", 64, 9, 9)], [value("y", "n", 16)], weights)
    assert recipe.applies(onnx.load(src), Given()).startswith("only 1% of its weights are in matrix multiplications")


@pytest.mark.parametrize("name", BITS)
def test_a_graph_that_would_stay_the_same_is_refused(name: str, trees: Path) -> None:
    with pytest.raises(Refused, match="Nothing was quantised"):
        make(name, trees)
    assert not trees.with_name(f"trees-{name}.onnx").exists()
