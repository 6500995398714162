"""The OpenAPI document says of each body what the server says of it."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import numpy as np
import pytest
from onnx import helper

from studio.core.preprocessing import Preprocessing
from studio.core.tensors import DATATYPES, TensorSpec
from tests.serving import graphs
from tests.serving.harness import Child, running
from tests.serving.test_predict import person, picture, total

ROW = np.linspace(-1, 1, 64).round(3).tolist()
PIXELS = np.zeros((3, 4, 4)).tolist()
PNG = base64.b64encode(picture()).decode()
PERSON = {"age": 21, "name": "Ada"}
JSON = {"content-type": "application/json"}


def captioned(folder: Any) -> Any:
    """A text as it is, beside a number for each."""
    text, weight = TensorSpec("text", "BYTES", ("batch",)), TensorSpec("weight", "FP32", ("batch",))
    same, twice = TensorSpec("same", "BYTES", ("batch",)), TensorSpec("twice", "FP32", ("batch",))
    nodes = [helper.make_node("Identity", ["text"], ["same"]), helper.make_node("Add", ["weight"] * 2, ["twice"])]
    path = graphs.save(folder / "captioned.onnx", nodes, [text, weight], [same, twice])
    how = {"text": Preprocessing(kind="text")}
    return graphs.target(path, [text, weight], [same, twice], model="captioned", preprocessing=how)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Child]:
    folder = tmp_path_factory.mktemp("schemas")
    image = {"x": Preprocessing(kind="image")}
    columns = Preprocessing(kind="tabular", columns=("h", "w"))
    table = graphs.table(
        graphs.mlp(folder, model="digits", labels=tuple("0123456789")),
        graphs.sentences(folder, model="sentences"),
        graphs.identity(folder, "FP32", ("n", 3, 4, 4), model="pixels", preprocessing=image),
        graphs.identity(folder, "FP32", (1, 3, 4, 4), model="picture", preprocessing=image),
        graphs.identity(folder, "FP32", ("n", 2), model="table", preprocessing={"x": columns}),
        graphs.identity(folder, "FP32", ("n", 2), model="odds", labels=("a", "b")),
        graphs.identity(folder, "FP32", (), model="number"),
        graphs.identity(folder, "FP32", (2, 2), model="square"),
        *(graphs.identity(folder, datatype, ("n",), model=f"some-{datatype}") for datatype in DATATYPES),
        person(folder),
        captioned(folder),
        total(folder, ("batch",), "totals"),
    )
    with running(folder, table) as child:
        yield child


@pytest.fixture(scope="module")
def document(served: Child) -> Any:
    return served.json("GET", "/openapi.json")[1]


TAKEN: list[tuple[str, Any]] = [
    *(("digits", value) for value in (ROW, [ROW], {"x": ROW}, {"x": [ROW, ROW]}, [{"x": ROW}], [None, *ROW[1:]])),
    *(("digits", value) for value in ([1e38] * 64, [3.4e38] * 64, [-70000] * 64)),
    *(("sentences", value) for value in ("the cat", ["the cat", "ran"], {"input_ids": ["the cat"]})),
    *(("sentences", value) for value in ({"input_ids": "the cat"}, [{"input_ids": "the cat"}])),
    *(("pixels", value) for value in (PNG, [PNG, PNG], {"x": PNG}, {"x": [PNG]}, PIXELS, {"x": [PIXELS, PIXELS]})),
    *(("pixels", value) for value in ([{"x": PNG}, {"x": PNG}], [{"x": PIXELS}])),
    *(("picture", value) for value in (PNG, [PNG], PIXELS, [PIXELS])),
    *(("table", value) for value in ([1, 2], [[1, 2]], {"h": 1, "w": 2}, {"w": [1, 3], "h": [2, None]}, {"x": [1, 2]})),
    ("table", [{"h": 1, "w": 2}, {"h": 3, "w": None}]),
    *(("odds", value) for value in ([0.25, 0.75], [[0.25, 0.75], [None, 1]], [3, 4])),
    *(("number", value) for value in (1, 0.5, {"x": 1}, {"x": None})),
    *(("square", value) for value in ([[1, 2], [3, 4]], {"x": [[1, 2], [3, 4]]}, [{"x": [1, 2]}, {"x": [3, 4]}])),
    *(("person", value) for value in (PERSON, [PERSON, PERSON], {"age": [[21]], "name": [["Ada"]]})),
    ("person", {"age": [21], "name": ["Ada"]}),
    *(("captioned", value) for value in ({"text": "a", "weight": 1}, {"text": ["a", "b"], "weight": [1, 2]})),
    *(("totals", value) for value in ([1, 2, 3], [[1, 2, 3]])),
    *(("some-FP16", value) for value in (65519, [-65519.9, None])),
    *(("some-BF16", value) for value in (3.39e38, [-3.39e38])),
    *(("some-FP32", value) for value in (3.4028235e38, [1e30])),
    *(("some-FP64", value) for value in (1.7e308, [-1e300])),
    *(("some-INT8", value) for value in (-128, [127])),
    *(("some-UINT64", value) for value in (2**64 - 1, [0])),
    *(("some-BOOL", value) for value in (True, [False, True], 1, [0, 1])),
    *(("some-BYTES", value) for value in ("", "grün", ["a", "b"])),
]
REFUSED: list[tuple[str, Any]] = [
    *(("digits", value) for value in (None, [], 1, "a", {}, {"y": ROW}, {"x": ROW, "y": 1}, ROW[1:], [[]], [{}])),
    *(("digits", value) for value in ([3.5e38] * 64, [True] * 64, ["a"] * 64, [{"x": ROW, "y": 1}])),
    *(("sentences", value) for value in (1, [], [1], {"input_ids": [1]}, {"attention_mask": [[1]], "input_ids": "a"})),
    *(("pixels", value) for value in (1, [], [1], PIXELS[1:])),
    *(("picture", value) for value in ([PNG, PNG], [PIXELS, PIXELS], [])),
    *(
        ("table", value)
        for value in ({"h": 1}, {"h": 1, "w": [2]}, {"h": 1, "w": 2, "d": 3}, [1, 2, 3], {"h": [], "w": []})
    ),
    *(("number", value) for value in (None, [1], "a")),
    *(("square", value) for value in ([1, 2], [[1, 2]], [{"x": [1, 2]}], 1)),
    *(("person", value) for value in (1, [1], {"age": 21}, {"age": "x", "name": "Ada"}, {"age": 1, "name": 2})),
    *(("captioned", value) for value in ({"text": ["a"], "weight": 1}, {"text": 1, "weight": 1})),
    *(("some-FP16", value) for value in (65520, [-7e4], "a", True)),
    *(("some-BF16", value) for value in (3.4e38, [-3.4e38])),
    *(("some-FP32", value) for value in (3.5e38, [1e39], None)),
    *(("some-INT8", value) for value in (-129, [128], 0.5, None, [None])),
    *(("some-UINT64", value) for value in (2**64, [-1])),
    *(("some-BOOL", value) for value in (2, [-1], "a", None, 0.5)),
    *(("some-BYTES", value) for value in (1, [None], [["a"]], True)),
]


def schemas(document: Any, model: str) -> tuple[Any, Any]:
    """Of the body in JSON and of the answer."""
    operation = document["paths"][f"/predict/{model}"]["post"]
    contents = operation["requestBody"]["content"], operation["responses"]["200"]["content"]
    body, answer = (content["application/json"]["schema"] for content in contents)
    return jsonschema_rs.Draft202012Validator(body), jsonschema_rs.Draft202012Validator(answer)


@pytest.mark.parametrize(("model", "value"), TAKEN, ids=lambda value: str(value)[:40])
def test_what_is_taken_is_in_the_schema(served: Child, document: Any, model: str, value: Any) -> None:
    body, described = schemas(document, model)
    status, answer = served.json("POST", f"/predict/{model}", value, JSON)
    assert (status, body.is_valid(value)) == (200, True), answer
    described.validate(answer)


@pytest.mark.parametrize(("model", "value"), REFUSED, ids=lambda value: str(value)[:40])
def test_what_is_refused_is_not(served: Child, document: Any, model: str, value: Any) -> None:
    body, _ = schemas(document, model)
    status, _, answer = served.request("POST", f"/predict/{model}", json.dumps(value).encode(), JSON)
    assert (status, body.is_valid(value)) == (400, False), answer


def test_the_example_of_each_model_is_in_its_schema(served: Child, document: Any) -> None:
    for model in served.json("GET", "/v2/models")[1]["models"]:
        body, described = schemas(document, model)
        example = served.json("GET", f"/predict/{model}")[1]
        body.validate(example)
        status, answer = served.json("POST", f"/predict/{model}", example, JSON)
        assert status == 200, (model, answer)
        described.validate(answer)


def test_bodies_that_are_no_json_are_declared(document: Any) -> None:
    declared = {
        model: set(document["paths"][f"/predict/{model}"]["post"]["requestBody"]["content"])
        for model in ("digits", "sentences", "pixels", "person", "some-BYTES", "number")
    }
    always = {"application/json", "multipart/form-data"}
    assert declared == {
        "digits": always | {"text/csv"},
        "sentences": always | {"text/plain"},
        "pixels": always | {f"image/{kind}" for kind in ("png", "jpeg", "webp", "gif", "bmp", "tiff")},
        "person": always | {"text/csv"},
        "some-BYTES": always | {"text/csv", "text/plain"},
        "number": always,
    }
