"""TensorFlow's models in its own, real environment. It is made once and kept beside pytest's cache; the models are made
by the TensorFlow in it."""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from studio.core.errors import InvalidInput, NeedsSettings, Refused
from studio.pipeline.environments import ENVIRONMENTS, FOLDER_VARIABLE
from studio.pipeline.making import make
from studio.pipeline.messages import IntakeResult
from tests.pipeline.conftest import Runner

pytestmark = [pytest.mark.environment, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def python(request: pytest.FixtureRequest) -> Path:
    """The interpreter of TensorFlow's environment."""
    with pytest.MonkeyPatch.context() as patch:
        if FOLDER_VARIABLE not in os.environ:
            assert request.config.cache is not None
            patch.setenv(FOLDER_VARIABLE, str(request.config.cache.mkdir("environments")))
        return asyncio.run(make(ENVIRONMENTS["tensorflow"], lambda *_: None))


@pytest.fixture(scope="module")
def models(python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    script = Path(__file__).parents[1] / "formats" / "tensorflow_models.py"
    # Other tests may have chosen another backend for this process.
    environment = {**os.environ, "KERAS_BACKEND": "tensorflow"}
    subprocess.run([python, script, folder], check=True, capture_output=True, env=environment)
    return folder


@pytest.fixture
def tf_runner(runner: Runner, python: Path) -> Runner:
    runner.python = python
    return runner


def check(result: IntakeResult, expected: Path, within: float = 1e-4) -> None:
    """The graph against what TensorFlow answered on rows that the conversion has not seen."""
    session = ort.InferenceSession(result.graph_path, providers=["CPUExecutionProvider"])
    with np.load(expected) as kept:
        feed = {name[3:]: kept[name] for name in kept.files if name.startswith("in_")}
        answers = {name[4:]: kept[name] for name in kept.files if name.startswith("out_")}
    assert {one.name for one in session.get_inputs()} == set(feed)
    found = dict(zip([one.name for one in session.get_outputs()], session.run(None, feed), strict=True))
    assert set(found) <= set(answers)
    for name, own in found.items():
        scale = float(np.abs(answers[name]).max()) or 1.0
        np.testing.assert_allclose(own, answers[name], atol=within * scale)


@pytest.mark.parametrize(
    ("name", "inputs"),
    [
        ("convolutions", ["image FP32 [batch × 12 × 12 × 3]"]),
        ("recurrent", ["words INT32 [batch × length]"]),
        ("attention", ["tokens FP32 [batch × 6 × 8]"]),
        ("several", ["left FP32 [batch × 4]", "right FP32 [batch × 3]"]),
        ("loop", ["times INT32 [scalar]", "x FP32 [batch × 3]"]),
        ("old", ["x FP32 [batch × 3]"]),
    ],
)
async def test_saved_models(tf_runner: Runner, models: Path, format_row: Any, name: str, inputs: list[str]) -> None:
    started = time.perf_counter()
    result = await tf_runner.intake(models / name)
    format_row(format="TensorFlow", tried=f"SavedModel: {name}", result=result, seconds=time.perf_counter() - started)
    assert result.format == "tensorflow"
    assert [spec.describe() for spec in result.signature.inputs] == inputs
    assert result.parity.batch_sizes == (1, 2, 5) and result.parity.worst is not None
    assert result.parity.worst.max_rel < 1e-4
    assert result.tools["tf2onnx"] and any(name.startswith("tensorflow") for name in result.tools)
    check(result, models / f"{name}.expected.npz")


async def test_a_frozen_graph_answers_at_its_ends_or_where_the_settings_say(
    tf_runner: Runner, models: Path, format_row: Any, tmp_path: Path
) -> None:
    started = time.perf_counter()
    result = await tf_runner.intake(models / "frozen.pb")
    format_row(format="TensorFlow", tried="frozen graph", result=result, seconds=time.perf_counter() - started)
    assert [spec.describe() for spec in result.signature.outputs] == ["label INT64 [batch]"]
    check(result, models / "frozen.expected.npz")
    settings = tmp_path / "frozen.toml"
    settings.write_text('outputs = ["scores", "label"]\n')
    result = await tf_runner.intake(models / "frozen.pb", settings)
    assert [spec.name for spec in result.signature.outputs] == ["scores", "label"]
    check(result, models / "frozen.expected.npz")


async def test_a_graph_without_shapes_asks_for_them(tf_runner: Runner, models: Path, tmp_path: Path) -> None:
    with pytest.raises(NeedsSettings) as caught:
        await tf_runner.intake(models / "shapeless.pb")
    assert caught.value.missing_inputs == ("anything",)
    settings = tmp_path / "shapeless.toml"
    settings.write_text('[inputs.anything]\nshape = ["batch", 4]\n')
    result = await tf_runner.intake(models / "shapeless.pb", settings)
    assert [spec.describe() for spec in result.signature.inputs] == ["anything FP32 [batch × 4]"]


@pytest.mark.parametrize(
    ("name", "quantised"),
    [("float", False), ("half", False), ("weights", True), ("int8", True), ("int8-all", True), ("one-row", False)],
)
async def test_tensorflow_lite(tf_runner: Runner, models: Path, format_row: Any, name: str, quantised: bool) -> None:
    started = time.perf_counter()
    result = await tf_runner.intake(models / f"{name}.tflite")
    format_row(format="TensorFlow Lite", tried=name, result=result, seconds=time.perf_counter() - started)
    assert result.format == "tflite"
    worst = result.parity.worst
    assert worst is not None
    assert quantised or worst.max_rel < 1e-4
    assert [spec.name for spec in result.signature.inputs] == ["image"]
    assert result.signature.inputs[0].shape[0] == "batch" and result.parity.batch_sizes == (1, 2, 5)
    assert result.signature.batchable
    kinds = {node.op_type for node in onnx.load(result.graph_path).graph.node}
    assert ("QuantizeLinear" in kinds) is name.startswith("int8")
    assert "DynamicQuantizeLinear" not in kinds
    assert any("rounded to steps" in note for note in result.notes) is name.startswith("int8")
    assert any("as it runs" in note for note in result.notes) is (name == "weights")
    assert any("batch was made free" in note for note in result.notes) is (name == "one-row")


async def test_the_settings_choose_among_signatures(tf_runner: Runner, models: Path, tmp_path: Path) -> None:
    said = tmp_path / "unnamed.toml"
    said.write_text('signature = "other"\n')
    result = await tf_runner.intake(models / "unnamed", said)
    assert [spec.name for spec in result.signature.inputs] == ["left"]
    said.write_text('signature = "third"\n')
    with pytest.raises(Refused, match="no signature 'third'") as caught:
        await tf_runner.intake(models / "unnamed", said)
    assert "one, other" in caught.value.why and 'signature = "one"' in caught.value.fix


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("unnamed", "no signature 'serving_default'"),
        ("text", "StaticRegexReplace"),
        ("variables.pb", "variables are elsewhere"),
        ("flex.tflite", "no part of TensorFlow Lite: Flex"),
    ],
)
async def test_what_can_not_be_converted_says_why(tf_runner: Runner, models: Path, name: str, words: str) -> None:
    with pytest.raises(Refused, match=words) as caught:
        await tf_runner.intake(models / name)
    assert caught.value.fix


async def test_damaged_files_give_words(tf_runner: Runner, models: Path, tmp_path: Path) -> None:
    for name in ("int8.tflite", "frozen.pb"):
        data = (models / name).read_bytes()
        cut = tmp_path / name
        cut.write_bytes(data[: len(data) // 2])
        with pytest.raises((InvalidInput, Refused)) as caught:
            await tf_runner.intake(cut)
        assert caught.value.what and (caught.value.fix or caught.value.why)
