"""ONNX in other clothes: Triton folders, and ONNX Runtime's own format."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from studio.core.errors import InvalidInput, NeedsSettings, Refused, StepFailed
from studio.core.recipe import plan_of
from studio.core.settings import WorkerSettings
from studio.pipeline.messages import MeasureTask, VariantTask
from studio.pipeline.process import spawn_worker
from tests.formats.graphs import built, convolutional, linear, outside, tensor, value, weights
from tests.formats.triton import CONFIG, model_folder
from tests.pipeline.conftest import Runner, content
from tests.pipeline.inprocess import answers, take_in, timed


async def test_a_triton_folder_becomes_a_version(
    runner: Runner, tmp_path: Path, format_row: Callable[..., None]
) -> None:
    folder = model_folder(tmp_path / "linear", versions={"1": convolutional(17, 8), "3": linear()})
    result = await runner.intake(folder)
    assert (result.format, result.graph.opset) == ("triton", 17)
    assert content(result.graph_path) == (folder / "3" / "model.onnx").read_bytes()
    assert result.class_labels == ("cat", "dog", "hen")
    assert set(result.sources) == {str(folder / "3" / "model.onnx"), str(folder / "config.pbtxt")}
    assert any("also holds version 1. Version 3 was taken" in note for note in result.notes)
    assert any("dynamic_batching" in note for note in result.notes)
    assert not any("differ" in note for note in result.notes)
    again, seconds = timed(lambda: take_in(folder))
    assert again.signature == result.signature
    format_row(format="Triton folder", tried="ONNX, two versions, class labels", result=again, seconds=seconds)


def test_what_the_configuration_says_otherwise_is_told_and_the_graph_decides(tmp_path: Path) -> None:
    config = CONFIG.replace("dims: [ 4 ]", "dims: [ 5 ]").replace('"y"', '"scores"')
    result = take_in(model_folder(tmp_path / "linear", config))
    note = next(note for note in result.notes if "differ" in note)
    assert "'x' is [-1, 5] there, and [-1, 4] in the graph" in note
    assert "no output 'scores'" in note
    assert [spec.describe() for spec in result.signature.inputs] == ["x FP32 [batch × 4]"]


def test_a_type_that_differs_and_an_input_left_out_are_told(tmp_path: Path) -> None:
    node = helper.make_node("Add", ["a", "b"], ["y"])
    model = built([node], [value("a"), value("b")], [value("y")])
    config = 'max_batch_size: 8 input { name: "a" data_type: TYPE_INT64 dims: [4] }'
    note = next(n for n in take_in(model_folder(tmp_path / "m", config, {"1": model})).notes if "differ" in n)
    assert "'a' is INT64 there, and FP32 in the graph" in note
    assert "the input 'b' is not in it" in note


def test_free_sizes_are_those_of_the_configuration(tmp_path: Path) -> None:
    shape = ("n", 3, "height", "width")
    node = helper.make_node("GlobalAveragePool", ["x"], ["y"])
    model = built([node], [value("x", shape=shape)], [value("y", shape=("n", 3, 1, 1))])
    config = 'backend: "onnxruntime" max_batch_size: 8 input { name: "x" data_type: TYPE_FP32 dims: [3, 20, -1] }'
    result = take_in(model_folder(tmp_path / "pool", config, {"1": model}))
    with np.load(result.samples_path) as kept:
        assert kept["x"].shape[1:] == (3, 20, 32)
    assert [spec.describe() for spec in result.signature.inputs] == ["x FP32 [n × 3 × height × width]"]


def test_a_shape_that_the_graph_does_not_tell_is_the_configuration_s(tmp_path: Path) -> None:
    node = helper.make_node("Relu", ["x"], ["y"])
    model = built([node], [value("x", shape=None)], [value("y", shape=None)])
    with pytest.raises(NeedsSettings):
        take_in(model_folder(tmp_path / "bare", "", {"1": model}))
    config = 'max_batch_size: 8 input { name: "x" data_type: TYPE_FP32 dims: [6] }'
    result = take_in(model_folder(tmp_path / "told", config, {"1": model}))
    assert [spec.describe() for spec in result.signature.inputs] == ["x FP32 [batch × 6]"]


def test_external_data_in_a_version_folder_comes_along(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m", versions={"1": outside("w.bin")})
    (folder / "1" / "w.bin").write_bytes(weights().tobytes())
    result = take_in(folder)
    assert str(folder / "1" / "w.bin") in result.sources
    x = weights(1, (2, 4))
    np.testing.assert_allclose(answers(result.graph_path, {"x": x})["y"], x @ weights(), rtol=1e-6)


@pytest.mark.parametrize("name", ["missing.txt", "../secret.txt", "/etc/hostname"])
def test_labels_are_read_from_the_folder_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / "secret.txt").write_text("a\nb\nc\n")
    result = take_in(model_folder(tmp_path / "m", CONFIG.replace("labels.txt", name)))
    assert result.class_labels == ()
    assert any("labels file" in note for note in result.notes)


# -- .ort


def to_ort(model: onnx.ModelProto, path: Path) -> Path:
    """What ONNX Runtime's own converter does: load a graph and save it in the runtime's format."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(path)
    options.add_session_config_entry("session.save_model_format", "ORT")
    ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return path


