"""What nobody waits for any more, or nothing names, leaves memory at once and not when the collector comes by."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from studio.core.routing import Target
from studio.serving.batching import Ticket
from studio.serving.executor import Executor
from studio.serving.loaded import LoadedModel
from studio.serving.router import Router
from studio.serving.sessions import load
from tests.serving import graphs
from tests.serving.harness import WAIT

ROW = np.zeros((1, 64), np.float32)
LONG = 2_000_000
"""The input of `graphs.slow` for a run of minutes."""


@pytest.fixture
def uncollected() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


async def answer(executor: Executor, model: Any, inputs: dict[str, Any]) -> Ticket:
    landed: asyncio.Future[Ticket] = asyncio.get_running_loop().create_future()
    executor.submit(model, inputs, None, landed.set_result)
    return await landed


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT):
        while not condition():  # noqa: ASYNC110 - what is waited for happens on a thread
            await asyncio.sleep(0.001)


@pytest.mark.usefixtures("uncollected")
@pytest.mark.parametrize("typical_ns", [1000, 10_000_000], ids=["in the loop", "on a thread"])
async def test_an_unloaded_model_is_gone_with_its_last_ticket(tmp_path: Path, typical_ns: int) -> None:
    executor = Executor(asyncio.get_running_loop(), 1, 8)
    router = Router(lambda target: load(target, 1))
    target = graphs.mlp(tmp_path, model="m")
    assert await router.apply(graphs.table(target)) == {}
    model = await router.loaded_model(target)
    model.typical_ns = typical_ns
    await answer(executor, model, {"x": ROW})
    seen = weakref.ref(model)
    del model
    router.unload("m")
    await answer(executor, await router.loaded_model(target), {"x": ROW})  # so that the thread forgets the last one
    assert seen() is None
    router.close()
    executor.close()


@pytest.mark.usefixtures("uncollected")
@pytest.mark.parametrize("how", ["given up", "too late"])
async def test_what_waits_in_vain_keeps_no_inputs(tmp_path: Path, how: str) -> None:
    executor = Executor(asyncio.get_running_loop(), 1, 64)
    model = load(graphs.slow(tmp_path), 1)
    landed: list[Ticket] = []
    blocking = executor.submit(model, {"n": np.array([LONG])}, None, landed.append)
    await until(lambda: blocking.started_ns > 0)
    waiting = []
    for _ in range(5):
        inputs = {"n": np.array([1])}
        ticket = executor.submit(model, inputs, None, landed.append, timeout_us=1000 if how == "too late" else 0)
        waiting.append(weakref.ref(inputs["n"]))
        if how == "given up":
            executor.cancel(ticket)
        del inputs, ticket
    if how == "too late":
        await until(lambda: len(landed) == 5)
        landed.clear()
    assert [seen() for seen in waiting] == [None] * 5
    assert executor.pending == 1
    executor.cancel(blocking)
    executor.close()


async def test_what_a_table_pins_is_not_unloaded_while_it_is_applied(tmp_path: Path) -> None:
    """By then it may have been idle for long, and the table that is in force does not pin it."""
    first, second = graphs.mlp(tmp_path, model="a"), graphs.scaled(tmp_path, 1.0, model="b")
    held = threading.Event()

    def slowly(target: Target) -> LoadedModel:
        if target.model == "b":
            assert held.wait(WAIT)
        return load(target, 1)

    router = Router(slowly, idle_seconds=0.05)
    assert await router.apply(graphs.table(first, pinned=())) == {}
    await router.loaded_model(first)
    applying = asyncio.create_task(router.apply(graphs.table(first, second)))
    await asyncio.sleep(0.3)  # the time after which it is idle passes several times
    held.set()
    assert await applying == {}
    assert router.is_loaded(first) and router.is_loaded(second)
    router.close()
