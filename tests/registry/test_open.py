"""Opening: whatever happened to the DuckDB file, what comes out fits the store, and it is said."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from studio.core.errors import Unavailable
from studio.core.metrics import Sample
from studio.core.views import VersionPage
from studio.registry.changes import add_variant, add_version, archive, move_alias
from studio.registry.database import migrations
from studio.registry.registry import Registry
from studio.registry.routes import routing_table
from studio.registry.series import insert_samples, points
from studio.registry.versions import journal, list_versions, model_detail
from studio.store.workspace import Workspace
from tests.manifests import variant, version


def fill(registry: Registry) -> VersionPage:
    blobs = registry.store.blobs
    for number in (1, 2, 3):
        add_version(registry, version(blobs, number=number, tags=("a", "b"), title='Ti"tle\nü'))
        add_variant(registry, variant(blobs, number=number, name="fp32", outcome="reference"))
        add_variant(registry, variant(blobs, number=number))
    move_alias(registry, "digits", "production", "2-int8", "better", "cli")
    archive(registry, "digits", 1, "cli")
    insert_samples(registry, [Sample(target="digits:2-int8", at=1000.0, requests=5)])
    return list_versions(registry, archived=True)


def seen(registry: Registry) -> tuple[object, ...]:
    return (
        list_versions(registry, archived=True),
        model_detail(registry, "digits"),
        journal(registry),
        routing_table(registry, 1),
    )


def test_closing_and_opening_changes_nothing_and_says_nothing(workspace: Workspace) -> None:
    with Registry.open(workspace) as registry:
        fill(registry)
        before = seen(registry)
        assert registry.notices == []
    with Registry.open(workspace) as registry:
        assert registry.notices == []
        assert seen(registry) == before
        assert points(registry, "", 0, 2000)[0].requests == 5


def test_a_deleted_file_is_rebuilt_to_the_same(workspace: Workspace) -> None:
    with Registry.open(workspace) as registry:
        fill(registry)
        before = seen(registry)
    workspace.registry.unlink()
    with Registry.open(workspace) as registry:
        assert seen(registry) == before
        assert registry.notices == ["The registry was rebuilt from the store, because it was empty."]


def test_a_file_of_garbage_is_set_aside(workspace: Workspace) -> None:
    with Registry.open(workspace) as registry:
        fill(registry)
        before = seen(registry)
    workspace.registry.write_bytes(b"garbage" * 1000)
    with Registry.open(workspace) as registry:
        assert seen(registry) == before
        (aside,) = workspace.root.glob("registry.duckdb.broken-*")
        assert aside.name in registry.notices[0]
        assert aside.read_bytes().startswith(b"garbage")
    with Registry.open(workspace) as registry:
        assert registry.notices == []


def test_damage_anywhere_in_the_file_never_gives_wrong_answers(workspace: Workspace) -> None:
    with Registry.open(workspace) as registry:
        fill(registry)
        before = seen(registry)
    whole = workspace.registry.read_bytes()
    set_aside = 0
    for offset in range(0, len(whole), len(whole) // 12):
        damaged = bytearray(whole)
        damaged[offset : offset + 64] = os.urandom(64)
        workspace.registry.write_bytes(damaged)
        # Another process: damage may be fatal to DuckDB itself, and must not be to the next open.
        for _ in range(5):
            done = subprocess.run([sys.executable, "-c", OPEN, str(workspace.root)], capture_output=True, text=True)
            if done.returncode == 0:
                break
            assert "Error" not in done.stderr, done.stderr
        assert done.returncode == 0, (offset, done.stderr)
        with Registry.open(workspace) as registry:
            assert registry.notices == []
            assert seen(registry) == before
        set_aside += len(list(workspace.root.glob("registry.duckdb.broken-*")))
    assert set_aside > 0


OPEN = """
import sys
from studio.registry.registry import Registry
from studio.store.workspace import Workspace
Registry.open(Workspace.open(sys.argv[1])).close()
"""

CRASH = """
import os, sys
from studio.core.metrics import Sample
from studio.registry.registry import Registry
from studio.registry.series import insert_samples
from studio.store.workspace import Workspace
registry = Registry.open(Workspace.open(sys.argv[1]))
for second in range(2000, 2050):
    insert_samples(registry, [Sample(target="digits:2-int8", at=float(second), requests=7)])
