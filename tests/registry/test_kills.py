"""The engine's writes killed at random moments: the registry opens, fits the store, and keeps what was told."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from studio.registry.rebuild import difference
from studio.registry.registry import Registry
from studio.registry.routes import routing_table
from studio.registry.series import points
from studio.registry.versions import list_versions
from studio.store.workspace import Workspace

KILLS = int(os.environ.get("STUDIO_KILLS", "10"))

WRITER = """
import sys
sys.path.insert(0, sys.argv[2])
from tests.manifests import variant, version
from studio.core.histogram import Histogram
from studio.core.metrics import Sample
from studio.core.settings import HistorySettings
from studio.registry.changes import add_variant, add_version, archive, move_alias, purge
from studio.registry.registry import Registry
from studio.registry.series import insert_samples, roll_up
from studio.store.workspace import Workspace

registry = Registry.open(Workspace.open(sys.argv[1]))
blobs = registry.store.blobs
print("ready", flush=True)
while True:
    number = registry.store.next_version("digits")
    add_version(registry, version(blobs, number=number))
    add_variant(registry, variant(blobs, number=number))
    move_alias(registry, "digits", "production", f"{number}-int8")
    insert_samples(registry, [Sample(target="t", at=float(number), requests=1, histogram=Histogram({5: 1}))])
    print("told", number, flush=True)
    roll_up(registry, 0.0, HistorySettings())
    if number > 3:
        archive(registry, "digits", number - 3)
        purge(registry, "digits", number - 3)
"""


def test_the_registry_survives_kills(tmp_path: Path) -> None:
    clock = random.Random(11)
    workspace = Workspace.open(tmp_path)
    told = 0
    for _ in range(KILLS):
        command = [sys.executable, "-c", WRITER, str(tmp_path), str(Path(__file__).parents[2])]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "ready\n"
            time.sleep(clock.uniform(0.0, 0.4))  # the moment of the kill, not a wait for something
            writer.send_signal(signal.SIGKILL)
            for line in writer.stdout:
                if line.startswith("told") and line.endswith("\n"):
                    told = int(line.split()[1])
        with Registry.open(workspace) as registry:
            assert registry.store.problems == []
            assert difference(registry.database, registry.store, registry.here) == ""
            table = routing_table(registry, 1)
            if not told:
                continue
            routes = table.models["digits"]
            assert int(routes.primary.partition("-")[0]) >= told
            assert all(registry.store.blobs.verify(target.sha256) for target in routes.targets.values())
            rows = list_versions(registry, archived=True).rows
            assert {row.version for row in rows} == {version for _, version in registry.store.manifests.versions()}
            # A killed engine never costs the charts what was committed.
            seconds = {point.at for point in points(registry, "t", 0, 1e9)}
            assert float(told) in seconds
            assert not list(workspace.root.glob("*.broken-*"))
    assert told > 0
