from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.journeys.engines import RunningEngine


@pytest.fixture
def studio(tmp_path: Path) -> Iterator[RunningEngine]:
    """A running engine over an empty workspace; stopped, and checked to have left nothing running, afterwards."""
    yield from running(tmp_path / "workspace")


@pytest.fixture(scope="module")
def module_studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningEngine]:
    """One engine for tests that change nothing in it."""
    yield from running(tmp_path_factory.mktemp("studio") / "workspace")


def running(workspace: Path) -> Iterator[RunningEngine]:
    engine = RunningEngine(workspace)
    engine.start()
    yield engine
    assert engine.process is not None
    children = engine.children()
    if engine.process.poll() is None:
        assert engine.stop() == 0
    assert not [child for child in children if child.is_running() and child.status() != "zombie"]
