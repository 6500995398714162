"""A running engine under attack: everything is planted at once, and each outcome is written down."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from studio.core.errors import Problem
from studio.core.jobs import Job
from tests.hostile.place import SECRET, Attack, Place
from tests.journeys.engines import SAMPLES, RunningEngine, until

SETTINGS = """
[serving]
port = 0
[inbox]
settle_seconds = 0.1
patience_seconds = 0.5
[workers]
recipes = []
measure_seconds = 0.4
memory_bytes = {memory}
file_bytes = 2000000000
intake_seconds = {seconds}
"""
GOOD = SAMPLES / "3" / "cancer.onnx"


@dataclass(frozen=True)
class Outcome:
    """`state`: of its job; 'version' once it is one."""

    state: str
    problem: Problem | None = None
    text: str = ""
    log: str = ""


@dataclass
class Siege:
    """One engine in a workspace of its own. `outside` is a folder that nothing may change."""

    engine: RunningEngine
    outside: Path
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    dropped: dict[Path, str] = field(default_factory=dict)

    def begin(self, seconds: float, memory: int = 3 * 1024**3) -> None:
        self.engine.workspace.mkdir(parents=True)
        (self.engine.workspace / "studio.toml").write_text(SETTINGS.format(seconds=seconds, memory=memory))
        self.outside.mkdir()
        (self.outside / "secret.bin").write_bytes(SECRET * 8)
        self.engine.start()
        assert self.engine.process is not None
        self.pids = self._pids()
        control = urlsplit(self.engine.client.url)
        facts = {"pid": self.engine.process.pid, "port": control.port, "home": str(Path.home())}
        (self.outside / "engine.json").write_text(json.dumps(facts))
        self.before = self.census()

    def _pids(self) -> dict[str, int]:
        """The engine and its server; whichever is replaced has died."""
        assert self.engine.process is not None
        server = until(lambda: self.engine.child("studio.serving.child"), "the server")
        return {"engine": self.engine.process.pid, "server": server.pid}

    def census(self) -> dict[str, str]:
        """What lies outside, with its content."""
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(self.outside.iterdir())}

    def run(self, attacks: Iterable[Attack], seconds: float) -> None:
        """Plant all of them, wait until each has come to rest, say yes where that is part of it."""
        planted = list(attacks)
        for attack in planted:
            attack.plant(Place(self.engine.inbox, self.outside, attack.name))
        waiting = {attack.name: attack for attack in planted}
        said: set[str] = set()

        def look() -> bool:
            jobs = self._jobs()
            for attack in list(waiting.values()):
                outcome = self._outcome(attack, jobs, said)
                if outcome is not None:
                    self.outcomes[attack.name] = outcome
                    del waiting[attack.name]
            return not waiting

        try:
            until(look, "all of them", seconds)
        except AssertionError as error:
            raise AssertionError(f"still under way: {', '.join(waiting)}") from error

    def _jobs(self) -> dict[str, Job]:
        """The newest job of each stem."""
        found: dict[str, Job] = {}
        for job in self.engine.client.jobs(limit=1000):
            found.setdefault(job.stem, job)
        return found

    def _outcome(self, attack: Attack, jobs: dict[str, Job], said: set[str]) -> Outcome | None:
        job = jobs.get(attack.arrival)
        if job is None:
            return None
        if job.state == "waiting" and attack.trust and attack.name not in said:
            assert job.problem is not None
            said.add(attack.name)
            self.engine.client.trust(*(file.sha256 for file in job.problem.code_files))
            return None
        if job.state == "waiting" and attack.trust and job.problem and job.problem.code == "needs_trust":
            return None  # it has not gone on yet
        if job.version is None and job.state not in ("failed", "waiting"):
            return None
        state = "version" if job.version is not None else job.state
        text = job.problem.sentence() if job.problem else ""
        return Outcome(state, job.problem, text, self.engine.client.job_log(job.id))

    def still_stands(self) -> None:
        """The same engine and server, nothing outside touched, nothing of it kept, and the next arrival is fine."""
        assert self.engine.process is not None
        assert self.engine.process.poll() is None
        assert self._pids() == self.pids
        assert self.census() == self.before
        for blob in (self.engine.workspace / "store").rglob("*"):
            if blob.is_file():
                assert SECRET not in blob.read_bytes(), blob
        (self.engine.inbox / "after-all.onnx").write_bytes(GOOD.read_bytes())
        assert self.engine.registered_version("after-all") == 1
        rows = self.engine.client.predict("after-all", _one_row(self.engine))
        assert all(len(values) == 1 for values in rows.values())
        inside = str(self.engine.workspace / "run" / "work")
        own = {child.pid for child in self.engine.children()}
        strays = [one for one in psutil.process_iter(["cwd"]) if (one.info["cwd"] or "").startswith(inside)]
        assert [stray for stray in strays if stray.pid not in own] == []
        left = [path.name for path in (self.engine.workspace / "run" / "work").glob("intake-*")]
        assert len(left) <= 1, left  # at most a worker that waits for the next


def _one_row(engine: RunningEngine) -> dict[str, list[list[float]]]:
    signature = engine.client.version("after-all", 1).manifest.signature
    return {spec.name: [[0.0] * int(spec.shape[1])] for spec in signature.inputs}


@contextmanager
def besieged(folder: Path, seconds: float, memory: int = 3 * 1024**3) -> Iterator[Siege]:
    """An engine that is stopped in the end, and must then end cleanly."""
    siege = Siege(RunningEngine(folder / "workspace"), folder / "outside")
    os.environ["STUDIO_TEST_SECRET"] = "the engine's own"
    try:
        siege.begin(seconds, memory)
    finally:
        del os.environ["STUDIO_TEST_SECRET"]
    try:
        yield siege
    finally:
        try:
            ended = siege.engine.stop()
        except subprocess.TimeoutExpired:
            siege.engine.kill()
            raise
    assert ended == 0
