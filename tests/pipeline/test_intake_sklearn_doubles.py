"""Columns that 32-bit floats can not hold, in scikit-learn's estimators: right answers, or a refusal that says why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import onnxruntime as ort
import pandas
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import KBinsDiscretizer, MinMaxScaler, OneHotEncoder
from sklearn.tree import DecisionTreeRegressor

from studio.core.errors import Refused
from studio.pipeline.intake import run_intake
from studio.pipeline.messages import IntakeResult, IntakeTask
from tests.pipeline import estimators

GENERATOR = np.random.default_rng(0)
STAMPS = np.c_[np.arange(300) + 1.7e9, GENERATOR.normal(size=300)]
TARGET = np.arange(300) % 17 * 1.0
CUSTOMERS = pandas.DataFrame(
    {
        "customer": 100_000_000 + GENERATOR.integers(0, 40, 300),
        "v": GENERATOR.normal(size=300),
        "ok": GENERATOR.random(300) > 0.5,
    }
)


def take_in(model: Any, folder: Path, settings: str = "", samples: np.ndarray | None = None) -> IntakeResult:
    files = [estimators.save(model, folder / "model.pkl")]
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


@pytest.mark.parametrize(
    "model",
    [
        HistGradientBoostingRegressor(max_iter=20),
        lightgbm.LGBMRegressor(n_estimators=10, verbose=-1, n_jobs=1),
        make_pipeline(MinMaxScaler(), lightgbm.LGBMRegressor(n_estimators=10, verbose=-1, n_jobs=1)),
    ],
    ids=["HistGradientBoosting", "LightGBM", "MinMaxScaler, LightGBM"],
)
def test_trees_on_timestamps_answer_as_trained(model: Any, tmp_path: Path) -> None:
    model = model.fit(STAMPS, TARGET)
    expected = model.predict(STAMPS)
    assert (np.abs(model.predict(STAMPS.astype(np.float32)) - expected) > 0.01).sum() > 50  # 32 bits are too few
    result = take_in(model, tmp_path)
    assert result.signature.inputs[0].datatype == "FP64"
    assert any("64-bit floats" in note for note in result.notes)
    np.testing.assert_allclose(predicted(result, STAMPS), expected, rtol=1e-5, atol=1e-5)


def test_thresholds_of_64_bits_are_compared_to_the_last_bit(tmp_path: Path) -> None:
    model = HistGradientBoostingRegressor(max_iter=20).fit(STAMPS, TARGET)
    edges = model._bin_mapper.bin_thresholds_[0]
    edges = edges[np.isfinite(edges)]
    stamps = np.concatenate([edges, np.nextafter(edges, 9e9), np.nextafter(edges, 0)])
    rows = np.c_[stamps, np.zeros(len(stamps))]
    got = predicted(take_in(model, tmp_path, samples=STAMPS), rows)
    np.testing.assert_allclose(got, model.predict(rows), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", [np.int64, np.float64])
def test_long_customer_numbers_beside_other_columns_are_told_apart(kind: type, tmp_path: Path) -> None:
    table = CUSTOMERS.astype({"customer": kind})
    columns = ColumnTransformer(
        [("o", OneHotEncoder(handle_unknown="ignore"), ["customer"]), ("p", "passthrough", ["v", "ok"])]
    )
    model = make_pipeline(columns, Ridge()).fit(table, (CUSTOMERS.customer % 2) * 5.0)
    result = take_in(model, tmp_path)
    got = predicted(result, table.to_numpy().astype(np.float64))
    np.testing.assert_allclose(got, model.predict(table), rtol=1e-4, atol=1e-4)


def test_fp64_in_the_settings_is_taken_for_trees(tmp_path: Path) -> None:
    rows = STAMPS - [1.7e9, 0]
    model = HistGradientBoostingRegressor(max_iter=5).fit(rows, TARGET)
    (tmp_path / "plain").mkdir()
    assert take_in(model, tmp_path / "plain").signature.inputs[0].datatype == "FP32"
    result = take_in(model, tmp_path, '[inputs.input]\ndatatype = "FP64"\n')
    assert result.signature.inputs[0].datatype == "FP64"
    np.testing.assert_allclose(predicted(result, rows), model.predict(rows), rtol=1e-5, atol=1e-5)


def test_what_has_no_64_bit_form_is_refused_by_column(tmp_path: Path) -> None:
    model = make_pipeline(KBinsDiscretizer(20, encode="ordinal"), DecisionTreeRegressor()).fit(STAMPS, TARGET)
    with pytest.raises(Refused) as caught:
        take_in(model, tmp_path)
    assert "'column_0' have more digits than 32-bit floats hold (up to 1700000" in caught.value.what
    assert "Subtract an offset from 'column_0'" in caught.value.fix
