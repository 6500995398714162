"""From a dropped ONNX file to answers over HTTP: names, shapes and types are the model's own all the way."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from studio.core.routing import Target
from studio.pipeline.messages import IntakeResult
from tests.formats.graphs import built, convolutional, linear, save, tensor, value
from tests.pipeline.inprocess import answers, take_in
from tests.pipeline.test_intake_layouts import to_ort
from tests.serving.graphs import table
from tests.serving.harness import Child, running

NAMES = {
    "slashes": ("serving/input:0", "model/out/scores:0"),
    "unicode": ("bild größe 名前 🙂", "ответ"),
    "dots and spaces": ("..", "a b.c.npy"),
    "blanks": (" ", "  "),
    "very long": ("n" * 4000, "m" * 4000),
    "markup": ('<b>"x"</b>\\n\t\'', "%2e%2e/{}"),
    "words of ours": ("file", "labels"),
    "others of ours": ("labels", "allow_pickle"),
}


def named(first: str, last: str) -> onnx.ModelProto:
    nodes = [helper.make_node("Neg", [first], ["middle"]), helper.make_node("Relu", ["middle"], [last])]
    return built(nodes, [value(first)], [value(last)])


def models() -> dict[str, onnx.ModelProto]:
    two = [helper.make_node("Add", ["a", "b"], ["sum"]), helper.make_node("Sub", ["a", "b"], ["difference"])]
    words = helper.make_node("Concat", ["first", "last"], ["both"], axis=1)
    split = helper.make_node("SplitToSequence", ["x"], ["y"], axis=1)
    zipped = helper.make_node("ZipMap", ["x"], ["y"], domain="ai.onnx.ml", classlabels_strings=list("abcd"))
    inner = helper.make_map_type_proto(TensorProto.STRING, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
    maps = helper.make_value_info("y", helper.make_sequence_type_proto(inner))
    plus = helper.make_node("Add", ["x", "k"], ["y"])
    text = [value(name, TensorProto.STRING, ("n", 1)) for name in ("first", "last")]
    sequence = helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, None)
    relu = helper.make_node("Relu", ["x"], ["y"])
    return {
        **{name: named(*names) for name, names in NAMES.items()},
        "two in and out": built(two, [value("a"), value("b")], [value("sum"), value("difference")]),
        "strings": built([words], text, [value("both", TensorProto.STRING, ("n", 2))]),
        "sequence": built([split], [value("x")], [sequence]),
        "dictionaries": built([zipped], [value("x")], [maps], domains={"ai.onnx.ml": 1}),
        "one number": built([relu], [value("x", shape=[])], [value("y", shape=[])]),
        "no batch": built([relu], [value("x", shape=[3, 2])], [value("y", shape=[3, 2])]),
        "default value": built(
            [plus], [value("x"), value("k", shape=[1])], [value("y")], [tensor("k", np.float32([2]))]
        ),
        "opset 6": convolutional(6, 3),
        "opset 28": convolutional(28, 14),
        "unsigned": built(
            [helper.make_node("Identity", ["x"], ["y"])],
            [value("x", TensorProto.UINT64)],
            [value("y", TensorProto.UINT64)],
        ),
    }


@pytest.fixture(scope="module")
def taken(tmp_path_factory: pytest.TempPathFactory) -> dict[str, IntakeResult]:
    folder = tmp_path_factory.mktemp("served")
    found = {}
    for number, (name, model) in enumerate(models().items()):
        found[name] = take_in(save(model, folder / f"m{number}.onnx"))
    found["ort"] = take_in(to_ort(linear(), folder / "linear.ort"))
    return found


@pytest.fixture(scope="module")
def server(taken: dict[str, IntakeResult], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Child]:
    """Serves them as the engine does: from blobs, whose names tell nothing."""
    folder = tmp_path_factory.mktemp("blobs")
    targets = []
    for number, result in enumerate(taken.values()):
        blob = folder / result.graph.file.sha256
        blob.write_bytes(Path(result.graph_path).read_bytes())
        targets.append(
            Target(
                model=f"m{number}",
                version=1,
                variant="fp32",
                path=str(blob),
                sha256=result.graph.file.sha256,
                signature=result.signature,
                class_labels=result.class_labels,
            )
        )
    with running(folder, table(*targets)) as child:
        yield child


def decoded(document: dict[str, Any]) -> np.ndarray:
    return np.array(document["data"]).reshape(document["shape"])


@pytest.mark.parametrize("case", [*models(), "ort"])
def test_the_example_of_intake_is_answered_as_the_graph_does(
    taken: dict[str, IntakeResult], server: Child, case: str
) -> None:
    result = taken[case]
    place = f"m{list(taken).index(case)}"
    body = json.loads(Path(result.example_path).read_bytes())
    status, answer = server.infer(place, body)
    assert status == 200, answer
    feed = {
        one["name"]: decoded(one).astype({"FP32": "f4", "BYTES": object, "UINT64": "u8"}[one["datatype"]])
        for one in body["inputs"]
    }
    expected = answers_of(result, feed)
    assert [one["name"] for one in answer["outputs"]] == [spec.name for spec in result.signature.outputs]
    for one in answer["outputs"]:
        assert list(np.shape(expected[one["name"]])) == one["shape"]
        if one["datatype"] == "BYTES":
            assert decoded(one).tolist() == expected[one["name"]].tolist()
        else:
            np.testing.assert_allclose(decoded(one), expected[one["name"]], rtol=1e-5, atol=1e-7)
    status, metadata = server.json("GET", f"/v2/models/{place}")
    assert status == 200
    assert [one["name"] for one in metadata["inputs"]] == [spec.name for spec in result.signature.inputs]
    assert [one["name"] for one in metadata["outputs"]] == [spec.name for spec in result.signature.outputs]


def answers_of(result: IntakeResult, feed: dict[str, np.ndarray]) -> dict[str, Any]:
    if result.format != "ort":
        return answers(result.graph_path, feed)
    weights = linear().graph.initializer[0]
    return {"y": feed["x"] @ onnx.numpy_helper.to_array(weights)}


@pytest.mark.parametrize("case", NAMES)
def test_names_are_the_model_s_own_from_end_to_end(taken: dict[str, IntakeResult], case: str) -> None:
    result = taken[case]
    first, last = NAMES[case]
    assert ([spec.name for spec in result.signature.inputs], [spec.name for spec in result.signature.outputs]) == (
        [first],
        [last],
    )
    with np.load(result.samples_path) as kept:
        assert kept.files == [first]
        assert kept[first].shape[1:] == (4,)
