"""Real engines for the journeys: started, asked, killed and started again, each in a workspace of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import psutil

from studio.client import Client, connect
from studio.core.jobs import Job
from studio.pipeline.guard import WORKER_NAME

T = TypeVar("T")
SAMPLES = Path(__file__).resolve().parents[2] / "sample_models"


def until(see: Callable[[], T | None], what: str, seconds: float = 60.0) -> T:
    """Wait for a condition; the value that it gave. Fails with what was waited for."""
    deadline = time.monotonic() + seconds
    while True:
        value = see()
        if value:
            return value
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.05)


class RunningEngine:
    """An engine process over a workspace. `client` talks to it."""

    def __init__(self, workspace: Path, python: str = sys.executable) -> None:
        self.workspace = workspace
        self._python = python
        self.process: subprocess.Popen[bytes] | None = None
        self._client: Client | None = None

    @property
    def inbox(self) -> Path:
        return self.workspace / "inbox"

    @property
    def client(self) -> Client:
        assert self._client is not None
        return self._client

    @property
    def url(self) -> str:
        return self.client.status().server.url

    def start(self) -> Client:
        """Start, and wait until it answers and its server is ready."""
        self.workspace.mkdir(parents=True, exist_ok=True)
        settings = self.workspace / "studio.toml"
        if not settings.exists():
            settings.write_text('[serving]\nport = 0\n[workers]\nrecipes = ["fp16", "int8"]\nmeasure_seconds = 0.4\n')
        with (self.workspace / "engine.out").open("ab") as out:
            self.process = subprocess.Popen(
                [self._python, "-m", "studio.engine.main", "--workspace", str(self.workspace)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
                cwd=self.workspace,  # so that nothing is imported from the checkout by accident
            )
        self._client = until(self._attach, "the engine to answer")
        until(lambda: self.client.status().server.state == "ready", "the server to be ready")
        return self.client

    def _attach(self) -> Client | None:
        assert self.process is not None
        assert self.process.poll() is None, (self.workspace / "engine.out").read_text()
        try:
            return connect(self.workspace, start=False, actor="test")
        except Exception:
            return None

    def children(self) -> list[psutil.Process]:
        assert self.process is not None
        try:
            return psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def child(self, module: str) -> psutil.Process | None:
        """The child that runs a module, if there is one."""
        for process in self.children():
            try:
                if module in " ".join(process.cmdline()):
                    return process
            except psutil.Error:
                continue
        return None

    def worker(self) -> psutil.Process | None:
        """A worker that does a task, if there is one."""
        for process in self.children():
            try:
                if process.name() == WORKER_NAME:
                    return process
            except psutil.Error:
                continue
        return None

    def kill(self) -> None:
        """kill -9 the engine, and wait until its children have noticed."""
        assert self.process is not None
        children = self.children()
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(30)
        psutil.wait_procs(children, timeout=30)
        left = [process for process in children if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
        assert not left, f"still there after their engine was killed: {left}"

    def stop(self) -> int:
        """SIGTERM, and its exit code."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    def drop(self, folder: Path | str) -> None:
        """Copy a sample's files into the inbox as a user would: in any order, not atomically."""
        for file in sorted(Path(folder).iterdir()):
            (self.inbox / file.name).write_bytes(file.read_bytes())

    def finished_job(self, stem: str, count: int = 1, seconds: float = 120.0) -> Job:
        """Wait for the `count`-th finished job of a stem; the newest one."""

        def see() -> Job | None:
            jobs = [job for job in self.client.jobs() if job.stem == stem and job.finished]
            return jobs[0] if len(jobs) >= count else None

        return until(see, f"job {count} of {stem}", seconds)

    def registered(self, stem: str, seconds: float = 120.0) -> Job:
        """Wait until a job of the stem has registered its version, or failed."""
        return until(
            lambda: next((j for j in self.client.jobs() if j.stem == stem and (j.version or j.finished)), None),
            f"{stem} to be registered",
            seconds,
        )

    def registered_version(self, stem: str, seconds: float = 120.0) -> int | None:
        """The version that the newest arrival of a stem became, waiting for a job that registers one."""

        def see() -> int | None:
            return next((job.version for job in self.client.jobs() if job.stem == stem and job.version), None)

        return until(see, f"a version of {stem}", seconds)


def kills(default: int) -> int:
    """How many random kills to try: `default`, or what STUDIO_KILLS says."""
    return int(os.environ.get("STUDIO_KILLS", default))


def outputs_of(answer: dict[str, Any]) -> dict[str, list[float]]:
    return {output["name"]: output["data"] for output in answer["outputs"]}
