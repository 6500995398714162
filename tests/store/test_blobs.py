"""Blobs: what was copied is what is hashed, read-only, and only removed when nothing names it."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

import pytest

from studio.core.errors import Conflict, InvalidInput, NotFound, Unavailable
from studio.store import files
from studio.store.blobs import Blobs
from studio.store.files import clean_temps, create_exclusive, write_atomic


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    (tmp_path / "sha256").mkdir()
    return Blobs(tmp_path / "sha256")


def test_a_file_is_stored_under_its_hash_and_read_only(blobs: Blobs, tmp_path: Path) -> None:
    data = os.urandom(3_000_000)
    source = tmp_path / "model.onnx"
    source.write_bytes(data)
    reference = blobs.put_file(source, expected=hashlib.sha256(data).hexdigest())
    assert (reference.name, reference.size) == ("model.onnx", len(data))
    assert reference.sha256 == hashlib.sha256(data).hexdigest()
    path = blobs.path(reference.sha256)
    assert path.read_bytes() == data
    assert path.stat().st_mode & 0o777 == 0o444
    with blobs.open(reference.sha256) as stream:
        assert stream.read(10) == data[:10]
    assert blobs.verify(reference.sha256)
    assert source.read_bytes() == data


def test_a_changed_source_is_refused_and_leaves_nothing(blobs: Blobs, tmp_path: Path) -> None:
    source = tmp_path / "model.onnx"
    source.write_bytes(b"new")
    with pytest.raises(Conflict, match="changed"):
        blobs.put_file(source, expected=hashlib.sha256(b"old").hexdigest())
    assert list(blobs.folder.iterdir()) == []


def test_links_and_folders_and_pipes_are_refused(blobs: Blobs, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "link").symlink_to(tmp_path / "secret")
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "pipe", "sha256"):
        with pytest.raises(InvalidInput):
            blobs.put_file(tmp_path / name)
    with pytest.raises(NotFound):
        blobs.put_file(tmp_path / "nothing")
    assert list(blobs.folder.iterdir()) == []
    assert blobs.put_file(tmp_path / "link", follow=True).size == 6


def test_damage_is_seen_and_mended_by_storing_again(blobs: Blobs) -> None:
    reference = blobs.put_bytes(b"content", "x")
    path = blobs.path(reference.sha256)
    path.chmod(0o644)
    path.write_bytes(b"cont")
    assert not blobs.verify(reference.sha256)
    blobs.put_bytes(b"content", "x")
    assert blobs.verify(reference.sha256)


@pytest.mark.parametrize("name", ["../../etc/passwd", "", "A" * 64, "a" * 63, "a" * 64 + "\n"])
def test_only_hashes_name_blobs(blobs: Blobs, name: str) -> None:
    with pytest.raises(InvalidInput):
        blobs.path(name)


def test_collect_keeps_what_is_named_and_what_is_new(blobs: Blobs) -> None:
    named, loose, fresh = (blobs.put_bytes(text.encode(), text) for text in ("named", "loose", "fresh"))
    for reference in (named, loose):
        os.utime(blobs.path(reference.sha256), (1, 1))
    assert blobs.collect({named.sha256}) == loose.size
    assert blobs.hashes() == {named.sha256, fresh.sha256}
    os.utime(blobs.path(fresh.sha256), (1, 1))
    blobs.put_bytes(b"fresh", "again")  # storing again protects it anew
    assert blobs.collect({named.sha256}) == 0
    with pytest.raises(NotFound):
        blobs.open(loose.sha256)


def test_half_written_files_are_cleaned(blobs: Blobs) -> None:
    kept = blobs.put_bytes(b"x", "x")
    files.temp_path(blobs.folder).write_bytes(b"half")
    assert blobs.clean() == 1
    assert [path.name for path in blobs.folder.iterdir()] == [kept.sha256]


def test_a_full_disk_says_so_and_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_atomic(tmp_path / "doc", b"old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "sync_file", full)
    with pytest.raises(Unavailable, match="disk space"):
        write_atomic(tmp_path / "doc", b"new")
    with pytest.raises(Unavailable, match="disk space"):
        create_exclusive(tmp_path / "other", b"new")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("doc", b"old")]


@pytest.mark.parametrize("links", [True, False])
def test_exclusive_creation_has_one_winner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    def no_links(source: Path, target: Path) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    if not links:
        monkeypatch.setattr(files.os, "link", no_links)
    create_exclusive(tmp_path / "doc", b"first")
    with pytest.raises(Conflict, match="exists already"):
        create_exclusive(tmp_path / "doc", b"second")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("doc", b"first")]
    assert clean_temps(tmp_path) == 0
