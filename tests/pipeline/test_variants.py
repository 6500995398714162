"""Variants through real workers: evidence for what works, words for what does not."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import numpy as np
import psutil
import pytest
from onnx import TensorProto, helper, numpy_helper

from studio.core.recipe import plan_of
from studio.core.settings import WorkerSettings
from studio.pipeline.messages import IntakeResult, VariantResult, VariantTask
from studio.pipeline.variants import Hold, make_variant
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


async def variant(
    runner: Runner, intake: IntakeResult, recipe: str, graph: str = "", hold: Hold | None = None
) -> VariantResult:
    scratch = runner.root / f"lab-{recipe}"
    scratch.mkdir()
    task = VariantTask(
        measure_seconds=1.0,
        plan=plan_of(recipe),
        reference=intake.graph_path,
        out=str(scratch / "out"),
        samples=intake.samples_path,
        kind=intake.samples_kind,
        batchable=intake.signature.batchable,
        reference_size=intake.graph.size,
        graph=graph,
    )
    settings, log = WorkerSettings(wall_seconds=120), runner.root / "lab.log"
    return await make_variant(
        settings, scratch, log, task, intake.machine, lambda *told: runner.told.append(told), hold=hold
    )


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


SLOW = """
import time
from pathlib import Path
from studio.optimize.base import Recipe


def apply(work):
    for turn in range(60):
        work.report(turn / 60, "counting")
        time.sleep(0.02)
    Path(work.out).write_bytes(Path(work.src).read_bytes())
    return {}


RECIPE = Recipe(name="slow", title="Slow", applies=lambda model, given: "", apply=apply)
"""


async def test_work_that_is_held_stands_still_and_goes_on(runner: Runner, tmp_path: Path, plugin) -> None:
    plugin(SLOW, "[studio.recipes]\nslow = odd_package:RECIPE\n")
    intake = await runner.intake(save(linear(), tmp_path / "linear.onnx"))
    hold, begun = Hold(), asyncio.Event()
    scratch = runner.root / "held"
    scratch.mkdir()
    told: list[float] = []

    def tell(step: str, share: float | None, detail: str) -> None:
        told.append(share or 0.0)
        if detail == "counting":
            begun.set()

    task = VariantTask(
        measure_seconds=1.0,
        plan=plan_of("slow"),
        reference=intake.graph_path,
        out=str(scratch / "out"),
        samples=intake.samples_path,
        kind=intake.samples_kind,
        batchable=intake.signature.batchable,
        reference_size=intake.graph.size,
    )
    # Less time on the clock than it is held for: the clock stands still too.
    settings = WorkerSettings(wall_seconds=20)
    making = asyncio.create_task(
        make_variant(settings, scratch, runner.root / "lab.log", task, intake.machine, tell, hold=hold)
    )
    await begun.wait()
    hold.stop()
    assert hold.on
    (pid,) = [process.pid for process in psutil.Process().children(recursive=True) if process.name() == "studio-worker"]
    while psutil.Process(pid).status() != psutil.STATUS_STOPPED:  # noqa: ASYNC110 - the kernel tells of it no other way
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)  # what it had sent before it was stopped arrives
    count = len(told)
    await asyncio.sleep(0.3)
    assert len(told) == count and not making.done()
    hold.release()
    result = await making
    assert result.verdict.outcome == "not distinguishable" and told[-1] == 1.0


async def test_a_cancelled_lab_leaves_no_stopped_worker(runner: Runner, tmp_path: Path, plugin) -> None:
    plugin(SLOW, "[studio.recipes]\nslow = odd_package:RECIPE\n")
    intake = await runner.intake(save(linear(), tmp_path / "linear.onnx"))
    hold = Hold()
    hold.stop()
    making = asyncio.create_task(variant(runner, intake, "slow", hold=hold))
    await asyncio.sleep(0.05)
    assert not making.done()  # it does not even start
    making.cancel()
    with pytest.raises(asyncio.CancelledError):
        await making
    names = [process.name() for process in psutil.Process().children(recursive=True)]
    assert "studio-worker" not in names


async def test_what_was_made_is_judged_again_and_not_made_again(runner: Runner, tmp_path: Path) -> None:
    intake = await runner.intake(save(wide(), tmp_path / "wide.onnx"))
    half = await variant(runner, intake, "fp16")
    assert half.graph is not None
    shutil.copy(half.graph_path, tmp_path / "kept.onnx")
    shutil.rmtree(runner.root / "lab-fp16")
    runner.told.clear()
    again = await variant(runner, intake, "fp16", graph=str(tmp_path / "kept.onnx"))
    assert again.graph is not None and again.graph.file.sha256 == half.graph.file.sha256
    assert again.fidelity == half.fidelity
    assert again.measurement is not None and again.measurement.speedup is not None
    assert "optimised" not in {step for step, _, _ in runner.told}
