"""Variants through real workers: evidence for what works, words for what does not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from studio.core.recipe import plan_of
from studio.core.settings import WorkerSettings
from studio.pipeline.messages import IntakeResult, VariantResult, VariantTask
from studio.pipeline.variants import make_variant
from tests.formats.graphs import finish, linear, save, weights
from tests.pipeline.conftest import Runner, content


def wide() -> object:
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["h"]),
            helper.make_node("Relu", ["h"], ["r"]),
            helper.make_node("MatMul", ["r", "v"], ["y"]),
        ],
        "wide",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 8])],
        [numpy_helper.from_array(weights(0, (64, 256)), "w"), numpy_helper.from_array(weights(1, (256, 8)), "v")],
    )
    return finish(graph)


async def variant(runner: Runner, intake: IntakeResult, recipe: str) -> VariantResult:
    scratch = runner.root / f"lab-{recipe}"
    scratch.mkdir()
    task = VariantTask(
        plan=plan_of(recipe),
        reference=intake.graph_path,
        out=str(scratch / "out"),
        samples=intake.samples_path,
        kind=intake.samples_kind,
        batchable=intake.signature.batchable,
        reference_size=intake.graph.size,
    )
    settings, log = WorkerSettings(wall_seconds=120), runner.root / "lab.log"
    return await make_variant(settings, scratch, log, task, intake.machine, lambda *told: runner.told.append(told))


async def test_a_variant_comes_with_its_evidence(runner: Runner, tmp_path: Path) -> None:
    intake = await runner.intake(save(wide(), tmp_path / "wide.onnx"))
    reference = await variant(runner, intake, "fp32")
    assert reference.verdict.outcome == "reference"
    assert reference.graph is None
    assert reference.measurement is not None and reference.measurement.speedup is None
    runner.told.clear()
    half = await variant(runner, intake, "fp16")
    assert half.graph is not None and half.graph.size < intake.graph.size
    assert len(content(half.graph_path)) == half.graph.file.size
    assert half.fidelity is not None and half.fidelity.inputs == "synthetic"
    assert half.fidelity.worst is not None and half.fidelity.worst.max_rel < 0.01
    assert half.measurement is not None and half.measurement.speedup is not None
    assert half.verdict.sentence.startswith("fp16")
    assert half.parameters["weights"] == "float16"
    steps = [step for step, _, _ in runner.told]
    assert sorted(set(steps), key=steps.index) == ["optimised", "verified", "measured"]


async def test_a_recipe_that_does_not_apply_says_why(runner: Runner, tmp_path: Path) -> None:
    result = await variant(runner, await runner.intake(save(linear(), tmp_path / "linear.onnx")), "fp16")
    assert result.verdict.outcome == "not applicable"
    assert "too few" in result.verdict.sentence
    assert result.graph is None


CRASHING = """
import ctypes
from studio.optimize.base import Recipe

RECIPE = Recipe(name="crash", title="Crash", applies=lambda model, given: "", apply=lambda work: ctypes.string_at(0))
"""


@pytest.mark.parametrize(("recipe", "words"), [("crash", "crashed (SIGSEGV)"), ("nonsense", "no recipe 'nonsense'")])
async def test_a_recipe_that_fails_is_a_rejected_variant(
    runner: Runner, tmp_path: Path, plugin, recipe: str, words: str
) -> None:
    plugin(CRASHING, "[studio.recipes]\ncrash = odd_package:RECIPE\n")
    intake = await runner.intake(save(linear(), tmp_path / "linear.onnx"))
    result = await variant(runner, intake, recipe)
    assert result.verdict.outcome == "reject"
    assert words in result.verdict.sentence
    assert (result.graph, result.machine) == (None, intake.machine)


async def test_labels_give_accuracy(runner: Runner, tmp_path: Path) -> None:
    rows = weights(5, (100, 64))
    hidden = np.maximum(rows @ weights(0, (64, 256)), 0) @ weights(1, (256, 8))
    np.savez(tmp_path / "wide.npz", x=rows, labels=hidden.argmax(1))
    intake = await runner.intake(save(wide(), tmp_path / "wide.onnx"), tmp_path / "wide.npz")
    result = await variant(runner, intake, "fp16")
    assert result.fidelity is not None
    assert result.fidelity.reference_accuracy == 1.0
    assert result.fidelity.accuracy is not None and result.fidelity.accuracy >= 0.98
