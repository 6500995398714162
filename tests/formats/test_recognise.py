"""Telling arrivals apart by content."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from pathlib import Path

import pytest

from studio.core.errors import InvalidInput, Refused
from studio.formats.base import ArrivalFiles
from studio.formats.registry import formats, recognise
from tests.formats.graphs import linear, save


def arrival(*paths: Path) -> ArrivalFiles:
    return ArrivalFiles.of(paths)


def archive(*names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as zipped:
        for name in names:
            zipped.writestr(name, "pt2" if name.endswith("archive_format") else "{}")
    return buffer.getvalue()


def test_onnx_is_recognised_under_any_name(tmp_path: Path) -> None:
    chosen, seen = recognise(arrival(save(linear(), tmp_path / "model.bin")))
    assert (chosen.name, seen.detail) == ("onnx", "ONNX, opset 17")


def test_a_name_alone_convinces_nobody(tmp_path: Path) -> None:
    for name in ("model.onnx", "model.pt2"):
        path = tmp_path / name
        path.write_bytes(b"hello, I am a model")
        with pytest.raises(Refused, match="not a model format") as caught:
            recognise(arrival(path))
        assert "ONNX" in caught.value.why
        assert "torch.export" in caught.value.why


def test_a_truncated_onnx_file_is_invalid_rather_than_unknown(tmp_path: Path) -> None:
    whole = save(linear(), tmp_path / "model.onnx").read_bytes()
    (tmp_path / "model.onnx").write_bytes(whole[:-20])
    with pytest.raises(InvalidInput, match="ends in the middle"):
        recognise(arrival(tmp_path / "model.onnx"))


def test_a_pt2_archive_is_recognised(tmp_path: Path) -> None:
    path = tmp_path / "anything"
    path.write_bytes(archive("m/archive_format", "m/models/model.json"))
    assert recognise(arrival(path))[0].name == "torch-export"


KNOWN = {
    "pickle": (pickle.dumps({"a": 1}), "Python pickle"),
    "module": (archive("m/data.pkl", "m/data/0"), "pickled PyTorch"),
    "torchscript": (archive("m/data.pkl", "m/code/m.py", "m/constants.pkl"), "TorchScript"),
    "compiled": (archive("m/archive_format", "m/data/aotinductor/model/a.so"), "AOTInductor"),
    "h5": (b"\x89HDF\r\n\x1a\n" + b"\0" * 64, "HDF5"),
    "tflite": (b"\x1c\0\0\0TFL3" + b"\0" * 64, "TensorFlow Lite"),
    "safetensors": (struct.pack("<Q", 2) + b"{}", "safetensors"),
    "gguf": (b"GGUF\x03\0\0\0", "GGUF"),
    "frozen graph": (b"\n\x1d\n\x01x\x12\x0bPlaceholder*\x0b\n\x05dtype\x12\x020\x01", "frozen TensorFlow"),
    "empty": (b"", "empty"),
}


@pytest.mark.parametrize("name", KNOWN)
def test_a_known_format_is_named_and_said_to_be_unsupported(tmp_path: Path, name: str) -> None:
    data, words = KNOWN[name]
    path = tmp_path / "model.dat"
    path.write_bytes(data)
    with pytest.raises(Refused, match="not supported yet") as caught:
        recognise(arrival(path))
    assert words in caught.value.what
    assert "ONNX (.onnx)" in caught.value.why
    assert caught.value.fix


def test_a_saved_model_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "m" / "variables").mkdir(parents=True)
    (tmp_path / "m" / "saved_model.pb").write_bytes(b"\x08\x01\x12\x04")
    with pytest.raises(Refused, match="SavedModel"):
        recognise(arrival(tmp_path / "m"))


def test_two_models_in_one_arrival_are_refused(tmp_path: Path) -> None:
    save(linear(), tmp_path / "a.onnx")
    save(linear(), tmp_path / "b.onnx")
    with pytest.raises(InvalidInput, match="2 ONNX models"):
        recognise(arrival(tmp_path))


def test_files_have_roles_and_links_in_folders_are_not_followed(tmp_path: Path) -> None:
    secret = save(linear(), tmp_path / "secret.onnx")
    folder = tmp_path / "digits"
    folder.mkdir()
    for name in ("digits.onnx", "digits.toml", "digits.npz"):
        (folder / name).touch()
    (folder / "link.onnx").symlink_to(secret)
    files = arrival(folder)
    assert files.content == (folder / "digits.onnx",)
    assert (files.settings, files.samples) == (folder / "digits.toml", folder / "digits.npz")


def test_settings_alone_are_no_model(tmp_path: Path) -> None:
    (tmp_path / "digits.toml").write_text("title = 'x'")
    with pytest.raises(InvalidInput, match="no model"):
        arrival(tmp_path / "digits.toml")


def test_built_in_formats_are_found() -> None:
    assert set(formats()) >= {"onnx", "torch-export"}
