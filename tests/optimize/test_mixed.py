"""Mixed precision: each layer's damage, and the fewest layers that stay in 32 bits for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from studio.core.manifest import Gate, Verdict
from studio.optimize import graphs, layers, qdq, sensitivity
from studio.optimize.calibration import calibrate

from .conftest import Run, save, value
from .test_int8_static import evidence, images, make, sqnr


def verdict(passed: bool) -> Verdict:
    gate = Gate(name="cosine", rule="cosine ≥ 0.99", value=1.0 if passed else 0.0, passed=passed)
    return Verdict(outcome="keep" if passed else "reject", sentence="", gates=(gate,))


@pytest.fixture
def sensitive_net(tmp_path: Path) -> Path:
    """Eight layers in a row; the fourth has one output channel a thousand times the rest, which 8 bits then drown."""
    random = np.random.default_rng(0)
    weights = {f"w{at}": random.standard_normal((32, 32)).astype(np.float32) / 6 for at in range(8)}
    weights["w3"][:, 0] *= 1000
    weights["w4"][0, :] /= 1000
    nodes = []
    for at in range(8):
        nodes.append(
            helper.make_node("MatMul", ["x" if at == 0 else f"r{at - 1}", f"w{at}"], [f"h{at}"], name=f"l{at}")
        )
        nodes.append(helper.make_node("Tanh" if at < 3 else "Relu", [f"h{at}"], ["y" if at == 7 else f"r{at}"]))
    return save(tmp_path / "sensitive.onnx", nodes, [value("x", "n", 32)], [value("y", "n", 32)], weights)


def test_the_layer_that_does_the_damage_stays_in_32_bits(sensitive_net: Path, outputs_of: Run) -> None:
    rows = images(64, 1, 32)
    reference = outputs_of(sensitive_net, rows)["y"]
    asked = []

    def judge(path: Path) -> Verdict:
        asked.append(sqnr(reference, outputs_of(path, rows)["y"]))
        return verdict(asked[-1] > 20)

    out, parameters = make(sensitive_net, evidence(rows), judge)
    assert asked[0] < 10  # ruined with all layers quantised
    assert parameters["layers kept"] == "l4" and parameters["layers quantised"] == "7 of 8"
    assert parameters["gates on the calibration rows"] == "held with the 1 worst layers kept"
    assert parameters["damage by layer"].startswith("l4 ") and parameters["layers measured"] == "8 of 8"
    test = images(64, 2, 32)
    assert sqnr(outputs_of(sensitive_net, test)["y"], outputs_of(out, test)["y"]) > 20
    untouched, parameters = make(sensitive_net, evidence(rows), judge, mixed=False)
    assert parameters["layers kept"] == "none" and "damage by layer" not in parameters
    assert sqnr(outputs_of(sensitive_net, test)["y"], outputs_of(untouched, test)["y"]) < 10


def test_layers_are_measured_only_where_the_gates_do_not_hold(
    residual_net: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sensitivity, "damages", lambda *args: pytest.fail("nothing was wrong"))
    _, parameters = make(residual_net, evidence(images(64, 1, 3, 12, 12)), lambda path: verdict(True))
    assert parameters["gates on the calibration rows"] == "held with every layer quantised"


def test_ranges_serve_any_number_of_times(residual_net: Path, tmp_path: Path) -> None:
    # The quantiser moves the ranges in front of activations; those of a layer that is kept next time would be wrong.
    model = graphs.tidied(residual_net, tmp_path / "tidied.onnx")
    runs = [images(16, 1, 3, 12, 12)]
    ranges = calibrate(tmp_path / "tidied.onnx", layers.operators_of(model), runs, "minmax", tmp_path)
    before = dict(ranges.by_tensor)
    qdq.quantise(qdq.with_types(model), ranges, layers.layers_of(model))
    assert ranges.by_tensor.keys() == before.keys()
    assert all(ranges.by_tensor[name] is data for name, data in before.items())


def test_gates_that_never_hold_are_told_and_leave_the_plain_variant(sensitive_net: Path) -> None:
    asked = []
    _, parameters = make(sensitive_net, evidence(images(64, 1, 32)), lambda path: asked.append(path) or verdict(False))
    assert parameters["gates on the calibration rows"] == "not held, even with the 4 worst layers kept"
    assert parameters["layers kept"] == "none" and len(asked) == 2


def test_measuring_layers_ends_with_its_time_and_says_how_far_it_came(sensitive_net: Path) -> None:
    _, parameters = make(sensitive_net, evidence(images(64, 1, 32)), lambda path: verdict(False), seconds=0.0)
    assert parameters["layers measured"] == "1 of 8"


@pytest.mark.parametrize("needed", [1, 2, 3, 5, 8])
def test_the_fewest_layers_are_found_by_halving(needed: int) -> None:
    asked: list[int] = []

    def holds(count: int) -> bool:
        asked.append(count)
        return count >= needed

    assert sensitivity.fewest_kept(8, holds) == needed and len(asked) <= 4
    assert sensitivity.fewest_kept(needed - 1, holds) is None


def test_damage_counts_floats_by_power_and_the_rest_by_share() -> None:
    floats, whole = np.float32([[3, 4]]), np.int64([[1, 2, 3, 4]])
    assert sensitivity.damage_of([[floats]], [[floats + np.float32([[0, 0.5]])]]) == pytest.approx(0.01)
    assert sensitivity.damage_of([[floats, whole]], [[floats, whole + 1]]) == 0
    assert sensitivity.damage_of([[whole]], [[np.int64([[1, 2, 3, 5]])]]) == 0.25
    assert sensitivity.damage_of([[floats]], [[floats * np.nan]]) == float("inf")
    assert sensitivity.decibels(0.001) == "30.0 dB" and sensitivity.decibels(0) == "∞ dB"
