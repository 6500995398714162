"""Outputs under other names: the same answers, whatever else in the graph has those names."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from studio.formats.onnx.names import rename_outputs
from tests.formats.graphs import finish, linear

X = np.array([[1.0, -2.0]], np.float32)


def value(name: str, kind: int = TensorProto.FLOAT, shape: tuple[Any, ...] = ("batch", 2)) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def answers(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    onnx.checker.check_model(model, full_check=True)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    both = [session.run(None, {session.get_inputs()[0].name: rows}) for rows in (X, -X)]
    return {name: np.concatenate([one[place] for one in both]) for place, name in enumerate(names)}


def renamed(model: onnx.ModelProto, *names: str) -> dict[str, np.ndarray]:
    """Answers after renaming; fails unless they are those from before, in the same order."""
    before = answers(model)
    rename_outputs(model, dict(zip(before, names, strict=True)))
    after = answers(model)
    assert list(after) == list(names)
    for old, new in zip(before.values(), after.values(), strict=True):
        np.testing.assert_array_equal(old, new)
    return after


def chain() -> onnx.ModelProto:
    """x → Neg → hidden → Abs → a; a is used again: b = a + hidden."""
    nodes = [
        helper.make_node("Neg", ["x"], ["hidden"]),
        helper.make_node("Abs", ["hidden"], ["a"]),
        helper.make_node("Add", ["a", "hidden"], ["b"]),
    ]
    graph = helper.make_graph(nodes, "chain", [value("x")], [value("a"), value("b")], value_info=[value("hidden")])
    return finish(graph)


@pytest.mark.parametrize(
    "names",
    [("scores", "more"), ("b", "a"), ("hidden", "a"), ("b", "hidden"), ("a", "hidden"), ("a", "b"), ("Ü n/1:0", "b")],
)
def test_outputs_of_a_chain_are_renamed(names: tuple[str, str]) -> None:
    renamed(chain(), *names)


def conditional() -> onnx.ModelProto:
    """y = if sum(x) > 0 then own + outer else outer, both branches with names of their own and one from outside."""
    then = helper.make_graph(
        [helper.make_node("Add", ["outer", "outer"], ["y"]), helper.make_node("Neg", ["y"], ["scores"])],
        "then",
        [],
        [value("scores")],
    )
    other = helper.make_graph([helper.make_node("Identity", ["outer"], ["z"])], "else", [], [value("z")])
    nodes = [
        helper.make_node("Neg", ["x"], ["outer"]),
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Less", ["sum", "zero"], ["positive"]),
        helper.make_node("If", ["positive"], ["chosen"], then_branch=then, else_branch=other),
    ]
    zero = numpy_helper.from_array(np.float32(0), "zero")
    return finish(helper.make_graph(nodes, "if", [value("x")], [value("chosen"), value("outer")], [zero]))


@pytest.mark.parametrize(
    "names", [("scores", "y"), ("z", "scores"), ("y", "z"), ("outer", "chosen"), ("positive", "o")]
)
def test_names_inside_of_branches_stay_apart(names: tuple[str, str]) -> None:
    renamed(conditional(), *names)


def handed_on() -> onnx.ModelProto:
    """Outputs that are the input itself, a constant, and a node's."""
    constant = numpy_helper.from_array(np.ones((1, 2), np.float32), "c")
    nodes = [helper.make_node("Mul", ["x", "c"], ["y"])]
    outputs = [value("x"), value("c", shape=(1, 2)), value("y")]
    return finish(helper.make_graph(nodes, "handed on", [value("x")], outputs, [constant]))


@pytest.mark.parametrize("names", [("a", "b", "d"), ("y", "a", "c"), ("x", "y", "c"), ("c", "d", "y"), ("x", "c", "e")])
def test_outputs_that_are_no_nodes_are_handed_on(names: tuple[str, str, str]) -> None:
    model = handed_on()
    renamed(model, *names)
    assert [entry.name for entry in model.graph.input] == ["x"]


def test_the_same_names_change_nothing() -> None:
    model = linear()
    rename_outputs(model, {"y": "y"})
    assert model.SerializeToString() == linear().SerializeToString()
