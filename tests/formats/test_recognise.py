"""Telling arrivals apart: by content, each by one format alone, at little cost, with a sentence for what is none."""

from __future__ import annotations

import builtins
import io
import pickle
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from studio.core.errors import InvalidInput, Refused, StudioError
from studio.formats.base import ArrivalFiles
from studio.formats.registry import formats, recognise
from tests.formats import foreign_files
from tests.formats.foreign_files import archive
from tests.formats.graphs import linear, save
from tests.hostile.seeds import SEEDS


def arrival(*paths: Path) -> ArrivalFiles:
    return ArrivalFiles.of(paths)


def said_of(folder: Path, name: str, data: bytes) -> Refused:
    path = folder / name
    path.write_bytes(data)
    with pytest.raises(Refused) as caught:
        recognise(arrival(path))
    return caught.value


def test_onnx_is_recognised_under_any_name(tmp_path: Path) -> None:
    chosen, seen = recognise(arrival(save(linear(), tmp_path / "model.bin")))
    assert (chosen.name, seen.detail) == ("onnx", "ONNX, opset 17")


def test_a_name_alone_convinces_nobody(tmp_path: Path) -> None:
    names = (
        "m.onnx",
        "m.pt2",
        "m.pt",
        "m.keras",
        "m.h5",
        "m.json",
        "m.ubj",
        "m.cbm",
        "m.ort",
        "m.safetensors",
        "m.pkl",
    )
    for name in names:
        error = said_of(tmp_path, name, b"hello, I am a model")
        assert error.what == f"'{name}' is a text file, which is no model."
        assert "ONNX" in error.why
        assert "torch.export" in error.why
        error = said_of(tmp_path, name, bytes(range(128, 256)) * 9)
        assert error.what == f"'{name}' is not a model format that Studio knows."


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
    "pickle": (pickle.dumps(Decimal(1)), "a pickle of an object of decimal.Decimal"),
    "h5": (b"\x89HDF\r\n\x1a\n" + b"\0" * 64, "HDF5"),
}


@pytest.mark.parametrize("name", KNOWN)
def test_a_known_format_is_named_and_said_to_be_unsupported(tmp_path: Path, name: str) -> None:
    data, words = KNOWN[name]
    error = said_of(tmp_path, "model.dat", data)
    assert words in error.what
    assert "not supported yet" in error.what
    assert "ONNX (.onnx)" in error.why
    assert error.fix


@pytest.mark.parametrize("name", foreign_files.MODELS)
def test_a_model_of_another_framework_is_named_whatever_it_is_called(tmp_path: Path, name: str) -> None:
    usual, data, words, verdict = foreign_files.MODELS[name]
    for file in (usual, "model.onnx", "thing"):
        error = said_of(tmp_path, file, data)
        assert words in error.what
        assert verdict in error.what
        assert error.what.startswith(f"'{file}' is ") and error.what.endswith(".")
        assert len(error.fix) > 20 and error.fix.endswith(".")


@pytest.mark.parametrize("name", foreign_files.OTHERS)
def test_a_file_that_is_no_model_is_named(tmp_path: Path, name: str) -> None:
    usual, data, words = foreign_files.OTHERS[name]
    error = said_of(tmp_path, usual, data)
    assert words in error.what
    assert error.what.endswith("which is no model.")
    assert error.fix


@pytest.mark.parametrize("name", foreign_files.FOLDERS)
def test_a_folder_of_another_framework_is_named(tmp_path: Path, name: str) -> None:
    files, words = foreign_files.FOLDERS[name]
    for file, data in files.items():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_bytes(data)
    with pytest.raises(Refused) as caught:
        recognise(arrival(tmp_path))
    assert words in caught.value.what and "no model" not in caught.value.what


def test_in_a_folder_the_model_is_named_and_not_the_notes_beside_it(tmp_path: Path) -> None:
    for name in ("text", "PNG", "Spark ML", "JSON"):
        usual, data = (foreign_files.MODELS | foreign_files.OTHERS)[name][:2]
        (tmp_path / usual).write_bytes(data)
    with pytest.raises(Refused, match="Spark ML model"):
        recognise(arrival(tmp_path))


def test_a_damaged_saved_model_is_named(tmp_path: Path) -> None:
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
    assert set(formats()) >= {"onnx", "torch-export", "xgboost", "lightgbm", "catboost"}


@pytest.mark.parametrize("name", SEEDS)
def test_a_model_is_taken_by_one_format_whatever_it_is_called(tmp_path: Path, name: str) -> None:
    made = tmp_path / "made"
    made.mkdir()
    path = SEEDS[name](made)
    if name in ("zip", "tar"):  # unpacked before anybody looks
        assert not [one for one in formats().values() if one.recognise(arrival(path))]
        return
    takers = {one.name for one in formats().values() if one.recognise(arrival(path)) is not None}
    assert len(takers) == 1
    for other in ("model.onnx", "model.h5", "model.txt", "model", "model.npy"):
        target = path.rename(tmp_path / other)
        assert recognise(arrival(target))[0].name in takers
        path = target


EVERYTHING = {
    **{name: data for name, (_, data, *_) in (foreign_files.MODELS | foreign_files.OTHERS).items()},
    **{name: data for name, (data, _) in KNOWN.items()},
}


def test_no_format_takes_what_is_none_and_none_stumbles_over_it(tmp_path: Path) -> None:
    """Also cut short at any place, and under every name that could mislead."""
    for name in ("m.onnx", "config.pbtxt", "saved_model.pb"):
        path = tmp_path / name
        for data in EVERYTHING.values():
            for cut in (data, data[: len(data) // 2], data[:9], data[1:]):
                path.write_bytes(cut)
                try:
                    recognise(arrival(path))
                except StudioError as error:
                    assert error.what and (error.fix or error.why)


# -- cost


class Counter:
    """Counts what is read from files through Python, in calls and in bytes."""

    def __init__(self) -> None:
        self.calls = self.bytes = 0

    def opened(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def open_counted(file: Any, mode: str = "r", *more: Any, **named: Any) -> Any:
            if mode != "rb":
                return real(file, mode, *more, **named)
            return io.BufferedReader(_Counted(file, self))

        return open_counted


class _Counted(io.FileIO):
    def __init__(self, file: Any, counter: Counter) -> None:
        super().__init__(file, "rb")
        self._counter = counter

    def readinto(self, buffer: Any) -> int:
        count = super().readinto(buffer)
        self._counter.calls += 1
        self._counter.bytes += count
        return count

    def readall(self) -> bytes:
        raise AssertionError("a whole file is read")


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter]:
    counter = Counter()
    counted = counter.opened(io.open)
    monkeypatch.setattr(io, "open", counted)
    monkeypatch.setattr(builtins, "open", counted)
    yield counter


@pytest.mark.parametrize("name", foreign_files.LARGE)
def test_recognising_reads_little_of_a_large_file(tmp_path: Path, counter: Counter, name: str) -> None:
    start, end = foreign_files.LARGE[name]
    path = tmp_path / "model.dat"
    foreign_files.sparse(path, start, 1 << 30, end)
    counter.calls = counter.bytes = 0
    try:
        recognise(arrival(path))
    except StudioError as error:
        assert error.what
    assert 0 < counter.bytes < 20_000_000  # HDF5 says what it holds anywhere: its ends are searched
    assert counter.bytes < 2_000_000 or name == "HDF5"
    assert counter.calls < 500
