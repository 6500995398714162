"""Requests that run together get exactly what they would have got alone."""

from __future__ import annotations

import asyncio
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from studio.core.errors import StudioError
from studio.core.tensors import Signature, TensorSpec
from studio.serving.batching import Rules, Ticket, best_batch, take
from studio.serving.executor import Executor, Lane
from studio.serving.loaded import LoadedModel
from studio.serving.problems import Busy, Expired
from studio.serving.sessions import load
from tests.serving import graphs


def looked_up(folder: Path) -> LoadedModel:
    """y = table[i]: rows of a table of 100, and an error for a place that is not in it."""
    i, y = TensorSpec("i", "INT64", ("batch", 1)), TensorSpec("y", "FP32", ("batch", 1, 4))
    table = numpy_helper.from_array(np.arange(400, dtype=np.float32).reshape(100, 4), "table")
    path = graphs.save(folder / "table.onnx", [helper.make_node("Gather", ["table", "i"], ["y"])], [i], [y], [table])
    return load(graphs.target(path, [i], [y], batchable=True), 1)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    model = looked_up(tmp_path_factory.mktemp("batching"))
    model.rules.most = 16
    return model


async def together(
    model: LoadedModel, requests: list[dict[str, Any]], inline: bool, **limits: Any
) -> list[list[Any] | StudioError]:
    """Submit all in one turn of the loop, and gather what each got."""
    loop = asyncio.get_running_loop()
    executor = Executor(loop, 2, 1024, **limits)
    model.lane = None
    model.typical_ns = 1000 if inline else 10_000_000
    answers: list[asyncio.Future[Ticket]] = []
    for request in requests:
        answer: asyncio.Future[Ticket] = loop.create_future()
        executor.submit(model, request, None, answer.set_result)
        answers.append(answer)
    tickets = await asyncio.gather(*answers)
    executor.close()
    assert executor.pending == 0
    results: list[list[Any] | StudioError] = []
    for ticket in tickets:
        try:
            results.append(ticket.answer())
        except StudioError as error:
            results.append(error)
    return results


@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(st.lists(st.integers(-100, 99), min_size=1, max_size=9), min_size=1, max_size=40),
    bad=st.sets(st.integers(0, 39), max_size=3),
    inline=st.booleans(),
)
def test_every_request_gets_its_own_rows(
    table: LoadedModel, rows: list[list[int]], bad: set[int], inline: bool
) -> None:
    requests = [
        {"i": np.array([[1000 if place in bad else each] for each in request])} for place, request in enumerate(rows)
    ]
    results = asyncio.run(together(table, requests, inline))
    expected = np.arange(400, dtype=np.float32).reshape(100, 4)
    for place, (request, result) in enumerate(zip(rows, results, strict=True)):
        if place in bad:
            assert isinstance(result, StudioError)
        else:
            assert not isinstance(result, StudioError)
            np.testing.assert_array_equal(result[0], expected[np.array(request)][:, None, :])


def test_requests_do_run_together(table: LoadedModel) -> None:
    async def run() -> list[Ticket]:
        loop = asyncio.get_running_loop()
        executor = Executor(loop, 1, 64)
        table.lane, table.typical_ns = None, 1000
        done = Landed()
        for place in range(20):
            executor.submit(table, {"i": np.array([[place]])}, None, done)
        await done.count(20)
        executor.close()
        return done

    done = asyncio.run(run())
    assert sorted({ticket.batch_rows for ticket in done}) == [4, 16]
    assert sum(ticket.leader for ticket in done) == 2
    assert [int(ticket.answer()[0][0, 0, 0]) for ticket in done] == [4 * place for place in range(20)]


def test_a_model_that_gives_other_rows_than_it_took_is_not_batched_again(tmp_path: Path) -> None:
    """Its signature promises a row for a row, and the graph gives the sum over the batch."""
    x, y = TensorSpec("x", "FP32", ("batch", 2)), TensorSpec("y", "FP32", ("batch", 2))
    node = helper.make_node("ReduceSum", ["x", "axes"], ["y"], keepdims=1)
    axes = numpy_helper.from_array(np.array([0], np.int64), "axes")
    model = load(
        graphs.target(graphs.save(tmp_path / "sum.onnx", [node], [x], [y], [axes]), [x], [y], batchable=True), 1
    )
    model.rules.most = 8
    requests = [{"x": np.full((1, 2), place, np.float32)} for place in range(6)]
    results = asyncio.run(together(model, requests, True))
    assert [float(result[0][0, 0]) for result in results if not isinstance(result, StudioError)] == [0, 1, 2, 3, 4, 5]
    assert model.rules.most == 1


class Landed(list[Ticket]):
    """The tickets that are done, in that order; to be given as `done`."""

    def __init__(self) -> None:
        super().__init__()
        self._news = asyncio.Event()

    def __call__(self, ticket: Ticket) -> None:
        self.append(ticket)
        self._news.set()

    async def count(self, wanted: int) -> None:
        """Until so many are done."""
        async with asyncio.timeout(20):
            while len(self) < wanted:
                self._news.clear()
                await self._news.wait()


class _Waiting:
    """As much of a ticket as `take` looks at."""

    def __init__(self, number: int, rows: int, key: object) -> None:
        self.number, self.rows, self.key = number, rows, key


