"""XGBoost, LightGBM and CatBoost: every kind of model answers as its library, down to single bits of a threshold."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import onnxruntime as ort
import pytest
import xgboost

from studio.core.errors import InvalidInput, NeedsExtra, Refused, StepFailed
from studio.formats.base import ArrivalFiles
from studio.pipeline.intake import run_intake
from studio.pipeline.messages import IntakeResult, IntakeTask
from tests.pipeline import boosted
from tests.pipeline.conftest import Runner

CASES = [(library, tried) for library, models in boosted.MODELS.items() for tried in models]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """The file of a model, made once."""
    made: dict[tuple[str, str], Path] = {}

    def model(library: str, tried: str) -> Path:
        if (library, tried) not in made:
            made[library, tried] = boosted.MODELS[library][tried](tmp_path_factory.mktemp("model"))
        return made[library, tried]

    return model


def take_in(path: Path, out: Path) -> IntakeResult:
    return run_intake(IntakeTask(files=(str(path),), out=str(out / "out")), lambda *_: None)


def outputs(result: IntakeResult, rows: np.ndarray) -> dict[str, Any]:
    session = ort.InferenceSession(result.graph_path, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_outputs()]
    return dict(zip(names, session.run(None, {"input": rows}), strict=True))


def near(path: Path, rows: int = 400) -> np.ndarray:
    """Rows of the library's own thresholds as 32-bit floats, the numbers beside them, zeros and missing values."""
    generator = np.random.default_rng(3)
    values = np.asarray(boosted.borders(path) or [0.0]).astype(np.float32)
    chosen = generator.choice(values, (rows, boosted.COLUMNS))
    for share, towards in ((0.25, np.inf), (0.25, -np.inf)):
        pick = generator.random(chosen.shape) < share
        chosen[pick] = np.nextafter(chosen, np.float32(towards))[pick]
    chosen[generator.random(chosen.shape) < 0.1] = np.nan
    chosen[generator.random(chosen.shape) < 0.1] = 0
    return chosen


def check(path: Path, result: IntakeResult, rows: np.ndarray) -> None:
    expected, got = boosted.answers(path, rows), outputs(result, rows)
    scores = got.get("probabilities")
    if scores is None:
        main = got.get("prediction", got.get("label"))
        np.testing.assert_allclose(np.reshape(main, expected.shape), expected, rtol=2e-5, atol=2e-5)
    elif expected.shape[1] == 1 and scores.shape[1] == 2:
        np.testing.assert_allclose(scores[:, 1:], expected, atol=1e-6)
    elif expected.shape[1] == 1:  # multi:softmax answers classes
        assert np.mean(got["label"] == expected[:, 0]) == 1
    else:
        np.testing.assert_allclose(scores, expected, atol=1e-6)


@pytest.mark.parametrize(("library", "tried"), CASES, ids=[f"{library}: {tried}" for library, tried in CASES])
def test_a_model_answers_as_its_library(
    library: str, tried: str, models: Callable[[str, str], Path], tmp_path: Path, format_row: Callable[..., None]
) -> None:
    path = models(library, tried)
    started = time.monotonic()
    result = take_in(path, tmp_path)
    seconds = time.monotonic() - started
    assert result.format == library.lower()
    assert [spec.describe() for spec in result.signature.inputs] == [f"input FP32 [batch × {boosted.COLUMNS}]"]
    assert all(spec.shape[0] == "batch" for spec in result.signature.outputs)
    assert result.signature.batchable
    assert result.parity.worst is not None and result.parity.worst.max_rel < 1e-5
    assert max(result.parity.batch_sizes) > 100  # rows beside the thresholds were among them
    assert result.tools[library.lower()]
    if "categories" in tried:
        drawn = np.random.default_rng(5)
        rows = boosted.CATEGORIES.copy()
        rows[:, 3], rows[:, 4] = drawn.integers(0, 45, 300), drawn.integers(0, 4, 300)
        rows[drawn.random(rows.shape) < 0.1] = np.nan
    else:
        rows = near(path)
    check(path, result, rows)
    format_row(format=library, tried=tried, result=result, seconds=seconds)


def test_labels_and_names_are_the_sources_own(models: Callable[[str, str], Path], tmp_path: Path) -> None:
    named = take_in(models("CatBoost", "three classes with names"), tmp_path / "a")
    assert named.class_labels == ("high", "low", "mid")
    assert [spec.describe() for spec in named.signature.outputs] == [
        "label BYTES [batch]",
        "probabilities FP32 [batch × 3]",
    ]
    assert set(outputs(named, boosted.WHOLE)["label"]) == {"high", "low", "mid"}
    signed = take_in(models("CatBoost", "classes −1 and 1"), tmp_path / "b")
    assert set(outputs(signed, boosted.WHOLE)["label"]) == {-1, 1}
    # A threshold that was set on the model moves the label, not the probability.
    moved = outputs(take_in(models("CatBoost", "a threshold of its own"), tmp_path / "c"), boosted.WHOLE)
    assert np.array_equal(moved["label"] == 1, moved["probabilities"][:, 1] > 0.3)
    assert not np.array_equal(moved["label"] == 1, moved["probabilities"][:, 1] > 0.5)


