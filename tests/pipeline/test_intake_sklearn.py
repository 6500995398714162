"""scikit-learn estimators of every kind: what is served answers as the estimator, in every way that it is saved."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import onnx
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.tree import DecisionTreeRegressor

from studio.pipeline.messages import IntakeResult
from tests.pipeline import estimators
from tests.pipeline.conftest import Runner
from tests.pipeline.estimators import ESTIMATORS, Tried
from tests.pipeline.inprocess import answers, take_in

pytestmark = pytest.mark.filterwarnings("ignore")


def feed_of(result: IntakeResult, tried: Tried) -> dict[str, np.ndarray]:
    """The rows that the estimator was trained on, as the graph's inputs."""
    kinds = {"FP32": np.float32, "FP64": np.float64, "INT64": np.int64, "BYTES": object}
    specs = {spec.name: spec for spec in result.signature.inputs}
    if isinstance(tried.rows, list):
        return {"text": np.asarray(tried.rows, dtype=object)}
    if set(specs) == {"input"}:
        return {"input": np.asarray(tried.rows).astype(kinds[specs["input"].datatype])}
    return {name: tried.rows[[name]].to_numpy().astype(kinds[spec.datatype]) for name, spec in specs.items()}


def expected_of(model: Any, rows: Any, output: str) -> Any:
    """What the estimator says, asked by hand."""
    if output in ("label", "prediction"):
        return model.predict(rows)
    if output == "probabilities":
        return model.predict_proba(rows)
    if output.startswith("probabilities_"):
        return model.predict_proba(rows)[int(output.partition("_")[2])]
    if output == "scores" and hasattr(model, "decision_function"):
        return model.decision_function(rows)
    found = model.transform(rows)
    return found.toarray() if hasattr(found, "toarray") else found


def check(result: IntakeResult, model: Any, tried: Tried) -> None:
    got = answers(result.graph_path, feed_of(result, tried))
    names = {spec.name for spec in result.signature.outputs}
    assert set(got) == names and names
    for name, values in got.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = np.asarray(expected_of(model, tried.rows, name))
        if name == "scores" and expected.ndim == 1 and values.ndim == 2 and values.shape[1] == 2:
            values = values[:, 1]
        assert len(values) == len(expected)
        if name == "label":
            assert np.mean(np.reshape(values, expected.shape) == expected) > 0.98
        else:
            scale = np.abs(expected).max()
            off = np.abs(np.reshape(values, expected.shape) - expected) > 1e-3 * scale
            assert np.mean(off.reshape(len(expected), -1).any(axis=1)) < 0.02


@pytest.mark.parametrize("name", ESTIMATORS)
async def test_an_estimator_answers_as_it_did(
    name: str, runner: Runner, tmp_path: Path, format_row: Callable[..., None]
) -> None:
    tried = ESTIMATORS[name]
    model = tried.fitted()
    path = estimators.save(model, tmp_path / "model.dat", tried.saved)
    started = time.perf_counter()
    result = await runner.intake(path)
    seconds = time.perf_counter() - started
    assert result.format == "scikit-learn"
    assert all(spec.shape[0] == "batch" for spec in (*result.signature.inputs, *result.signature.outputs))
    assert result.signature.batchable
    assert result.parity.batch_sizes[:3] == (1, 2, 5) and result.parity.samples > 100
    assert result.example_path
    assert not any("ZipMap" in operator for operator in result.graph.operators)
    assert onnx.load(result.graph_path).ir_version <= 10
    check(result, model, tried)
    format_row(format="scikit-learn", tried=f"{name} ({tried.saved})", result=result, seconds=seconds)


def test_there_are_enough_of_them_and_every_way_to_save_one() -> None:
    assert len(ESTIMATORS) >= 60
    ways = {tried.saved for tried in ESTIMATORS.values()}
    assert {"pickle", "pickle 0", "pickle 5", "joblib", "skops"} <= ways
    assert {f"joblib, {kind}" for kind in ("zlib", "gzip", "bz2", "xz", "lzma", "lz4")} <= ways


