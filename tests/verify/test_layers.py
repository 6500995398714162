"""Where a variant broke: planted damage is found at the layer it was planted in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from studio.verify import layers as looking
from studio.verify.layers import layer_errors, worth_looking

from .conftest import value, write

DEPTH = 6


@pytest.fixture
def deep(tmp_path: Path) -> Callable[..., Path]:
    """`deep(name, hurt, how)`: six layers of MatMul and Relu; `how` says what becomes of the weights of one of them."""

    def build(name: str, hurt: int = -1, how: Callable[[np.ndarray], np.ndarray] = lambda weights: weights) -> Path:
        random = np.random.default_rng(0)
        weights = {f"w{n}": random.standard_normal((16, 16)).astype(np.float32) / 3 for n in range(DEPTH)}
        if hurt >= 0:
            weights[f"w{hurt}"] = how(weights[f"w{hurt}"]).astype(np.float32)
        nodes = []
        for n in range(DEPTH):
            nodes.append(helper.make_node("MatMul", [f"h{n}" if n else "x", f"w{n}"], [f"m{n}"], name=f"layer.{n}"))
            nodes.append(helper.make_node("Relu", [f"m{n}"], [f"h{n + 1}" if n + 1 < DEPTH else "y"], name=f"relu.{n}"))
        return write(tmp_path / f"{name}.onnx", nodes, [value("x", "batch", 16)], [value("y", "batch", 16)], weights)

    return build


def noisy(weights: np.ndarray) -> np.ndarray:
    return weights + 0.15 * np.random.default_rng(1).standard_normal(weights.shape)


@pytest.mark.parametrize("hurt", [0, 3, 5])
def test_the_layer_that_was_hurt_is_named_with_its_figures(deep, rows, hurt: int) -> None:
    found = layer_errors(deep("hurt", hurt, noisy), deep("whole"), rows)
    assert found is not None
    worst = found.worst[0]
    assert (worst.node, worst.operator, worst.tensor) == (f"layer.{hurt}", "MatMul", f"m{hurt}")
    assert worst.before_db is None and worst.sqnr_db is not None and worst.sqnr_db < 25
    assert worst.order == 2 * hurt + 1  # in the order of computation: every layer has two tensors
    assert found.sentence == f"breaks at MatMul 'layer.{hurt}': SQNR exact → {worst.sqnr_db:.0f} dB"
    assert (found.rows, found.compared) == (8, 2 * DEPTH) and len(found.worst) <= 10


def test_the_first_nan_is_where_it_breaks_and_not_what_comes_of_it(deep, rows) -> None:
    found = layer_errors(deep("nan", 2, lambda weights: np.where(weights > 0.6, np.nan, weights)), deep("whole"), rows)
    assert found is not None and found.worst[0].node == "layer.2" and found.worst[0].non_finite > 0
    assert found.sentence.startswith("breaks at MatMul 'layer.2': ") and "become NaN or infinite" in found.sentence


def test_an_equal_graph_broke_nowhere(deep, rows) -> None:
    assert layer_errors(deep("same"), deep("whole"), rows) is None


def test_quantised_and_halved_graphs_keep_their_names(deep, rows, tmp_path: Path) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.transformers.float16 import convert_float_to_float16

    class Rows(CalibrationDataReader):
        def __init__(self) -> None:
            self._left = iter([{"x": rows["x"][:64]}])

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self._left, None)

    reference = deep("whole")
    static = tmp_path / "static.onnx"
    quantize_static(
        reference, static, Rows(), QuantFormat.QDQ, activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8
    )
    found = layer_errors(static, reference, rows)
    # Relu is folded into the quantisation of what it follows, which takes its tensor's name.
    assert found is not None and found.compared == DEPTH
    assert all(error.sqnr_db is not None and error.sqnr_db > 25 for error in found.worst)
    assert {error.operator for error in found.worst} == {"MatMul"}
    assert found.sentence.startswith("loses most at ")
    half = tmp_path / "half.onnx"
    onnx.save(convert_float_to_float16(onnx.load(reference), keep_io_types=True), half)
    lost = layer_errors(half, reference, rows)
    assert lost is None or lost.worst[0].sqnr_db is None or lost.worst[0].sqnr_db > 39


def test_external_data_is_found_beside_the_graph(deep, rows, tmp_path: Path) -> None:
    outside = tmp_path / "outside" / "model.onnx"
    outside.parent.mkdir()
    onnx.save(
        onnx.load(deep("whole")),
        outside,
        save_as_external_data=True,
        location="w",
        size_threshold=0,
        convert_attribute=True,
    )
    assert (outside.parent / "w").stat().st_size > 1000
    found = layer_errors(deep("hurt", 3, noisy), outside, rows)
    assert found is not None and found.worst[0].node == "layer.3"


def test_many_tensors_go_in_several_runs_and_too_many_are_thinned_out(deep, rows, monkeypatch) -> None:
    hurt, whole = deep("hurt", 3, noisy), deep("whole")
    expected = layer_errors(hurt, whole, rows)
    monkeypatch.setattr(looking, "_FIRST_CHUNK", 2)
    monkeypatch.setattr(looking, "_LARGEST_CHUNK", 3)
    assert layer_errors(hurt, whole, rows) == expected
    monkeypatch.setattr(looking, "_MOST_TENSORS", DEPTH)
    found = layer_errors(hurt, whole, rows)
    assert found is not None and found.compared == DEPTH and found.worst[0].node == "layer.3"


def test_without_time_without_names_and_with_what_does_not_run_nothing_is_told(
    deep, rows, tmp_path: Path, monkeypatch
) -> None:
    hurt, whole = deep("hurt", 3, noisy), deep("whole")
    assert layer_errors(hurt, whole, rows, seconds=0) is None
    ticks = iter([0.0, 0.0, 0.0, 9.0, 9.0, 9.0])
    monkeypatch.setattr(looking.time, "monotonic", lambda: next(ticks))
    hasty = layer_errors(hurt, whole, rows, seconds=5)  # time ends after the second row
    assert hasty is not None and (hasty.rows, hasty.worst[0].node) == (2, "layer.3")
    monkeypatch.undo()
    renamed = onnx.load(hurt)
    for node in renamed.graph.node:
        node.input[:] = [name if name.startswith(("x", "w")) else f"other_{name}" for name in node.input]
        node.output[:] = [f"other_{name}" for name in node.output]
    renamed.graph.output[0].name = "other_y"
    onnx.save(renamed, tmp_path / "renamed.onnx")
    assert layer_errors(tmp_path / "renamed.onnx", whole, rows) is None
    broken = onnx.load(hurt)
    broken.graph.initializer[3].CopyFrom(numpy_helper.from_array(np.zeros((9, 9), np.float32), "w3"))
    onnx.save(broken, tmp_path / "broken.onnx")
    assert layer_errors(tmp_path / "broken.onnx", whole, rows) is None


def test_what_is_worth_looking_into() -> None:
    assert worth_looking([40.0, None], passed=False)
    assert worth_looking([40.0, 24.9], passed=True)
    assert not worth_looking([40.0, None], passed=True)