def test_column_names_and_codes_of_categories_are_told(tmp_path: Path) -> None:
    import pandas

    table = pandas.DataFrame({"age": boosted.WHOLE[:, 0], "town": pandas.Categorical(["Bonn", "Ulm", "Kiel"] * 100)})
    lightgbm.LGBMClassifier(n_estimators=3, verbose=-1, n_jobs=1).fit(table, boosted.BINARY).booster_.save_model(
        tmp_path / "a.txt"
    )
    model = xgboost.XGBClassifier(n_estimators=3, enable_categorical=True, n_jobs=1).fit(table, boosted.BINARY)
    model.save_model(tmp_path / "b.json")
    for name in ("a.txt", "b.json"):
        result = take_in(tmp_path / name, tmp_path / Path(name).stem)
        assert "Columns of 'input', in order: age, town." in result.notes
        assert "'town' is given by numbers: 0 = Bonn, 1 = Kiel, 2 = Ulm." in result.notes


def test_an_early_stopped_classifier_counts_its_best_rounds(models: Callable[[str, str], Path], tmp_path: Path) -> None:
    path = models("XGBoost", "XGBClassifier, stopped early")
    result = take_in(path, tmp_path)
    assert any("Stopped early" in note for note in result.notes)
    classifier = xgboost.XGBClassifier()
    classifier.load_model(path)
    np.testing.assert_allclose(
        outputs(result, boosted.ROWS)["probabilities"], classifier.predict_proba(boosted.ROWS), atol=1e-6
    )


