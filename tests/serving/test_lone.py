"""A client that has the server for itself is spared the hops to a thread and back, and nobody else waits for it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from studio.serving import sessions
from studio.serving.executor import LONE_AFTER, LONE_NS, Executor, Lane
from studio.serving.loaded import Array, LoadedModel
from tests.serving import graphs

MILLISECOND = 1_000_000


class Watched:
    """Stands in for a loaded model: tells the thread of each of its runs."""

    def __init__(self, model: LoadedModel, typical_ns: int) -> None:
        self._model = model
        self.typical_ns = typical_ns
        self.lane = None
        self.threads: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str] | None, options: Any, alone: bool) -> list[Array]:
        self.threads.append(threading.current_thread().name)
        return self._model.run(inputs, outputs, options, alone)


class Bench:
    def __init__(self, folder: Path) -> None:
        self.target = graphs.mlp(folder)
        self.loaded = sessions.load(self.target, 1)
        self.row = sessions.zeros(self.target.signature.inputs)
        self.loop = asyncio.get_running_loop()
        self.executor = Executor(self.loop, 2, 64)

    def model(self, typical_ns: int = MILLISECOND) -> Any:
        return Watched(self.loaded, typical_ns)

    def submitted(self, model: Any, client: object) -> asyncio.Future[Any]:
        answer: asyncio.Future[Any] = self.loop.create_future()
        self.executor.submit(model, self.row, None, answer.set_result, client=client)
        return answer

    async def in_turn(self, model: Any, *clients: object, times: int = 1) -> None:
        """A request of each, so many times, and each after the answer to the last."""
        for _ in range(times):
            for client in clients:
                await self.submitted(model, client)


@pytest.fixture
def as_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models are as quick as it was said at first, whatever a run takes here."""
    monkeypatch.setattr(Lane, "learn", lambda lane, ns: None)


def in_loop(model: Any) -> list[bool]:
    return [name == threading.current_thread().name for name in model.threads]


@pytest.mark.usefixtures("as_told")
async def test_after_a_while_its_runs_are_in_the_loop(tmp_path: Path) -> None:
    bench, client = Bench(tmp_path), object()
    model = bench.model()
    await bench.in_turn(model, client, times=2 * LONE_AFTER)
    assert in_loop(model) == [False] * LONE_AFTER + [True] * LONE_AFTER
    bench.executor.close()


@pytest.mark.usefixtures("as_told")
@pytest.mark.parametrize("clients", [[object(), object()], [None]], ids=["two in turn", "not known"])
async def test_others_are_not_alone(tmp_path: Path, clients: list[object]) -> None:
    bench = Bench(tmp_path)
    model = bench.model()
    await bench.in_turn(model, *clients, times=4 * LONE_AFTER // len(clients))
    assert not any(in_loop(model))
    bench.executor.close()


@pytest.mark.usefixtures("as_told")
async def test_a_client_that_does_not_wait_for_its_answers_is_not_alone(tmp_path: Path) -> None:
    bench, client = Bench(tmp_path), object()
    model = bench.model()
    for _ in range(2 * LONE_AFTER):
        await asyncio.gather(bench.submitted(model, client), bench.submitted(model, client))
    assert not any(in_loop(model))
    bench.executor.close()


@pytest.mark.usefixtures("as_told")
async def test_who_comes_second_ends_it(tmp_path: Path) -> None:
    bench, client = Bench(tmp_path), object()
    model = bench.model()
    await bench.in_turn(model, client, times=2 * LONE_AFTER)
    await bench.in_turn(model, object(), client)
    assert in_loop(model)[-3:] == [True, False, False]
    bench.executor.close()


@pytest.mark.usefixtures("as_told")
async def test_slow_models_stay_on_threads(tmp_path: Path) -> None:
    bench, client = Bench(tmp_path), object()
    model = bench.model(LONE_NS * 5)
    await bench.in_turn(model, client, times=2 * LONE_AFTER)
    assert not any(in_loop(model))
    bench.executor.close()


def test_a_model_that_becomes_slow_leaves_the_loop(tmp_path: Path) -> None:
    lane = Lane(Watched(sessions.load(graphs.mlp(tmp_path), 1), MILLISECOND))  # type: ignore[arg-type]
    assert lane.brief
    for _ in range(40):
        lane.learn(20 * MILLISECOND)
    assert not lane.brief
    for _ in range(80):
        lane.learn(MILLISECOND)
    assert lane.brief and not lane.inline
