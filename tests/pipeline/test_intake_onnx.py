"""ONNX arrivals through a real worker: what comes out, and how refusals read."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from studio.core.errors import InvalidInput, Refused, StepFailed, StudioError
from studio.core.settings import WorkerSettings
from tests.formats.graphs import finish, linear, outside, save, weights
from tests.pipeline.conftest import Runner, content


async def test_a_small_model_is_recognised_converted_and_checked(runner: Runner, tmp_path: Path) -> None:
    path = save(linear(), tmp_path / "linear.onnx")
    result = await runner.intake(path)
    assert result.format == "onnx"
    assert [spec.describe() for spec in result.signature.inputs] == ["x FP32 [batch × 4]"]
    assert [spec.describe() for spec in result.signature.outputs] == ["y FP32 [batch × 3]"]
    assert result.signature.batchable
    assert (result.graph.opset, result.graph.parameters, result.graph.operators) == (17, 12, {"MatMul": 1})
    assert content(result.graph_path) == path.read_bytes()
    assert result.graph.file.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert result.parity.batch_sizes == (1, 2, 5)
    assert (result.parity.inputs, result.samples_kind) == ("synthetic", "synthetic")
    assert result.sources == (str(path),)
    assert {"onnx", "onnxruntime", "numpy", "python"} <= result.tools.keys()
    steps = [step for step, _, _ in runner.told]
    assert sorted(set(steps), key=steps.index) == ["recognised", "converted", "checked"]
    assert [told[1] for told in runner.told if told[1] == 1.0] == [1.0, 1.0, 1.0]


async def test_a_worker_that_waited_does_the_same(runner: Runner, tmp_path: Path) -> None:
    path = save(linear(), tmp_path / "linear.onnx")
    cold, warm = await runner.intake(path), await runner.intake(path, preload=True)
    assert warm.graph == cold.graph
    assert warm.signature == cold.signature


async def test_samples_and_settings_beside_the_model_are_used(runner: Runner, tmp_path: Path) -> None:
    path = save(linear(), tmp_path / "linear.onnx")
    rows = weights(3, (50, 4))
    np.savez(tmp_path / "linear.npz", data=rows.astype(np.float64), labels=np.zeros(50, np.int64))
    (tmp_path / "linear.toml").write_text("title = 'Linear'\ntags = ['a']\nclass_labels = ['p', 'q', 'r']\n")
    result = await runner.intake(path, tmp_path / "linear.npz", tmp_path / "linear.toml")
    assert (result.title, result.tags, result.class_labels) == ("Linear", ("a",), ("p", "q", "r"))
    assert (result.samples_kind, result.samples_count, result.parity.inputs) == ("labelled", 50, "labelled")
    with np.load(result.samples_path) as kept:
        np.testing.assert_array_equal(kept["x"], rows)
        assert kept["x"].dtype == np.float32
        assert len(kept["labels"]) == 50
    body = json.loads(content(result.example_path))
    assert body["inputs"][0] | {"data": []} == {"name": "x", "shape": [1, 4], "datatype": "FP32", "data": []}
    np.testing.assert_array_equal(np.float32(body["inputs"][0]["data"]), rows[0])
    assert len(result.sources) == 3


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"x": np.zeros((5, 3), np.float32)}, "[5, 3]"),
        ({"wrong": np.zeros((5, 4), np.float32), "two": np.zeros(5)}, "The model takes x"),
        ({"x": np.array([["a"] * 4])}, "FP32"),
        ({"x": np.array([[{}] * 4], dtype=object)}, "Python objects"),
        ({"x": np.zeros((5, 4), np.float32), "labels": np.zeros(4)}, "labels"),
    ],
)
async def test_samples_that_do_not_fit_are_refused_in_words(
    runner: Runner, tmp_path: Path, arrays: dict[str, np.ndarray], words: str
) -> None:
    np.savez(tmp_path / "linear.npz", **arrays)
    with pytest.raises(InvalidInput) as caught:
        await runner.intake(save(linear(), tmp_path / "linear.onnx"), tmp_path / "linear.npz")
    assert words in str(caught.value)


async def test_labels_must_match_the_scores(runner: Runner, tmp_path: Path) -> None:
    (tmp_path / "linear.toml").write_text("class_labels = ['p', 'q']\n")
    with pytest.raises(InvalidInput, match="2 class labels"):
        await runner.intake(save(linear(), tmp_path / "linear.onnx"), tmp_path / "linear.toml")


async def test_external_data_comes_inside(runner: Runner, tmp_path: Path, format_row: Callable[..., None]) -> None:
    folder = tmp_path / "linear"
    folder.mkdir()
    save(outside("w.bin"), folder / "linear.onnx")
    (folder / "w.bin").write_bytes(weights().tobytes())
    started = time.perf_counter()
    result = await runner.intake(folder)
    format_row(format="ONNX", tried="external data", result=result, seconds=time.perf_counter() - started)
    assert result.weights_paths == ()
    assert set(result.sources) == {str(folder / "linear.onnx"), str(folder / "w.bin")}
    kept = onnx.load(result.graph_path, load_external_data=False).graph.initializer[0]
    np.testing.assert_array_equal(numpy_helper.to_array(kept), weights())


async def test_hostile_external_data_is_refused_before_a_runtime_sees_it(runner: Runner, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(weights().tobytes())
    folder = tmp_path / "linear"
    folder.mkdir()
    with pytest.raises(Refused, match="outside the model's folder"):
        await runner.intake(save(outside("../secret"), folder / "linear.onnx"))
    assert list((runner.scratch / "out").iterdir()) == []


def truncated(data: bytes) -> bytes:
    return data[: len(data) // 2]


def flipped(data: bytes) -> bytes:
    return bytes(byte ^ 0xFF for byte in data)


def no_graph(data: bytes) -> bytes:
    return b"\x08\x0a\x3a\x00"


def unknown_operator(data: bytes) -> bytes:
    return data.replace(b"MatMul", b"MutMal")


@pytest.mark.parametrize("spoil", [truncated, flipped, no_graph, unknown_operator, lambda data: b""])
async def test_damaged_files_are_refused_in_words(runner: Runner, tmp_path: Path, spoil: object) -> None:
    path = save(linear(), tmp_path / "linear.onnx")
    path.write_bytes(spoil(path.read_bytes()))  # type: ignore[operator]
    with pytest.raises(StudioError) as caught:
        await runner.intake(path)
    assert caught.value.code in ("invalid_input", "refused")
    assert caught.value.why or caught.value.fix


async def test_token_models_get_numbers_that_fit_their_table(runner: Runner, tmp_path: Path) -> None:
    table = numpy_helper.from_array(weights(0, (2, 3)), "table")
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "ids"], ["y"])],
        "tokens",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", "length"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", "length", 3])],
        [table],
    )
    result = await runner.intake(save(finish(graph), tmp_path / "tokens.onnx"))
    with np.load(result.samples_path) as kept:
        assert set(np.unique(kept["ids"])) <= {0, 1}
    assert result.signature.batchable


async def test_a_declared_batch_that_lies_is_not_believed(runner: Runner, tmp_path: Path) -> None:
    shape = numpy_helper.from_array(np.array([-1, 16], np.int64), "shape")
    graph = helper.make_graph(
        [helper.make_node("Reshape", ["x", "shape"], ["y"])],
        "fours",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 16])],
        [shape],
    )
    result = await runner.intake(save(finish(graph), tmp_path / "fours.onnx"))
    assert not result.signature.batchable
    assert result.parity.batch_sizes == (4, 8)
    assert any("not seen to equal" in note for note in result.notes)


async def test_sizes_from_the_settings_shape_made_up_inputs(runner: Runner, tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("GlobalAveragePool", ["x"], ["y"])],
        "pool",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, "height", "width"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3, 1, 1])],
    )
    (tmp_path / "pool.toml").write_text("[inputs.x]\nshape = [1, 3, 20, 24]\n")
    result = await runner.intake(save(finish(graph), tmp_path / "pool.onnx"), tmp_path / "pool.toml")
    with np.load(result.samples_path) as kept:
        assert kept["x"].shape[1:] == (3, 20, 24)


FORMAT_WITH_A_LIE = """
import shutil
from studio.formats.base import Case, Converted, Recognition

