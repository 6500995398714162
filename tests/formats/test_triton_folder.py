"""Triton folders are recognised by their layout, and what can not be taken from them is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from studio.core.errors import InvalidInput, Refused
from studio.formats.base import ArrivalFiles
from studio.formats.onnx.triton_config import read_config
from studio.formats.registry import recognise
from tests.formats.graphs import linear, outside, save
from tests.formats.triton import CONFIG, model_folder


def recognised(folder: Path) -> tuple[str, Path, str]:
    chosen, seen = recognise(ArrivalFiles.of((folder,)))
    return chosen.name, seen.model.relative_to(folder), seen.detail


def test_the_newest_version_is_taken(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m", versions={"2": linear(), "10": linear(), "09": linear(), "old": linear()})
    name, model, detail = recognised(folder)
    assert (name, model) == ("triton", Path("10/model.onnx"))
    assert detail == "ONNX, opset 17, version 10 of a Triton folder"


def test_the_version_policy_decides_which_versions_count(tmp_path: Path) -> None:
    config = CONFIG + "version_policy: { specific { versions: [1, 2] } }"
    folder = model_folder(tmp_path / "m", config, {"1": linear(), "2": linear(), "3": linear()})
    assert recognised(folder)[1] == Path("2/model.onnx")


def test_versions_without_a_configuration_are_a_triton_folder_too(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m", None, {"1": linear(), "2": linear()})
    assert recognised(folder)[:2] == ("triton", Path("2/model.onnx"))
    alone = model_folder(tmp_path / "alone", None)
    assert recognised(alone)[:2] == ("onnx", Path("1/model.onnx"))


def test_the_file_that_the_configuration_names_is_taken(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m", CONFIG + 'default_model_filename: "small.onnx"')
    save(linear(), folder / "1" / "small.onnx")
    assert recognised(folder)[1] == Path("1/small.onnx")


def test_a_model_may_be_a_folder_with_its_weights(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m")
    (folder / "1" / "model.onnx").unlink()
    (folder / "1" / "model.onnx").mkdir()
    save(outside("w.bin"), folder / "1" / "model.onnx" / "model.onnx")
    assert recognised(folder)[1] == Path("1/model.onnx/model.onnx")


def test_a_configuration_beside_a_model_is_no_triton_folder(tmp_path: Path) -> None:
    save(linear(), tmp_path / "model.onnx")
    (tmp_path / "config.pbtxt").write_text("anything")
    assert recognised(tmp_path)[0] == "onnx"


def test_a_repository_of_several_models_is_refused_in_words(tmp_path: Path) -> None:
    for name in ("cats", "dogs"):
        model_folder(tmp_path / name)
    with pytest.raises(InvalidInput, match="2 models in this Triton repository: cats, dogs") as caught:
        recognised(tmp_path)
    assert "alone" in caught.value.fix
    for name in ("cats", "dogs"):
        (tmp_path / name / "config.pbtxt").unlink()
        (tmp_path / name / "2").mkdir()
        save(linear(), tmp_path / name / "2" / "model.onnx")
    with pytest.raises(InvalidInput, match="2 models in this Triton repository: cats, dogs"):
        recognised(tmp_path)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ('platform: "ensemble" ensemble_scheduling { step [] }', "is an ensemble"),
        ('backend: "python"', "Python backend"),
        ('platform: "tensorrt_plan"', "TensorRT plan"),
        ('backend: "vllm"', "vLLM"),
        ('backend: "mine"', "no model that Studio knows"),
    ],
)
def test_other_backends_are_told_with_what_to_do(tmp_path: Path, config: str, words: str) -> None:
    folder = model_folder(tmp_path / "m", config, {"1": b"\0plan\0"})
    with pytest.raises(Refused, match=words) as caught:
        recognised(folder)
    assert caught.value.why
    assert caught.value.fix


def test_an_ensemble_has_no_version_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "config.pbtxt").write_text('platform: "ensemble"')
    with pytest.raises(Refused, match="ensemble"):
        recognised(tmp_path)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("input [ { name: ", "Line 1"),
        ("name: 3", "'name'"),
        ('max_batch_size: "four"', "'max_batch_size'"),
        ("input: 3", "'input'"),
        ('input { dims: ["a"] }', "'dims'"),
        ("input { dims: [-2] }", "'dims'"),
        ("version_policy { specific { versions: [a] } }", "'versions'"),
    ],
)
def test_a_configuration_that_makes_no_sense_is_told_with_the_place(tmp_path: Path, config: str, words: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        recognised(model_folder(tmp_path / "m", config))
    assert words in str(caught.value)
    assert caught.value.fix


def test_a_configuration_alone_says_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "config.pbtxt").write_text(CONFIG)
    with pytest.raises(InvalidInput, match="no version") as caught:
        recognised(tmp_path)
    assert "1/model.onnx" in caught.value.fix


def test_shapes_are_those_that_the_model_sees(tmp_path: Path) -> None:
    path = tmp_path / "config.pbtxt"
    path.write_text("""
        backend: "onnxruntime" max_batch_size: 4
        input { name: "a" data_type: 11 dims: [-1] }
        input { name: "b" data_type: TYPE_STRING dims: [1] reshape { shape: [] } }
    """)
    config = read_config(path)
    assert [(one.name, one.datatype, one.shape) for one in config.inputs] == [
        ("a", "FP32", (-1, -1)),
        ("b", "BYTES", (-1,)),
    ]
