"""Values that 32-bit floats can not hold: timestamps, dates as numbers, long numbers of customers."""

from __future__ import annotations

from pathlib import Path

import lightgbm
import numpy as np
import onnxruntime as ort
import pytest
import xgboost

from studio.core.errors import Refused
from studio.pipeline.intake import run_intake
from studio.pipeline.messages import IntakeResult, IntakeTask

GENERATOR = np.random.default_rng(0)
STAMPS = np.c_[np.arange(300) + 1.7e9, GENERATOR.normal(size=300)]
TARGET = np.arange(300) % 17 * 1.0


def lgb(rows: np.ndarray, target: np.ndarray = TARGET, **options: object) -> lightgbm.Booster:
    settings = {"verbose": -1, "num_threads": 1, "seed": 0, "min_data_in_leaf": 5, "min_data_in_bin": 1, **options}
    return lightgbm.train(settings, lightgbm.Dataset(rows, target), 10)


def take_in(model: object, folder: Path, settings: str = "", samples: np.ndarray | None = None) -> IntakeResult:
    path = folder / "model.json" if isinstance(model, xgboost.Booster) else folder / "model.txt"
    model.save_model(path)  # type: ignore[attr-defined]
    files = [path]
    if settings:
        files.append(folder / "model.toml")
        files[-1].write_text(settings)
    if samples is not None:
        files.append(folder / "model.npz")
        np.savez(files[-1], input=samples)
    return run_intake(IntakeTask(files=tuple(map(str, files)), out=str(folder / "out")), lambda *_: None)


def predicted(result: IntakeResult, rows: np.ndarray) -> np.ndarray:
    """What the graph answers to rows as a client sends them: cast to the type of its input."""
    session = ort.InferenceSession(result.graph_path, providers=["CPUExecutionProvider"])
    kind = {"FP64": np.float64, "FP32": np.float32}[result.signature.inputs[0].datatype]
    return session.run(["prediction"], {"input": rows.astype(kind)})[0][:, 0]


@pytest.mark.parametrize("sampled", [False, True], ids=["alone", "with samples"])
def test_lightgbm_on_timestamps_answers_as_trained(sampled: bool, tmp_path: Path) -> None:
    model = lgb(STAMPS)
    expected = model.predict(STAMPS)
    assert (np.abs(model.predict(STAMPS.astype(np.float32)) - expected) > 0.01).sum() > 50  # 32 bits are too few
    result = take_in(model, tmp_path, samples=STAMPS if sampled else None)
    assert result.signature.inputs[0].datatype == "FP64"
    assert any("64-bit floats: column 0 is compared with numbers such as 17000" in note for note in result.notes)
    np.testing.assert_allclose(predicted(result, STAMPS), expected, rtol=1e-5, atol=1e-6)
    gaps = STAMPS.copy()
    gaps[::3, 0], gaps[::5, 1] = np.nan, 0.0
    np.testing.assert_allclose(predicted(result, gaps), model.predict(gaps), rtol=1e-5, atol=1e-6)


def test_thresholds_close_together_take_64_bits(tmp_path: Path) -> None:
    rows = np.c_[52.0 + np.arange(300) * 2e-7, STAMPS[:, 1]]
    model = lgb(rows)
    result = take_in(model, tmp_path)
    assert result.signature.inputs[0].datatype == "FP64"
    np.testing.assert_allclose(predicted(result, rows), model.predict(rows), rtol=1e-5, atol=1e-6)


def test_samples_whose_answers_need_64_bits_get_them(tmp_path: Path) -> None:
    """No threshold is long, but the user's own rows lie so near to them that rounding moves them across."""
    rows = np.c_[GENERATOR.uniform(size=300), STAMPS[:, 1]]
    model = lgb(rows)
    edge = next(tree["threshold"] for tree in _splits(model) if tree["split_feature"] == 0)
    near = np.tile([[0.0, 0.1]], (40, 1))
    near[:, 0] = np.nextafter(edge, 9) if np.float32(edge) <= edge else edge
    assert (model.predict(near) != model.predict(near.astype(np.float32))).any()
    assert take_in(model, tmp_path).signature.inputs[0].datatype == "FP32"
    result = take_in(model, tmp_path, samples=near)
    assert result.signature.inputs[0].datatype == "FP64"
    np.testing.assert_allclose(predicted(result, near), model.predict(near), rtol=1e-5, atol=1e-6)


def _splits(model: lightgbm.Booster) -> list[dict[str, object]]:
    return [tree["tree_structure"] for tree in model.dump_model()["tree_info"]]


def test_categories_with_long_numbers_are_told_apart(tmp_path: Path) -> None:
    codes = 2**24 + np.arange(6)
    rows = np.c_[GENERATOR.choice(codes, 300) * 1.0, STAMPS[:, 1]]
    target = np.where(rows[:, 0] % 2, 5.0, -5.0)
    data = lightgbm.Dataset(rows, target, categorical_feature=[0])
    settings = {"verbose": -1, "num_threads": 1, "min_data_per_group": 1, "cat_smooth": 0.1, "max_cat_to_onehot": 1}
    model = lightgbm.train(settings, data, 5)
    result = take_in(model, tmp_path)
    assert result.signature.inputs[0].datatype == "FP64"
    np.testing.assert_allclose(predicted(result, rows), model.predict(rows), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("library", ["LightGBM", "XGBoost"])
def test_fp64_in_the_settings_is_taken(library: str, tmp_path: Path) -> None:
    rows = GENERATOR.normal(size=(300, 2))
    if library == "LightGBM":
        model = lgb(rows)
        expected = model.predict(rows)
    else:  # which rounds to 32 bits itself
        model = xgboost.train({"nthread": 1, "max_depth": 3}, xgboost.DMatrix(STAMPS, TARGET), 5)
        rows = STAMPS
        expected = model.predict(xgboost.DMatrix(rows))
    result = take_in(model, tmp_path, '[inputs.input]\ndatatype = "FP64"\n')
    assert result.signature.inputs[0].datatype == "FP64"
    np.testing.assert_allclose(predicted(result, rows), expected, rtol=1e-5, atol=1e-6)


def test_fp32_in_the_settings_is_taken_with_a_warning(tmp_path: Path) -> None:
    result = take_in(lgb(STAMPS), tmp_path, '[inputs.input]\ndatatype = "FP32"\n')
    assert result.signature.inputs[0].datatype == "FP32"
    assert any("as the settings say; column 0 is compared" in note for note in result.notes)


def test_ordinary_models_keep_32_bits(tmp_path: Path) -> None:
    rows = GENERATOR.normal(size=(300, 2)) * 1e4
    result = take_in(lgb(rows), tmp_path)
    assert result.signature.inputs[0].datatype == "FP32"
    assert not any("64-bit" in note for note in result.notes)


def test_a_graph_that_loses_digits_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Were the need for 64 bits overlooked, the comparison on the user's own rows would still show it."""
    from studio.formats.boosters import _doubles

    monkeypatch.setattr(_doubles, "as_needed", lambda ensemble, *_: (ensemble, ()))
    monkeypatch.setattr(_doubles, "strays", lambda _, rows: np.zeros(len(rows), bool))
    with pytest.raises(Refused, match="does not answer as the original"):
        take_in(lgb(STAMPS), tmp_path)
