"""Cross-validation that a settings file asks for: scores of fresh copies, or a note on why there are none."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import KFold, StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from studio.pipeline.messages import IntakeResult
from tests.formats.graphs import linear, save
from tests.pipeline.conftest import Runner

CANCER = load_breast_cancer(return_X_y=True)
DIABETES = load_diabetes(return_X_y=True)


def drop(folder: Path, model: Any, rows: np.ndarray, labels: np.ndarray | None, settings: str) -> tuple[Path, ...]:
    folder.mkdir(exist_ok=True)
    (folder / "m.pkl").write_bytes(pickle.dumps(model))
    arrays = {"input": rows.astype(np.float32)} | ({} if labels is None else {"labels": labels})
    np.savez(folder / "m.npz", **arrays)
    (folder / "m.toml").write_text(settings)
    return folder / "m.pkl", folder / "m.npz", folder / "m.toml"


async def taken(runner: Runner, files: tuple[Path, ...]) -> IntakeResult:
    return await runner.intake(*files)


async def test_fresh_copies_are_scored_as_scikit_learn_scores_them(runner: Runner, tmp_path: Path) -> None:
    rows, labels = CANCER
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500)).fit(rows[:300], labels[:300])
    result = await taken(runner, drop(tmp_path / "a", model, rows, labels, "[evaluation]\nfolds = 5\n"))
    found = result.cross_validation
    assert found is not None
    expected = cross_val_score(
        model, rows.astype(np.float32), labels, cv=StratifiedKFold(5, shuffle=True, random_state=0)
    )
    assert found.scores == pytest.approx(tuple(expected))
    assert (found.metric, found.folds, found.wanted, found.samples) == ("accuracy", 5, 5, 569)
    assert found.mean == pytest.approx(expected.mean()) and found.std == pytest.approx(expected.std(ddof=1))
    assert not any("cross-valid" in note for note in result.notes)


async def test_regressors_are_scored_in_the_unit_of_their_labels(runner: Runner, tmp_path: Path) -> None:
    rows, labels = DIABETES
    files = drop(tmp_path / "b", Ridge(0.1).fit(rows, labels), rows, labels, "[evaluation]\nfolds = 3\n")
    found = (await taken(runner, files)).cross_validation
    assert found is not None and found.metric == "RMSE"
    folds = KFold(3, shuffle=True, random_state=0)
    expected = -cross_val_score(Ridge(0.1), rows, labels, cv=folds, scoring="neg_root_mean_squared_error")
    assert found.scores == pytest.approx(tuple(expected), rel=1e-4)


async def test_it_is_off_unless_asked_for_and_stops_nothing(runner: Runner, tmp_path: Path) -> None:
    rows, labels = CANCER
    model = LogisticRegression(max_iter=2000).fit(rows[:, :4], labels)
    asked = "[evaluation]\nfolds = 5\n"
    off = await taken(runner, drop(tmp_path / "c", model, rows[:, :4], labels, ""))
    assert off.cross_validation is None and not any("cross-valid" in note for note in off.notes)
    bare = await taken(runner, drop(tmp_path / "d", model, rows[:, :4], None, asked))
    assert bare.cross_validation is None
    assert "It was not cross-validated: its samples have no labels." in bare.notes
    few = np.array([0] * 30 + [1] * 3)
    rare = await taken(runner, drop(tmp_path / "e", model, rows[:33, :4], few, asked))
    assert any("the class 1 has only 3 samples" in note for note in rare.notes)
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "net.toml").write_text(asked)
    other = await runner.intake(save(linear(), tmp_path / "f" / "net.onnx"), tmp_path / "f" / "net.toml")
    assert any("scikit-learn models alone" in note for note in other.notes)


def test_what_takes_too_long_ends_with_the_folds_that_were_done() -> None:
    import time

    from studio.core.errors import StepFailed
    from studio.formats.sklearn._columns import columns_of
    from studio.formats.sklearn._source import Source
    from studio.formats.sklearn._validate import cross_validated

    class Slow(LogisticRegression):
        def fit(self, rows: np.ndarray, labels: np.ndarray) -> Slow:
            time.sleep(0.3)
            super().fit(rows, labels)
            return self

    rows, labels = CANCER
    model = Slow(max_iter=20).fit(rows[:, :2], labels)
    source, feed = Source(model, columns_of(model), False), {"input": rows[:, :2]}
    told: list[str] = []
    found = cross_validated(source, feed, labels, 10, 1.0, lambda _, detail: told.append(detail))
    assert 2 <= found.folds < 10 and found.wanted == 10 and len(found.scores) == found.folds
    assert told[0] == "cross-validation: fold 1 of 10"
    with pytest.raises(StepFailed, match=r"ended after [01] of 5 folds"):
        cross_validated(source, feed, labels, 5, 0.1, lambda *_: None)
