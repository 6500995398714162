"""The workspace: one folder that holds everything. This module owns its layout; nothing else spells these paths."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from studio.core.errors import Denied, InvalidInput, NotFound
from studio.core.settings import Settings
from studio.store.files import make_folder
from studio.store.lock import INFO, LOCK, EngineInfo, WorkspaceLock, publish, read_engine
from studio.store.settings import load_settings

ENVIRONMENT = "STUDIO_WORKSPACE"


def default_root(environment: Mapping[str, str] | None = None) -> Path:
    """`$STUDIO_WORKSPACE` if set, else `~/Studio`."""
    named = (os.environ if environment is None else environment).get(ENVIRONMENT, "")
    return Path(named) if named else Path("~/Studio")


@dataclass(frozen=True)
class Workspace:
    """Where everything lies. Paths are absolute; whether a folder exists is certain only after `open`."""

    root: Path
    settings: Settings

    @classmethod
    def open(cls, root: Path | str | None = None, create: bool = True) -> Workspace:
        """The workspace at `root` (default: `default_root()`), its folders made if `create`.

        Raises NotFound if it does not exist and is not to be made, InvalidInput for a `studio.toml` that is wrong
        or a path that is no folder, Unavailable where folders can not be made.
        """
        place = Path(os.path.abspath((default_root() if root is None else Path(root)).expanduser()))  # noqa: PTH100
        if place.exists() and not place.is_dir():
            raise InvalidInput(
                f"{place} is not a folder.", "A workspace is a folder.", "Name another with --workspace."
            )
        if not create and not (place / "store").is_dir():
            raise NotFound(
                f"There is no workspace at {place}.",
                "It has no 'store' folder.",
                "Run `studio` or `studio up` to make one, or name another with --workspace.",
            )
        workspace = cls(place, load_settings(place / "studio.toml"))
        if create:
            workspace._make()
        return workspace

    def _make(self) -> None:
        for folder in (self.root, self.inbox, self.blobs, self.models, self.jobs, self.job_logs):
            make_folder(folder)
        # The token and the control address lie in here.
        make_folder(self.run, mode=0o700)
        if self.run.stat().st_mode & 0o077:
            try:
                self.run.chmod(0o700)
            except OSError as error:
                raise Denied(
                    f"{self.run} is open to other users.",
                    f"Its access could not be narrowed: {error.strerror}.",
                    f"Run: chmod 700 {self.run}",
                ) from error
        make_folder(self.work, mode=0o700)

    @property
    def inbox(self) -> Path:
        return self.root / "inbox"

    @property
    def store(self) -> Path:
        return self.root / "store"

    @property
    def blobs(self) -> Path:
        return self.store / "blobs" / "sha256"

    @property
    def models(self) -> Path:
        return self.store / "models"

    @property
    def journal(self) -> Path:
        return self.store / "journal.jsonl"

    @property
    def jobs(self) -> Path:
        return self.store / "jobs"

    @property
    def registry(self) -> Path:
        return self.root / "registry.duckdb"

    @property
    def recordings(self) -> Path:
        return self.root / "recordings"

    @property
    def artefacts(self) -> Path:
        """Graphs as the server has them optimised. A cache: whatever is in there can be made again."""
        return self.root / "cache" / "serving"

    @property
    def settings_file(self) -> Path:
        return self.root / "studio.toml"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def engine_log(self) -> Path:
        return self.logs / "engine.log"

    @property
    def server_log(self) -> Path:
        return self.logs / "server.log"

    @property
    def job_logs(self) -> Path:
        return self.logs / "jobs"

    @property
    def run(self) -> Path:
        return self.root / "run"

    @property
    def lock_file(self) -> Path:
        return self.run / LOCK

    @property
    def engine_file(self) -> Path:
        return self.run / INFO

    @property
    def token_file(self) -> Path:
        """What callers of the control API must know; mode 0600."""
        return self.run / "token"

    @property
    def work(self) -> Path:
        """Scratch folders of workers, one a job."""
        return self.run / "work"

    def job_log(self, job: str) -> Path:
        return self.job_logs / f"{job}.log"

    def work_of(self, job: str) -> Path:
        return self.work / job

    def lock(self) -> WorkspaceLock:
        """Become the one engine of this workspace, for as long as the process lives. Raises Conflict."""
        return WorkspaceLock.acquire(self.run)

    def announce(self, pid: int, control_url: str, serving_url: str) -> None:
        """Tell clients where the engine answers. Only for the holder of the lock."""
        publish(self.run, EngineInfo(pid=pid, control_url=control_url, serving_url=serving_url))

    def engine(self) -> EngineInfo | None:
        """The engine that holds this workspace; None if none does."""
        return read_engine(self.run)
