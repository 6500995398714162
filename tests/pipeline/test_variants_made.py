"""Recipes that learn from samples, and plans of several, through real workers in their sandbox."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from studio.core.recipe import Plan, Step
from studio.core.settings import WorkerSettings
from studio.pipeline.messages import IntakeResult, VariantResult, VariantTask
from studio.pipeline.variants import make_variant
from tests.formats.graphs import save
from tests.pipeline.conftest import Runner
from tests.pipeline.test_variants import wide


async def made(runner: Runner, intake: IntakeResult, plan: Plan) -> VariantResult:
    scratch = runner.root / f"lab-{plan.name}"
    scratch.mkdir()
    task = VariantTask(
        measure_seconds=1.0,
        plan=plan,
        reference=intake.graph_path,
        out=str(scratch / "out"),
        samples=intake.samples_path,
        kind=intake.samples_kind,
        batchable=intake.signature.batchable,
        reference_size=intake.graph.size,
    )
    settings, log = WorkerSettings(wall_seconds=120), runner.root / "lab.log"
    return await make_variant(settings, scratch, log, task, intake.machine, lambda *told: runner.told.append(told))


def samples(path: Path, rows: int) -> Path:
    np.savez(path, x=np.random.default_rng(0).standard_normal((rows, 64)).astype(np.float32))
    return path


async def test_static_quantisation_learns_from_rows_that_are_not_judged(runner: Runner, tmp_path: Path) -> None:
    graph = save(wide(), tmp_path / "wide.onnx")
    intake = await runner.intake(graph, samples(tmp_path / "wide.npz", 64))
    plan = Plan(name="mine", steps=(Step(recipe="int8-static", options={"rows": 16}),))
    result = await made(runner, intake, plan)
    assert result.graph is not None and result.graph.size < 0.5 * intake.graph.size
    assert result.fidelity is not None and result.fidelity.inputs == "samples" and result.fidelity.samples == 32
    assert result.parameters["calibration"] == "16 rows, samples" and result.parameters["rows"] == "16"
    assert result.parameters["max_kept"] == "0.5" and result.parameters["mixed"] == "yes"  # defaults are recorded too
    assert "keep" not in result.parameters  # nothing was named
    assert result.tools["onnxruntime"] and result.tools["onnx"]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (0, "needs real samples: ranges learnt from made-up inputs"),
        (1, "it has 1 row of samples to calibrate with, and needs 16"),
        (15, "it has 15 rows of samples to calibrate with, and needs 16"),
        (20, "it has 10 rows of samples to calibrate with, and needs 16, beside as many to judge on"),
    ],
)
async def test_static_quantisation_without_enough_samples_says_so(
    rows: int, words: str, runner: Runner, tmp_path: Path
) -> None:
    files = [save(wide(), tmp_path / "wide.onnx"), *([samples(tmp_path / "wide.npz", rows)] if rows else [])]
    result = await made(
        runner, await runner.intake(*files), Plan(name="int8-static", steps=(Step(recipe="int8-static"),))
    )
    assert result.verdict.outcome == "not applicable" and words in result.verdict.sentence
    assert ".npz" in result.verdict.sentence and "studio record" in result.verdict.sentence
    assert result.graph is None and result.wants_samples


async def test_the_steps_of_a_plan_follow_each_other(runner: Runner, tmp_path: Path) -> None:
    intake = await runner.intake(save(wide(), tmp_path / "wide.onnx"))
    steps = (Step(recipe="sparse", options={"amount": 0.1}), Step(recipe="int8"))
    result = await made(runner, intake, Plan(name="thin", steps=steps))
    assert result.parameters["sparse: amount"] == "0.1" and result.parameters["sparse: zeros"].startswith("10.0% of")
    assert result.parameters["int8: operators"] == "MatMul × 2"
    assert result.graph is not None and result.graph.size < 0.5 * intake.graph.size
    assert result.verdict.sentence.startswith("thin")
    wrong_way = Plan(name="wrong", steps=(Step(recipe="int8"), Step(recipe="sparse")))
    result = await made(runner, intake, wrong_way)
    assert result.verdict.outcome == "not applicable"
    assert "sparse: it is quantised already" in result.verdict.sentence and not result.wants_samples
