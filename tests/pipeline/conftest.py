"""Workers under test: a scratch folder each, and ways to run a task in one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from studio.core.settings import GateSettings, WorkerSettings
from studio.pipeline.forkservers import ForkServers
from studio.pipeline.messages import IntakeResult, IntakeTask
from studio.pipeline.process import spawn_worker

PYTHONPATH = os.environ.get("PYTHONPATH")


@dataclass
class Runner:
    """Runs intake tasks in workers of their own, and remembers what they told. `python`: their interpreter."""

    root: Path
    fork_servers: ForkServers | None = None
    told: list[tuple[str, float | None, str]] = field(default_factory=list)
    settings: WorkerSettings = field(default_factory=lambda: WorkerSettings(wall_seconds=120))
    runs: int = 0
    sandbox: dict[str, str] = field(default_factory=dict)
    python: Path | None = None

    @property
    def log(self) -> str:
        return (self.root / "job.log").read_text()

    @property
    def scratch(self) -> Path:
        return self.root / f"scratch{self.runs}"

    async def intake(
        self, *files: Path, trusted: tuple[str, ...] = (), gates: GateSettings | None = None, preload: bool = False
    ) -> IntakeResult:
        self.runs += 1
        self.scratch.mkdir()
        task = IntakeTask(
            files=tuple(map(str, files)), out=str(self.scratch / "out"), trusted=trusted, gates=gates or GateSettings()
        )
        # A test that changes what there is to import would replace the processes that others use.
        warm = self.fork_servers if os.environ.get("PYTHONPATH") == PYTHONPATH and self.python is None else None
        async with spawn_worker(
            self.settings,
            self.scratch,
            self.root / "job.log",
            preload="onnx" if preload or warm else None,
            python=self.python,
            fork_servers=warm,
        ) as worker:
            try:
                return await worker.run(task, lambda *told: self.told.append(told))
            finally:
                self.sandbox = worker.sandbox


def content(path: str | Path) -> bytes:
    """A file's bytes, for tests whose own functions are asynchronous."""
    return Path(path).read_bytes()


@pytest.fixture(scope="session")
def fork_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkServers]:
    """Frameworks imported once for all tests."""
    servers = ForkServers(tmp_path_factory.mktemp("warm"))
    yield servers
    servers.close()


@pytest.fixture
def runner(tmp_path: Path, fork_servers: ForkServers) -> Runner:
    root = tmp_path / "work"
    root.mkdir()
    return Runner(root, fork_servers)


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Path]:
    """Put a module, and entry points for it, where workers find packages."""

    def install(source: str, entry_points: str) -> Path:
        folder = tmp_path / "packages"
        info = folder / "odd-1.dist-info"
        info.mkdir(parents=True)
        (folder / "odd_package.py").write_text(source)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: odd\nVersion: 1\n")
        (info / "entry_points.txt").write_text(entry_points)
        monkeypatch.setenv("PYTHONPATH", str(folder))
        return folder

    return install
