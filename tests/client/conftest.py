from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from studio.client import Client
from tests.client.fake_engine import TOKEN, FakeEngine
from tests.client.values import status


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[FakeEngine]:
    fake = FakeEngine(tmp_path)
    fake.on("GET", "/api/status", status(str(tmp_path), fake.url, fake.url))
    yield fake
    fake.close()


@pytest.fixture
def client(engine: FakeEngine) -> Iterator[Client]:
    with Client(engine.url, TOKEN) as made:
        yield made
