"""What ONNX graphs take and give: odd shapes and types, dictionaries, sequences; and what can not be served."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from studio.core.errors import InvalidInput, NeedsSettings, Refused, StepFailed
from tests.formats.graphs import built, save, tensor, value
from tests.pipeline.conftest import content
from tests.pipeline.inprocess import answers, take_in, timed

X = np.random.default_rng(1).standard_normal((3, 4)).astype(np.float32)
ML = {"ai.onnx.ml": 1}


def sequence(name: str = "y", kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_sequence_value_info(name, kind, None)


def optional(name: str, inner: onnx.TypeProto | None = None) -> onnx.ValueInfoProto:
    inner = inner or helper.make_tensor_type_proto(TensorProto.FLOAT, ["n", 4])
    return helper.make_value_info(name, helper.make_optional_type_proto(inner))


def dictionaries(name: str, key: int) -> onnx.ValueInfoProto:
    inner = helper.make_map_type_proto(key, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
    return helper.make_value_info(name, helper.make_sequence_type_proto(inner))


def zip_map(opset: int = 17, **labels: Any) -> onnx.ModelProto:
    key = TensorProto.INT64 if "classlabels_int64s" in labels else TensorProto.STRING
    nodes = [
        helper.make_node("Softmax", ["x"], ["scores"], axis=1),
        helper.make_node("ZipMap", ["scores"], ["y"], domain="ai.onnx.ml", **labels),
    ]
    return built(nodes, [value("x")], [dictionaries("y", key)], opset=opset, ir=4, domains=ML)


@pytest.mark.parametrize("opset", [9, 17])
def test_a_list_of_dictionaries_becomes_rows_of_scores(
    tmp_path: Path, opset: int, format_row: Callable[..., None]
) -> None:
    path = save(zip_map(opset, classlabels_strings=["cat", "dog", "hen", "owl"]), tmp_path / "zip.onnx")
    result, seconds = timed(lambda: take_in(path))
    original = answers(path, {"x": X})["y"]
    ours = answers(result.graph_path, {"x": X})["y"]
    np.testing.assert_allclose(ours, [[row[label] for label in result.class_labels] for row in original], rtol=1e-6)
    assert result.class_labels == ("cat", "dog", "hen", "owl")
    assert [spec.describe() for spec in result.signature.outputs] == ["y FP32 [n × 4]"]
    assert result.signature.batchable
    assert "ai.onnx.ml.ZipMap" not in result.graph.operators
    assert any("list of dictionaries" in note for note in result.notes)
    format_row(format="ONNX", tried=f"classifier with ZipMap, opset {opset}", result=result, seconds=seconds)


def test_labels_that_only_count_are_no_labels(tmp_path: Path) -> None:
    counted = take_in(save(zip_map(classlabels_int64s=[0, 1, 2, 3]), tmp_path / "counted.onnx"))
    named = take_in(save(zip_map(classlabels_int64s=[3, 5, 8, 9]), tmp_path / "named.onnx"))
    assert (counted.class_labels, named.class_labels) == ((), ("3", "5", "8", "9"))


def split(axis: int, keepdims: int = 1, kind: int = TensorProto.FLOAT) -> onnx.ModelProto:
    node = helper.make_node("SplitToSequence", ["x"], ["y"], axis=axis, keepdims=keepdims)
    return built([node], [value("x", kind)], [sequence(kind=kind)])


def pair(opset: int) -> onnx.ModelProto:
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("Neg", ["x"], ["b"]),
        helper.make_node("SequenceConstruct", ["a", "b"], ["y"]),
    ]
    return built(nodes, [value("x")], [sequence()], opset=opset, ir=6)


# Model, and the axis along which rows stay first: of tensors that have rows 1, of a tensor for each row 0.
SEQUENCES = {
    "columns": (split(1), 1),
    "rows": (split(0, keepdims=0), 0),
    "rows with a size of 1": (split(0), 0),
    "two tensors": (pair(17), 1),
    "two tensors, opset 11": (pair(11), 1),
    "strings": (split(1, kind=TensorProto.STRING), 1),
}


@pytest.mark.parametrize("case", SEQUENCES)
def test_a_sequence_becomes_one_tensor_with_rows_first(
    tmp_path: Path, case: str, format_row: Callable[..., None]
) -> None:
    model, axis = SEQUENCES[case]
    path = save(model, tmp_path / "sequence.onnx")
    result, seconds = timed(lambda: take_in(path))
    x = X if case != "strings" else X.astype(np.str_).astype(object)
    whole = answers(result.graph_path, {"x": x})["y"]
    np.testing.assert_array_equal(whole, np.stack(answers(path, {"x": x})["y"], axis=axis))
    assert len(whole) == len(X)
    assert result.signature.batchable
    assert result.signature.outputs[0].shape[0] == "n"
    assert result.parity.batch_sizes == (1, 2, 5)
    assert any("sequence of tensors" in note for note in result.notes)
    format_row(format="ONNX", tried=f"sequence output: {case}", result=result, seconds=seconds)


def test_an_optional_output_is_what_it_holds(tmp_path: Path) -> None:
    result = take_in(
        save(built([helper.make_node("Optional", ["x"], ["y"])], [value("x")], [optional("y")]), tmp_path / "o.onnx")
    )
    np.testing.assert_array_equal(answers(result.graph_path, {"x": X})["y"], X)
    nodes = [
        helper.make_node("SplitToSequence", ["x"], ["s"], axis=1),
        helper.make_node("Optional", ["s"], ["y"]),
    ]
    kind = helper.make_sequence_type_proto(helper.make_tensor_type_proto(TensorProto.FLOAT, None))
    both = take_in(save(built(nodes, [value("x")], [optional("y", kind)]), tmp_path / "both.onnx"))
    np.testing.assert_array_equal(answers(both.graph_path, {"x": X})["y"][:, :, 0], X)


def identity(kind: int, out: int | None = None, opset: int = 21) -> onnx.ModelProto:
    node = helper.make_node("Identity", ["x"], ["y"])
    if out is not None:
        node = helper.make_node("Cast", ["x"], ["y"], to=out)
    return built([node], [value("x", kind)], [value("y", out or kind)], opset=opset, ir=10)


TYPES = {
    "BOOL": TensorProto.BOOL,
    "UINT8": TensorProto.UINT8,
    "UINT64": TensorProto.UINT64,
    "INT8": TensorProto.INT8,
    "FP16": TensorProto.FLOAT16,
    "BF16": TensorProto.BFLOAT16,
    "FP64": TensorProto.DOUBLE,
    "BYTES": TensorProto.STRING,
}


@pytest.mark.parametrize("datatype", TYPES)
def test_every_type_that_answers_can_carry_is_taken(
    tmp_path: Path, datatype: str, format_row: Callable[..., None]
) -> None:
    path = save(identity(TYPES[datatype]), tmp_path / "typed.onnx")
    result, seconds = timed(lambda: take_in(path))
    assert [spec.datatype for spec in (*result.signature.inputs, *result.signature.outputs)] == [datatype] * 2
    assert result.signature.batchable
    assert content(result.graph_path) == path.read_bytes()
    if datatype in ("BYTES", "FP16", "BF16"):
        format_row(format="ONNX", tried=f"{datatype} in and out", result=result, seconds=seconds)


REFUSED = {
    "a sequence input": (
        built([helper.make_node("ConcatFromSequence", ["x"], ["y"], axis=0)], [sequence("x")], [value("y")]),
        ("input 'x'", "seq(tensor(float))"),
    ),
    "a dictionary input": (
        built(
            [helper.make_node("DictVectorizer", ["x"], ["y"], domain="ai.onnx.ml", string_vocabulary=["a"])],
            [
                helper.make_value_info(
                    "x", helper.make_map_type_proto(TensorProto.STRING, helper.make_tensor_type_proto(1, []))
                )
            ],
            [value("y")],
            domains=ML,
        ),
        ("input 'x'", "map(string,tensor(float))", "DictVectorizer"),
    ),
    "an optional input": (
        built([helper.make_node("OptionalGetElement", ["x"], ["y"])], [optional("x")], [value("y")]),
        ("input 'x'", "optional("),
    ),
    "a complex input": (identity(TensorProto.COMPLEX64), ("input 'x'", "tensor(complex64)")),
    "an 8-bit float output": (identity(TensorProto.FLOAT, TensorProto.FLOAT8E4M3FN), ("output 'y'", "float8", "cast")),
    "a 4-bit output": (identity(TensorProto.FLOAT, TensorProto.INT4), ("output 'y'", "tensor(int4)", "cast")),
    "no input": (
        built([helper.make_node("Constant", [], ["y"], value_float=1.0)], [], [value("y", shape=[])]),
        ("takes nothing", "no inputs"),
    ),
    "default values alone": (
        built(
            [helper.make_node("Relu", ["x"], ["y"])], [value("x")], [value("y")], [tensor("x", np.ones((1, 4), "f"))]
        ),
        ("takes nothing", "default value"),
    ),
    "no output": (built([helper.make_node("Relu", ["x"], ["y"])], [value("x")], []), ("gives nothing",)),
    "tensors of unlike shapes": (
        built(
            [helper.make_node("SplitToSequence", ["x", "sizes"], ["y"], axis=1)],
            [value("x")],
            [sequence()],
            [tensor("sizes", np.array([1, 3]))],
        ),
        ("output 'y'", "[1, 1]", "[1, 3]"),
    ),
    "an empty sequence": (
        built([helper.make_node("SequenceEmpty", [], ["y"])], [value("x")], [sequence()]),
        ("output 'y'", "empty"),
    ),
    "an optional that holds nothing": (
        built(
            [helper.make_node("Optional", [], ["y"], type=helper.make_tensor_type_proto(1, ["n", 4]))],
            [value("x")],
            [optional("y")],
        ),
        ("output 'y'", "held nothing"),
    ),
    "a name with a NUL": (
        built([helper.make_node("Relu", ["a\0b"], ["y"])], [value("a\0b")], [value("y")]),
        ("name that can not be kept",),
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_can_not_be_served_is_refused_by_name_and_type(tmp_path: Path, case: str) -> None:
    model, words = REFUSED[case]
    with pytest.raises(Refused) as caught:
        take_in(save(model, tmp_path / "odd.onnx"))
    for word in words:
        assert word in str(caught.value)
    assert caught.value.fix


def relu(inputs: list[onnx.ValueInfoProto], outputs: list[onnx.ValueInfoProto]) -> onnx.ModelProto:
    return built([helper.make_node("Relu", [inputs[0].name], [outputs[0].name])], inputs, outputs)


SHAPES: dict[str, tuple[list[Any], str]] = {
    "one number": ([], "x FP32 [scalar]"),
    "no batch": ([4], "x FP32 [4]"),
    "an image without a batch": ([3, 8, 8], "x FP32 [3 × 8 × 8]"),
    "a negative size": ([-1, 4], "x FP32 [? × 4]"),
    "a size of 0": ([0, 4], "x FP32 [? × 4]"),
    "sizes of one name": (["n", "n"], "x FP32 [n × n]"),
}


@pytest.mark.parametrize("case", SHAPES)
def test_odd_shapes_are_taken(tmp_path: Path, case: str, format_row: Callable[..., None]) -> None:
    shape, described = SHAPES[case]
    path = save(relu([value("x", shape=shape)], [value("y", shape=shape)]), tmp_path / "odd.onnx")
    result, seconds = timed(lambda: take_in(path))
    assert [spec.describe() for spec in result.signature.inputs] == [described]
    assert result.signature.batchable == ("?" in described)
    assert any("made free" in note for note in result.notes) == (case == "a size of 0")
    with np.load(result.samples_path) as kept:
        assert kept["x"].ndim == len(shape)
    if case in ("one number", "no batch"):
        format_row(format="ONNX", tried=f"input of {case}", result=result, seconds=seconds)


def test_samples_of_a_model_without_a_batch_may_have_one(tmp_path: Path) -> None:
    path = save(relu([value("x", shape=[3, 2])], [value("y", shape=[3, 2])]), tmp_path / "one.onnx")
    rows = np.random.default_rng(5).standard_normal((6, 3, 2)).astype(np.float32)
    np.savez(tmp_path / "one.npz", x=rows)
    result = take_in(path, tmp_path / "one.npz")
    with np.load(result.samples_path) as kept:
        np.testing.assert_array_equal(kept["x"], rows.reshape(18, 2))
    np.savez(tmp_path / "one.npz", x=rows[:, :, :1])
    (tmp_path / "out-one.onnx").rename(tmp_path / "earlier")
    with pytest.raises(InvalidInput, match=r"\[6, 3, 1\]") as caught:
        take_in(path, tmp_path / "one.npz")
    assert "in front" in caught.value.why


def test_two_inputs_and_outputs_of_their_own_ranks(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["a", "b"], ["y"]), helper.make_node("ReduceSum", ["a"], ["z"], keepdims=0)]
    inputs = [value("a", shape=("n", 3, 4)), value("b", shape=("n", 4, 5))]
    outputs = [value("y", shape=("n", 3, 5)), value("z", shape=[])]
    result = take_in(save(built(nodes, inputs, outputs), tmp_path / "two.onnx"))
    assert [spec.describe() for spec in result.signature.outputs] == ["y FP32 [n × 3 × 5]", "z FP32 [scalar]"]
    assert not result.signature.batchable  # the sum has no rows


def test_a_shape_that_nothing_tells_is_asked_for(tmp_path: Path) -> None:
    path = save(relu([value("in put", shape=None)], [value("y", shape=None)]), tmp_path / "bare.onnx")
    with pytest.raises(NeedsSettings) as caught:
        take_in(path)
    assert caught.value.missing_inputs == ("in put",)
    assert [hint.describe() for hint in caught.value.hints] == ["in put FP32 [scalar]"]
    (tmp_path / "bare.toml").write_text('[inputs."in put"]\nshape = ["rows", 7]\n')
    result = take_in(path, tmp_path / "bare.toml")
    assert [spec.describe() for spec in result.signature.inputs] == ["in put FP32 [rows × 7]"]
    assert result.signature.batchable
    np.savez(tmp_path / "bare.npz", data=np.zeros((9, 3), np.float32))
    (tmp_path / "out-bare.onnx").rename(tmp_path / "earlier")
    sampled = take_in(path, tmp_path / "bare.npz")
    assert (sampled.samples_count, len(sampled.signature.inputs[0].shape)) == (9, 2)


@pytest.mark.parametrize("ir", [3, 8])
def test_inputs_with_default_values_are_not_asked_for(tmp_path: Path, ir: int) -> None:
    node = helper.make_node("Add", ["x", "k"], ["y"])
    inputs = [value("x"), value("k", shape=[1])]
    model = built([node], inputs, [value("y")], [tensor("k", np.float32([2]))], opset=17, ir=ir)
    result = take_in(save(model, tmp_path / "default.onnx"))
    assert [spec.name for spec in result.signature.inputs] == ["x"]
    np.testing.assert_array_equal(answers(result.graph_path, {"x": X})["y"], X + 2)


def test_an_output_named_twice_is_answered_once(tmp_path: Path) -> None:
    result = take_in(save(relu([value("x")], [value("y"), value("y")]), tmp_path / "twice.onnx"))
    assert [spec.name for spec in result.signature.outputs] == ["y"]
    assert any("more than once" in note for note in result.notes)


def test_made_up_strings_are_those_that_the_graph_knows(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Identity", ["colour"], ["c"]),
        helper.make_node("OneHotEncoder", ["c"], ["y"], domain="ai.onnx.ml", cats_strings=["red", "green"], zeros=0),
        helper.make_node(
            "LabelEncoder", ["size"], ["z"], domain="ai.onnx.ml", keys_strings=["S", "XL"], values_int64s=[1, 2]
        ),
    ]
    inputs = [value("colour", TensorProto.STRING, ("n", 1)), value("size", TensorProto.STRING, ("n",))]
    outputs = [value("y", shape=("n", 1, 2)), value("z", TensorProto.INT64, ("n",))]
    # zeros=0: an unknown colour is an error.
    model = built(nodes, inputs, outputs, domains={"ai.onnx.ml": 2})
    result = take_in(save(model, tmp_path / "words.onnx"))
    with np.load(result.samples_path) as kept:
        assert set(kept["colour"].ravel()) == {"red", "green"}
        assert set(kept["size"]) == {"S", "XL"}


def noise(outputs: list[str]) -> onnx.ModelProto:
    nodes = [
        helper.make_node("RandomNormalLike", ["x"], ["r"]),
        helper.make_node("Add", ["x", "r"], ["y"]),
        helper.make_node("Relu", ["x"], ["z"]),
    ]
    return built(nodes, [value("x")], [value(name) for name in outputs])


def test_answers_that_change_from_run_to_run_are_noticed(tmp_path: Path) -> None:
    result = take_in(save(noise(["y", "z"]), tmp_path / "noise.onnx"))
    assert any("'y' differs from run to run" in note for note in result.notes)
    assert [out.name for out in result.parity.outputs] == ["z"]
    assert not result.signature.batchable
    alone = take_in(save(noise(["y"]), tmp_path / "alone.onnx"))
    assert alone.parity.outputs == ()


def test_dropout_left_in_training_mode_is_noticed(tmp_path: Path) -> None:
    node = helper.make_node("Dropout", ["x", "ratio", "training"], ["y"])
    constants = [tensor("ratio", np.float32(0.5)), tensor("training", np.array(True))]
    result = take_in(save(built([node], [value("x")], [value("y")], constants), tmp_path / "training.onnx"))
    assert any("training mode" in note for note in result.notes)


def test_nan_is_told(tmp_path: Path) -> None:
    model = built([helper.make_node("Log", ["x"], ["y"])], [value("x")], [value("y")])
    result = take_in(save(model, tmp_path / "log.onnx"))
    assert any("'y' holds NaN or infinity" in note and "made-up" in note for note in result.notes)
    np.savez(tmp_path / "log.npz", x=np.ones((3, 4), np.float32))
    (tmp_path / "out-log.onnx").rename(tmp_path / "earlier")
    assert take_in(tmp_path / "log.onnx", tmp_path / "log.npz").notes == ()


def test_a_model_that_runs_on_nothing_made_up_says_what_to_drop(tmp_path: Path) -> None:
    shape = tensor("s", np.array([7, 3]))
    node = helper.make_node("Reshape", ["pixels", "s"], ["y"])
    model = built([node], [value("pixels")], [value("y", shape=(7, 3))], [shape])
    with pytest.raises(StepFailed, match="did not run on any") as caught:
        take_in(save(model, tmp_path / "shaper.onnx"))
    assert "Reshape" in caught.value.why
    assert "shaper.npz" in caught.value.fix
    assert "pixels=" in caught.value.fix
    assert "shaper.toml" in caught.value.fix


def test_a_damaged_string_in_the_graph_is_told(tmp_path: Path) -> None:
    path = save(relu([value("xxxx")], [value("yyyy")]), tmp_path / "odd.onnx")
    path.write_bytes(path.read_bytes().replace(b"xxxx", b"\xff\xfe\xff\xfe"))
    with pytest.raises((InvalidInput, Refused)) as caught:
        take_in(path)
    assert caught.value.why
