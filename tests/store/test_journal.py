"""The journal: chained, fsync'd, mended after a crash, honest about tampering."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from studio.core import codec
from studio.core.errors import Unavailable
from studio.core.journal import GENESIS, Entry, entry_hash
from studio.store import journal as journal_module
from studio.store.journal import Draft, Journal


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.jsonl"


def fill(path: Path, count: int = 5) -> Journal:
    journal = Journal(path)
    for number in range(1, count + 1):
        journal.append("version.added", f"digits:{number}", actor="engine", why="ü")
    return journal


def test_entries_are_chained_and_survive(path: Path) -> None:
    journal = fill(path)
    entries = journal.read()
    assert [entry.seq for entry in entries] == [1, 2, 3, 4, 5]
    assert [entry.prev for entry in entries] == [GENESIS, *(entry.hash for entry in entries[:-1])]
    assert all(entry.hash == entry_hash(entry) for entry in entries)
    again = Journal(path)
    assert (again.read(), again.head, again.seq, again.problems) == (entries, entries[-1].hash, 5, [])


def test_replay_gives_aliases_archive_and_moves(path: Path) -> None:
    journal = fill(path, 3)
    journal.append("alias.moved", "digits:production", actor="cli", after="1-fp32")
    journal.append("alias.moved", "digits:production", actor="tui", before="1-fp32", after="3-int8", why="faster")
    journal.append("alias.moved", "digits:candidate", actor="tui", after="2-fp32")
    journal.append("alias.removed", "digits:candidate", actor="tui", before="2-fp32")
    journal.append("version.archived", "digits:1", actor="cli")
    journal.append("version.archived", "digits:2", actor="cli")
    journal.append("version.restored", "digits:2", actor="cli")
    journal.append("version.purged", "digits:1", actor="cli")
    for history in (journal.history, Journal(path).history):
        assert history.aliases == {"digits": {"production": "3-int8"}}
        assert history.archived == set()
        assert history.added == {("digits", 2), ("digits", 3)}
        assert history.purged == {("digits", 1)}
        assert [(move.alias, move.before, move.after) for move in history.moves] == [
            ("production", "", "1-fp32"),
            ("production", "1-fp32", "3-int8"),
            ("candidate", "", "2-fp32"),
            ("candidate", "2-fp32", ""),
        ]
        assert history.moves[1].why == "faster"


@pytest.mark.parametrize("tail", [b'{"seq":6,"at":"2026', b"\x00" * 64, b'{"seq":6}\n', b"\xff\xfe\n", b"{"])
def test_a_torn_last_line_is_cut_off_and_kept(path: Path, tail: bytes) -> None:
    entries = fill(path).read()
    for number in (1, 2):
        whole = path.read_bytes()
        path.write_bytes(whole + tail)
        journal = Journal(path)
        assert journal.read() == entries
        assert path.read_bytes() == whole
        assert path.with_name(f"journal.jsonl.torn-{number}").read_bytes() == tail
        assert len(journal.notices) == 1
        assert journal.problems == []
    journal.append("version.archived", "digits:1", actor="cli")
    assert Journal(path).problems == []


def test_every_cut_of_the_last_entry_leaves_the_others(path: Path) -> None:
    entries = fill(path, 3).read()
    whole = path.read_bytes()
    start = whole.rfind(b"\n", 0, -1) + 1
    for cut in range(start, len(whole)):
        path.write_bytes(whole[:cut])
        journal = Journal(path)
        # Only the line break missing: the entry itself is whole, and stays.
        assert journal.read() == (entries if cut == len(whole) - 1 else entries[:2])
        assert journal.problems == []
        journal.append("version.added", "digits:9", actor="engine")
        assert Journal(path).problems == []


def test_a_changed_entry_is_named(path: Path) -> None:
    fill(path)
    path.write_bytes(path.read_bytes().replace(b'"digits:3"', b'"digits:7"'))
    journal = Journal(path)
    assert [problem.what for problem in journal.problems] == [
        "Entry 3 was changed after it was written (journal.jsonl)."
    ]
    assert journal.append("version.added", "digits:8", actor="engine").seq == 6


def test_a_removed_entry_breaks_the_chain_where_it_was(path: Path) -> None:
    fill(path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:1] + lines[2:]))
    assert [problem.what for problem in Journal(path).problems] == ["The chain is broken at entry 3 (journal.jsonl)."]


def test_garbage_in_the_middle_does_not_hide_the_rest(path: Path) -> None:
    fill(path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], b"garbage\n", *lines[3:]]))
    journal = Journal(path)
    assert [entry.seq for entry in journal.read()] == [1, 2, 4, 5]
    assert "behind entry 2" in journal.problems[0].what
    assert journal.seq == 5


def test_an_entry_of_a_newer_studio_is_kept_in_the_chain(path: Path) -> None:
    journal = fill(path, 1)
    fields = codec.builtins(journal.read()[0]) | {
        "seq": 2,
        "action": "model.renamed",
        "prev": journal.head,
        "hash": "f",
    }
    path.write_bytes(path.read_bytes() + codec.encode(fields) + b"\n")
    again = Journal(path)
    assert (again.seq, again.head) == (2, "f")
    assert len(again.problems) == 1
    assert again.append("version.added", "digits:2", actor="engine").prev == "f"
    assert len(Journal(path).problems) == 1


def test_a_failed_write_adds_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = fill(path, 2)
    whole, head = path.read_bytes(), journal.head

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(journal_module, "sync_file", full)
        with pytest.raises(Unavailable, match="disk space"):
            journal.append("version.archived", "digits:1", actor="cli")
    assert path.read_bytes() == whole
    assert (journal.head, journal.seq, journal.history.archived) == (head, 2, set())
    journal.append("version.archived", "digits:2", actor="cli")
    assert Journal(path).problems == []


def test_many_at_once_are_one_chain(path: Path) -> None:
    journal = fill(path, 1)
    drafts = [Draft(action="version.added", subject=f"m:{n}", actor="engine") for n in range(1, 50)]
    entries: list[Entry] = journal.append_all(drafts)
    again = Journal(path)
    assert again.read()[1:] == entries
    assert again.problems == []
    assert again.history.newest == {"digits": 1, "m": 49}
