"""Models that take one thing a run: a run is a row, whatever its leading size, and no batch is made up."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from studio.core.errors import InvalidInput
from studio.core.recipe import Plan, Step, plan_of
from studio.pipeline.lab import run_make, run_measure
from studio.pipeline.messages import IntakeResult, MeasureTask, VariantResult, VariantTask
from tests.formats.graphs import built, save, tensor, value, weights
from tests.pipeline.inprocess import take_in

ROWS = np.random.default_rng(3).standard_normal((100, 64)).astype(np.float32)


def vector() -> onnx.ModelProto:
    """Scores of 10 classes for one vector of 64 numbers."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "v"], ["y"]),
    ]
    constants = [tensor("w", weights(0, (64, 128))), tensor("v", weights(1, (128, 10)))]
    return built(nodes, [value("x", shape=[64])], [value("y", shape=[10])], constants)


def classes(rows: np.ndarray) -> np.ndarray:
    return np.asarray((np.maximum(rows @ weights(0, (64, 128)), 0) @ weights(1, (128, 10))).argmax(1))


def batch_second() -> onnx.ModelProto:
    """Eight steps of a sequence first, then the batch: scores [batch, 10]."""
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["m"], axes=[0], keepdims=0),
        helper.make_node("MatMul", ["m", "w"], ["y"]),
    ]
    constants = [tensor("w", weights(0, (4, 10)))]
    return built(nodes, [value("x", shape=[8, "n", 4])], [value("y", shape=["n", 10])], constants)


def task(intake: IntakeResult, out: Path, plan: Plan) -> VariantTask:
    return VariantTask(
        measure_seconds=1.0,
        plan=plan,
        reference=intake.graph_path,
        out=str(out),
        samples=intake.samples_path,
        kind=intake.samples_kind,
        batchable=intake.signature.batchable,
        reference_size=intake.graph.size,
    )


def reference(intake: IntakeResult, out: Path) -> VariantResult:
    return run_measure(MeasureTask(variant=task(intake, out, plan_of("fp32"))), lambda *_: None)


def check_one_at_a_time(result: VariantResult) -> None:
    assert result.measurement is not None
    assert [one.batch for one in result.measurement.latency] == [1] * len(result.measurement.latency)
    assert result.measurement.throughput_batch == 1
    assert result.measurement.throughput == pytest.approx(1000 / result.measurement.p50)
    assert "rows/s" not in result.verdict.sentence and "batch" not in result.verdict.sentence


def test_a_vector_is_one_row(tmp_path: Path) -> None:
    intake = take_in(save(vector(), tmp_path / "vector.onnx"))
    assert (intake.samples_count, intake.parity.samples, intake.parity.batch_sizes) == (64, 3, (1,))
    assert intake.parity.task == "classification" and not intake.signature.batchable
    found = reference(intake, tmp_path / "lab")
    check_one_at_a_time(found)
    assert found.fidelity is not None
    assert (found.fidelity.samples, found.fidelity.batch_sizes) == (64, (1,))
    assert (found.fidelity.task, found.fidelity.outputs[0].top1_agreement) == ("classification", 1.0)


def test_labels_are_one_a_run_and_rows_are_set_apart_by_runs(tmp_path: Path) -> None:
    np.savez(tmp_path / "vector.npz", x=ROWS, labels=classes(ROWS))
    intake = take_in(save(vector(), tmp_path / "vector.onnx"), tmp_path / "vector.npz")
    assert (intake.samples_kind, intake.samples_count, intake.parity.samples) == ("labelled", 100, 8)
    found = reference(intake, tmp_path / "lab")
    check_one_at_a_time(found)
    assert found.fidelity is not None
    assert (found.fidelity.samples, found.fidelity.reference_accuracy) == (50, 1.0)
    made = run_make(
        task(intake, tmp_path / "out", Plan(name="i", steps=(Step(recipe="int8-static"),))), lambda *_: None
    )
    assert made.fidelity is not None and made.fidelity.samples == 50
    assert made.fidelity.accuracy is not None and made.fidelity.accuracy > 0.8
    np.savez(tmp_path / "vector.npz", x=ROWS, labels=classes(ROWS)[:64])
    (tmp_path / "out-vector.onnx").rename(tmp_path / "earlier")
    with pytest.raises(InvalidInput, match="each of the 100 samples"):
        take_in(tmp_path / "vector.onnx", tmp_path / "vector.npz")


def test_labels_that_are_no_class_are_noted_without_a_batch_too(tmp_path: Path) -> None:
    np.savez(tmp_path / "vector.npz", x=ROWS, labels=classes(ROWS) + 50)
    intake = take_in(save(vector(), tmp_path / "vector.onnx"), tmp_path / "vector.npz")
    assert intake.samples_kind == "samples" and any("No accuracy is known" in note for note in intake.notes)


def test_a_batch_on_the_second_axis_is_no_number_of_steps(tmp_path: Path) -> None:
    path = save(batch_second(), tmp_path / "second.onnx")
    intake = take_in(path)
    found = reference(intake, tmp_path / "lab")
    check_one_at_a_time(found)
    assert found.fidelity is not None and found.fidelity.samples == intake.samples_count == 64
    rows = np.random.default_rng(0).standard_normal((8, 30, 4)).astype(np.float32)
    labels = (rows.mean(0) @ weights(0, (4, 10))).argmax(1)
    np.savez(tmp_path / "second.npz", x=rows, labels=labels)
    (tmp_path / "out-second.onnx").rename(tmp_path / "earlier")
    labelled = take_in(path, tmp_path / "second.npz")
    assert labelled.samples_count == 30
    found = reference(labelled, tmp_path / "lab2")
    check_one_at_a_time(found)
    assert found.fidelity is not None and (found.fidelity.samples, found.fidelity.accuracy) == (30, 1.0)


def test_a_fixed_batch_stays_one(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    graph = built(nodes, [value("x", shape=[8, 64])], [value("y", shape=[8, 10])], [tensor("w", weights(0, (64, 10)))])
    intake = take_in(save(graph, tmp_path / "eight.onnx"))
    found = reference(intake, tmp_path / "lab")
    assert found.measurement is not None and found.measurement.throughput_batch == 8
    assert found.fidelity is not None and found.fidelity.samples == 64 and "at batch 8" in found.verdict.sentence