class Lying:
    name, title, extra = "lying", "Lying (.lie)", None

    def recognise(self, files):
        path = files.content[0]
        return Recognition(model=path, detail="a lie") if path.read_bytes().startswith(b"LIE") else None

    def convert(self, files, recognition, out_dir, kit):
        graph = out_dir / "model.onnx"
        graph.write_bytes(recognition.model.read_bytes()[3:])
        runs = next(kit.runs(kit.signature(graph)))
        outputs = [{name: value * 1.01 for name, value in out.items()} for out in kit.run(graph, runs)]
        cases = tuple(Case(inputs=feed, outputs=out) for feed, out in zip(runs, outputs))
        return Converted(graph=graph, cases=cases, sources=(recognition.model,))

FORMAT = Lying()
"""


async def test_a_conversion_that_strays_is_refused_with_the_figures(runner: Runner, tmp_path: Path, plugin) -> None:
    plugin(FORMAT_WITH_A_LIE, "[studio.formats]\nlying = odd_package:FORMAT\n")
    path = tmp_path / "model.lie"
    path.write_bytes(b"LIE" + linear().SerializeToString())
    with pytest.raises(Refused, match="does not answer as the original") as caught:
        await runner.intake(path)
    assert "0.001" in caught.value.why
    assert "0.0099" in caught.value.why or "0.01" in caught.value.why
    assert "npz" in caught.value.fix


async def test_a_loop_without_end_is_stopped(runner: Runner, tmp_path: Path) -> None:
    def value(name: str, kind: int) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, kind, [])

    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Add", ["s", "s"], ["t"])],
        "body",
        [value("i", TensorProto.INT64), value("go", TensorProto.BOOL), value("s", TensorProto.FLOAT)],
        [value("on", TensorProto.BOOL), value("t", TensorProto.FLOAT)],
    )
    graph = helper.make_graph(
        [helper.make_node("Loop", ["n", "yes", "x"], ["y"], body=body)],
        "endless",
        [value("x", TensorProto.FLOAT)],
        [value("y", TensorProto.FLOAT)],
        [numpy_helper.from_array(np.array(2**62), "n"), numpy_helper.from_array(np.array(True), "yes")],
    )
    runner.settings = WorkerSettings(cpu_seconds=3)
    with pytest.raises(StepFailed, match="processor time"):
        await runner.intake(save(finish(graph), tmp_path / "endless.onnx"))


@pytest.mark.parametrize("elements", [2**28, 2**36])
async def test_a_tensor_larger_than_memory_ends_in_words(runner: Runner, tmp_path: Path, elements: int) -> None:
    graph = helper.make_graph(
        [
            helper.make_node("Mul", ["n", "x"], ["shape"]),
            helper.make_node("ConstantOfShape", ["shape"], ["filled"]),
            helper.make_node("ReduceSum", ["filled"], ["y"], keepdims=0),
        ],
        "bomb",
        [helper.make_tensor_value_info("x", TensorProto.INT64, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [])],
        [numpy_helper.from_array(np.array([elements]), "n")],
    )
    np.savez(tmp_path / "bomb.npz", x=np.array([4]))
    runner.settings = WorkerSettings(memory_bytes=2 << 30)
    with pytest.raises(StepFailed, match="memory") as caught:
        await runner.intake(save(finish(graph), tmp_path / "bomb.onnx"), tmp_path / "bomb.npz")
    assert caught.value.fix