def taken(name: str, tmp_path: Path) -> IntakeResult:
    return take_in(estimators.save(ESTIMATORS[name].fitted(), tmp_path / "model.pkl"))


def test_classes_keep_their_names(tmp_path: Path) -> None:
    assert taken("LogisticRegression, names", tmp_path).class_labels == ("ant", "bee", "cow")
    assert taken("LogisticRegression, two classes", tmp_path / "..").class_labels == ()


def test_columns_of_several_types_are_inputs_by_name(tmp_path: Path) -> None:
    result = taken("ColumnTransformer with texts, LogisticRegression", tmp_path)
    assert [spec.describe() for spec in result.signature.inputs] == [
        "age FP32 [batch × 1]",
        "city BYTES [batch × 1]",
        "rent FP32 [batch × 1]",
    ]
    assert any("Left out, because nothing looks at them: rooms, note, id" in note for note in result.notes)


def test_a_table_of_numbers_is_one_input_and_its_columns_are_noted(tmp_path: Path) -> None:
    result = taken("ColumnTransformer of numbers by name", tmp_path)
    assert [spec.describe() for spec in result.signature.inputs] == ["input FP32 [batch × 2]"]
    assert "Columns of 'input', in order: rent, rooms." in result.notes


def test_an_empty_text_is_a_missing_one(tmp_path: Path) -> None:
    result = taken("ColumnTransformer of imputed categories", tmp_path)
    assert any("empty text stands for a missing value: city" in note for note in result.notes)


def test_categories_are_drawn_for_the_example(tmp_path: Path) -> None:
    """Texts that were never seen would not be what the model is compared or measured on."""
    result = taken("ColumnTransformer with texts, LogisticRegression", tmp_path)
    cities = set(np.load(result.samples_path)["city"].ravel().tolist())
    assert {"Bern", "Chur", "Zürich"} <= cities <= {"Bern", "Chur", "Zürich", "something else"}


def test_lower_casing_needs_no_locale_where_all_words_are_ascii(tmp_path: Path) -> None:
    def locale(result: IntakeResult) -> set[bytes]:
        nodes = onnx.load(result.graph_path).graph.node
        return {entry.s for node in nodes for entry in node.attribute if entry.name == "locale"}

    assert locale(taken("TfidfVectorizer, LogisticRegression", tmp_path)) == {b"C"}
    letters = taken("TfidfVectorizer of any letters, LinearSVC", tmp_path / "..")
    assert locale(letters) <= {b"C.UTF-8", b"en_US.UTF-8"}
    assert any("needs the locale" in note for note in letters.notes)


def test_64_bit_floats_are_taken_where_32_bits_are_too_few(tmp_path: Path) -> None:
    rows = estimators.ROWS.astype(np.float64) + 1e9
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(rows, estimators.BINARY)
    result = take_in(estimators.save(model, tmp_path / "model.pkl"))
    assert result.signature.inputs[0].datatype == "FP64"
    assert any("64-bit floats" in note for note in result.notes)
    got = answers(result.graph_path, {"input": rows})["probabilities"]
    np.testing.assert_allclose(got, model.predict_proba(rows), atol=1e-6)


def test_a_threshold_is_compared_to_the_last_bit(tmp_path: Path) -> None:
    rows = np.random.default_rng(1).random((300, 1)).astype(np.float32)
    for place, kind in enumerate((DecisionTreeRegressor, HistGradientBoostingRegressor)):
        model = kind(random_state=0).fit(rows, rows[:, 0])
        result = take_in(estimators.save(model, tmp_path / f"model{place}.pkl"))
        if kind is DecisionTreeRegressor:
            edges = model.tree_.threshold[model.tree_.feature >= 0]
        else:
            edges = model._bin_mapper.bin_thresholds_[0]
        near = edges.astype(np.float32)
        around = np.concatenate([near, np.nextafter(near, np.float32(9)), np.nextafter(near, np.float32(-9))])[:, None]
        got = answers(result.graph_path, {"input": around})["prediction"][:, 0]
        np.testing.assert_allclose(got, model.predict(around.astype(np.float64)), rtol=1e-5)