@given(
    st.lists(st.tuples(st.integers(1, 8), st.sampled_from(["a", "b", None])), min_size=1, max_size=50),
    st.integers(1, 16),
)
def test_what_is_taken_is_of_one_kind_and_keeps_its_order(waiting: list[tuple[int, Any]], most: int) -> None:
    pending: deque[Any] = deque(_Waiting(number, rows, key) for number, (rows, key) in enumerate(waiting))
    seen: list[int] = []
    while pending:
        first = pending[0]
        taken: list[Any] = take(pending, most)
        assert taken[0] is first
        assert len(taken) == 1 or sum(ticket.rows for ticket in taken) <= most
        assert {ticket.key for ticket in taken} == {first.key}
        assert len(taken) == 1 or first.key is not None
        numbers = [ticket.number for ticket in taken]
        assert numbers == sorted(numbers)
        assert [ticket.number for ticket in pending] == sorted(ticket.number for ticket in pending)
        seen += numbers
    assert sorted(seen) == list(range(len(waiting)))


def test_only_models_whose_every_tensor_carries_the_batch_are_batched() -> None:
    batch = TensorSpec("x", "FP32", ("batch", 2))
    scalar = TensorSpec("s", "FP32", ())
    both = {"x": np.zeros((1, 2), np.float32), "s": np.zeros((), np.float32)}
    for inputs, outputs, batchable, together_ in (
        ((batch,), (batch,), True, True),
        ((batch,), (batch,), False, False),
        ((batch, scalar), (batch,), True, False),
        ((batch,), (batch, scalar), True, False),
    ):
        rules = Rules(Signature(inputs, outputs, batchable), 8)
        assert (rules.place(both, None)[1] is not None) == together_


def test_unlike_shapes_and_outputs_never_share_a_key() -> None:
    spec = TensorSpec("x", "FP32", ("batch", "length"))
    rules = Rules(Signature((spec,), (spec,), True), 8)
    short, long = {"x": np.zeros((1, 2))}, {"x": np.zeros((1, 3))}
    assert rules.place(short, None)[1] != rules.place(long, None)[1]
    assert rules.place(short, None)[1] != rules.place(short, ("x",))[1]
    assert not rules.steady


def test_the_best_batch_is_the_last_that_gained() -> None:
    assert best_batch(lambda rows: 1.0 + 0.2 * rows, 1e9) == 32  # 64 would gain less than a tenth
    assert best_batch(lambda rows: float(rows), 1e9) == 1
    assert best_batch(lambda rows: 1.0, 8.0) == 2  # no time to try more


async def test_a_full_queue_is_busy_and_a_late_request_expires(table: LoadedModel) -> None:
    executor = Executor(asyncio.get_running_loop(), 1, 2)
    table.lane, table.typical_ns = None, 10_000_000
    done = Landed()
    first = executor.submit(table, {"i": np.array([[1]])}, None, done, timeout_us=1)
    executor.submit(table, {"i": np.array([[2]])}, None, done)
    with pytest.raises(Busy):
        executor.submit(table, {"i": np.array([[3]])}, None, done)
    await done.count(2)
    with pytest.raises(Expired):
        first.answer()
    assert [ticket is first for ticket in done].count(True) == 1
    executor.close()


async def test_a_run_that_nobody_waits_for_is_stopped(tmp_path: Path) -> None:
    """A loop of some seconds: its only client goes away, and the worker is free again."""
    model = load(graphs.slow(tmp_path), 1)
    executor = Executor(asyncio.get_running_loop(), 1, 8)
    done = Landed()
    endless = executor.submit(model, {"n": np.array([2_000_000])}, None, done)
    while not endless.started_ns:  # noqa: ASYNC110 - a thread sets it
        await asyncio.sleep(0.01)
    executor.cancel(endless)
    after = executor.submit(model, {"n": np.array([1])}, None, done)
    await done.count(1)
    assert done == [after]
    assert after.answer()[0].shape == (64, 64)
    executor.close()


async def test_a_time_out_stops_the_run_itself(tmp_path: Path) -> None:
    model = load(graphs.slow(tmp_path), 1)
    executor = Executor(asyncio.get_running_loop(), 1, 8, seconds=0.3)
    done = Landed()
    executor.submit(model, {"n": np.array([2_000_000])}, None, done)
    executor.submit(model, {"n": np.array([1])}, None, done, timeout_us=20_000_000)
    await done.count(2)
    with pytest.raises(Expired, match="running"):
        done[0].answer()
    assert done[1].answer()[0].shape == (64, 64)
    executor.close()


def test_one_long_run_sends_no_quick_model_to_the_threads(table: LoadedModel) -> None:
    table.typical_ns = 10_000
    lane = Lane(table)
    lane.learn(80_000_000)
    assert lane.inline
    for _ in range(10):
        lane.learn(1_000_000)
    assert not lane.inline
    for _ in range(20):
        lane.learn(10_000)
    assert lane.inline


async def test_urgent_requests_go_first(table: LoadedModel) -> None:
    executor = Executor(asyncio.get_running_loop(), 1, 64)
    table.lane, table.typical_ns = None, 1000
    table.rules.most = 1
    done = Landed()
    for number, priority in enumerate((0, 2, 1, 0, 1)):
        executor.submit(table, {"i": np.array([[number]])}, None, done, priority=priority)
    await done.count(5)
    table.rules.most = 16
    assert [int(ticket.inputs["i"][0, 0]) for ticket in done] == [2, 4, 1, 0, 3]
    executor.close()
