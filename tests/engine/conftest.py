"""The engine's keep and jobs over a real store, with a server that says what it can not load."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pytest

from studio.core.jobs import Job
from studio.core.manifest import VersionManifest
from studio.core.routing import RoutingTable
from studio.engine.bus import Bus
from studio.engine.jobs import Jobs, Lane
from studio.engine.keep import Keep
from studio.engine.logs import Logs
from studio.store.jobs import JobStore
from studio.store.journal import utc_now
from studio.store.workspace import Workspace
from tests.manifests import version


@dataclass
class Server:
    """Stands for the supervisor: takes routing tables, and refuses the targets in `broken` that it is to load."""

    broken: dict[str, str] = field(default_factory=dict)

    async def apply(self, table: RoutingTable) -> dict[str, str]:
        return {name: why for name, why in self.broken.items() if name in (*table.pinned, *table.warm)}


class Parts:
    """Keep and jobs of one workspace."""

    def __init__(self, root: Path) -> None:
        self.workspace = Workspace.open(root)
        self.server = Server()
        bus = Bus()
        self.logs = Logs(self.workspace.engine_log, bus)
        self.keep = Keep(self.workspace, bus, self.logs, cast(Any, self.server))
        self.jobs = Jobs(JobStore(self.workspace.jobs), self.workspace.job_logs, bus, self.logs, 2)

    def use(self, intake: Lane) -> None:
        async def nothing(jobs: Jobs, key: str) -> None:
            return

        self.jobs.use(intake, nothing)

    def job(self, stem: str = "digits", name: str = "digits.toy") -> Job:
        """A settled job over a file that lies in the inbox."""
        path = self.workspace.inbox / name
        path.write_text("toy")
        job = self.jobs.create(stem, (str(path),))
        return self.jobs.update(replace(job, digest="d", fingerprint=f"f{job.id}"))

    async def registered(self, alias: str = "", model: str = "digits") -> tuple[Job, VersionManifest]:
        """A job that has just registered a version, whose settings ask for an alias."""
        draft = version(self.keep.store.blobs, model=model, number=1, content=alias)
        manifest = await self.keep.add_version(replace(draft, alias=alias, created=utc_now()))
        job = self.jobs.update(replace(self.job(model), model=model, version=manifest.version))
        return job, manifest


@pytest.fixture
async def parts(tmp_path: Path) -> AsyncIterator[Parts]:
    made = Parts(tmp_path)
    await made.keep.open()
    yield made
    await made.jobs.stop()
    await made.keep.close()
    made.logs.close()
