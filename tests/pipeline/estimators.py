"""Small scikit-learn estimators of every kind, trained on made-up numbers and texts, and ways to save them."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
import lightgbm
import numpy as np
import pandas
import xgboost
from sklearn.calibration import CalibratedClassifierCV
from sklearn.cluster import KMeans
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor, make_column_selector
from sklearn.decomposition import PCA, KernelPCA, TruncatedSVD
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis, QuadraticDiscriminantAnalysis
from sklearn.ensemble import (
    AdaBoostClassifier,
    BaggingClassifier,
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    IsolationForest,
    RandomForestClassifier,
    RandomForestRegressor,
    StackingClassifier,
    VotingClassifier,
    VotingRegressor,
)
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.feature_selection import SelectKBest, f_classif
from sklearn.gaussian_process import GaussianProcessClassifier, GaussianProcessRegressor
from sklearn.impute import KNNImputer, SimpleImputer
from sklearn.linear_model import (
    BayesianRidge,
    ElasticNet,
    Lasso,
    LinearRegression,
    LogisticRegression,
    PoissonRegressor,
    Ridge,
    RidgeClassifier,
    SGDClassifier,
)
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV
from sklearn.multiclass import OneVsOneClassifier, OneVsRestClassifier
from sklearn.multioutput import MultiOutputClassifier, MultiOutputRegressor
from sklearn.naive_bayes import BernoulliNB, GaussianNB, MultinomialNB
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    KBinsDiscretizer,
    MinMaxScaler,
    OneHotEncoder,
    OrdinalEncoder,
    PolynomialFeatures,
    PowerTransformer,
    QuantileTransformer,
    RobustScaler,
    StandardScaler,
)
from sklearn.svm import SVC, SVR, LinearSVC
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

_GENERATOR = np.random.default_rng(0)
COUNT = 160
ROWS = (_GENERATOR.normal(size=(COUNT, 5)) * [1, 10, 0.1, 1, 100] + [0, 50, 0, -3, 1000]).astype(np.float32)
_SCALED = (ROWS - ROWS.mean(axis=0)) / ROWS.std(axis=0)
BINARY = (_SCALED[:, 0] + _SCALED[:, 1] * _SCALED[:, 2] > 0).astype(int)
CLASSES = np.digitize(_SCALED[:, 0] + _SCALED[:, 3], [-0.7, 0.7])
NAMES = np.array(["ant", "bee", "cow"])[CLASSES]
REAL = 100 * _SCALED[:, 0] - _SCALED[:, 4] + 7
TWO = np.stack([REAL, _SCALED[:, 1]], axis=1)
HOLES = np.where(_GENERATOR.random(ROWS.shape) < 0.1, np.nan, ROWS).astype(np.float32)
WORDS = [
    "the",
    "cat",
    "sat",
    "on",
    "a",
    "mat",
    "dogs",
    "don't",
    "bark_2",
    "at",
    "x-ray",
    "cats",
    "good",
    "movie",
    "bad",
    "indeed",
]
TEXTS = [" ".join(_GENERATOR.choice(WORDS, 8)) for _ in range(COUNT)]
LETTERS = [text.replace("cat", "Épée").replace("dog", "ÜBER straße").replace("movie", "日本語") for text in TEXTS]
GOOD = np.array([int("good" in text or "cat" in text) for text in TEXTS])
TABLE = pandas.DataFrame(
    {
        "age": np.where(_GENERATOR.random(COUNT) < 0.1, np.nan, _GENERATOR.normal(40, 12, COUNT)),
        "city": _GENERATOR.choice(["Bern", "Chur", "Zürich"], COUNT),
        "rooms": _GENERATOR.integers(1, 6, COUNT),
        "rent": _GENERATOR.exponential(1000, COUNT),
        "note": TEXTS,
        "id": [f"number {place}" for place in range(COUNT)],
    }
)
DEAR = np.where((TABLE.rent > 700) ^ (TABLE.city == "Chur"), "dear", "cheap")


@dataclass(frozen=True)
class Tried:
    """`model` is fitted on `rows` and `target` when it is asked for; `saved`: pickle, joblib, joblib with …, skops."""

    model: Callable[[], Any]
    rows: Any
    target: Any
    saved: str = "pickle"

    def fitted(self) -> Any:
        return self.model().fit(self.rows, self.target)


def save(model: Any, path: Path, saved: str = "pickle") -> Path:
    if saved == "skops":
        import studio.formats.sklearn._skops  # without PyTorch, which takes seconds

        studio.formats.sklearn._skops.skops.io.dump(model, path)
    elif saved.startswith("joblib"):
        kind = saved.partition(", ")[2]
        joblib.dump(model, path, compress=(kind, 3) if kind else 0)
    else:
        path.write_bytes(pickle.dumps(model, int(saved.partition(" ")[2] or 4)))
    return path


def on(rows: Any, target: Any, model: Callable[[], Any], saved: str = "pickle") -> Tried:
    return Tried(model, rows, target, saved)


def _few(kind: Any, **more: Any) -> Callable[[], Any]:
    return lambda: kind(n_estimators=6, random_state=0, **more)


def _mixed(*more: Any) -> ColumnTransformer:
    numbers = make_pipeline(SimpleImputer(strategy="median"), StandardScaler())
    return ColumnTransformer(
        [("numbers", numbers, ["rent", "age"]), ("city", OneHotEncoder(handle_unknown="ignore"), ["city"]), *more]
    )


_TREES = {"n_estimators": 6, "random_state": 0}
_BOOSTER = {"n_estimators": 8, "n_jobs": 1}

ESTIMATORS: dict[str, Tried] = {
    # linear
    "LinearRegression": on(ROWS, REAL, LinearRegression),
    "Ridge, two targets": on(ROWS, TWO, Ridge, "joblib"),
    "Lasso": on(ROWS, REAL, Lasso, "skops"),
    "ElasticNet": on(ROWS, REAL, ElasticNet, "pickle 0"),
    "BayesianRidge": on(ROWS, REAL, BayesianRidge),
    "PoissonRegressor": on(_SCALED, np.abs(REAL), PoissonRegressor),
    "LogisticRegression, two classes": on(_SCALED, BINARY, LogisticRegression, "pickle 5"),
    "LogisticRegression, three classes": on(_SCALED, CLASSES, LogisticRegression, "joblib, gzip"),
    "LogisticRegression, names": on(_SCALED, NAMES, LogisticRegression, "skops"),
    "RidgeClassifier": on(_SCALED, BINARY, RidgeClassifier),
    "SGDClassifier": on(_SCALED, NAMES, lambda: SGDClassifier(random_state=0)),
    "LinearDiscriminantAnalysis": on(ROWS, BINARY, LinearDiscriminantAnalysis),
    "QuadraticDiscriminantAnalysis": on(_SCALED, NAMES, QuadraticDiscriminantAnalysis),
    # vectors, neighbours, probabilities
    "SVC": on(_SCALED, NAMES, SVC),
    "SVC, two classes": on(_SCALED, BINARY, SVC, "joblib"),
    "SVR": on(_SCALED, REAL, SVR),
    "LinearSVC": on(_SCALED, BINARY, LinearSVC),
    "KNeighborsClassifier": on(_SCALED, NAMES, lambda: KNeighborsClassifier(3), "joblib, xz"),
    "KNeighborsRegressor": on(_SCALED, REAL, KNeighborsRegressor),
    "GaussianNB": on(ROWS, NAMES, GaussianNB),
    "BernoulliNB": on(_SCALED, BINARY, BernoulliNB),
    "GaussianProcessRegressor": on(_SCALED[:60], REAL[:60], lambda: GaussianProcessRegressor(alpha=0.1)),
    "GaussianProcessClassifier": on(_SCALED[:60], BINARY[:60], GaussianProcessClassifier),
    "GaussianMixture": on(_SCALED, None, lambda: GaussianMixture(2, random_state=0)),
    "MLPClassifier": on(_SCALED, NAMES, lambda: MLPClassifier((8,), max_iter=30, random_state=0)),
    "MLPRegressor": on(_SCALED, TWO, lambda: MLPRegressor(hidden_layer_sizes=(8,), max_iter=30, random_state=0)),
    # trees
    "DecisionTreeClassifier": on(ROWS, NAMES, lambda: DecisionTreeClassifier(random_state=0)),
    "DecisionTreeRegressor": on(ROWS, TWO, lambda: DecisionTreeRegressor(random_state=0), "skops"),
    "RandomForestClassifier": on(ROWS, BINARY, lambda: RandomForestClassifier(**_TREES), "joblib, zlib"),
    "RandomForestClassifier, two targets": on(
        ROWS, np.stack([BINARY, CLASSES], 1), lambda: RandomForestClassifier(**_TREES)
    ),
    "RandomForestRegressor": on(ROWS, REAL, lambda: RandomForestRegressor(**_TREES), "joblib"),
    "ExtraTreesClassifier": on(ROWS, NAMES, lambda: ExtraTreesClassifier(**_TREES)),
    "GradientBoostingClassifier": on(ROWS, NAMES, lambda: GradientBoostingClassifier(**_TREES)),
    "GradientBoostingRegressor": on(ROWS, REAL, lambda: GradientBoostingRegressor(**_TREES), "joblib, lzma"),
    "HistGradientBoostingClassifier, missing values": on(
        HOLES, NAMES, lambda: HistGradientBoostingClassifier(max_iter=6), "skops"
    ),
    "HistGradientBoostingRegressor": on(ROWS, REAL, lambda: HistGradientBoostingRegressor(max_iter=6)),
    "HistGradientBoostingRegressor, Poisson": on(
        HOLES, np.abs(REAL), lambda: HistGradientBoostingRegressor(max_iter=6, loss="poisson")
    ),
    "HistGradientBoostingClassifier, categories": on(
        TABLE[["age", "city", "rooms"]].astype({"city": "category"}),
        DEAR,
        lambda: HistGradientBoostingClassifier(max_iter=8, categorical_features="from_dtype", min_samples_leaf=5),
    ),
    "IsolationForest": on(ROWS, None, lambda: IsolationForest(**_TREES), "joblib, bz2"),
    "XGBClassifier": on(HOLES, CLASSES, lambda: xgboost.XGBClassifier(**_BOOSTER)),
    "LGBMClassifier": on(HOLES, NAMES, lambda: lightgbm.LGBMClassifier(verbose=-1, **_BOOSTER), "joblib"),
    # of others
    "AdaBoostClassifier": on(ROWS, NAMES, lambda: AdaBoostClassifier(**_TREES)),
    "BaggingClassifier": on(ROWS, BINARY, lambda: BaggingClassifier(**_TREES)),
    "VotingClassifier, soft": on(
        _SCALED,
        NAMES,
        lambda: VotingClassifier([("a", LogisticRegression()), ("b", GaussianNB())], voting="soft"),
    ),
    "VotingClassifier, hard": on(
        _SCALED, BINARY, lambda: VotingClassifier([("a", LogisticRegression()), ("b", GaussianNB())])
    ),
    "VotingRegressor": on(_SCALED, REAL, lambda: VotingRegressor([("a", Ridge()), ("b", DecisionTreeRegressor())])),
    "StackingClassifier": on(
        _SCALED, NAMES, lambda: StackingClassifier([("a", LogisticRegression()), ("b", GaussianNB())], cv=2)
    ),
    "CalibratedClassifierCV": on(_SCALED, NAMES, lambda: CalibratedClassifierCV(LinearSVC(), cv=2)),
    "OneVsRestClassifier": on(_SCALED, NAMES, lambda: OneVsRestClassifier(LogisticRegression())),
    "OneVsRestClassifier, several labels": on(
        _SCALED, np.stack([BINARY, 1 - BINARY], 1), lambda: OneVsRestClassifier(LogisticRegression())
    ),
    "OneVsOneClassifier": on(_SCALED, NAMES, lambda: OneVsOneClassifier(LogisticRegression())),
    "MultiOutputClassifier": on(
        _SCALED, np.stack([BINARY, CLASSES], 1), lambda: MultiOutputClassifier(LogisticRegression())
    ),
    "MultiOutputRegressor": on(_SCALED, TWO, lambda: MultiOutputRegressor(Ridge())),
    "GridSearchCV": on(
        ROWS,
        NAMES,
        lambda: GridSearchCV(
            make_pipeline(StandardScaler(), LogisticRegression()),
            {"logisticregression__C": [1, 2]},
            cv=2,
            scoring="accuracy",
        ),
        "joblib",
    ),
    "TransformedTargetRegressor": on(
        _SCALED,
        np.abs(REAL) + 1,
        lambda: TransformedTargetRegressor(Ridge(), func=np.log1p, inverse_func=np.expm1),
    ),
    "TransformedTargetRegressor, scaled": on(
        ROWS,
        REAL,
        lambda: TransformedTargetRegressor(RandomForestRegressor(**_TREES), transformer=StandardScaler()),
    ),
    # transforming
    "KMeans": on(ROWS, None, lambda: KMeans(3, n_init=1, random_state=0), "skops"),
    "PCA": on(ROWS, None, lambda: PCA(2)),
    "KernelPCA": on(_SCALED[:50], None, lambda: KernelPCA(2, kernel="rbf")),
    "PowerTransformer": on(_SCALED, None, PowerTransformer),
    "QuantileTransformer": on(ROWS, None, lambda: QuantileTransformer(n_quantiles=20)),
    "KBinsDiscretizer": on(ROWS, None, lambda: KBinsDiscretizer(3)),
    "StandardScaler, PCA, KNeighborsClassifier": on(
        ROWS, NAMES, lambda: make_pipeline(StandardScaler(), PCA(3), KNeighborsClassifier(3)), "joblib, lz4"
    ),
    "RobustScaler, KNNImputer, PolynomialFeatures, Ridge": on(
        HOLES, REAL, lambda: make_pipeline(RobustScaler(), KNNImputer(), PolynomialFeatures(), Ridge(10.0))
    ),
    "SelectKBest, MinMaxScaler, SVC": on(
        ROWS, NAMES, lambda: make_pipeline(SelectKBest(f_classif, k=3), MinMaxScaler(), SVC())
    ),
    "FunctionTransformer (log1p), Ridge": on(
        np.abs(_SCALED), REAL, lambda: make_pipeline(FunctionTransformer(np.log1p), StandardScaler(), Ridge())
    ),
    "StandardScaler, XGBClassifier": on(
        ROWS, BINARY, lambda: make_pipeline(StandardScaler(), xgboost.XGBClassifier(**_BOOSTER))
    ),
    # columns of several types
    "ColumnTransformer with texts, LogisticRegression": on(
        TABLE, DEAR, lambda: make_pipeline(_mixed(), LogisticRegression()), "joblib, zlib"
    ),
    "ColumnTransformer with TfidfVectorizer, RandomForestClassifier": on(
        TABLE,
        DEAR,
        lambda: make_pipeline(_mixed(("note", TfidfVectorizer(), "note")), RandomForestClassifier(**_TREES)),
    ),
    "ColumnTransformer, LGBMClassifier": on(
        TABLE, DEAR, lambda: make_pipeline(_mixed(), lightgbm.LGBMClassifier(verbose=-1, **_BOOSTER))
    ),
    "ColumnTransformer of imputed categories": on(
        TABLE,
        DEAR,
        lambda: make_pipeline(
            ColumnTransformer(
                [
                    ("n", SimpleImputer(), make_column_selector(dtype_include="number")),
                    ("c", make_pipeline(SimpleImputer(strategy="most_frequent"), OrdinalEncoder()), ["city"]),
                ]
            ),
            GradientBoostingClassifier(**_TREES),
        ),
    ),
    "ColumnTransformer of numbers by name": on(
        TABLE[["rent", "rooms"]],
        REAL,
        lambda: make_pipeline(ColumnTransformer([("n", StandardScaler(), ["rooms", "rent"])]), Ridge()),
    ),
    "OneHotEncoder of texts": on(TABLE[["city"]], None, OneHotEncoder),
    "OrdinalEncoder of whole numbers": on(TABLE[["rooms"]].to_numpy(), None, OrdinalEncoder),
    # texts
    "TfidfVectorizer, LogisticRegression": on(
        TEXTS, GOOD, lambda: make_pipeline(TfidfVectorizer(), LogisticRegression()), "joblib, gzip"
    ),
    "TfidfVectorizer of any letters, LinearSVC": on(
        LETTERS, GOOD, lambda: make_pipeline(TfidfVectorizer(ngram_range=(1, 2)), LinearSVC())
    ),
    "CountVectorizer, MultinomialNB": on(TEXTS, GOOD, lambda: make_pipeline(CountVectorizer(), MultinomialNB())),
    "FeatureUnion of vectorizers, TruncatedSVD": on(
        TEXTS,
        None,
        lambda: make_pipeline(
            FeatureUnion([("a", TfidfVectorizer()), ("b", CountVectorizer(ngram_range=(2, 2)))]),
            TruncatedSVD(3, random_state=0),
        ),
    ),
    "TfidfVectorizer of letters, LogisticRegression": on(
        TEXTS, GOOD, lambda: make_pipeline(TfidfVectorizer(analyzer="char", ngram_range=(1, 2)), LogisticRegression())
    ),
}
