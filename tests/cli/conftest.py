from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from studio.cli.main import main
from tests.client.fake_engine import FakeEngine
from tests.client.values import status


@dataclass
class Ran:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Ran]


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeEngine]:
    fake = FakeEngine(tmp_path)
    fake.on("GET", "/api/status", status(str(tmp_path), fake.url, fake.url))
    yield fake
    fake.close()


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Run the command line in this process, for the test's own workspace."""
    monkeypatch.setenv("STUDIO_WORKSPACE", str(tmp_path))

    def call(*arguments: str) -> Ran:
        code = main(list(arguments))
        out, err = capfd.readouterr()
        return Ran(code, out, err)

    return call
