"""The user's word on code that runs: recorded by hash, told apart from models, and kept through everything."""

from __future__ import annotations

import pytest

from studio.core.errors import CodeFile, NotFound
from studio.registry.changes import add_version, distrust, trust
from studio.registry.registry import Registry
from studio.registry.versions import journal, version_detail
from studio.store.workspace import Workspace
from tests.manifests import version

OLD = CodeFile(name="3-old.pkl", sha256="a" * 64, imports=("os.system", "sklearn.svm.SVC"))
NEW = CodeFile(name="new.pkl", sha256="1" * 64)


def test_a_yes_is_recorded_once_for_the_hash(registry: Registry) -> None:
    (one,) = trust(registry, [OLD], "tui")
    assert (one.sha256, one.name, one.imports, one.actor) == (
        OLD.sha256,
        "3-old.pkl",
        "os.system, sklearn.svm.SVC",
        "tui",
    )
    assert one.at.endswith("Z")
    both = trust(registry, [OLD, NEW, NEW], "cli")
    assert [found.actor for found in both] == ["tui", "cli", "cli"]
    assert [(entry.action, entry.subject, entry.after, entry.why) for entry in journal(registry, 9)] == [
        ("code.trusted", f"sha256:{NEW.sha256}", "new.pkl", ""),
        ("code.trusted", f"sha256:{OLD.sha256}", "3-old.pkl", "os.system, sklearn.svm.SVC"),
    ]


def test_a_yes_is_taken_back_and_can_be_given_again(registry: Registry) -> None:
    trust(registry, [OLD], "tui")
    assert distrust(registry, OLD.sha256, "cli").name == "3-old.pkl"
    assert not registry.store.journal.history.trusted
    assert journal(registry, 1)[0].before == "3-old.pkl"
    with pytest.raises(NotFound, match="is trusted"):
        distrust(registry, OLD.sha256)
    trust(registry, [OLD], "sdk")
    assert [one.actor for one in registry.store.journal.history.trusted.values()] == ["sdk"]


def test_it_survives_a_restart_and_a_lost_index(registry: Registry, workspace: Workspace) -> None:
    trust(registry, [OLD, NEW], "tui")
    distrust(registry, NEW.sha256, "tui")
    entries = journal(registry, 9)
    registry.close()
    with Registry.open(workspace) as again:
        assert not again.notices
        assert list(again.store.journal.history.trusted) == [OLD.sha256]
    workspace.registry.unlink()
    with Registry.open(workspace) as rebuilt:
        assert list(rebuilt.store.journal.history.trusted) == [OLD.sha256]
        assert journal(rebuilt, 9) == entries


def test_it_is_no_history_of_a_model_that_happens_to_be_called_so(registry: Registry) -> None:
    for number in (1, 2, 3):
        add_version(registry, version(registry.store.blobs, model="sha256", number=number))
    trust(registry, [OLD], "tui")
    assert [entry.action for entry in version_detail(registry, "sha256", 3).history] == ["version.added"]


def test_names_of_any_length_fit(registry: Registry) -> None:
    (one,) = trust(registry, [CodeFile(name="x", sha256="b" * 64, imports=("y" * 100_000,))], "tui")
    assert len(one.imports) == 4000 and one.imports.endswith("…")
