"""`/predict`: what people have at hand, answered with names."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from onnx import helper, numpy_helper
from PIL import Image

from studio.core.preprocessing import Preprocessing
from studio.core.routing import Target
from studio.core.tensors import DATATYPES, TensorSpec
from tests.serving import graphs
from tests.serving.harness import Child, running

ROW = [round(float(value), 3) for value in np.linspace(-1, 1, 64)]
LABELS = tuple(f"class-{n}" for n in range(10))


def brightness(folder: Any, how: Preprocessing | None, model: str) -> Target:
    """The mean of each channel of an image 3 × 4 × 4."""
    x, y = TensorSpec("image", "FP32", ("batch", 3, 4, 4)), TensorSpec("mean", "FP32", ("batch", 3))
    nodes = [
        helper.make_node("GlobalAveragePool", ["image"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["mean"]),
    ]
    path = graphs.save(folder / "brightness.onnx", nodes, [x], [y])
    return graphs.target(
        path, [x], [y], model=model, batchable=True, labels=("red", "green", "blue"),
        preprocessing={"image": how} if how else {},
    )  # fmt: skip


def person(folder: Any) -> Target:
    """Two columns, as pipelines of scikit-learn take them: age × 2, and the name as it is."""
    age, name = TensorSpec("age", "FP32", ("batch", 1)), TensorSpec("name", "BYTES", ("batch", 1))
    older, same = TensorSpec("older", "FP32", ("batch", 1)), TensorSpec("same", "BYTES", ("batch", 1))
    nodes = [helper.make_node("Add", ["age", "age"], ["older"]), helper.make_node("Identity", ["name"], ["same"])]
    path = graphs.save(folder / "person.onnx", nodes, [age, name], [older, same])
    return graphs.target(path, [age, name], [older, same], model="person", batchable=True)


def total(folder: Any, shape: tuple[Any, ...], model: str) -> Target:
    """The sum of three numbers: one for each row, or one alone."""
    x, y = TensorSpec("x", "FP32", (*shape, 3)), TensorSpec("y", "FP32", shape)
    axis = numpy_helper.from_array(np.array([-1], np.int64), "axis")
    nodes = [helper.make_node("ReduceSum", ["x", "axis"], ["y"], keepdims=0)]
    path = graphs.save(folder / f"{model}.onnx", nodes, [x], [y], [axis])
    return graphs.target(path, [x], [y], model=model)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Child]:
    folder = tmp_path_factory.mktemp("predict")
    columns = Preprocessing(kind="tabular", columns=tuple(f"c{n}" for n in range(64)))
    people = Preprocessing(kind="tabular", columns=("who", "where"))
    table = graphs.table(
        graphs.mlp(folder, model="digits", version=3, labels=LABELS),
        graphs.mlp(folder, model="columns", preprocessing={"x": columns}),
        brightness(folder, Preprocessing(kind="image", scale=1 / 255), "colour"),
        brightness(folder, None, "unknown"),
        person(folder),
        graphs.sentences(folder, model="sentences"),
        graphs.identity(folder, "BYTES", ("n",), model="words"),
        graphs.identity(folder, "FP32", ("n",), model="floats"),
        graphs.identity(folder, "FP32", ("length",), model="vectors"),
        graphs.identity(folder, "BYTES", ("n", 2), model="pairs"),
        graphs.identity(folder, "BOOL", ("n", 2), model="flags"),
        graphs.identity(folder, "BYTES", ("n", 2), model="city", preprocessing={"x": people}),
        *(graphs.identity(folder, datatype, ("n",), model=f"one-{datatype}") for datatype in DATATYPES),
        graphs.identity(folder, "FP32", ("n", 3), model="scores", labels=("a", "b", "c")),
        total(folder, ("batch",), "totals"),
        total(folder, (), "total"),
        graphs.identity(folder, "FP32", (1, 3, 4, 4), model="pair", preprocessing={"x": Preprocessing(kind="image")}),
        aliases={"production": "3-fp32"},
    )
    with running(folder, table) as child:
        yield child


def picture(colour: tuple[int, int, int] = (255, 0, 51), kind: str = "PNG", size: tuple[int, int] = (9, 7)) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, colour).save(out, kind)
    return out.getvalue()


def form(*parts: tuple[str, bytes] | tuple[str, bytes, str]) -> bytes:
    """A form of parts: name, content, type."""
    text = b""
    for name, content, *kind in parts:
        head = f'--b\r\nContent-Disposition: form-data; name="{name}"; filename="f"\r\n'
        head += f"Content-Type: {kind[0]}\r\n" if kind else ""
        text += head.encode() + b"\r\n" + content + b"\r\n"
    return text + b"--b--\r\n"


FORM = "multipart/form-data; boundary=b"
RED, BLUE = picture((255, 0, 0)), picture((0, 0, 255))
PLAIN = "text/plain;charset=UTF-8"
"""What browsers call a text for which their caller names no type."""


def send(server: Child, where: str, body: bytes, kind: str = "") -> tuple[int, Any]:
    status, _, answer = server.request("POST", f"/predict/{where}", body, {"content-type": kind} if kind else {})
    return status, json.loads(answer)


def test_columns_of_a_table_are_columns_however_many_rows_they_have(served: Child) -> None:
    expected = served.json("POST", "/predict/city", [["Ada", "Rome"], ["Bob", "Oslo"]])[1]["outputs"]
    assert expected == {"y": [["Ada", "Rome"], ["Bob", "Oslo"]]}
    columns = {"where": ["Rome", "Oslo"], "who": ["Ada", "Bob"]}
    assert served.json("POST", "/predict/city", columns)[1]["outputs"] == expected
    rows = [{"where": "Rome", "who": "Ada"}, {"where": "Oslo", "who": "Bob"}]
    assert served.json("POST", "/predict/city", rows)[1]["outputs"] == expected
    status, answer = served.json("POST", "/predict/city", {"who": ["Ada", "Bob"], "where": ["Rome"]})
    assert (status, "differ in length" in answer["error"]) == (400, True)


def test_one_sample_comes_and_goes_without_a_batch(served: Child) -> None:
    status, one = send(served, "digits", json.dumps(ROW).encode())
    assert status == 200
    assert (one["model"], one["version"], one["variant"]) == ("digits", 3, "fp32")
    assert len(one["outputs"]["y"]) == 10
    assert list(one["probabilities"]) == list(LABELS)
    assert one["label"] == max(one["probabilities"], key=one["probabilities"].get)
    status, many = send(served, "digits:production", json.dumps([ROW, ROW[::-1]]).encode())
    assert many["outputs"]["y"][0] == one["outputs"]["y"]
    assert many["predictions"][0] == {"label": one["label"], "probabilities": one["probabilities"]}
    assert send(served, "digits/3", json.dumps({"x": ROW}).encode(), "application/json") == (200, one)
    assert send(served, "digits", json.dumps([{"x": ROW}, {"x": ROW[::-1]}]).encode()) == (200, many)


def test_a_number_alone_is_no_list(served: Child) -> None:
    """One sample has no batch in any output, and a model may give a number to begin with."""
    for body, kind in ((b"[1, 2, 3.5]", ""), (b'{"x": [1, 2, 3.5]}', ""), (b"1, 2, 3.5", "text/csv")):
        assert send(served, "totals", body, kind)[1]["outputs"] == {"y": 6.5}
    assert send(served, "totals", b"[[1, 2, 3.5]]")[1]["outputs"] == {"y": [6.5]}
    assert send(served, "total", b"[1, 2, 3.5]")[1]["outputs"] == {"y": 6.5}
    for model in ("totals", "total"):
        assert served.json("POST", f"/predictions/{model}", [1, 2, 3.5]) == (200, 6.5)
    assert send(served, "totals", b"[1, 2, null]")[1]["outputs"] == {"y": None}


@pytest.mark.parametrize("datatype", list(DATATYPES))
def test_a_value_alone_of_every_datatype(served: Child, datatype: str) -> None:
    value: Any = {"BYTES": "a", "BOOL": True}.get(datatype, 0.1 if datatype in ("FP32", "FP64") else 1)
    assert served.json("POST", f"/predict/one-{datatype}", value)[1]["outputs"] == {"y": value}
    assert served.json("POST", f"/predict/one-{datatype}", [value])[1]["outputs"] == {"y": [value]}


def test_a_row_with_nan_among_its_scores_has_no_label(served: Child) -> None:
    status, answer = send(served, "scores", b"nan,0.25,0.5\n0.25,0.25,0.5\n", "text/csv")
    assert (status, answer["outputs"]["y"][0]) == (200, [None, 0.25, 0.5])
    assert answer["predictions"] == [
        {"label": None, "probabilities": {"a": None, "b": 0.25, "c": 0.5}},
        {"label": "c", "probabilities": {"a": 0.25, "b": 0.25, "c": 0.5}},
    ]
    alone = send(served, "scores", b"[null, 0.25, 0.5]")[1]
    assert (alone["label"], alone["scores"]) == (None, {"a": None, "b": 0.25, "c": 0.5})
    status, _, body = served.request("POST", "/predictions/scores", b"[null, 0.25, 0.5]")
    assert (status, body) == (200, b'{"c":0.5,"b":0.25,"a":null}')


def test_rows_of_csv(served: Child) -> None:
    line = ",".join(map(str, ROW))
    _, one = send(served, "digits", json.dumps(ROW).encode())
    assert send(served, "digits", line.encode(), "text/csv") == (200, one)
    assert send(served, "digits", line.encode())[1] == one
    status, many = send(served, "digits", f"{line}\n{line}\n".encode(), "text/csv")
    assert (status, len(many["predictions"])) == (200, 2)
    names = [f"c{n}" for n in range(64)]
    swapped = ",".join(names[::-1]) + "\n" + ",".join(map(str, ROW[::-1])) + "\n"
    assert send(served, "columns", swapped.encode(), "text/csv")[1]["outputs"] == one["outputs"]
    by_name = json.dumps(dict(zip(names, ROW, strict=True))).encode()
    assert send(served, "columns", by_name)[1]["outputs"] == one["outputs"]
    status, error = send(served, "columns", swapped.replace("c7,", "d7,").encode(), "text/csv")
    assert (status, "lacks 'c7'" in error["error"]) == (400, True)


@pytest.mark.parametrize("kind", ["", "application/octet-stream", "application/vnd.ms-excel", PLAIN])
def test_rows_of_csv_under_any_type(served: Child, kind: str) -> None:
    line = ",".join(map(str, ROW))
    same = [
        ("person", "name,age\nAda,21", [{"age": 21, "name": "Ada"}]),
        (
            "person",
            "city, age, name\nRome,21,Ada\nOslo,1,Bob\n",
            [{"age": 21, "name": "Ada"}, {"age": 1, "name": "Bob"}],
        ),
        ("person", "21,Ada", [{"age": 21, "name": "Ada"}]),
        ("digits", f"{line}\n{line}", [ROW, ROW]),
        ("pairs", "Ada,Rome\nBob,Oslo", [["Ada", "Rome"], ["Bob", "Oslo"]]),
        ("total", "1,2,3.5", [1, 2, 3.5]),
        ("floats", "1\n2\n3", [1, 2, 3]),
    ]
    for model, text, value in same:
        expected = served.json("POST", f"/predict/{model}", value if len(value) > 1 else value[0])
        assert expected[0] == 200
        assert send(served, model, text.encode(), kind) == expected, model
        assert send(served, model, form(("f", text.encode(), kind or "text/csv")), FORM) == expected, model


def test_a_first_row_of_values_is_no_header(served: Child) -> None:
    for text in (b"true,false\nfalse,false", b"a,b\nTRUE,0\n0,False"):
        assert send(served, "flags", text, "text/csv")[1]["outputs"] == {"y": [[True, False], [False, False]]}
    outputs = {"y": [[None, None, None], [1.0, 2.0, 3.0]]}
    assert send(served, "scores", b",,\n1,2,3", "text/csv")[1]["outputs"] == outputs


def test_columns_as_inputs(served: Child) -> None:
    expected = {"older": [42.0], "same": ["Ada"]}
    assert send(served, "person", b'{"age": 21, "name": "Ada"}')[1]["outputs"] == expected
    assert send(served, "person", b"name,age\nAda,21\n", "text/csv")[1]["outputs"] == expected
    status, many = send(served, "person", b'[{"age": 21, "name": "Ada"}, {"age": 1, "name": "Bob"}]')
    assert (status, many["outputs"]) == (200, {"older": [[42.0], [2.0]], "same": [["Ada"], ["Bob"]]})
    assert send(served, "person", b"age,name\n21,Ada\n1,Bob\n", "text/csv")[1] == many
    status, empty = send(served, "person", b"age,name\n,Ada\n", "text/csv")
    assert (status, empty["outputs"]["older"]) == (200, [None])


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_an_image(served: Child, kind: str) -> None:
    status, answer = send(served, "colour", picture(kind=kind))
    assert status == 200
    np.testing.assert_allclose(answer["outputs"]["mean"], [1, 0, 0.2], atol=0.03)
    assert answer["label"] == "red"
    assert "scores" in answer


def test_an_image_in_other_clothes(served: Child) -> None:
    _, plain = send(served, "colour", picture())
    text = base64.b64encode(picture()).decode()
    assert send(served, "colour", json.dumps({"image": text}).encode())[1] == plain
    assert send(served, "colour", json.dumps(f"data:image/png;base64,{text}").encode())[1] == plain
    assert send(served, "colour", form(("file", picture())), FORM)[1] == plain
    numbers = np.zeros((3, 4, 4)).tolist()
    assert send(served, "colour", json.dumps(numbers).encode())[1]["outputs"] == {"mean": [0.0, 0.0, 0.0]}
    status, many = send(served, "colour", json.dumps([text, text]).encode())
    assert (status, len(many["predictions"])) == (200, 2)


def test_a_text(served: Child) -> None:
    status, one = send(served, "sentences", b"the cat sat", "text/plain")
    assert (status, np.array(one["outputs"]["last_hidden_state"]).shape) == (200, (3, 4))
    assert send(served, "sentences", b'"the cat sat"')[1] == one
    assert send(served, "sentences", b"the cat sat")[1] == one
    assert send(served, "words", b'["a", "b"]')[1]["outputs"] == {"y": ["a", "b"]}
    assert send(served, "words", "grün".encode(), "text/plain")[1]["outputs"] == {"y": "grün"}


def test_plain_text_is_the_text_where_the_model_takes_one_and_says_nothing_elsewhere(served: Child) -> None:
    for value in (ROW, {"x": ROW}, [ROW, ROW]):
        expected = send(served, "digits", json.dumps(value).encode(), "application/json")
        assert expected[0] == 200
        assert send(served, "digits", json.dumps(value).encode(), PLAIN) == expected
    line = ",".join(map(str, ROW)).encode()
    assert send(served, "digits", line, PLAIN) == send(served, "digits", line, "text/csv")
    letters = '{"x": "the cat"}'
    assert send(served, "words", letters.encode(), PLAIN)[1]["outputs"] == {"y": letters}
    for kind in (PLAIN, ""):
        assert send(served, "words", b"BMW or VW", kind)[1]["outputs"] == {"y": "BMW or VW"}


@pytest.mark.parametrize("kind", ["", "application/x-www-form-urlencoded", PLAIN])
def test_what_is_json_by_chance_is_a_text_too(served: Child, kind: str) -> None:
    for text in ("42", "true", "null", "-1e3"):
        assert send(served, "words", text.encode(), kind)[1]["outputs"] == {"y": text}
        assert send(served, "sentences", text.encode(), kind) == send(served, "sentences", json.dumps(text).encode())
    assert send(served, "words", b"42", "application/json")[0] == 400  # it was said to be a number


def test_several_parts_of_one_name_are_as_many_samples(served: Child) -> None:
    _, answer = send(served, "colour", form(("data", RED), ("data", BLUE), ("data", RED)), FORM)
    np.testing.assert_allclose(answer["outputs"]["mean"], [[1, 0, 0], [0, 0, 1], [1, 0, 0]], atol=0.01)
    assert [row["label"] for row in answer["predictions"]] == ["red", "blue", "red"]
    expected = send(served, "digits", json.dumps([ROW, ROW[::-1]]).encode())
    one, other = json.dumps(ROW).encode(), json.dumps(ROW[::-1]).encode()
    assert send(served, "digits", form(("data", one), ("data", other)), FORM) == expected
    assert send(served, "digits", form(("x", one), ("x", b"[" + other + b"]")), FORM) == expected
    expected = send(served, "sentences", b'["the cat sat", "42"]')
    assert send(served, "sentences", form(("t", b"the cat sat"), ("t", b"42")), FORM) == expected
    expected = send(served, "person", b'[{"age": 21, "name": "Ada"}, {"age": 1, "name": "42"}]')
    parts = [("age", b"21"), ("name", b"Ada", "text/plain"), ("age", b"1"), ("name", b"42")]
    assert send(served, "person", form(*parts), FORM) == expected


def test_parts_of_a_form_as_inputs(served: Child) -> None:
    expected = send(served, "person", b'{"age": 21, "name": "Ada"}')
    assert send(served, "person", form(("age", b"21"), ("name", b"Ada")), FORM) == expected
    cells = [(f"c{n}", str(value).encode()) for n, value in enumerate(ROW)]
    assert len(cells) == 64
    assert send(served, "columns", form(*cells[::-1]), FORM) == send(served, "columns", json.dumps(ROW).encode())


@pytest.mark.parametrize(
    ("where", "parts", "words"),
    [
        ("colour", [("image", RED), ("other", BLUE)], "It has 'other'"),
        ("colour", [("a", RED), ("b", BLUE)], "It lacks 'image'. It has 'a'"),
        ("person", [("age", b"21"), ("name", b"Ada"), ("city", b"Rome")], "It has 'city'"),
        ("person", [("age", b"21"), ("name", b"Ada"), ("age", b"3")], "2 parts 'age' and 1 'name'"),
        ("person", [("age", b"21")], "lacks 'name'"),
        ("digits", [("x", json.dumps(ROW).encode()), ("x", b"")], "'x' of the form is empty"),
        ("vectors", [("x", b"[1, 2]"), ("x", b"[3, 4]")], "Not every part is one sample"),
        ("pair", [("x", RED), ("x", BLUE)], "[2, 3, 4, 4]"),
    ],
)
def test_no_part_of_a_form_is_dropped(served: Child, where: str, parts: Any, words: str) -> None:
    status, answer = send(served, where, form(*parts), FORM)
    assert (status, words in answer["error"]) == (400, True), answer


@pytest.mark.parametrize(
    ("where", "body", "kind", "status", "words"),
    [
        ("none", b"1", "", 404, "unknown model"),
        ("digits", b"", "", 400, "empty"),
        ("digits", b"{", "application/json", 400, "JSON"),
        ("digits", b"[1, 2]", "", 400, "[1, 2]"),
        ("digits", b'{"y": 1}', "", 400, "lacks 'x'"),
        ("digits", b"1,2\n3\n", "text/csv", 400, "Row 2"),
        ("digits", b"a,b\n", "text/csv", 400, "no FP32"),
        ("digits", b'"a"\n"', "text/csv", 400, "CSV"),
        ("digits", b"\xff\xfe", "", 400, "neither"),
        ("person", b'{"age": 21}', "", 400, "lacks 'name'"),
        ("person", b"hello", "", 400, "was read as rows of CSV"),
        ("person", b"name,age,age\nAda,21,22", "text/csv", 400, "has 'age' twice"),
        (
            "columns",
            b'{"c0": 3, "width": 2}',
            "",
            400,
            "It lacks 'c1'. It has 'width'. Give a value for each of: c0,",
        ),
        ("columns", b'{"x": 3, "width": 2}', "", 400, "It has 'width'. Give a value for each of: x."),
        ("colour", b"<svg></svg>", "", 400, "no image of a kind that is known, and no JSON"),
        ("colour", b"<svg></svg>", "image/svg+xml", 400, "of a kind that is not known"),
        ("colour", b"1,2,3", "text/csv", 400, "rows of CSV give none"),
        ("colour", form(("f", b"<svg></svg>"), ("f", RED)), FORM, 400, "no image of a kind that is known"),
        ("sentences", b"[1]", "", 400, "With Content-Type: text/plain"),
        ("sentences", b"the cat,1", "text/csv", 400, "Send the inputs of 'sentences': 'input_ids'. See"),
        ("person", b"5", "", 400, "2 inputs"),
        ("unknown", picture(), "", 422, 'kind = "image"'),
        ("colour", picture()[:40], "image/png", 400, "can not be decoded"),
        ("colour", b"\x89PNG\r\n\x1a\nand no more", "", 400, "It is damaged, or of a kind"),
        ("colour", b'{"image": "!!"}', "", 400, "base64"),
        ("colour", b"nonsense", "multipart/form-data; boundary=b", 400, "form"),
        ("floats", b"[[1]]", "", 400, "[1, 1]"),
    ],
)
def test_mistakes_are_told(served: Child, where: str, body: bytes, kind: str, status: int, words: str) -> None:
    got, answer = send(served, where, body, kind)
    assert (got, words in answer["error"]) == (status, True), answer
