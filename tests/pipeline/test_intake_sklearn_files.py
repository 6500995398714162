"""Files of scikit-learn: which are asked about first, which are refused, and in what words. Some in real workers."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import catboost
import numpy as np
import pytest
import scipy.stats
import sklearn
import xgboost
from sklearn.cluster import DBSCAN
from sklearn.decomposition import NMF
from sklearn.ensemble import VotingClassifier
from sklearn.feature_extraction.text import HashingVectorizer, TfidfVectorizer
from sklearn.feature_selection import SelectKBest, f_regression
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import RandomizedSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.utils import Bunch

from studio.core.errors import InvalidInput, NeedsExtra, NeedsTrust, Refused, StudioError
from studio.formats.base import ArrivalFiles
from studio.formats.registry import recognise
from studio.pipeline.intake import run_intake
from studio.pipeline.messages import IntakeTask
from tests.formats.pickles import Payload
from tests.pipeline import estimators
from tests.pipeline.conftest import Runner, content
from tests.pipeline.estimators import BINARY, ESTIMATORS, REAL, ROWS, TEXTS, save
from tests.pipeline.inprocess import take_in

pytestmark = pytest.mark.filterwarnings("ignore")
_SCALED = (ROWS - ROWS.mean(axis=0)) / ROWS.std(axis=0)


def ridge() -> Ridge:
    return Ridge().fit(_SCALED, REAL)


def refused(path: Path, *more: Path) -> StudioError:
    with pytest.raises(StudioError) as caught:
        take_in(path, *more)
    error = caught.value
    assert error.what.endswith(".") and error.why and error.fix
    return error


# -- recognised


RECOGNISED = ("RandomForestClassifier", "GridSearchCV", "XGBClassifier", "TfidfVectorizer, LogisticRegression")


@pytest.mark.parametrize("name", RECOGNISED)
def test_an_estimator_is_recognised_under_any_name_and_its_class_told(name: str, tmp_path: Path) -> None:
    tried = ESTIMATORS[name]
    model = tried.fitted()
    library = {"sklearn": "scikit-learn", "xgboost": "XGBoost"}[type(model).__module__.partition(".")[0]]
    for saved, words in (
        ("pickle 2", "pickle"),
        ("pickle 0", "pickle"),
        ("joblib", "joblib"),
        ("joblib, zlib", "joblib, zlib"),
        ("skops", "skops"),
    ):
        if saved == "skops" and library != "scikit-learn":
            continue
        path = save(model, tmp_path / "thing.onnx", saved)
        chosen, seen = recognise(ArrivalFiles.of((path,)))
        assert chosen.name == "scikit-learn"
        words = "pickle" if words == "joblib" and b"NumpyArrayWrapper" not in path.read_bytes() else words
        assert seen.detail == f"{library} {type(model).__name__} ({words})"


def test_two_models_are_refused(tmp_path: Path) -> None:
    save(ridge(), tmp_path / "a.pkl")
    save(StandardScaler().fit(ROWS), tmp_path / "b.pkl")
    error = refused(tmp_path / "a.pkl", tmp_path / "b.pkl")
    assert "2 scikit-learn models" in error.what and "one Pipeline" in error.fix


# -- what needs trust


def test_code_in_a_file_asks_first_by_hash_and_does_not_run(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    model = ridge()
    model.evil = Payload(mark)
    for saved in ("pickle", "pickle 0", "joblib", "joblib, gzip"):
        path = save(model, tmp_path / "m.pkl", saved)
        with pytest.raises(NeedsTrust, match=r"io\.open") as caught:
            take_in(path)
        (code,) = caught.value.code_files
        assert code.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
        assert code.imports == ("io.open",)
        assert not mark.exists()


async def test_with_trust_it_runs_but_shut_in(runner: Runner, tmp_path: Path) -> None:
    inside, outside = runner.root / "scratch1" / "ran", tmp_path / "ran"
    model = ridge()
    model.evil = [Payload(inside), Payload(outside)]
    path = save(model, tmp_path / "m.pkl")
    with pytest.raises(StudioError):  # the second payload is refused by the sandbox, and ends the loading
        await runner.intake(path, trusted=(hashlib.sha256(content(path)).hexdigest(),))
    assert inside.exists()
    assert outside.exists() == (runner.sandbox["writing"] != "its scratch folder")


def test_trust_in_a_file_lets_its_functions_in(tmp_path: Path) -> None:
    model = make_pipeline(StandardScaler(), Ridge()).fit(_SCALED, REAL)
    model.note = functools.reduce
    path = save(model, tmp_path / "m.pkl")
    with pytest.raises(NeedsTrust, match=r"functools\.reduce"):
        take_in(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    task = IntakeTask(files=(str(path),), out=str(tmp_path / "out"), trusted=(digest,))
    assert run_intake(task, lambda *_: None).format == "scikit-learn"


ASKED: dict[str, tuple[Callable[[], Any], str]] = {
    "distributions, which run text": (
        lambda: RandomizedSearchCV(Ridge(), {"alpha": scipy.stats.loguniform(0.1, 1)}, n_iter=2, cv=2).fit(
            _SCALED, REAL
        ),
        "scipy.stats",
    ),
    "a function of a package": (lambda: _with_function(), "numpy.cumsum"),
    "a call kept for later": (
        lambda: make_pipeline(SelectKBest(functools.partial(max, key=len)), Ridge()),
        "builtins.max",
    ),
}


@pytest.mark.parametrize("what", ASKED)
def test_what_is_more_than_data_is_asked_about(what: str, tmp_path: Path) -> None:
    model, named = ASKED[what]
    with pytest.raises(NeedsTrust) as caught:
        take_in(save(model(), tmp_path / "m.pkl"))
    assert named in caught.value.why
    assert named in " ".join(caught.value.code_files[0].imports)


def _with_function() -> Any:
    model = make_pipeline(FunctionTransformer(np.log1p), Ridge()).fit(np.abs(_SCALED), REAL)
    model.steps[0][1].func = np.cumsum
    return model


def test_score_functions_and_their_settings_are_data(tmp_path: Path) -> None:
    score = functools.partial(f_regression, center=False)
    model = make_pipeline(SelectKBest(score, k=2), Ridge()).fit(_SCALED, REAL)
    assert take_in(save(model, tmp_path / "m.pkl")).format == "scikit-learn"


def test_skops_files_are_asked_about_by_skops_own_list(tmp_path: Path) -> None:
    model = make_pipeline(FunctionTransformer(np.abs), Ridge()).fit(_SCALED, REAL)
    model.steps[0][1].func = json.loads
    path = save(model, tmp_path / "m.skops", "skops")
    with pytest.raises(NeedsTrust, match=r"json\.loads") as caught:
        take_in(path)
    assert caught.value.code_files[0].imports == ("json.loads",)


def test_what_trust_could_not_load_is_not_asked_about(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def mine(values: Any) -> Any:
        return values

    mine.__module__, mine.__qualname__ = "__main__", "mine"
    monkeypatch.setattr("__main__.mine", mine, raising=False)
    model = make_pipeline(FunctionTransformer(mine), Ridge()).fit(_SCALED, REAL)
    error = refused(save(model, tmp_path / "own.pkl"))
    assert isinstance(error, Refused) and "script that saved it" in error.what
    data = pickle.dumps(ridge()).replace(b"sklearn.linear_model._ridge", b"sklearn.linear_model._rigid")
    (tmp_path / "moved.pkl").write_bytes(data)
    error = refused(tmp_path / "moved.pkl")
    assert "does not fit to the installed scikit-learn" in error.what and sklearn.__version__ in error.why
    model.package = scipy.stats.norm
    data = pickle.dumps(model.steps[1][1]).replace(b"numpy", b"nympu")
    (tmp_path / "package.pkl").write_bytes(data)
    error = refused(tmp_path / "package.pkl")
    assert "needs the Python package 'nympu'" in error.what


# -- versions


def test_another_version_of_scikit_learn_is_noted(tmp_path: Path) -> None:
    version = sklearn.__version__
    other = version.replace("1.", "0.", 1)
    path = tmp_path / "m.pkl"
    path.write_bytes(pickle.dumps(ridge()).replace(version.encode(), other.encode()))
    notes = take_in(path).notes
    assert any(f"saved by scikit-learn {other} and loaded by {version}" in note for note in notes)


def test_a_state_of_another_version_is_told_with_both(tmp_path: Path) -> None:
    version = sklearn.__version__
    model = ESTIMATORS["DecisionTreeRegressor"].fitted()
    data = pickle.dumps(model).replace(version.encode(), version.replace("1.", "0.", 1).encode())
    path = tmp_path / "m.pkl"
    path.write_bytes(data.replace(b"impurity", b"imparity"))
    error = refused(path)
    assert "does not fit to the installed scikit-learn" in error.what
    assert version in error.why and version.replace("1.", "0.", 1) in error.why


# -- refused in words


def test_what_is_no_estimator_is_named(tmp_path: Path) -> None:
    booster = catboost.CatBoostClassifier(iterations=2, verbose=0, allow_writing_files=False).fit(_SCALED, BINARY)
    said = {
        "a pickle of a dictionary": {"model": ridge()},
        "a pickle of a numpy array": ROWS,
        "a pickle of a list": [ridge()],
        "CatBoost": booster,
        "a pickled XGBoost model (Booster)": xgboost.train({}, xgboost.DMatrix(_SCALED, BINARY), 2),
        "an object of fractions.Fraction": __import__("fractions").Fraction(1, 3),
    }
    for words, value in said.items():
        for saved in ("pickle", "joblib, zlib"):
            error = refused(save(value, tmp_path / "m.pkl", saved))
            assert words in error.what, (words, error.what)
    assert "save_model('model.cbm')" in refused(save(booster, tmp_path / "m.pkl")).fix


def test_several_pickles_in_one_file_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.pkl"
    path.write_bytes(pickle.dumps(StandardScaler().fit(ROWS)) + pickle.dumps(ridge()))
    error = refused(path)
    assert "several pickles" in error.what and "StandardScaler" in error.why and "Ridge" in error.why


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    for saved in ("pickle", "joblib", "joblib, zlib", "skops"):
        whole = save(ESTIMATORS["RandomForestRegressor"].fitted(), tmp_path / "m.pkl", saved).read_bytes()
        (tmp_path / "m.pkl").write_bytes(whole[: len(whole) * 2 // 3])
        error = refused(tmp_path / "m.pkl")
        assert isinstance(error, (InvalidInput, Refused))


def test_an_object_of_scikit_learn_that_is_no_estimator_is_named(tmp_path: Path) -> None:
    assert "holds a Bunch, which is no estimator" in refused(save(Bunch(data=ROWS), tmp_path / "m.pkl")).what


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "not trained": (LogisticRegression, "was not trained"),
    "for its training data alone": (lambda: DBSCAN().fit(_SCALED), "answers for its training data alone"),
    "unknown to the converter": (lambda: NMF(2).fit(np.abs(_SCALED)), "NMF has no ONNX form"),
    "a step that is": (
        lambda: make_pipeline(HashingVectorizer(n_features=64), LogisticRegression()).fit(TEXTS, estimators.GOOD),
        "A step of this Pipeline, HashingVectorizer, has no ONNX form",
    ),
    "boosted trees inside of another": (
        lambda: VotingClassifier([("x", xgboost.XGBClassifier(n_estimators=2)), ("l", LogisticRegression())]).fit(
            _SCALED, BINARY
        ),
        "A step of this VotingClassifier, XGBClassifier",
    ),
    "groups of words without stop words": (
        lambda: make_pipeline(TfidfVectorizer(stop_words="english", ngram_range=(1, 2)), Ridge()).fit(TEXTS, REAL),
        "leaves out stop words and takes groups of words",
    ),
    "a pattern that RE2 does not know": (
        lambda: make_pipeline(TfidfVectorizer(token_pattern=r"(?<=c)\w+"), Ridge()).fit(TEXTS, REAL),
        "splits texts with the pattern",
    ),
    "accents": (
        lambda: make_pipeline(TfidfVectorizer(strip_accents="ascii"), Ridge()).fit(TEXTS, REAL),
        "can not be converted",
    ),
    "a missing value that is a number": (
        lambda: xgboost.XGBClassifier(n_estimators=2, missing=0).fit(_SCALED, BINARY),
        "takes 0 for a missing value",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_can_not_be_converted_is_refused_and_the_step_named(what: str, tmp_path: Path) -> None:
    model, words = REFUSED[what]
    assert words in refused(save(model(), tmp_path / "m.pkl")).what


# -- in real workers


async def test_a_sandboxed_worker_tells_what_it_was_made_with(runner: Runner, tmp_path: Path) -> None:
    tried = ESTIMATORS["LGBMClassifier"]
    path = save(tried.fitted(), tmp_path / "model.dat", "joblib, zlib")
    result = await runner.intake(path)
    assert result.tools["scikit-learn"] == sklearn.__version__
    assert {"skl2onnx", "onnx", "lightgbm"} <= set(result.tools)
    assert result.sources == (str(path),)
    assert {child.name for child in (runner.scratch / "out").iterdir()} <= {
        "model.onnx",
        "samples.npz",
        "example.json",
        "assets",
    }


HIDE = """
import sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("sklearn", "skl2onnx"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Hidden())
"""


async def test_without_scikit_learn_the_extra_is_named(
    runner: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(ridge(), tmp_path / "m.pkl")
    hook = tmp_path / "hook"
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(HIDE)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(hook), os.environ.get("PYTHONPATH", "")]))
    with pytest.raises(NeedsExtra, match="a scikit-learn model") as caught:
        await runner.intake(path)
    assert "pip install 'ort-studio[sklearn]'" in caught.value.fix
