"""Archives of models: what is found in them, and how it reads when nothing is, or too much."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import pytest

from studio.core.errors import InvalidInput, Refused
from studio.pipeline.arrival import Opened, open_arrival
from tests.formats.archives import Members, tarred, zipped
from tests.formats.graphs import linear, outside, weights

MODEL = linear().SerializeToString()
MAR = {"model": {"modelName": "m", "serializedFile": "net.onnx", "handler": "evil.py"}}


def opened(tmp_path: Path, *paths: Path) -> Opened:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    return open_arrival(paths, "net", scratch)


def packed(members: Members) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, data in dict(members).items():
            archive.writestr(name, data)
    return stream.getvalue()


def test_a_file_that_is_a_model_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(MODEL)
    found = opened(tmp_path, path)
    assert (found.archive, found.files.content, found.notes) == (None, (path,), ())
    assert list((tmp_path / "scratch").iterdir()) == []


@pytest.mark.parametrize("pack", [zipped, tarred])
def test_a_model_in_an_archive_is_found(tmp_path: Path, pack: object) -> None:
    archive = pack(tmp_path / "net.bin", {"net/README.md": b"#", "net/net.onnx": MODEL})  # type: ignore[operator]
    found = opened(tmp_path, archive)
    assert found.archive == archive
    assert found.format.name == "onnx"
    assert found.recognition.detail == "ONNX, opset 17, from net.bin"
    assert found.recognition.model.read_bytes() == MODEL
    assert found.recognition.model.is_relative_to(tmp_path / "scratch")
    assert "net.bin" in found.notes[0]


def test_an_archive_can_be_opened_again_in_the_same_place(tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    archive = zipped(tmp_path / "net.zip", {"net.onnx": MODEL})
    for _ in range(2):  # as when a conversion is run again in the environment that it needs
        assert open_arrival((archive,), "net", tmp_path / "scratch").recognition.model.read_bytes() == MODEL


def test_external_data_comes_out_beside_its_model(tmp_path: Path) -> None:
    members = {"net.onnx": outside("w.bin").SerializeToString(), "w.bin": weights().tobytes()}
    found = opened(tmp_path, zipped(tmp_path / "net.zip", members))
    assert {file.name for file in found.files.content} == {"net.onnx", "w.bin"}


def test_settings_and_samples_inside_count_when_none_are_beside(tmp_path: Path) -> None:
    members = {"a/net.onnx": MODEL, "a/any.toml": b"title = 'inside'", "a/some.npz": b"n"}
    archive = zipped(tmp_path / "net.zip", members)
    found = opened(tmp_path, archive)
    assert found.files.settings is not None and found.files.settings.read_text() == "title = 'inside'"
    assert found.files.samples is not None and found.files.samples.name == "some.npz"
    (tmp_path / "scratch").rename(tmp_path / "first")
    (tmp_path / "net.toml").write_text("title = 'beside'")
    found = opened(tmp_path, archive, tmp_path / "net.toml")
    assert found.files.settings == tmp_path / "net.toml"
    assert found.files.samples is not None


def test_beside_the_archive_wins_over_any_number_inside(tmp_path: Path) -> None:
    archive = zipped(tmp_path / "net.zip", {"net.onnx": MODEL, "a.toml": b"", "pyproject.toml": b"[project]"})
    with pytest.raises(InvalidInput, match=r"In 'net.zip': There is more than one settings file"):
        opened(tmp_path, archive)
    (tmp_path / "scratch").rename(tmp_path / "first")
    (tmp_path / "net.toml").write_text("")
    assert opened(tmp_path, archive, tmp_path / "net.toml").files.settings == tmp_path / "net.toml"


def test_one_archive_inside_another_is_opened(tmp_path: Path) -> None:
    archive = zipped(tmp_path / "net.zip", {"README": b"r", "inner.zip": packed({"deep/net.onnx": MODEL})})
    assert opened(tmp_path, archive).recognition.model.name == "net.onnx"


def test_a_third_one_is_not(tmp_path: Path) -> None:
    inner = packed({"third.zip": packed({"net.onnx": MODEL})})
    with pytest.raises(Refused, match=r"There is no model in 'net.zip'") as caught:
        opened(tmp_path, zipped(tmp_path / "net.zip", {"inner.zip": inner}))
    assert "third.zip" in caught.value.why


def test_a_nested_bomb_is_stopped(tmp_path: Path) -> None:
    zeros = bytes(96 * 1024**2)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", zeros)
    with pytest.raises(Refused, match="is not unpacked") as caught:
        opened(tmp_path, zipped(tmp_path / "net.zip", {"inner.zip": stream.getvalue()}))
    assert "100 times" in caught.value.what


def test_an_archive_without_a_model_says_what_it_holds(tmp_path: Path) -> None:
    members = {f"{name}.txt": b"text" for name in "abcdef"}
    with pytest.raises(Refused, match=r"no model that Studio knows in 'net.zip'") as caught:
        opened(tmp_path, zipped(tmp_path / "net.zip", members))
    assert "It holds 6 files: a.txt, b.txt, c.txt, d.txt and 2 more" in caught.value.why
    assert "Supported: " in caught.value.why


def test_an_archive_of_a_format_that_does_not_work_says_which(tmp_path: Path) -> None:
    with pytest.raises(Refused) as caught:
        opened(tmp_path, zipped(tmp_path / "net.zip", {"net.gguf": b"GGUF" + bytes(60)}))
    assert "GGUF" in caught.value.why
    assert caught.value.fix


def test_an_empty_archive_says_so(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="no file in the archive"):
        opened(tmp_path, zipped(tmp_path / "net.zip", {}))


def test_several_models_are_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="2 ONNX models"):
        opened(tmp_path, zipped(tmp_path / "net.zip", {"a.onnx": MODEL, "b.onnx": MODEL}))


def test_several_archives_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "net"
    folder.mkdir()
    for name in ("a.zip", "b.zip"):
        zipped(folder / name, {"net.onnx": MODEL})
    with pytest.raises(InvalidInput, match=r"2 archives in this arrival: a.zip, b.zip"):
        opened(tmp_path, folder)


def test_documents_and_programs_are_not_searched_for_models(tmp_path: Path) -> None:
    for name in ("[Content_Types].xml", "META-INF/MANIFEST.MF"):
        with pytest.raises(Refused, match=r"document|program"):
            opened(tmp_path, zipped(tmp_path / "net.zip", {name: b"x", "net.onnx": MODEL}))
        (tmp_path / "scratch").rmdir()


def test_an_archive_that_looks_a_little_like_another_format_is_searched_all_the_same(tmp_path: Path) -> None:
    members = {"project/code/train.py": b"", "project/data.pkl": b"x", "project/net.onnx": MODEL}
    assert opened(tmp_path, zipped(tmp_path / "net.zip", members)).recognition.model.name == "net.onnx"


@pytest.mark.parametrize("magic", [b"Rar!\x1a\x07\x01\x00", b"7z\xbc\xaf\x27\x1c\x00\x04", b"\x28\xb5\x2f\xfd"])
def test_archives_that_can_not_be_unpacked_are_named(tmp_path: Path, magic: bytes) -> None:
    path = tmp_path / "net.rar"
    path.write_bytes(magic + bytes(100))
    with pytest.raises(Refused) as caught:
        opened(tmp_path, path)
    assert "RAR, 7z or Zstandard" in caught.value.what
    assert ".zip" in caught.value.fix


def mar(tmp_path: Path, manifest: object = MAR, **more: bytes) -> Path:
    members = {"MAR-INF/MANIFEST.json": json.dumps(manifest).encode(), "net.onnx": MODEL, **more}
    return zipped(tmp_path / "net.mar", {"evil.py": b"raise SystemExit", "other.onnx": b"", **members})


def test_a_torchserve_archive_names_its_model_and_its_handler_is_left_alone(tmp_path: Path) -> None:
    found = opened(tmp_path, mar(tmp_path, **{"index_to_name.json": b'{"0": "cat", "1": ["n1", "dog"], "2": "hen"}'}))
    assert [file.name for file in found.files.content] == ["net.onnx"]
    assert found.class_labels == ("cat", "dog", "hen")
    assert any("handler (evil.py) was not run" in note for note in found.notes)


def test_a_torchserve_archive_may_be_a_tar(tmp_path: Path) -> None:
    members = {"MAR-INF/MANIFEST.json": json.dumps(MAR).encode(), "net.onnx": MODEL, "evil.py": b""}
    assert opened(tmp_path, tarred(tmp_path / "net.mar", members)).recognition.model.name == "net.onnx"


@pytest.mark.parametrize(
    "labels", [b"[1]", b"{", b'{"1": "a"}', b'{"0": 3}', b'{"0": []}', pytest.param(b"[" * 100_000, id="deep")]
)
def test_labels_that_are_none_are_left_out(tmp_path: Path, labels: bytes) -> None:
    assert opened(tmp_path, mar(tmp_path, **{"index_to_name.json": labels})).class_labels == ()


@pytest.mark.parametrize(
    "manifest",
    [
        [],
        {"model": 3},
        {"model": {"serializedFile": "../../secret"}},
        {"model": {"serializedFile": ".."}},
        {"model": {"serializedFile": "gone.pt"}},
    ],
)
def test_a_torchserve_archive_that_lies_is_told_so(tmp_path: Path, manifest: object) -> None:
    (tmp_path / "secret").write_bytes(MODEL)
    with pytest.raises(InvalidInput, match="TorchServe archive"):
        opened(tmp_path, mar(tmp_path, manifest))


def test_hidden_parts_of_a_folder_are_left_out(tmp_path: Path) -> None:
    folder = tmp_path / "net"
    (folder / ".git").mkdir(parents=True)
    (folder / ".git" / "copy.onnx").write_bytes(MODEL)
    (folder / "net.onnx").write_bytes(MODEL)
    assert opened(tmp_path, folder).files.content == (folder / "net.onnx",)


def test_code_that_weights_need_comes_along_and_the_handler_does_not(tmp_path: Path) -> None:
    manifest = {"model": {"serializedFile": "net.onnx", "modelFile": "net_class.py", "handler": "evil.py"}}
    found = opened(tmp_path, mar(tmp_path, manifest, **{"net_class.py": b"", "layers.py": b"", "vocab.txt": b""}))
    assert sorted(file.name for file in found.files.content) == ["layers.py", "net.onnx", "net_class.py"]
    assert "vocab.txt" in {file.name for file in found.around}
