"""Small boosted-tree models of every kind, trained and saved by their own libraries on numbers of two digits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import catboost
import lightgbm
import numpy as np
import xgboost

COLUMNS = 6
_GENERATOR = np.random.default_rng(0)
ROWS = np.round(_GENERATOR.normal(size=(300, COLUMNS)), 2).astype(np.float32)
ROWS[_GENERATOR.random(ROWS.shape) < 0.1] = np.nan
WHOLE = np.nan_to_num(ROWS)
BINARY = (WHOLE[:, 0] + WHOLE[:, 1] ** 2 > 0.5).astype(int)
CLASSES = np.digitize(WHOLE[:, 0] + 0.3 * WHOLE[:, 2], [-0.5, 0.5])
REAL = 3 * WHOLE[:, 0] - WHOLE[:, 3] + 20
SEVERAL = np.stack([BINARY, 1 - BINARY, CLASSES == 1], axis=1).astype(int)
GROUPS = np.repeat(np.arange(15), 20)
CATEGORIES = WHOLE.copy()
CATEGORIES[:, 3] = _GENERATOR.integers(0, 40, 300)
CATEGORIES[:, 4] = _GENERATOR.integers(0, 3, 300)
BY_CATEGORY = (CATEGORIES[:, 3] % 3 == CATEGORIES[:, 4]).astype(int)
SPARSE = np.where(_GENERATOR.random(ROWS.shape) < 0.4, 0, ROWS)

Make = Callable[[Path], Path]


def xgb(objective: str, target: Any, suffix: str = "ubj", rows: Any = ROWS, data: Any = None, **more: Any) -> Make:
    def make(folder: Path) -> Path:
        table = xgboost.DMatrix(rows, target, **(data or {}))
        settings = {"objective": objective, "max_depth": 4, "nthread": 1, **more}
        path = folder / f"model.{suffix}"
        xgboost.train(settings, table, 8).save_model(path)
        return path

    return make


def xgb_stopped_early(folder: Path) -> Path:
    model = xgboost.XGBClassifier(n_estimators=90, early_stopping_rounds=5, n_jobs=1, learning_rate=0.5, max_depth=2)
    model.fit(ROWS[:150], BINARY[:150], eval_set=[(ROWS[150:], BINARY[150:])], verbose=False)
    assert 0 < model.best_iteration < model.get_booster().num_boosted_rounds() - 1
    model.save_model(folder / "model.json")
    return folder / "model.json"


def lgb(objective: Any, target: Any, rows: Any = ROWS, data: Any = None, **more: Any) -> Make:
    def make(folder: Path) -> Path:
        table = lightgbm.Dataset(rows.astype(np.float64), target, **(data or {}))
        settings = {"objective": objective, "verbose": -1, "num_leaves": 8, "min_data_in_leaf": 5, "num_threads": 1}
        path = folder / "model.txt"
        lightgbm.train({**settings, **more}, table, 8).save_model(path)
        return path

    return make


def own_objective(scores: Any, data: Any) -> tuple[Any, Any]:
    return scores - data.get_label(), np.ones(len(scores))


def cat(kind: Any, target: Any, rows: Any = ROWS, fit: Any = None, **more: Any) -> Make:
    def make(folder: Path) -> Path:
        model = kind(iterations=8, depth=4, verbose=0, allow_writing_files=False, thread_count=1, **more)
        model.fit(rows, target, **(fit or {}))
        path = folder / "model.cbm"
        model.save_model(path)
        return path

    return make


def cat_with_threshold(folder: Path) -> Path:
    path = cat(catboost.CatBoostClassifier, BINARY)(folder)
    model = catboost.CatBoostClassifier().load_model(path)
    model.set_probability_threshold(0.3)
    model.save_model(path)
    return path


_CATEGORICAL = {"feature_types": ["q", "q", "q", "c", "c", "q"], "enable_categorical": True}
_CLASSIFIER, _REGRESSOR = catboost.CatBoostClassifier, catboost.CatBoostRegressor

XGBOOST: dict[str, Make] = {
    "binary classes, missing values (JSON)": xgb("binary:logistic", BINARY, "json"),
    "three classes (UBJSON)": xgb("multi:softprob", CLASSES, num_class=3),
    "multi:softmax": xgb("multi:softmax", CLASSES, num_class=3),
    "regression": xgb("reg:squarederror", REAL),
    "ranking (rank:ndcg)": xgb("rank:ndcg", BINARY, data={"qid": GROUPS}),
    "DART": xgb("binary:logistic", BINARY, booster="dart", rate_drop=0.3),
    "random forest": xgb("binary:logistic", BINARY, num_parallel_tree=3),
    "count:poisson": xgb("count:poisson", BINARY),
    "survival:cox": xgb("survival:cox", REAL),
    "binary:hinge": xgb("binary:hinge", BINARY),
    "binary:logitraw": xgb("binary:logitraw", BINARY),
    "categories": xgb("binary:logistic", BY_CATEGORY, rows=CATEGORIES, data=_CATEGORICAL, max_cat_to_onehot=4),
    "three quantiles": xgb("reg:quantileerror", REAL, quantile_alpha=[0.1, 0.5, 0.9]),
    "two targets, trees of vectors": xgb(
        "reg:squarederror", np.stack([REAL, 2 * REAL], 1), multi_strategy="multi_output_tree", tree_method="hist"
    ),
    "several labels at once": xgb("binary:logistic", SEVERAL),
    "XGBClassifier, stopped early": xgb_stopped_early,
}

LIGHTGBM: dict[str, Make] = {
    "binary classes, missing values": lgb("binary", BINARY),
    "three classes": lgb("multiclass", CLASSES, num_class=3),
    "three classes, one against all": lgb("multiclassova", CLASSES, num_class=3),
    "regression": lgb("regression", REAL),
    "regression of a square root": lgb("regression", REAL, reg_sqrt=True),
    "ranking (lambdarank)": lgb("lambdarank", BINARY, data={"group": [20] * 15}),
    "poisson": lgb("poisson", REAL),
    "cross_entropy_lambda": lgb("cross_entropy_lambda", BINARY),
    "an objective of one's own (raw scores)": lgb(own_objective, REAL),
    "categories": lgb("binary", BY_CATEGORY, CATEGORIES, {"categorical_feature": [3, 4]}, min_data_per_group=5),
    "zeros as missing values": lgb("binary", BINARY, SPARSE, zero_as_missing=True),
    "missing values taken for zeros": lgb("binary", BINARY, use_missing=False),
    "random forest": lgb("regression", REAL, boosting="rf", bagging_freq=1, bagging_fraction=0.6),
    "DART": lgb("binary", BINARY, boosting="dart"),
}

CATBOOST: dict[str, Make] = {
    "binary classes, missing values": cat(_CLASSIFIER, BINARY),
    "missing values above all": cat(_CLASSIFIER, BINARY, nan_mode="Max"),
    "three classes with names": cat(_CLASSIFIER, np.array(["low", "mid", "high"])[CLASSES]),
    "three classes, one against all": cat(_CLASSIFIER, CLASSES, loss_function="MultiClassOneVsAll"),
    "classes −1 and 1": cat(_CLASSIFIER, 2 * BINARY - 1),
    "classes False and True": cat(_CLASSIFIER, BINARY.astype(bool)),
    "a threshold of its own": cat_with_threshold,
    "several labels at once": cat(_CLASSIFIER, SEVERAL, loss_function="MultiLogloss"),
    "regression": cat(_REGRESSOR, REAL),
    "two targets": cat(_REGRESSOR, np.stack([REAL, 2 * REAL], 1), loss_function="MultiRMSE"),
    "Poisson": cat(_REGRESSOR, BINARY, loss_function="Poisson"),
    "Lossguide trees": cat(_CLASSIFIER, BINARY, grow_policy="Lossguide"),
    "Depthwise trees": cat(_REGRESSOR, REAL, grow_policy="Depthwise"),
    "ranking (YetiRank)": cat(catboost.CatBoostRanker, BINARY, fit={"group_id": GROUPS}),
}

MODELS: dict[str, dict[str, Make]] = {"XGBoost": XGBOOST, "LightGBM": LIGHTGBM, "CatBoost": CATBOOST}


def borders(path: Path) -> list[float]:
    """Values that a model compares with, as its own library lists them: 64-bit numbers of any column."""
    if path.suffix == ".txt":
        table = lightgbm.Booster(model_file=path).trees_to_dataframe()
        found = [value for value in table["threshold"].dropna() if "||" not in str(value)]
    elif path.suffix == ".cbm":
        model = catboost.CatBoost().load_model(path)
        found = [value for values in model.get_borders().values() for value in values]
    else:
        booster = xgboost.Booster(model_file=path)
        dump = "".join(booster.get_dump(dump_format="text")) if booster.num_features() else ""
        found = [part.split("]")[0] for part in dump.split("<")[1:]]
    return [float(value) for value in found if abs(float(value)) < 1e6]


def answers(path: Path, rows: Any) -> Any:
    """What the library answers, as users call it: classes and probabilities for classifiers, [rows, n] for the rest."""
    if path.suffix == ".txt":
        return np.asarray(lightgbm.Booster(model_file=path).predict(rows)).reshape(len(rows), -1)
    if path.suffix == ".cbm":
        model = catboost.CatBoost().load_model(path)
        kind = (
            "Probability" if len(model.classes_) else "Exponent" if "Poisson" in str(model.get_all_params()) else None
        )
        return np.asarray(model.predict(rows, prediction_type=kind or "RawFormulaVal")).reshape(len(rows), -1)
    booster = xgboost.Booster(model_file=path)
    rounds = int(booster.attr("best_iteration") or -1) + 1
    table = xgboost.DMatrix(rows, feature_types=booster.feature_types, enable_categorical=True)
    return booster.predict(table, iteration_range=(0, rounds), validate_features=False).reshape(len(rows), -1)
