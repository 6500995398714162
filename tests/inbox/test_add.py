"""Copying into the inbox."""

import errno

import pytest

from studio.core.errors import InvalidInput, NotFound, Unavailable
from studio.inbox.add import add
from studio.inbox.groups import is_ignored


@pytest.fixture
def home(tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "inbox").mkdir()
    for name in ("digits.pt2", "digits.toml", "digits.npz", "digits.txt", "other.npz"):
        (tmp_path / "home" / name).write_text(name)
    return tmp_path / "home"


@pytest.fixture
def inbox(home):
    return home.parent / "inbox"


def contents(inbox):
    return {str(path.relative_to(inbox)): path.read_text() for path in inbox.rglob("*") if path.is_file()}


def test_companions_come_along_and_the_model_is_last(home, inbox):
    added = add(home / "digits.pt2", inbox)
    assert [path.name for path in added] == ["digits.npz", "digits.toml", "digits.pt2"]
    assert contents(inbox) == {name: name for name in ("digits.pt2", "digits.toml", "digits.npz")}


def test_another_name_renames_all(home, inbox):
    add(home / "digits.pt2", inbox, "numerals")
    assert contents(inbox) == {
        "numerals.pt2": "digits.pt2", "numerals.toml": "digits.toml", "numerals.npz": "digits.npz"
    }  # fmt: skip


def test_external_data_keeps_the_name_that_the_graph_knows_it_by(home, inbox):
    (home / "net.onnx").write_text("graph")
    (home / "net.onnx.data").write_text("weights")
    add(home / "net.onnx", inbox)
    assert contents(inbox) == {"net.onnx": "graph", "net.onnx.data": "weights"}
    add(home / "net.onnx", inbox, "renamed")
    assert contents(inbox)["renamed/net.onnx.data"] == "weights"


def test_a_folder_arrives_whole_and_replaces_an_earlier_one(home, inbox):
    (home / "net" / "variables").mkdir(parents=True)
    (home / "net" / "saved_model.pb").write_text("1")
    (home / "net" / "variables" / "v").write_text("1")
    (home / "net.toml").write_text("settings")
    assert [path.name for path in add(home / "net", inbox)] == ["net.toml", "net"]
    (home / "net" / "variables" / "v").unlink()
    (home / "net" / "saved_model.pb").write_text("2")
    add(home / "net", inbox)
    assert contents(inbox) == {"net/saved_model.pb": "2", "net.toml": "settings"}


def test_links_inside_a_folder_are_copied_as_files_and_a_loop_is_refused(home, inbox):
    (home / "net").mkdir()
    (home / "net" / "model.onnx").symlink_to(home / "digits.pt2")
    add(home / "net", inbox)
    copied = inbox / "net" / "model.onnx"
    assert copied.read_text() == "digits.pt2" and not copied.is_symlink()
    (home / "net" / "again").symlink_to(home / "net")
    with pytest.raises(InvalidInput, match="loop"):
        add(home / "net", inbox)
    assert contents(inbox) == {"net/model.onnx": "digits.pt2"}, "the earlier one stands"


def test_what_lies_in_the_inbox_already_stays(home, inbox):
    (inbox / "here.onnx").write_text("x")
    assert add(inbox / "here.onnx", inbox) == [inbox / "here.onnx"]
    assert contents(inbox) == {"here.onnx": "x"}


@pytest.mark.parametrize("name", ["../out", "a/b", "a\\b", ".hidden", "", "x" * 101, "nul\0", "..", "m.part"])
def test_names_that_lead_elsewhere_are_refused(home, inbox, name):
    with pytest.raises(InvalidInput):
        add(home / "digits.pt2", inbox, name)
    assert contents(inbox) == {}


def test_a_missing_path_is_not_found(home, inbox):
    with pytest.raises(NotFound):
        add(home / "nothing.onnx", inbox)


def test_a_full_disk_leaves_nothing_and_says_so(home, inbox, monkeypatch):
    def full(source, target):
        target.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("studio.inbox.add.shutil.copyfile", full)
    with pytest.raises(Unavailable, match="could not be copied") as caught:
        add(home / "digits.pt2", inbox)
    assert "disk is full" in caught.value.why and caught.value.fix
    assert list(inbox.iterdir()) == []


def test_it_is_never_visible_half_way(home, inbox, monkeypatch):
    import shutil

    seen = []
    real = shutil.copyfile

    def spy(source, target):
        result = real(source, target)
        seen.extend(path.name for path in inbox.iterdir() if not is_ignored(path.name))
        return result

    monkeypatch.setattr("studio.inbox.add.shutil.copyfile", spy)
    add(home / "digits.pt2", inbox)
    assert "digits.pt2" not in seen, "the model shows only when everything is there"
    assert sorted(path.name for path in inbox.iterdir()) == ["digits.npz", "digits.pt2", "digits.toml"]
