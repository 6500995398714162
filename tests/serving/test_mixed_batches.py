"""Requests of any shape, datatype and set of outputs, good and bad, thrown together: each gets what it gets alone."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from studio.core.errors import StudioError
from studio.core.tensors import TensorSpec
from studio.serving.batching import Ticket
from studio.serving.executor import Executor
from studio.serving.loaded import Array, LoadedModel
from studio.serving.sessions import load
from tests.serving import graphs
from tests.serving.harness import running


def scaled_rows(folder: Path) -> LoadedModel:
    """a FP32 [batch, n] and b INT64 [other, 1] to their product and its sum by row: n is free, other 1 or batch."""
    a, b = TensorSpec("a", "FP32", ("batch", "n")), TensorSpec("b", "INT64", ("other", 1))
    product, total = TensorSpec("product", "FP32", ("batch", "n")), TensorSpec("total", "FP32", ("batch",))
    nodes = [
        helper.make_node("Cast", ["b"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["a", "f"], ["product"]),
        helper.make_node("ReduceSum", ["product", "axis"], ["total"], keepdims=0),
    ]
    axis = numpy_helper.from_array(np.array([1], np.int64), "axis")
    path = graphs.save(folder / "rows.onnx", nodes, [a, b], [product, total], [axis])
    return load(graphs.target(path, [a, b], [product, total], model="rows", batchable=True), 1)


def words(folder: Path) -> LoadedModel:
    return load(graphs.identity(folder, "BYTES", ("batch", 1), model="words", batchable=True), 1)


def halves(folder: Path) -> LoadedModel:
    return load(graphs.identity(folder, "FP16", ("batch", "n"), model="halves", batchable=True), 1)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, LoadedModel]:
    folder = tmp_path_factory.mktemp("mixed")
    made = {"rows": scaled_rows(folder), "words": words(folder), "halves": halves(folder)}
    for model in made.values():
        model.rules.most = 12
    return made


Request = tuple[str, dict[str, Array], tuple[str, ...] | None]


@st.composite
def requests(draw: st.DrawFn) -> Request:
    """A request of one of the models; some of `rows` have inputs whose rows do not fit each other."""
    name = draw(st.sampled_from(["rows", "rows", "words", "halves"]))
    rows, width = draw(st.integers(1, 5)), draw(st.sampled_from([1, 3]))
    start = draw(st.integers(0, 1000))
    if name == "words":
        return name, {"x": np.array([[f"{start}-{row}"] for row in range(rows)], dtype=object)}, None
    numbers = np.arange(start, start + rows * width).reshape(rows, width)
    if name == "halves":
        return name, {"x": numbers.astype(np.float16)}, None
    other = draw(st.sampled_from([rows, rows, rows, 1, rows + 1]))
    outputs = draw(st.sampled_from([None, ("product",), ("total", "product")]))
    return name, {"a": numbers.astype(np.float32), "b": np.full((other, 1), start % 7 + 1)}, outputs


def alone(model: LoadedModel, request: Request) -> list[Array] | None:
    """None where it fails."""
    try:
        return model.run(request[1], request[2])
    except StudioError:
        return None


async def together(models: dict[str, LoadedModel], asked: list[Request], inline: bool) -> list[list[Array] | None]:
    loop = asyncio.get_running_loop()
    executor = Executor(loop, 2, 1024)
    answers: list[asyncio.Future[Ticket]] = []
    for model in models.values():
        model.lane, model.typical_ns = None, 1000 if inline else 10_000_000
    for name, inputs, outputs in asked:
        answer: asyncio.Future[Ticket] = loop.create_future()
        executor.submit(models[name], inputs, outputs, answer.set_result)
        answers.append(answer)
    results: list[list[Array] | None] = []
    for ticket in await asyncio.gather(*answers):
        try:
            results.append(ticket.answer())
        except StudioError:
            results.append(None)
    executor.close()
    assert executor.pending == 0
    return results


@settings(max_examples=60, deadline=None)
@given(st.lists(requests(), min_size=1, max_size=40), st.booleans())
def test_company_changes_no_answer(models: dict[str, LoadedModel], asked: list[Request], inline: bool) -> None:
    found = asyncio.run(together(models, asked, inline))
    for request, result in zip(asked, found, strict=True):
        expected = alone(models[request[0]], request)
        assert (result is None) == (expected is None), request
        for one, other in zip(result or [], expected or [], strict=True):
            assert one.dtype == other.dtype
            np.testing.assert_array_equal(one, other)


def test_what_goes_together_does_and_what_does_not_fails_alone(models: dict[str, LoadedModel]) -> None:
    """So that the property above speaks of batches, and of failures, at all."""

    async def run() -> list[Ticket]:
        loop = asyncio.get_running_loop()
        executor = Executor(loop, 1, 64)
        model: Any = models["rows"]
        model.lane, model.typical_ns = None, 1000
        answers: list[asyncio.Future[Ticket]] = [loop.create_future() for _ in range(6)]
        for place, answer in enumerate(answers):
            width, other = (3, 2) if place == 5 else (1, 2)
            inputs = {"a": np.ones((3 if place == 4 else 2, width), np.float32), "b": np.ones((other, 1), np.int64)}
            executor.submit(model, inputs, None, answer.set_result)
        done = list(await asyncio.gather(*answers))
        executor.close()
        return done

    tickets = asyncio.run(run())
    assert [ticket.batch_rows for ticket in tickets[:4]] == [8] * 4
    assert isinstance(tickets[4].result, StudioError)
    assert tickets[5].batch_rows == 2


@pytest.mark.parametrize(("second", "batchable"), [(3, True), (1, True), (3, False)], ids=["more", "one", "no batches"])
def test_inputs_of_different_sizes_that_the_model_calls_the_same_are_the_client_s_fault(
    tmp_path: Path, second: int, batchable: bool
) -> None:
    target = graphs.add_and_subtract(tmp_path, model="simple")
    target = replace(target, signature=replace(target.signature, batchable=batchable))
    tensors = [
        {"name": name, "shape": [rows, 16], "datatype": "INT32", "data": [1] * 16 * rows}
        for name, rows in (("INPUT0", 2), ("INPUT1", second))
    ]
    with running(tmp_path, graphs.table(target)) as server:
        status, answer = server.infer("simple", {"inputs": tensors})
        assert status == 400, answer
        if batchable:
            assert answer["error"] == (
                "input 'INPUT1' batch size does not match other inputs for 'simple'."
                f" Its first size is {second}, and that of 'INPUT0' is 2."
            )
        else:
            assert "The size 'batch' is 2 in input 'INPUT0', and 3 in 'INPUT1'." in answer["error"]
        tensors[1] |= {"shape": [2, 16], "data": [1] * 32}
        assert server.infer("simple", {"inputs": tensors})[0] == 200