@pytest.mark.parametrize("library", ["XGBoost", "LightGBM"])
def test_rows_beside_thresholds_tell_below_from_at_most(
    library: str, models: Callable[[str, str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A conversion that compares the wrong way round for equal values is refused, though no ordinary row shows it."""
    import studio.formats.boosters._trees as trees

    right = trees._flat
    monkeypatch.setattr(trees, "_flat", lambda tree, inclusive: right(tree, not inclusive))
    with pytest.raises(Refused, match="does not answer as the original"):
        take_in(models(library, "regression"), tmp_path)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (boosted.xgb("reg:squarederror", boosted.REAL, booster="gblinear", max_depth=None), "linear model of XGBoost"),
        (boosted.lgb("regression", boosted.REAL, boosted.WHOLE, linear_tree=True), "linear_tree=false"),
        (
            boosted.cat(
                boosted.catboost.CatBoostClassifier,
                boosted.BINARY,
                boosted.CATEGORIES.astype(int).astype(object),
                {"cat_features": [3]},
            ),
            "categorical features",
        ),
    ],
    ids=["XGBoost gblinear", "LightGBM linear_tree", "CatBoost cat_features"],
)
def test_what_has_no_onnx_form_is_refused_with_a_way_out(make: boosted.Make, words: str, tmp_path: Path) -> None:
    with pytest.raises(Refused) as caught:
        take_in(make(tmp_path), tmp_path / "out")
    assert words in str(caught.value)
    assert caught.value.fix


def test_settings_of_xgboost_are_no_model(models: Callable[[str, str], Path], tmp_path: Path) -> None:
    booster = xgboost.Booster(model_file=models("XGBoost", "regression"))
    path = tmp_path / "config.json"
    path.write_text(booster.save_config().replace('"gradient_booster":{', '"gradient_booster":null,"other":{', 1))
    with pytest.raises(Refused, match="settings of XGBoost, and no model"):
        take_in(path, tmp_path / "out")


def replaced(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        assert old in data
        return data.replace(old, new, 1)

    return change


def with_line(key: bytes, value: bytes) -> Callable[[bytes], bytes]:
    """A LightGBM file with one line of its first tree changed, and the sizes of trees set right."""

    def change(data: bytes) -> bytes:
        start = data.index(b"\n" + key + b"=") + len(key) + 2
        end = data.index(b"\n", start)
        sizes = data.index(b"tree_sizes=") + 11
        first, _, rest = data[sizes:].partition(b" ")
        longer = str(int(first) + len(value) - (end - start)).encode()
        return data[:sizes] + longer + b" " + data[len(data) - len(rest) : start] + value + data[end:]

    return change


DAMAGED: list[tuple[str, str, Callable[[bytes], bytes], str]] = [
    ("LightGBM", "regression", lambda data: data[: len(data) // 2], "'end of trees' is missing"),
    ("LightGBM", "regression", lambda data: data[:-200], "'end of parameters' is missing"),
    ("LightGBM", "regression", replaced(b"\n\nTree=1", b"\n\n\n\nTree=1"), "trees of certain sizes"),
    ("LightGBM", "regression", lambda data: data.replace(b"\n", b"\r\n"), "those of Windows"),
    ("LightGBM", "regression", with_line(b"left_child", b"99 1 2 3 4 5 6"), "a child that does not exist"),
    ("LightGBM", "regression", with_line(b"left_child", b"0 0 0 0 0 0 0"), "runs in a circle"),
    ("LightGBM", "regression", with_line(b"split_feature", b"6 6 6 6 6 6 6"), "a column that does not exist"),
    ("LightGBM", "regression", with_line(b"threshold", b"1 2"), "has 2 numbers, and 7 belong there"),
    ("LightGBM", "regression", with_line(b"leaf_value", b"nan 1 1 1 1 1 1 1"), "a number that is none"),
    ("LightGBM", "categories", replaced(b"cat_boundaries=0 ", b"cat_boundaries=9 "), "impossible boundaries"),
    ("XGBoost", "binary classes, missing values (JSON)", lambda data: data[:-100], "line 1 column"),
    ("XGBoost", "binary classes, missing values (JSON)", lambda _: b'{"learner":{"attributes":' * 9999, "too deeply"),
    (
        "XGBoost",
        "binary classes, missing values (JSON)",
        replaced(b'"num_class":"0","num_feature":"6"', b'"num_class":"0","num_feature":"1"'),
        "feature",
    ),
    ("XGBoost", "binary classes, missing values (JSON)", replaced(b'_children":[1,', b'_children":[0,'), "circle"),
    ("XGBoost", "binary classes, missing values (JSON)", replaced(b'_children":[1,', b'_children":[9999,'), "child"),
    ("XGBoost", "regression", lambda data: data[:300], "at byte"),
    ("XGBoost", "regression", replaced(b"[$l#L\0\0\0\0", b"[$l#L\x7f\xff\xff\xff"), "lies about a length"),
    ("XGBoost", "categories", replaced(b"categories_sizes[$L#L", b"categories_sizes[$Q#L"), "no value at byte"),
    ("CatBoost", "regression", lambda data: data[:200], "should have at least"),
    ("CatBoost", "regression", lambda data: data[:12], "ends after its first bytes"),
    ("CatBoost", "regression", replaced(b'{"detailed_profile"', b'{ detailed_profile"'), "is no JSON"),
]


@pytest.mark.parametrize(("library", "tried", "spoil", "words"), DAMAGED)
def test_a_damaged_file_is_told_precisely(
    library: str,
    tried: str,
    spoil: Callable[[bytes], bytes],
    words: str,
    models: Callable[[str, str], Path],
    tmp_path: Path,
) -> None:
    path = tmp_path / "model.dat"
    path.write_bytes(spoil(models(library, tried).read_bytes()))
    with pytest.raises(InvalidInput) as caught:
        take_in(path, tmp_path / "out")
    assert f"damaged {library} model" in caught.value.what
    assert words in caught.value.why
    assert caught.value.fix


async def test_models_convert_in_a_worker(runner: Runner, models: Callable[[str, str], Path]) -> None:
    for library in boosted.MODELS:
        path = models(library, "regression")
        result = await runner.intake(path)
        assert result.format == library.lower()
        assert result.signature.outputs[0].describe() == "prediction FP32 [batch × 1]"
        check(path, result, near(path))


HOOK = """
import os, signal, sys, types

def crash(*_args, **_more):
    os.kill(os.getpid(), signal.SIGSEGV)

if {crashes}:
    fake = types.ModuleType("lightgbm")
    fake.__version__, fake.Booster = "0", crash
    sys.modules["lightgbm"] = fake

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name in {hidden}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Hidden())
"""


def hook(folder: Path, monkeypatch: pytest.MonkeyPatch, crashes: bool = False, hidden: tuple[str, ...] = ()) -> None:
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(HOOK.format(crashes=crashes, hidden=hidden))
    monkeypatch.setenv("PYTHONPATH", str(folder))


async def test_a_library_that_crashes_is_named(
    runner: Runner, models: Callable[[str, str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hook(tmp_path / "hook", monkeypatch, crashes=True)
    with pytest.raises(StepFailed, match=r"crashed \(SIGSEGV\) at: LightGBM reads the file"):
        await runner.intake(models("LightGBM", "regression"))


async def test_a_library_that_is_missing_is_named_with_its_extra(
    runner: Runner, models: Callable[[str, str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hook(tmp_path / "hook", monkeypatch, hidden=("xgboost", "lightgbm", "catboost"))
    for library, extra in (("XGBoost", "boosters"), ("LightGBM", "boosters"), ("CatBoost", "catboost")):
        with pytest.raises(NeedsExtra) as caught:
            await runner.intake(models(library, "regression"))
        assert library in caught.value.what
        assert f"pip install 'ort-studio[{extra}]'" in caught.value.fix


def test_they_are_recognised_under_any_name_and_one_at_a_time(
    models: Callable[[str, str], Path], tmp_path: Path
) -> None:
    from studio.formats.registry import recognise

    for library in boosted.MODELS:
        data = models(library, "regression").read_bytes()
        (tmp_path / "model.onnx").write_bytes(data)
        assert recognise(ArrivalFiles.of((tmp_path / "model.onnx",)))[0].name == library.lower()
        folder = tmp_path / library
        folder.mkdir()
        for name in ("a.bin", "b.bin"):
            (folder / name).write_bytes(data)
        with pytest.raises(InvalidInput, match=f"2 {library} models"):
            recognise(ArrivalFiles.of((folder,)))
