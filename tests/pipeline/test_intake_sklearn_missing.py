"""Missing values in trees: a graph sends them where scikit-learn does, or its notes say that it does not."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from sklearn.ensemble import ExtraTreesRegressor, RandomForestClassifier
from sklearn.tree import DecisionTreeClassifier

from tests.pipeline.conftest import Runner

RANDOM = np.random.default_rng(0)
WHOLE = RANDOM.normal(size=(300, 5)).astype(np.float32)
GAPS = np.where(RANDOM.random(WHOLE.shape) < 0.15, np.nan, WHOLE).astype(np.float32)
CLASSES = (np.nan_to_num(GAPS[:, 0], nan=1.0) + np.nan_to_num(GAPS[:, 1]) > 0).astype(int)


@pytest.mark.parametrize(
    "model",
    [
        RandomForestClassifier(20, random_state=0).fit(GAPS, CLASSES),
        RandomForestClassifier(20, random_state=0).fit(WHOLE, CLASSES),
        ExtraTreesRegressor(20, random_state=0).fit(GAPS, CLASSES * 1.0),
        DecisionTreeClassifier(random_state=0).fit(GAPS, CLASSES),
    ],
    ids=["forest", "forest that knew none", "extra trees", "tree"],
)
async def test_missing_values_are_answered_as_by_the_source(runner: Runner, tmp_path: Path, model: Any) -> None:
    path = tmp_path / "trees.pkl"
    path.write_bytes(pickle.dumps(model))
    result = await runner.intake(path)
    assert not any("Missing values" in note for note in result.notes)
    session = ort.InferenceSession(result.graph_path)
    own = session.run(None, {session.get_inputs()[0].name: GAPS})[-1]
    expected = model.predict_proba(GAPS) if hasattr(model, "predict_proba") else model.predict(GAPS)
    np.testing.assert_allclose(np.asarray(own).reshape(expected.shape), expected, atol=1e-5)
