"""ONNX files of every age: which are run as they are, which are upgraded or lowered, and what is said of the rest."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from studio.core.errors import Refused
from studio.formats.onnx.upgrade import limits
from tests.formats.graphs import built, convolutional, save, tensor, value
from tests.pipeline.conftest import Runner, content
from tests.pipeline.inprocess import answers, take_in, timed

X = np.random.default_rng(1).standard_normal((3, 3, 8, 8)).astype(np.float32)


@pytest.mark.parametrize(("opset", "ir"), [(7, 3), (9, 4), (11, 6), (12, 7)])
def test_an_old_model_is_upgraded_and_answers_the_same(
    tmp_path: Path, opset: int, ir: int, format_row: Callable[..., None]
) -> None:
    path = save(convolutional(opset, ir), tmp_path / "old.onnx")
    result, seconds = timed(lambda: take_in(path))
    assert result.graph.opset == 17
    np.testing.assert_allclose(answers(result.graph_path, {"x": X})["y"], answers(path, {"x": X})["y"], rtol=1e-5)
    assert [spec.describe() for spec in result.signature.inputs] == ["x FP32 [n × 3 × 8 × 8]"]
    assert [spec.describe() for spec in result.signature.outputs] == ["y FP32 [n × 5]"]
    assert result.signature.batchable
    assert result.parity.batch_sizes == (1, 2, 5)
    assert result.sources == (str(path),)
    assert any(f"from opset {opset} to 17" in note and "opset 13" in note for note in result.notes)
    format_row(format="ONNX", tried=f"convolutional network, opset {opset}", result=result, seconds=seconds)


@pytest.mark.parametrize("opset", [13, 17, 21])
def test_a_model_of_today_is_left_byte_for_byte(tmp_path: Path, opset: int, format_row: Callable[..., None]) -> None:
    path = save(convolutional(opset, 8 if opset < 21 else 10), tmp_path / "today.onnx")
    result, seconds = timed(lambda: take_in(path))
    assert content(result.graph_path) == path.read_bytes()
    assert (result.graph.opset, result.notes) == (opset, ())
    format_row(format="ONNX", tried=f"convolutional network, opset {opset}", result=result, seconds=seconds)


def by_hand(x: np.ndarray, model: onnx.ModelProto) -> np.ndarray:
    """What the network of opset 6 computes, in numpy: no runtime takes it."""
    w = {one.name: onnx.numpy_helper.to_array(one).astype(np.float64) for one in model.graph.initializer}
    padded = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    c = np.einsum("nchwij,ocij->nohw", windows, w["w"]) - w["b"].reshape(4, 1, 1)
    s, t, m, v = (w[name].reshape(4, 1, 1) for name in "stmv")
    e = np.maximum(s * (c - m) / np.sqrt(v + 1e-5) + t, 0)
    h = e.reshape(len(x), 4, 4, 2, 4, 2).max(axis=(3, 5)).mean(axis=(2, 3))
    k = np.exp(h @ w["w2"] + w["b2"])
    return np.asarray(k / k.sum(axis=1, keepdims=True))


def test_opset_6_is_upgraded_with_its_operands_aligned_as_it_means(
    tmp_path: Path, format_row: Callable[..., None]
) -> None:
    model = convolutional(6, 3)
    path = save(model, tmp_path / "six.onnx")
    result, seconds = timed(lambda: take_in(path))
    assert result.graph.opset == 17
    np.testing.assert_allclose(answers(result.graph_path, {"x": X})["y"], by_hand(X, model), rtol=1e-4)
    assert result.signature.inputs[0].shape == ("n", 3, 8, 8)
    assert (result.signature.batchable, result.parity.batch_sizes) == (True, (1, 2, 5))
    assert any("does not run opset 6" in note for note in result.notes)
    assert any("reference implementation of onnx" in note for note in result.notes)
    format_row(format="ONNX", tried="convolutional network, opset 6", result=result, seconds=seconds)


def test_what_no_one_can_upgrade_is_refused_with_both_versions(tmp_path: Path) -> None:
    # An operator of opset 6 whose shapes nothing tells: the converter can not align its operands.
    nodes = [
        helper.make_node("Reshape", ["x", "s"], ["r"]),
        helper.make_node("Add", ["r", "b"], ["y"], broadcast=1, axis=1),
    ]
    inputs = [value("x"), value("s", TensorProto.INT64, [3])]
    model = built(nodes, inputs, [value("y", shape=None)], [tensor("b", np.ones(2, np.float32))], opset=6, ir=4)
    with pytest.raises(Refused, match="uses opset 6") as caught:
        take_in(save(model, tmp_path / "six.onnx"))
    assert "opset 7 and later" in caught.value.why


@pytest.mark.parametrize("case", ["alone", "with channels"])
def test_slopes_of_opset_6_are_one_a_channel(tmp_path: Path, case: str) -> None:
    shape = ("n", 3) if case == "alone" else ("n", 3, 2, 2)
    slopes = np.float32([0.1, 0.2, 0.3])
    node = helper.make_node("PRelu", ["x", "b"], ["y"])
    model = built([node], [value("x", shape=shape)], [value("y", shape=shape)], [tensor("b", slopes)], opset=6, ir=4)
    result = take_in(save(model, tmp_path / "slopes.onnx"))
    x = np.random.default_rng(2).standard_normal((4, *shape[1:])).astype(np.float32)
    expected = np.where(x < 0, x * slopes.reshape(3, *(1,) * (x.ndim - 2)), x)
    np.testing.assert_allclose(answers(result.graph_path, {"x": x})["y"], expected, rtol=1e-6)


def test_what_nothing_runs_unchanged_is_not_taken_unchecked(tmp_path: Path) -> None:
    # The converter knows Upsample of opset 6, and its result runs; nothing here runs the original.
    node = helper.make_node("Upsample", ["x"], ["y"], height_scale=2.0, width_scale=2.0, mode="nearest")
    inputs, outputs = [value("x", shape=("n", 3, 4, 4))], [value("y", shape=("n", 3, 8, 8))]
    with pytest.raises(Refused, match="nothing here runs it unchanged") as caught:
        take_in(save(built([node], inputs, outputs, opset=6, ir=4), tmp_path / "up.onnx"))
    assert "opset 6" in caught.value.why
    assert "Upsample" in caught.value.why


def test_a_header_alone_need_not_be_checked_by_another(tmp_path: Path) -> None:
    # onnx.reference has no operators of ONNX Runtime's own; the graph itself is the same in both opsets.
    node = helper.make_node("FusedMatMul", ["x", "w"], ["y"], domain="com.microsoft")
    model = built(
        [node],
        [value("x")],
        [value("y", shape=("n", 3))],
        [tensor("w", np.ones((4, 3), np.float32))],
        opset=28,
        ir=14,
        domains={"com.microsoft": 1},
    )
    result = take_in(save(model, tmp_path / "own.onnx"))
    assert result.graph.opset == limits().opset
    assert any("compared with itself" in note for note in result.notes)


def test_the_newest_exporter_s_defaults_are_lowered(tmp_path: Path, format_row: Callable[..., None]) -> None:
    model = convolutional(onnx.defs.onnx_opset_version(), onnx.IR_VERSION)
    path = save(model, tmp_path / "new.onnx")
    result, seconds = timed(lambda: take_in(path))
    known = limits()
    assert known.opset < onnx.defs.onnx_opset_version()
    assert (result.graph.opset, result.graph.ir_version) == (known.opset, known.ir)
    same = save(convolutional(21, 10), tmp_path / "same.onnx")
    np.testing.assert_allclose(answers(result.graph_path, {"x": X})["y"], answers(same, {"x": X})["y"], rtol=1e-5)
    words = " ".join(result.notes)
    for number in (onnx.IR_VERSION, known.ir, onnx.defs.onnx_opset_version(), known.opset):
        assert f" {number}" in words
    newest = f"convolutional network, opset {onnx.defs.onnx_opset_version()}"
    format_row(format="ONNX", tried=newest, result=result, seconds=seconds)


def test_an_operator_that_changed_is_converted_back(tmp_path: Path) -> None:
    nodes = [helper.make_node("Mod", ["x", "k"], ["y"], fmod=1)]
    model = built(nodes, [value("x")], [value("y")], [tensor("k", np.float32([0.3]))], opset=28, ir=14)
    result = take_in(save(model, tmp_path / "mod.onnx"))
    x = np.random.default_rng(2).standard_normal((3, 4)).astype(np.float32)
    np.testing.assert_allclose(answers(result.graph_path, {"x": x})["y"], np.fmod(x, np.float32(0.3)), rtol=1e-6)
    assert any("defines Mod differently" in note for note in result.notes)


def test_a_new_ir_version_alone_is_lowered_and_an_old_opset_still_upgraded(tmp_path: Path) -> None:
    path = save(convolutional(9, onnx.IR_VERSION), tmp_path / "odd.onnx")
    result = take_in(path)
    assert (result.graph.opset, result.graph.ir_version) == (17, limits().ir)
    same = save(convolutional(9, 4), tmp_path / "same.onnx")
    np.testing.assert_allclose(answers(result.graph_path, {"x": X})["y"], answers(same, {"x": X})["y"], rtol=1e-5)
    assert [child.name for child in Path(result.graph_path).parent.glob("*.onnx")] == ["model.onnx"]


def relu(**versions: int) -> onnx.ModelProto:
    return built([helper.make_node("Relu", ["x"], ["y"])], [value("x")], [value("y")], **versions)


def test_a_model_that_names_no_operator_set_is_of_opset_1(tmp_path: Path) -> None:
    model = relu(opset=6, ir=2)
    model.ClearField("opset_import")
    result = take_in(save(model, tmp_path / "first.onnx"))
    assert result.graph.opset == 17
    assert any("names no operator set" in note for note in result.notes)


def test_a_function_comes_inlined_into_what_is_upgraded(tmp_path: Path) -> None:
    body = [helper.make_node("Softmax", ["a"], ["c"], axis=1)]
    function = helper.make_function("own", "F", ["a"], ["c"], body, [helper.make_opsetid("", 9)])
    node = helper.make_node("F", ["x"], ["y"], domain="own")
    shape = ("n", 3, 4)
    inputs, outputs = [value("x", shape=shape)], [value("y", shape=shape)]
    path = save(built([node], inputs, outputs, opset=9, domains={"own": 1}, functions=[function]), tmp_path / "f.onnx")
    result = take_in(path)
    assert result.graph.opset == 17
    x = np.random.default_rng(2).standard_normal((2, 3, 4)).astype(np.float32)
    # Up to opset 12, Softmax takes all dimensions from the axis on together.
    whole = np.exp(x) / np.exp(x).sum(axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(answers(result.graph_path, {"x": x})["y"], whole, rtol=1e-5)


def test_an_upgrade_that_strays_is_not_used(tmp_path: Path) -> None:
    # The converter makes Upsample a Resize of other coordinates, which differ between linear neighbours.
    node = helper.make_node("Upsample", ["x", "s"], ["y"], mode="linear")
    scales = tensor("s", np.float32([1, 1, 2, 2]))
    inputs, outputs = [value("x", shape=("n", 3, 8, 8))], [value("y", shape=("n", 3, 16, 16))]
    path = save(built([node], inputs, outputs, [scales], opset=9, ir=4), tmp_path / "up.onnx")
    result = take_in(path)
    assert content(result.graph_path) == path.read_bytes()
    assert any("stays at opset 9" in note and "opset 13" in note for note in result.notes)


def test_large_weights_survive_an_upgrade(tmp_path: Path) -> None:
    w = np.random.default_rng(3).standard_normal((300, 200)).astype(np.float32)
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    inputs, outputs = [value("x", shape=("n", 300))], [value("y", shape=("n", 200))]
    path = save(built([node], inputs, outputs, [tensor("w", w)], opset=9, ir=4), tmp_path / "wide.onnx")
    result = take_in(path)
    assert result.graph.opset == 17
    kept = onnx.load(result.graph_path, load_external_data=False).graph.initializer[0]
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(kept), w)


def custom(domain: str, operator: str = "Foo", opset: int = 17) -> onnx.ModelProto:
    node = helper.make_node(operator, ["x", "x"] if operator == "SwiGLU" else ["x"], ["y"], domain=domain)
    return built([node], [value("x")], [value("y")], opset=opset, ir=8, domains={domain: 1} if domain else {})


REFUSED = {
    "a library's operator": (custom("com.acme"), ("'Foo'", "'com.acme'", "library")),
    "an operator of another build": (custom("com.microsoft"), ("'Foo'", "'com.microsoft'")),
    "no operator at all": (custom(""), ("'Foo'", "no operator of ONNX")),
    "an operator of a later opset": (custom("", "SwiGLU", 21), ("'SwiGLU'", "opset 21", "version 28")),
    "a new operator": (custom("", "SwiGLU", 28), ("opset 28", "opset 26", "SwiGLU")),
    "an opset of the future": (relu(opset=99, ir=8), ("opset 99", "opset 26")),
    "a kernel that is not there": (
        built(
            [helper.make_node("Det", ["x"], ["y"])],
            [value("x", TensorProto.DOUBLE, ("n", 2, 2))],
            [value("y", TensorProto.DOUBLE, ("n",))],
        ),
        ("'Det'", "on the CPU"),
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_can_not_run_is_refused_naming_operator_and_version(tmp_path: Path, case: str) -> None:
    model, words = REFUSED[case]
    with pytest.raises(Refused) as caught:
        take_in(save(model, tmp_path / "odd.onnx"))
    said = str(caught.value)
    for word in words:
        assert word in said
    assert caught.value.why
    assert caught.value.fix
    assert "/onnxruntime_src" not in said
    assert str(tmp_path) not in said


async def test_the_sandbox_changes_nothing_of_it(runner: Runner, tmp_path: Path) -> None:
    old = await runner.intake(save(convolutional(6, 3), tmp_path / "old.onnx"))
    new = await runner.intake(save(convolutional(28, 14), tmp_path / "new.onnx"))
    assert (old.graph.opset, new.graph.opset) == (17, limits().opset)
