"""A request that comes alone has the threads that were measured to be best for its variant; others have one each."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from studio.core.routing import Target
from studio.core.settings import ServingSettings
from studio.serving import sessions
from studio.serving.executor import Executor
from studio.serving.loaded import Array, LoadedModel
from tests.serving import graphs


@pytest.fixture
def target(tmp_path: Path) -> Target:
    return replace(graphs.mlp(tmp_path), threads=2)


@pytest.mark.parametrize(
    ("settings", "threads"),
    [
        (ServingSettings(), 0),
        (ServingSettings(threads=2), 2),
        (ServingSettings(threads=1), 1),
        (ServingSettings(workers=2), 1),
    ],
    ids=["as measured", "two for all", "one for all", "processes share the cores"],
)
def test_settings_say_whether_it_has_a_second_session(target: Target, settings: ServingSettings, threads: int) -> None:
    assert settings.threads_of(0) == threads
    model = sessions.load(target, settings.threads_of(0))
    assert (model.shared.wide is not None) == (threads == 0)
    assert model.shared.session.get_session_options().intra_op_num_threads == (threads or 1)
    if model.shared.wide is not None:
        assert model.shared.wide.get_session_options().intra_op_num_threads == 2
        inputs = {name: array + 1 for name, array in sessions.zeros(target.signature.inputs).items()}
        np.testing.assert_allclose(model.run(inputs, alone=True)[0], model.run(inputs)[0], rtol=1e-6)


def test_nothing_measured_means_one_session(target: Target) -> None:
    assert sessions.load(replace(target, threads=1), 0).shared.wide is None


class Slow:
    """Stands in for a loaded model: tells whether each of its runs was alone, and takes until it is let go."""

    def __init__(self, model: LoadedModel) -> None:
        self._model = model
        self.alone: list[bool] = []
        self.begun = threading.Semaphore(0)
        self.go = threading.Semaphore(0)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str] | None, options: Any, alone: bool) -> list[Array]:
        self.alone.append(alone)
        self.begun.release()
        assert self.go.acquire(timeout=20)
        return self._model.run(inputs, outputs, options, alone)


async def test_only_what_runs_alone_is_told_so(target: Target) -> None:
    slow: Any = Slow(sessions.load(target, 0))
    slow._model.typical_ns = 10_000_000
    loop = asyncio.get_running_loop()
    executor = Executor(loop, 2, 16)
    row = sessions.zeros(target.signature.inputs)

    def submitted() -> asyncio.Future[Any]:
        answer: asyncio.Future[Any] = loop.create_future()
        executor.submit(slow, row, None, answer.set_result)
        return answer

    first = submitted()
    assert await asyncio.to_thread(slow.begun.acquire, timeout=20)
    second = submitted()
    assert await asyncio.to_thread(slow.begun.acquire, timeout=20)
    assert slow.alone == [True, False]
    slow.go.release(2)
    await asyncio.gather(first, second)
    slow.go.release()
    await submitted()
    assert slow.alone == [True, False, True]
    executor.close()
