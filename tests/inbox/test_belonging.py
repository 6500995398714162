"""What belongs to a model besides its file, and archives: grouped by stem, whole or still being copied."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from studio.inbox.add import add
from studio.inbox.complete import is_complete
from studio.inbox.groups import Listing, Stamp, group, is_companion, stem_of
from tests.formats.archives import tarred, zipped

NOISE = {"net/model.onnx": random.Random(3).randbytes(40_000), "net/note.txt": b"abc" * 5000}


def keys(*names: str) -> dict[str, list[str]]:
    found = group(Listing(tuple(Stamp(name, 1, 1, place) for place, name in enumerate(names)), {}))
    return {key: [stamp.name for stamp in one.files] for key, one in found.items()}


@pytest.mark.parametrize(
    "name", ["net.tar.gz", "net.tgz", "net.tar", "net.tar.bz2", "net.tar.xz", "net.zip", "net.mar", "net.keras"]
)
def test_an_archive_and_its_settings_are_one_arrival(name: str) -> None:
    assert stem_of(name) == "net"
    assert keys(name, "net.toml", "net.npz") == {"net": sorted([name, "net.toml", "net.npz"])}


def test_dots_in_the_stem_of_an_archive_stay() -> None:
    assert keys("net.v2.tar.gz", "net.v2.toml", "net.tgz") == {
        "net.v2": ["net.v2.tar.gz", "net.v2.toml"],
        "net": ["net.tgz"],
    }


def test_code_and_tokenizer_belong_to_the_model_and_are_none_alone() -> None:
    assert keys("net.pt", "net.py", "net.toml", "a.safetensors", "a.py") == {
        "net": ["net.pt", "net.py", "net.toml"],
        "a": ["a.py", "a.safetensors"],
    }
    assert keys("net.py", "other.tokenizer.json") == {}
    assert keys("net.onnx", "net.tokenizer.json") == {"net": ["net.onnx", "net.tokenizer.json"]}
    assert not is_companion("tokenizer.json")
    assert not is_companion("net.json")


def test_a_folder_takes_the_code_beside_it() -> None:
    listing = Listing((Stamp("net.py", 1, 1, 1),), {"net": (Stamp("net/w.safetensors", 1, 1, 2),)})
    assert [stamp.name for stamp in group(listing)["net/"].files] == ["net.py", "net/w.safetensors"]


def copied(tmp_path: Path, model: str, name: str | None = None) -> list[str]:
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    return [path.name for path in add(tmp_path / model, inbox, name)]


def test_a_factory_comes_along_with_weights_alone(tmp_path: Path) -> None:
    for name in ("net.pt", "net.py", "net.tokenizer.json", "net.onnx"):
        (tmp_path / name).write_text(name)
    assert copied(tmp_path, "net.pt") == ["net.py", "net.tokenizer.json", "net.pt"]
    (tmp_path / "inbox").rename(tmp_path / "first")
    assert copied(tmp_path, "net.onnx", "other") == ["other.tokenizer.json", "other.onnx"]


MAKERS = {
    "net.zip": zipped,
    "net.mar": zipped,
    "net.tar": lambda path, members: tarred(path, members, "w:"),
    "net.tar.gz": lambda path, members: tarred(path, members, "w:gz"),
    "net.tar.bz2": lambda path, members: tarred(path, members, "w:bz2"),
    "net.tar.xz": lambda path, members: tarred(path, members, "w:xz"),
}


@pytest.mark.parametrize("name", sorted(MAKERS))
def test_an_archive_is_complete_when_its_end_is_there(tmp_path: Path, name: str) -> None:
    path = MAKERS[name](tmp_path / name, NOISE)
    assert is_complete(path)
    data = path.read_bytes()
    cuts = [len(data) * share // 100 for share in (3, 10, 33, 50, 75, 99)] + [len(data) - 1]
    for cut in cuts:
        path.write_bytes(data[:cut])
        assert not is_complete(path), cut


def test_a_large_tar_whose_end_was_made_room_for_is_not_complete(tmp_path: Path) -> None:
    path = tarred(tmp_path / "net.tar.gz", NOISE)
    path.write_bytes(path.read_bytes()[:-100] + bytes(range(100)))
    assert not is_complete(path)


def test_weights_are_complete_when_they_are_as_long_as_they_say(tmp_path: Path) -> None:
    header = json.dumps({"__metadata__": {}, "w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}).encode()
    whole = len(header).to_bytes(8, "little") + header + bytes(16)
    path = tmp_path / "net.safetensors"
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        assert not is_complete(path), cut
    path.write_bytes(whole)
    assert is_complete(path)


@pytest.mark.parametrize("header", [b"[]", b'{"w": 3}', b'{"w": {"data_offsets": []}}', b"{", b"[" * 5000])
def test_weights_with_an_odd_header_are_left_to_the_worker(tmp_path: Path, header: bytes) -> None:
    path = tmp_path / "net.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"x")
    assert is_complete(path)


def test_a_settings_file_made_to_keep_the_engine_busy_is_left_to_the_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def minutes(_: str) -> None:
        raise AssertionError("tomllib takes minutes for this")

    path = tmp_path / "net.toml"
    path.write_text("a." * 30_000 + "b = 1")
    monkeypatch.setattr("studio.inbox.complete.tomllib.loads", minutes)
    assert is_complete(path)
