"""Which files belong together."""

import os

import pytest

from studio.inbox.groups import Listing, Stamp, group, is_ignored, stem_of
from studio.inbox.listing import MAX_FOLDER_FILES, list_inbox


def names_by_key(listing: Listing) -> dict[str, list[str]]:
    return {key: [stamp.name for stamp in found.files] for key, found in group(listing).items()}


def loose(*names: str) -> Listing:
    return Listing(tuple(Stamp(name, 1, 1, place) for place, name in enumerate(names)), {})


def test_files_of_one_stem_are_one_arrival():
    found = names_by_key(loose("digits.toml", "iris.onnx", "digits.npz", "digits.pt2"))
    assert found == {"digits": ["digits.npz", "digits.pt2", "digits.toml"], "iris": ["iris.onnx"]}


@pytest.mark.parametrize(
    "data",
    ["big.onnx.data", "big.onnx_data", "big.onnx_data_1", "big.onnx.data-00001", "big.data", "big.onnx.bin", "big.bin"],
)
def test_external_data_belongs_to_its_model(data):
    assert names_by_key(loose("big.onnx", data)) == {"big": sorted(["big.onnx", data])}


def test_settings_samples_and_external_data_alone_wait():
    assert names_by_key(loose("a.toml", "b.npz", "c.onnx.data", "d.data")) == {}


def test_dots_inside_a_stem_stay():
    assert names_by_key(loose("digits.v2.pt2", "digits.v2.toml", "digits.pt2")) == {
        "digits.v2": ["digits.v2.pt2", "digits.v2.toml"],
        "digits": ["digits.pt2"],
    }
    assert stem_of("saved.tar.gz") == "saved"


def test_a_folder_is_one_arrival_and_takes_the_settings_beside_it():
    inside = (Stamp("net/saved_model.pb", 1, 1, 8), Stamp("net/variables/v.index", 1, 1, 9))
    beside = Listing((Stamp("net.toml", 1, 1, 1),), {"net": inside})
    assert names_by_key(beside) == {"net/": ["net.toml", "net/saved_model.pb", "net/variables/v.index"]}


def test_a_loose_model_keeps_its_settings_from_a_folder_of_the_same_name():
    files = (Stamp("net.toml", 1, 1, 1), Stamp("net.onnx", 1, 1, 2))
    found = names_by_key(Listing(files, {"net": (Stamp("net/model.onnx", 1, 1, 3),)}))
    assert found == {"net": ["net.onnx", "net.toml"], "net/": ["net/model.onnx"]}


@pytest.mark.parametrize(
    "name",
    [
        ".hidden.onnx",
        "m.onnx~",
        ".m.onnx.swp",
        "m.onnx.swp",
        "m.onnx.part",
        "m.onnx.crdownload",
        "m.tmp",
        "#m.onnx#",
        "~$m.x",
    ],
)
def test_hidden_and_temporary_names_are_ignored(name):
    assert is_ignored(name)


@pytest.mark.parametrize("name", ["m.onnx", "m.pt2", "parts.onnx", "temp-model.onnx", "m.tmpl"])
def test_ordinary_names_are_not_ignored(name):
    assert not is_ignored(name)


def test_the_fingerprint_changes_with_any_property_of_any_file():
    def of(*stamps: Stamp) -> str:
        return group(Listing(stamps, {}))["a"].fingerprint

    base = of(Stamp("a.onnx", 1, 1, 1))
    others = {of(Stamp("a.onnx", *rest)) for rest in ((2, 1, 1), (1, 2, 1), (1, 1, 2))}
    assert len(others | {base, of(Stamp("a.onnx", 1, 1, 1), Stamp("a.toml", 1, 1, 2))}) == 5


def test_a_listing_follows_no_link_and_opens_no_pipe(tmp_path):
    inbox = tmp_path / "inbox"
    (inbox / "net").mkdir(parents=True)
    (tmp_path / "secret.onnx").write_bytes(b"x")
    (inbox / "linked.onnx").symlink_to(tmp_path / "secret.onnx")
    (inbox / "around").symlink_to(inbox)
    (inbox / "net" / "loop").symlink_to(inbox)
    os.mkfifo(inbox / "pipe.onnx")
    (inbox / "net" / "model.onnx").write_bytes(b"x")
    listing = list_inbox(inbox)
    assert [stamp.name for stamp in listing.folders["net"]] == ["net/model.onnx"]
    assert listing.files == ()
    reasons = {skipped.name: skipped.reason for skipped in listing.skipped}
    assert set(reasons) == {"linked.onnx", "around", "net/loop", "pipe.onnx"}
    assert "symbolic link" in reasons["linked.onnx"]
    assert "regular file" in reasons["pipe.onnx"]


def test_a_folder_nested_too_deep_or_too_full_is_left_alone(tmp_path, monkeypatch):
    deep = tmp_path / "deep" / "/".join("d" * 20)
    deep.mkdir(parents=True)
    (deep / "model.onnx").write_bytes(b"x")
    monkeypatch.setattr("studio.inbox.listing.MAX_FOLDER_FILES", 3)
    assert MAX_FOLDER_FILES > 3
    (tmp_path / "full").mkdir()
    for place in range(5):
        (tmp_path / "full" / f"{place}.bin").write_bytes(b"x")
    listing = list_inbox(tmp_path)
    assert listing.folders == {}
    assert {skipped.name.partition("/")[0] for skipped in listing.skipped} == {"deep", "full"}
