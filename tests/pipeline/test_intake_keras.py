"""Keras files become ONNX on PyTorch, and nothing in them runs before the user said yes."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from studio.core.errors import InvalidInput, NeedsExtra, NeedsSettings, NeedsTrust, Refused, StudioError
from studio.formats.base import ArrivalFiles
from studio.formats.registry import recognise
from studio.pipeline.intake import run_intake
from studio.pipeline.messages import IntakeResult, IntakeTask
from tests.formats import keras_files as made
from tests.formats.keras_files import h5py, keras
from tests.pipeline.conftest import Runner

Take = Callable[..., IntakeResult]


@pytest.fixture
def take(tmp_path: Path) -> Take:
    """Take an arrival in within this process, which has Keras imported already."""

    def run(*files: Path, trusted: tuple[str, ...] = ()) -> IntakeResult:
        out = tmp_path / f"take{time.monotonic_ns()}" / "out"
        return run_intake(IntakeTask(files=tuple(map(str, files)), out=str(out), trusted=trusted), lambda *_: None)

    return run


def answers(result: IntakeResult, *arrays: np.ndarray) -> dict[str, np.ndarray]:
    session = ort.InferenceSession(result.graph_path, providers=["CPUExecutionProvider"])
    feed = dict(zip([one.name for one in session.get_inputs()], arrays, strict=True))
    names = [one.name for one in session.get_outputs()]
    return dict(zip(names, session.run(names, feed), strict=True))


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


FILES = [*((name, ".keras") for name in made.ORDINARY), *((name, ".h5") for name in list(made.ORDINARY)[:3])]


@pytest.mark.parametrize(("name", "suffix"), FILES)
def test_models_become_onnx_with_free_sizes(
    take: Take, tmp_path: Path, format_row: Any, name: str, suffix: str
) -> None:
    model = made.make(name)
    path = tmp_path / f"model{suffix}"
    model.save(path)
    started = time.perf_counter()
    result = take(path)
    format_row(format="Keras", tried=f"{name} ({suffix})", result=result, seconds=time.perf_counter() - started)
    assert result.format == "keras"
    assert result.parity.batch_sizes == (1, 2, 5)
    assert result.parity.worst is not None and result.parity.worst.max_rel < 1e-4
    assert all(spec.shape[0] == "batch" for spec in (*result.signature.inputs, *result.signature.outputs))
    assert result.signature.batchable
    # Rows and lengths that it was neither traced nor checked with.
    generator = np.random.default_rng(1)
    arrays = [
        generator.integers(0, 30, shape).astype(spec_type)
        if spec_type == np.int32
        else generator.normal(size=shape).astype(np.float32)
        for spec in result.signature.inputs
        for shape in [[7 if dim == "batch" else 19 if isinstance(dim, str) else dim for dim in spec.shape]]
        for spec_type in [np.int32 if spec.datatype == "INT32" else np.float32]
    ]
    given = (
        dict(zip([spec.name for spec in result.signature.inputs], arrays, strict=True))
        if len(arrays) > 1
        else arrays[0]
    )
    expected = model(given, training=False)
    got = answers(result, *arrays)
    for own, one in zip(got.values(), keras.tree.flatten(expected), strict=True):
        np.testing.assert_allclose(own, keras.ops.convert_to_numpy(one), rtol=1e-4, atol=1e-5)


def test_names_are_those_of_the_model(take: Take, tmp_path: Path) -> None:
    made.make("several inputs and outputs, nested model, operations").save(tmp_path / "both.keras")
    signature = take(tmp_path / "both.keras").signature
    assert [spec.describe() for spec in signature.inputs] == ["left FP32 [batch × 4]", "right FP32 [batch × 6]"]
    assert [spec.describe() for spec in signature.outputs] == ["kind FP32 [batch × 2]", "size FP32 [batch × 1]"]


def test_recurrent_layers_and_batch_normalisation_become_one_operator(take: Take, tmp_path: Path) -> None:
    made.recurrent().save(tmp_path / "words.keras")
    operators = take(tmp_path / "words.keras").graph.operators
    assert operators["LSTM"] == 1 and operators["GRU"] == 2
    made.convolutions().save(tmp_path / "image.keras")
    operators = take(tmp_path / "image.keras").graph.operators
    assert operators["BatchNormalization"] == 2 and "Cast" not in operators


@pytest.mark.parametrize("build", [made.keras2, made.teachable])
def test_files_of_keras_2_answer_as_keras_2_did(
    take: Take, tmp_path: Path, format_row: Any, build: Callable[[Path], Callable[[np.ndarray], np.ndarray]]
) -> None:
    original = build(tmp_path / "old.h5")
    started = time.perf_counter()
    result = take(tmp_path / "old.h5")
    format_row(
        format="Keras",
        tried=f"written by Keras 2: {build.__name__} (.h5)",
        result=result,
        seconds=time.perf_counter() - started,
    )
    assert any("Keras 2" in note for note in result.notes)
    shape = [3, *result.signature.inputs[0].shape[1:]]
    array = np.random.default_rng(2).normal(size=shape).astype(np.float32)
    (own,) = answers(result, array).values()
    np.testing.assert_allclose(own, original(array), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("build", "words"), [(made.mixed, "computed in half precision"), (made.fitted, "exactly 32 rows")]
)
@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_what_only_training_needed_does_not_bind_the_graph(
    take: Take, tmp_path: Path, build: Callable[[], Any], words: str, suffix: str
) -> None:
    model, path = build(), tmp_path / f"model{suffix}"
    model.save(path)
    result = take(path)
    assert any(words in note for note in result.notes)
    assert result.parity.batch_sizes == (1, 2, 5) and result.signature.inputs[0].shape[0] == "batch"
    assert result.signature.outputs[0].datatype == "FP32" and result.signature.outputs[0].shape[0] == "batch"
    rows = np.random.default_rng(0).normal(size=(3, *result.signature.inputs[0].shape[1:])).astype(np.float32)
    (own,) = answers(result, rows).values()
    np.testing.assert_allclose(own, keras.ops.convert_to_numpy(model(rows)), atol=1e-2)


def test_a_masked_sequence_of_any_length_asks_for_one(take: Take, tmp_path: Path) -> None:
    model, path = made.masked(), tmp_path / "words.keras"
    model.save(path)
    with pytest.raises(NeedsSettings) as caught:
        take(path)
    assert caught.value.missing_inputs == ("words",)
    assert [hint.describe() for hint in caught.value.hints] == ["words INT32 [batch × ?]"]
    settings = tmp_path / "words.toml"
    settings.write_text('[inputs.words]\nshape = ["batch", 7]\n')
    result = take(path, settings)
    assert result.signature.inputs[0].shape == ("batch", 7)
    words = np.array([[1, 2, 3, 0, 0, 0, 0], [0, 0, 4, 5, 0, 6, 7]], np.int32)
    (own,) = answers(result, words).values()
    np.testing.assert_allclose(own, keras.ops.convert_to_numpy(model(words)), atol=1e-5)


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize("deep", [False, True])
def test_a_lambda_waits_for_a_yes(take: Take, tmp_path: Path, suffix: str, deep: bool) -> None:
    path, mark = tmp_path / f"evil{suffix}", tmp_path / "ran"
    made.with_lambda(path, mark, deep)
    with pytest.raises(NeedsTrust) as caught:
        take(path)
    assert not mark.exists()
    assert caught.value.code_files[0].sha256 == sha256(path)
    assert "Lambda" in caught.value.code_files[0].imports[0]


async def test_a_lambda_that_was_said_yes_to_runs_in_its_worker(runner: Runner, tmp_path: Path) -> None:
    path, mark = tmp_path / "twice.keras", runner.root / "scratch1" / "ran"
    made.with_lambda(path, mark)
    result = await runner.intake(path, trusted=(sha256(path),))
    assert mark.exists()
    assert result.parity.batch_sizes == (1, 2, 5)
    array = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    (own,) = answers(result, array).values()
    np.testing.assert_allclose(own, array * 2, atol=1e-6)


def _entry(**entry: Any) -> Callable[[Any], None]:
    def change(config: Any) -> None:
        config["config"]["layers"][-1] = {"config": {}, "registered_name": None, **entry}

    return change


ATTACKS = {
    "a function of Python": _entry(module="builtins", class_name="exec", config={"name": "x"}),
    "a function by name": _entry(module="builtins", class_name="function", config="eval", registered_name="function"),
    "a function of the system": _entry(module="os", class_name="function", config="system", registered_name="system"),
    "a class of another package": _entry(module="subprocess", class_name="Popen", config={"args": "true"}),
    "a download by Keras": _entry(module="keras.utils", class_name="get_file", config={"origin": "http://x"}),
    "a switch of Keras": _entry(module="keras.config", class_name="function", config="enable_unsafe_deserialization"),
    "a private part of Keras": _entry(module="keras.src.utils.file_utils", class_name="function", config="get_file"),
    "a saved model elsewhere": _entry(module="keras.layers", class_name="TFSMLayer", config={"filepath": "/tmp/x"}),
    "a registered class": _entry(module=None, class_name="Dense", config={"units": 1}, registered_name="evil>Dense"),
    "a class of no module": _entry(module=None, class_name="Mine"),
    "a number for a name": _entry(module="keras.layers", class_name=7),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_whatever_is_no_part_of_keras_is_refused(take: Take, tmp_path: Path, attack: str) -> None:
    path = tmp_path / "model.keras"
    made.dense().save(path)
    made.change_config(path, ATTACKS[attack])
    with pytest.raises(Refused, match=r"no part of Keras|reaches outside of the file") as caught:
        take(path)
    assert caught.value.code == "refused" and caught.value.fix


def test_pickles_inside_wait_for_a_yes(take: Take, tmp_path: Path) -> None:
    path = tmp_path / "model.keras"
    made.dense().save(path)
    made.change_config(path, _entry(module="keras.layers", class_name="TorchModuleWrapper", config={"module": "gASV"}))
    with pytest.raises(NeedsTrust, match="pickled PyTorch module"):
        take(path)


def test_a_layer_of_ones_own_needs_its_code_beside_it(take: Take, tmp_path: Path) -> None:
    path, code = tmp_path / "model.keras", tmp_path / "model.py"
    original = made.with_custom_layer(path)
    with pytest.raises(Refused, match="mine>Doubled"):
        take(path)
    code.write_text(made.CUSTOM)
    with pytest.raises(NeedsTrust) as caught:
        take(path, code)
    assert [file.name for file in caught.value.code_files] == ["model.py"]
    result = take(path, code, trusted=(sha256(code),))
    array = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    (own,) = answers(result, array).values()
    np.testing.assert_allclose(own, original(array), atol=1e-5)


@pytest.mark.parametrize("name", made.HOSTILE_HDF5)
@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_hdf5_that_reaches_outside_or_is_inflated_is_refused(
    take: Take, tmp_path: Path, name: str, suffix: str
) -> None:
    path = tmp_path / f"model{suffix}"
    made.dense().save(path)
    inner = path
    if suffix == ".keras":
        inner = tmp_path / "weights.h5"
        inner.write_bytes(made.read_members(path)["model.weights.h5"])
    with h5py.File(inner, "r+") as file:
        made.HOSTILE_HDF5[name](
            file, file.create_group("layers/evil" if suffix == ".keras" else "model_weights/evil"), tmp_path / "outside"
        )
    if suffix == ".keras":
        made.write_members(path, made.read_members(path) | {"model.weights.h5": inner.read_bytes()})
    with pytest.raises(InvalidInput, match="not built as Keras builds"):
        take(path)


def test_archives_built_to_hurt_are_refused(take: Take, tmp_path: Path) -> None:
    plain = tmp_path / "plain.keras"
    made.dense().save(plain)
    members = made.read_members(plain)
    for extra in ({"assets/../../out": b"x"}, {"/etc/x": b"x"}, {"assets/zeros": bytes(80_000_000)}):
        path = tmp_path / "bad.keras"
        made.write_members(path, members | extra)
        with pytest.raises(InvalidInput, match="not built as Keras builds"):
            take(path)
    made.write_members(tmp_path / "broken.keras", members | {"config.json": b'{"class_name": '})
    with pytest.raises(InvalidInput, match="no readable JSON"):
        take(tmp_path / "broken.keras")
    made.write_members(tmp_path / "deep.keras", members | {"config.json": b"[" * 200_000})
    with pytest.raises(InvalidInput, match="no readable JSON"):
        take(tmp_path / "deep.keras")


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_damaged_files_give_words(take: Take, tmp_path: Path, suffix: str) -> None:
    path, cut = tmp_path / f"model{suffix}", tmp_path / f"cut{suffix}"
    made.dense().save(path)
    data = path.read_bytes()
    generator = np.random.default_rng(3)
    for _ in range(12):
        broken = bytearray(data)
        for place in generator.integers(8, len(data), 20):
            broken[place] ^= 1 << int(generator.integers(8))
        cut.write_bytes(bytes(broken))
        try:
            take(cut)
        except StudioError as error:
            assert error.what and (error.fix or error.why)
    cut.write_bytes(data[: len(data) // 2])
    with pytest.raises(StudioError):
        take(cut)


def test_weights_alone_and_other_hdf5_say_what_they_are(take: Take, tmp_path: Path) -> None:
    made.dense().save_weights(tmp_path / "model.weights.h5")
    with pytest.raises(Refused, match="weights alone"):
        take(tmp_path / "model.weights.h5")
    with h5py.File(tmp_path / "table.h5", "w") as file:
        file["rows"] = np.arange(9)
    with pytest.raises(Refused, match="HDF5 file without a Keras model"):
        recognise(ArrivalFiles.of((tmp_path / "table.h5",)))


def test_models_that_keep_a_state_are_refused(take: Take, tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((5, 3), batch_size=2), keras.layers.LSTM(4, stateful=True)])
    model.save(tmp_path / "state.keras")
    with pytest.raises(Refused, match="keeps a state"):
        take(tmp_path / "state.keras")


HIDE_KERAS = """
import sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "keras":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Hidden())
"""


async def test_without_keras_the_extra_is_named(
    runner: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made.dense().save(tmp_path / "net.keras")
    (tmp_path / "hook").mkdir()
    (tmp_path / "hook" / "sitecustomize.py").write_text(HIDE_KERAS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "hook"))
    with pytest.raises(NeedsExtra) as caught:
        await runner.intake(tmp_path / "net.keras")
    assert "pip install 'ort-studio[keras]'" in caught.value.fix
