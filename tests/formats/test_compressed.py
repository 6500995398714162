"""Compressed streams as joblib writes them: every kind, damaged ones, and bombs."""

from __future__ import annotations

import bz2
import gzip
import importlib
import io
import lzma
import zlib
from pathlib import Path
from typing import Any

import joblib
import pytest

from studio.core.errors import InvalidInput, Refused
from studio.formats.pickles import compressed
from studio.formats.pickles.compressed import compression, inflate, inflated_head

KINDS = ("zlib", "gzip", "bz2", "xz", "lzma", "lz4")
CONTENT = {"a": list(range(20_000)), "b": "text" * 100}


def dumped(kind: str, path: Path) -> Path:
    joblib.dump(CONTENT, path, compress=(kind, 3))
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_what_joblib_compresses_is_unpacked(kind: str, tmp_path: Path) -> None:
    path = dumped(kind, tmp_path / "m")
    plain = io.BytesIO()
    joblib.dump(CONTENT, plain)
    assert compression(path.read_bytes()[:64]) == kind
    inflate(path, kind, tmp_path / "plain")
    assert (tmp_path / "plain").read_bytes() == plain.getvalue()
    assert inflated_head(path, kind, 5000) == plain.getvalue()[:5000]


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_stream_is_refused_in_words(kind: str, tmp_path: Path) -> None:
    whole = dumped(kind, tmp_path / "m").read_bytes()
    torn = whole[:40] + b"\xff" * 40 + whole[80:]
    # LZ4 of joblib has no checksum: a pickle that is damaged in it is damaged then.
    for damaged in (whole[: len(whole) // 2], whole[:-3] if kind == "lz4" else torn):
        path = tmp_path / "damaged"
        path.write_bytes(damaged)
        with pytest.raises(InvalidInput, match="can not be unpacked") as caught:
            inflate(path, kind, tmp_path / "plain")
        assert caught.value.fix
        inflated_head(path, kind)


@pytest.mark.parametrize("pack", [zlib.compress, gzip.compress, bz2.compress, lzma.compress])
def test_a_bomb_ends_early(pack: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compressed, "_ALWAYS", 1 << 20)
    path = tmp_path / "bomb"
    path.write_bytes(pack(bytes(24 << 20)))
    kind = compression(path.read_bytes()[:64])
    assert kind is not None
    with pytest.raises(InvalidInput, match="much larger than it seems"):
        inflate(path, kind, tmp_path / "plain")
    assert (tmp_path / "plain").stat().st_size < 20 << 20
    assert len(inflated_head(path, kind)) == 64 * 1024


def test_streams_behind_each_other_are_one(tmp_path: Path) -> None:
    path = tmp_path / "m.gz"
    path.write_bytes(gzip.compress(b"one ") + gzip.compress(b"two"))
    inflate(path, "gzip", tmp_path / "plain")
    assert (tmp_path / "plain").read_bytes() == b"one two"


def test_without_lz4_it_is_said_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = dumped("lz4", tmp_path / "m")

    def missing(name: str) -> Any:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    assert inflated_head(path, "lz4") == b""
    with pytest.raises(Refused, match="LZ4") as caught:
        inflate(path, "lz4", tmp_path / "plain")
    assert "compress=3" in caught.value.fix


def test_what_is_not_compressed_is_not_taken_for_it() -> None:
    for start in (b"", b"x", b"xy is text", b"\x80\x04\x95", b"PK\x03\x04", b"\x5d\x00\x00 some", b"BZ"):
        assert compression(start) is None
