"""What the user says of inputs, added to a settings file: nothing else in it changes."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from studio.core.errors import Conflict, InvalidInput
from studio.core.tensors import TensorSpec
from studio.formats.settings.file import read_settings
from studio.inbox.describe import describe, settings_path, with_inputs

IMAGE = TensorSpec("image", "FP32", ("batch", 3, 224, 224))
TOLD = {"shape": ["batch", 3, 224, 224], "datatype": "FP32"}


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    folder = tmp_path / "inbox"
    folder.mkdir()
    (folder / "net.pt").write_bytes(b"x")
    return folder


def told(inbox: Path, *inputs: TensorSpec, stem: str = "net") -> Path:
    files = [file for file in inbox.rglob("*") if file.is_file()]
    return describe(inbox, stem, files, inputs, inbox.parent)


def test_a_new_file_is_what_the_reader_takes(inbox: Path) -> None:
    path = told(inbox, IMAGE, TensorSpec("odd name.é", "INT64", (1,)))
    assert path == inbox / "net.toml"
    settings = read_settings(path).inputs
    assert (settings["image"].shape, settings["image"].datatype) == (("batch", 3, 224, 224), "FP32")
    assert settings["odd name.é"].shape == (1,)
    assert [file.name for file in inbox.iterdir() if file.name.startswith(".")] == []
    assert list(inbox.parent.iterdir()) == [inbox]


@pytest.mark.parametrize(
    "text",
    [
        'title = "Mine"  # kept\n',
        'title = "Mine"',
        'tags = ["a"]\n\n[inputs.other]\nshape = [1, 2]\n',
        "[inputs.image]\nrange = [0, 1]\n\n[inputs.other]\nshape = [2]\n",
        "[inputs.image]",
        "[ inputs . 'image' ]  # of the camera\nrange = [0, 1]\n",
        '[inputs.image]\ndatatype = "FP32"\n',
        'description = """\n[inputs.image]\n"""\n[inputs.image]\nrange = [0, 1]\n',
        "# nothing yet\r\n",
    ],
)
def test_what_is_there_stays_as_it_is(inbox: Path, text: str) -> None:
    path = inbox / "net.toml"
    path.write_text(text, newline="")
    path.chmod(0o600)
    before = tomllib.loads(text)
    told(inbox, IMAGE)
    after = tomllib.loads(path.read_text())
    old = before.get("inputs", {}).get("image", {})
    assert after == {**before, "inputs": {**before.get("inputs", {}), "image": {**old, **TOLD}}}
    kept = path.read_bytes().decode()
    for line in text.splitlines():
        assert line in kept
    assert path.stat().st_mode & 0o777 == 0o600
    assert with_inputs(kept, [IMAGE]) == kept


@pytest.mark.parametrize(
    ("text", "kind", "words"),
    [
        ("[inputs.image]\nshape = [1, 3, 32, 32]\n", Conflict, "already gives the shape"),
        ("inputs = {image = {range = [0, 1]}}\n", InvalidInput, "by hand"),
        ("inputs = 3\n", InvalidInput, "by hand"),
        ("[inputs]\nimage = [1, 3]\n", InvalidInput, "by hand"),
        ("title = \n", InvalidInput, "not valid TOML"),
        ("\xff", InvalidInput, "not UTF-8"),
        ("colour = 3\n", InvalidInput, "colour"),
    ],
)
def test_what_can_not_be_added_to_is_left_alone(inbox: Path, text: str, kind: type[Exception], words: str) -> None:
    path = inbox / "net.toml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(kind, match=words):
        told(inbox, IMAGE)
    assert path.read_bytes() == text.encode("latin-1")


@pytest.mark.parametrize("spec", [TensorSpec("x", "FP33", (1,)), TensorSpec("x", "FP32", (0, 3))])
def test_what_is_no_shape_or_datatype_writes_nothing(inbox: Path, spec: TensorSpec) -> None:
    with pytest.raises(InvalidInput):
        told(inbox, spec)
    assert not (inbox / "net.toml").exists()


def test_a_link_is_not_followed(inbox: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("title = 'x'\n")
    (inbox / "net.toml").symlink_to(tmp_path / "mine.toml")
    with pytest.raises(InvalidInput, match="link"):
        describe(inbox, "net", [inbox / "net.pt"], [IMAGE], tmp_path)
    assert (tmp_path / "mine.toml").read_text() == "title = 'x'\n"


def test_the_settings_of_a_folder_lie_where_the_inbox_finds_them(inbox: Path) -> None:
    folder = inbox / "big"
    folder.mkdir()
    (folder / "model.pt").write_bytes(b"x")
    files = [folder / "model.pt"]
    assert settings_path(inbox, "big", files) == inbox / "big.toml"
    (inbox / "big.onnx").write_bytes(b"x")  # beside it, the file would be that model's
    assert settings_path(inbox, "big", files) == folder / "big.toml"
    assert settings_path(inbox, "big", [*files, folder / "own.toml"]) == folder / "own.toml"
