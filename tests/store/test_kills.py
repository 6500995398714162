"""A writer killed at random moments never leaves half a thing behind."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from studio.store.store import Store
from studio.store.workspace import Workspace

KILLS = int(os.environ.get("STUDIO_KILLS", "10"))

# Prints what it was told is durable; whatever was printed must be there after the kill.
WRITER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from tests.manifests import variant, version
from studio.core.jobs import Job
from studio.store.store import Store
from studio.store.workspace import Workspace

store = Store.open(Workspace.open(sys.argv[1]))
print("ready", flush=True)
while True:
    number = store.next_version("digits")
    store.jobs.save(Job(id="job", stem=str(number) * 2000, state="running", created=1.0, files=()))
    store.manifests.write_version(version(store.blobs, number=number))
    store.journal.append("version.added", f"digits:{number}", actor="engine")
    print("version", number, flush=True)
    store.manifests.write_variant(variant(store.blobs, number=number))
    store.journal.append("variant.added", f"digits:{number}-int8", actor="engine")
    store.journal.append("alias.moved", "digits:production", actor="engine", after=f"{number}-int8")
    print("alias", number, flush=True)
    if number > 3:
        store.journal.append("version.purged", f"digits:{number - 3}", actor="engine")
        store.purge("digits", number - 3)
"""


def test_what_was_reported_is_there_after_a_kill_and_the_rest_is_whole(tmp_path: Path) -> None:
    clock = random.Random(7)
    told = {"version": 0, "alias": 0}
    for _ in range(KILLS):
        command = [sys.executable, "-c", WRITER, str(tmp_path), str(Path(__file__).parents[2])]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "ready\n"
            time.sleep(clock.uniform(0.0, 0.25))  # the moment of the kill, not a wait for something
            writer.send_signal(signal.SIGKILL)
            for line in writer.stdout:
                kind, _, number = line.partition(" ")
                if line.endswith("\n"):
                    told[kind] = int(number)
        _check(Store.open(Workspace.open(tmp_path)), told)
    assert told["alias"] > 0


def _check(store: Store, told: dict[str, int]) -> None:
    assert store.problems == []
    history = store.journal.history
    versions = store.manifests.versions()
    assert set(versions) == history.added
    assert history.newest.get("digits", 0) >= told["version"]
    assert int(history.aliases.get("digits", {}).get("production", "0-int8").partition("-")[0]) >= told["alias"]
    named = set()
    for model, version in versions:
        manifest = store.manifests.read_version(model, version)
        named.add(manifest.graph.file.sha256)
        for name in store.manifests.variants_of(model, version):
            graph = store.manifests.read_variant(model, version, name).graph
            assert graph is not None
            named.add(graph.file.sha256)
    assert all(store.blobs.verify(sha256) for sha256 in store.blobs.hashes())
    assert named <= store.blobs.hashes()
    assert not list(store.workspace.store.rglob(".tmp-*"))
    store.jobs.load_all()
    assert store.jobs.problems == []
    store.collect(min_age_seconds=-1)
    assert store.blobs.hashes() == named