os._exit(9)
"""


def crash(workspace: Workspace) -> Path:
    done = subprocess.run([sys.executable, "-c", CRASH, str(workspace.root)], capture_output=True, text=True)
    assert done.returncode == 9, done.stderr
    log = workspace.registry.with_name("registry.duckdb.wal")
    assert log.stat().st_size > 1000
    return log


def test_a_crash_loses_nothing_that_was_committed(workspace: Workspace) -> None:
    with Registry.open(workspace) as registry:
        fill(registry)
        before = seen(registry)
    crash(workspace)
    with Registry.open(workspace) as registry:
        assert registry.notices == []
        assert seen(registry) == before
        assert len(points(registry, "digits:2-int8", 0, 3000)) == 51


def test_a_log_that_can_not_be_replayed_costs_only_what_it_held(workspace: Workspace) -> None:
    with Registry.open(workspace) as registry:
        fill(registry)
        before = seen(registry)
    log = crash(workspace)
    data = log.read_bytes()
    log.write_bytes(data.replace(b"digits:2-int8", b"digits:2-intX"))
    with Registry.open(workspace) as registry:
        assert "write-ahead log" in registry.notices[0]
        assert seen(registry) == before
        assert points(registry, "digits:2-int8", 0, 1500)[0].requests == 5
        assert len(list(workspace.root.glob("registry.duckdb.broken-*.wal"))) == 1


def test_a_file_that_ends_the_process_again_and_again_is_set_aside(workspace: Workspace) -> None:
    with Registry.open(workspace) as registry:
        fill(registry)
        before = seen(registry)
    mark = workspace.root / "registry.duckdb.opening"
    mark.write_text("2")
    with Registry.open(workspace) as registry:
        assert registry.notices == []
    assert not mark.exists()
    mark.write_text("3")
    with Registry.open(workspace) as registry:
        assert "3 attempts" in registry.notices[0]
        assert seen(registry) == before
    assert not mark.exists()


def test_an_index_behind_the_store_catches_up_and_keeps_the_charts(workspace: Workspace) -> None:
    with Registry.open(workspace) as registry:
        fill(registry)
    old = workspace.registry.read_bytes()
    with Registry.open(workspace) as registry:
        add_version(registry, version(registry.store.blobs, number=4))
        before = seen(registry)
    workspace.registry.write_bytes(old)
    with Registry.open(workspace) as registry:
        assert "other entries" in registry.notices[0]
        assert seen(registry) == before
        assert points(registry, "", 0, 2000)[0].requests == 5


def test_manifests_put_there_by_hand_are_found(workspace: Workspace) -> None:
    with Registry.open(workspace) as registry:
        fill(registry)
    (workspace.models / "copy").mkdir()
    text = (workspace.models / "digits" / "2.json").read_text().replace('"digits"', '"copy"')
    (workspace.models / "copy" / "2.json").write_text(text)
    with Registry.open(workspace) as registry:
        assert {row.model for row in list_versions(registry).rows} == {"digits", "copy"}
        assert len(registry.notices) == 2


def test_a_damaged_manifest_is_said_once_an_open_and_healed_when_it_is_mended(workspace: Workspace) -> None:
    with Registry.open(workspace) as registry:
        fill(registry)
        before = seen(registry)
    path = workspace.models / "digits" / "3.json"
    whole = path.read_bytes()
    path.unlink()
    path.write_bytes(b"{")
    workspace.registry.unlink()
    with Registry.open(workspace) as registry:
        assert [row.version for row in list_versions(registry).rows] == [2]
        assert "digits/3.json is damaged" in registry.notices[-1]
        assert "digits:3-fp32" not in routing_table(registry, 1).models["digits"].targets
    with Registry.open(workspace) as registry:
        assert len(registry.notices) == 1  # not rebuilt each time
    path.write_bytes(whole)
    with Registry.open(workspace) as registry:
        assert "repaired" in registry.notices[0]
        assert seen(registry) == before


def test_a_file_of_a_newer_studio_is_set_aside(workspace: Workspace) -> None:
    with Registry.open(workspace) as registry:
        fill(registry)
        registry.database.run("INSERT INTO migrations VALUES (9999, '9999_future.sql', '')")
    with Registry.open(workspace) as registry:
        assert "9999" in registry.notices[0]
        assert list_versions(registry).total == 2


def test_each_migration_is_recorded_once(workspace: Workspace) -> None:
    for _ in range(2):
        with Registry.open(workspace) as registry:
            done = registry.database.rows("SELECT number, name FROM migrations ORDER BY number")
    assert done == [(number, name) for number, name, _ in migrations()]
    assert [number for number, _ in done] == list(range(1, len(done) + 1))


def test_a_file_in_use_by_another_process_is_left_alone(workspace: Workspace) -> None:
    with Registry.open(workspace) as registry:
        fill(registry)
        done = subprocess.run([sys.executable, "-c", OPEN, str(workspace.root)], capture_output=True, text=True)
        assert "Conflict" in done.stderr
        assert "in use by another process" in done.stderr
        assert not list(workspace.root.glob("*.broken-*"))
        assert list_versions(registry).total == 2


def test_errors_of_the_database_are_told_in_words(registry: Registry) -> None:
    with pytest.raises(Unavailable, match="registry"):
        registry.database.run("SELECT nothing FROM nowhere")
    registry.close()
    with pytest.raises(Unavailable):
        list_versions(registry)
