"""TensorFlow's files are told and looked through without TensorFlow, and then ask for its environment."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from studio.core.errors import InvalidInput, NeedsEnvironment, NeedsTrust, Refused
from studio.formats.base import ArrivalFiles
from studio.formats.registry import recognise
from studio.formats.tensorflow.tf_wire import is_graph_def, is_saved_model, operations, reaching
from studio.pipeline.intake import run_intake
from studio.pipeline.messages import IntakeTask
from tests.formats import tf_graphs as tf
from tests.formats.graphs import linear, save


@pytest.fixture(autouse=True)
def without_tensorflow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow", None)


def take(tmp_path: Path, *files: Path, trusted: tuple[str, ...] = ()) -> None:
    out = tmp_path / "work" / "out"
    run_intake(IntakeTask(files=tuple(map(str, files)), out=str(out), trusted=trusted), lambda *_: None)


def saved(folder: Path, content: bytes) -> Path:
    (folder / "variables").mkdir(parents=True)
    (folder / "variables" / "variables.index").write_bytes(b"")
    (folder / "saved_model.pb").write_bytes(tf.saved_model(content))
    (folder / "fingerprint.pb").write_bytes(b"\x08\x97\x91\xd6\xc1\x0c")
    return folder


def test_a_saved_model_is_told_by_its_layout(tmp_path: Path) -> None:
    folder = saved(tmp_path / "digits", tf.PLAIN)
    chosen, seen = recognise(ArrivalFiles.of((folder,)))
    assert chosen.name == "tensorflow" and seen.model == folder / "saved_model.pb"
    assert seen.detail == "TensorFlow SavedModel"
    with pytest.raises(NeedsEnvironment) as caught:
        take(tmp_path, folder)
    assert caught.value.environment == "tensorflow" and "saved_model.pb" in caught.value.what


def test_a_frozen_graph_is_told_whatever_it_is_called(tmp_path: Path) -> None:
    for name in ("graph.pb", "model.onnx", "thing"):
        (tmp_path / name).write_bytes(tf.PLAIN)
        chosen, seen = recognise(ArrivalFiles.of((tmp_path / name,)))
        assert (chosen.name, seen.detail) == ("tensorflow", "TensorFlow frozen graph")
        with pytest.raises(NeedsEnvironment):
            take(tmp_path, tmp_path / name)


def test_tensorflow_lite_is_told_by_its_identifier(tmp_path: Path) -> None:
    (tmp_path / "thing").write_bytes(b"\x1c\0\0\0TFL3" + bytes(64))
    assert recognise(ArrivalFiles.of((tmp_path / "thing",)))[0].name == "tflite"
    with pytest.raises(NeedsEnvironment) as caught:
        take(tmp_path, tmp_path / "thing")
    assert caught.value.environment == "tensorflow"


def test_other_protobufs_are_not_taken_for_graphs(tmp_path: Path) -> None:
    model = save(linear(), tmp_path / "model.onnx")
    (tmp_path / "text").write_text("\nnode { name: 'x' op: 'Placeholder' }\n")
    (tmp_path / "short").write_bytes(tf.PLAIN[:20])
    (tmp_path / "names").write_bytes(tf.part(1, tf.part(1, b"x") + tf.part(2, b"not an operation")))
    for path in (model, tmp_path / "text", tmp_path / "short", tmp_path / "names"):
        assert not is_graph_def(path) and not is_saved_model(path)


def test_one_file_of_a_saved_model_or_two_models_are_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path / "one", tf.PLAIN)
    saved(tmp_path / "one" / "again", tf.PLAIN)
    with pytest.raises(InvalidInput, match="2 TensorFlow models"):
        recognise(ArrivalFiles.of((folder,)))


REACHING = {
    "in the graph": tf.graph(tf.node("x", "Placeholder"), tf.node("y", "ReadFile", "x")),
    "in a function": tf.graph(
        tf.node("x", "Placeholder"), functions=(tf.function("inner", tf.node("y", "WriteFile")), tf.KEEPS)
    ),
    "in Python": tf.graph(tf.node("x", "Placeholder"), tf.node("y", "EagerPyFunc", "x")),
    "as if it kept variables": tf.graph(
        tf.node("x", "Placeholder"), functions=(tf.function("__inference__traced_save_1", tf.node("y", "ReadFile")),)
    ),
    "keeping in the open": tf.graph(tf.node("x", "Placeholder"), tf.node("y", "SaveV2", "x")),
    "behind many": tf.graph(*(tf.node(f"n{place}", "Const") for place in range(3000)), tf.node("z", "MatchingFiles")),
}


@pytest.mark.parametrize("name", REACHING)
@pytest.mark.parametrize("folder", [True, False])
def test_operations_that_reach_outside_are_asked_about_first(tmp_path: Path, name: str, folder: bool) -> None:
    path = tmp_path / "graph.pb"
    path.write_bytes(REACHING[name])
    arrival = saved(tmp_path / "model", REACHING[name]) if folder else path
    with pytest.raises(NeedsTrust) as caught:
        take(tmp_path, arrival)
    (code,) = caught.value.code_files
    (operation,) = code.imports
    assert operation in ("ReadFile", "WriteFile", "EagerPyFunc", "SaveV2", "MatchingFiles")
    with pytest.raises(NeedsEnvironment):
        take(tmp_path, arrival, trusted=(code.sha256,))


def test_what_every_saved_model_has_is_not_asked_about(tmp_path: Path) -> None:
    restore = tf.function("__inference__traced_restore_7", tf.node("r", "RestoreV2"))
    old = (tf.node("save/SaveV2", "SaveV2"), tf.node("save/RestoreV2", "RestoreV2"))
    folder = saved(tmp_path / "model", tf.graph(tf.node("x", "Placeholder"), *old, functions=(tf.KEEPS, restore)))
    assert reaching(operations(folder / "saved_model.pb", saved_model=True)) == ()


def test_a_graph_that_is_damaged_behind_its_start_gives_words(tmp_path: Path) -> None:
    whole = tf.graph(*(tf.node(f"n{place}", "Const") for place in range(3000)))
    (tmp_path / "graph.pb").write_bytes(whole[:-40])
    with pytest.raises((InvalidInput, Refused)) as caught:
        take(tmp_path, tmp_path / "graph.pb")
    assert caught.value.fix