def test_columns_of_any_name_are_inputs(tmp_path: Path) -> None:
    """Names of outputs, of values inside of the graph, and such as are no names in a programming language."""
    table = estimators.TABLE.rename(columns={"age": "label", "rent": "Rent (CHF/m²)", "city": "variable"})
    numbers = make_pipeline(SimpleImputer(), StandardScaler())
    kinds = ColumnTransformer([("n", numbers, ["Rent (CHF/m²)", "label"]), ("c", OneHotEncoder(), ["variable"])])
    model = make_pipeline(kinds, LogisticRegression()).fit(table, estimators.DEAR)
    result = take_in(estimators.save(model, tmp_path / "model.pkl"))
    assert [spec.name for spec in result.signature.inputs] == ["label_", "variable_", "Rent (CHF/m²)"]
    feed = {
        "label_": table[["label"]].to_numpy(np.float32),
        "variable_": table[["variable"]].to_numpy(object),
        "Rent (CHF/m²)": table[["Rent (CHF/m²)"]].to_numpy(np.float32),
    }
    np.testing.assert_allclose(answers(result.graph_path, feed)["probabilities"], model.predict_proba(table), atol=1e-5)


@pytest.mark.parametrize(
    ("classes", "labels"),
    [
        (estimators.BINARY.astype(bool), ("False", "True")),
        (estimators.BINARY.astype(float), ()),
        (estimators.CLASSES * 10.0, ("0", "10", "20")),
        (estimators.BINARY * 2 - 1, ("-1", "1")),
    ],
)
def test_classes_of_any_type_are_labels(classes: Any, labels: tuple[str, ...], tmp_path: Path) -> None:
    model = LogisticRegression().fit(estimators.ROWS / 1000, classes)
    result = take_in(estimators.save(model, tmp_path / "model.pkl"))
    assert result.class_labels == labels
    got = answers(result.graph_path, {"input": (estimators.ROWS / 1000).astype(np.float32)})["label"]
    assert np.mean(got == model.predict(estimators.ROWS / 1000)) > 0.98


def test_the_users_words_decide_over_columns_and_types(tmp_path: Path) -> None:
    tried = ESTIMATORS["ColumnTransformer of numbers by name"]
    path = estimators.save(tried.fitted(), tmp_path / "m.pkl")
    (tmp_path / "m.toml").write_text('[inputs.rent]\ndatatype = "FP32"\n')
    result = take_in(path, tmp_path / "m.toml")
    assert [spec.name for spec in result.signature.inputs] == ["rent", "rooms"]
    check(result, tried.fitted(), tried)
    (tmp_path / "m.toml").write_text('[inputs.input]\ndatatype = "FP64"\n')
    result = take_in(estimators.save(tried.fitted(), tmp_path / "n.pkl"), tmp_path / "m.toml")
    assert [spec.describe() for spec in result.signature.inputs] == ["input FP64 [batch × 2]"]


def test_samples_by_column_are_taken_as_they_are(tmp_path: Path) -> None:
    tried = ESTIMATORS["LogisticRegression, two classes"]
    table = estimators.pandas.DataFrame(tried.rows, columns=list("abcde"))
    model = tried.model().fit(table, tried.target)
    path = estimators.save(model, tmp_path / "m.pkl")
    columns = {name: tried.rows[:, [place]] for place, name in enumerate("abcde")}
    np.savez(tmp_path / "m.npz", labels=tried.target, **columns)
    result = take_in(path, tmp_path / "m.npz")
    assert [spec.name for spec in result.signature.inputs] == list("abcde")
    assert result.samples_kind == "labelled" and result.samples_count == estimators.COUNT
    assert 32 in result.parity.batch_sizes


def test_a_row_of_the_samples_is_counted_once_however_often_it_was_compared(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).standard_normal((70, 4)).astype(np.float32)
    model = LogisticRegression().fit(rows, rows[:, 0] > 0)
    joblib.dump(model, tmp_path / "model.joblib")
    np.savez(tmp_path / "model.npz", input=rows, labels=(rows[:, 0] > 0).astype(int))
    result = take_in(tmp_path / "model.joblib", tmp_path / "model.npz")
    assert (result.parity.samples, result.samples_count) == (70, 70)