async def test_an_ort_file_is_served_and_nothing_else(
    runner: Runner, tmp_path: Path, format_row: Callable[..., None]
) -> None:
    path = to_ort(linear(), tmp_path / "linear.ort")
    result = await runner.intake(path)
    assert result.format == "ort"
    assert content(result.graph_path) == path.read_bytes()
    assert "neither changed nor turned back" in result.serve_only
    assert any("compared with itself" in note for note in result.notes)
    assert [spec.describe() for spec in result.signature.inputs] == ["x FP32 [batch × 4]"]
    assert (result.signature.batchable, result.parity.batch_sizes) == (True, (1, 2, 5))
    assert (result.graph.opset, result.graph.parameters, result.graph.operators) == (17, 12, {"MatMul": 1})
    again, seconds = timed(lambda: take_in(path))
    format_row(format="ONNX Runtime (.ort)", tried="matrix product", result=again, seconds=seconds)


async def test_the_reference_of_an_ort_file_is_measured_from_a_blob_without_an_ending(
    runner: Runner, tmp_path: Path
) -> None:
    result = await runner.intake(to_ort(linear(), tmp_path / "linear.ort"))
    blob = tmp_path / result.graph.file.sha256
    blob.write_bytes(content(result.graph_path))
    task = VariantTask(
        measure_seconds=1.0,
        plan=plan_of("fp32"),
        reference=str(blob),
        out=str(tmp_path / "lab" / "out"),
        samples=result.samples_path,
        kind=result.samples_kind,
        batchable=True,
        reference_size=result.graph.size,
    )
    scratch = tmp_path / "lab"
    scratch.mkdir()
    async with spawn_worker(WorkerSettings(), scratch, tmp_path / "lab.log", "lab") as worker:
        measured = await worker.run(MeasureTask(variant=task))
    assert measured.measurement is not None
    assert measured.verdict.outcome == "reference"


async def test_damaged_ort_files_end_in_words(runner: Runner, tmp_path: Path) -> None:
    whole = to_ort(convolutional(17, 8), tmp_path / "whole.ort").read_bytes()
    spoilt = tmp_path / "spoilt.ort"
    spoilt.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InvalidInput, match="can not load") as caught:
        await runner.intake(spoilt)
    assert "convert_onnx_models_to_ort" in caught.value.fix
    assert "/onnxruntime_src" not in caught.value.why


def test_any_flipped_byte_of_an_ort_file_is_taken_or_refused(tmp_path: Path) -> None:
    """Facts are read from the file too, and must not be what fails."""
    whole = to_ort(linear(), tmp_path / "whole.ort").read_bytes()
    for at in range(8, len(whole), 37):
        path = tmp_path / f"{at}.ort"
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
        try:
            take_in(path)
        except (InvalidInput, Refused, StepFailed) as error:
            assert error.why
            continue


def test_an_ort_file_that_takes_what_can_not_be_served_is_refused(tmp_path: Path) -> None:
    node = helper.make_node("SplitToSequence", ["x"], ["y"], axis=1)
    model = built([node], [value("x")], [helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, None)])
    with pytest.raises(Refused, match=r"seq\(tensor\(float\)\)"):
        take_in(to_ort(model, tmp_path / "sequence.ort"))


def test_two_ort_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "both").mkdir()
    for name in "ab":
        to_ort(linear(), tmp_path / "both" / f"{name}.ort")
    with pytest.raises(InvalidInput, match="2 ONNX Runtime files"):
        take_in(tmp_path / "both")


def test_an_ort_file_whose_inputs_must_be_told_says_so(tmp_path: Path) -> None:
    node = helper.make_node("Reshape", ["x", "s"], ["y"])
    model = built([node], [value("x")], [value("y", shape=(7, 3))], [tensor("s", np.array([7, 3]))])
    with pytest.raises(StepFailed, match="did not run on any") as caught:
        take_in(to_ort(model, tmp_path / "shaper.ort"))
    assert "shaper.npz" in caught.value.fix
