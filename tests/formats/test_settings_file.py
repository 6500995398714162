"""`digits.toml`: what is understood, and how mistakes are told."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from studio.core.errors import InvalidInput
from studio.core.preprocessing import Preprocessing
from studio.formats.settings.file import LARGEST_BYTES, InputSettings, ModelSettings, parse_settings, read_settings
from studio.formats.settings.schema import EVALUATION, GATES, INPUT, KIND, PREPROCESSING, TOP, Key

RECIPES = ("fp16", "int8")


def written(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "digits.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def refusal(text: str) -> InvalidInput:
    with pytest.raises(InvalidInput) as caught:
        parse_settings(text, "digits.toml", RECIPES)
    return caught.value


WHOLE = """\
title = "Digits"
description = "8 × 8"
tags = ["vision"]
outputs = ["scores"]
class_labels = ["0", "1", "1"]
signature = "serving_default"
recipes = ["int8"]
alias = "candidate"

[inputs.image]
shape = ['batch', 3, 224, 224]
datatype = "FP32"
range = [0, 1]

[preprocessing.image]
kind = "image"
size = [224, 200]
resize = "crop"
interpolation = "bicubic"
channels = "BGR"
layout = "NHWC"
scale = "1/255"
mean = [0.5]
std = [0.25, 0.5, 1]

[preprocessing.ids]
kind = "text"
tokenizer = "tokenizer.json"
max_length = 128
attention_mask = "mask"
token_types = "types"
output = "hidden"
pooling = "mean"
normalise = true

[preprocessing.rows]
kind = "tabular"
columns = ["a", "b"]

[gates]
min_cosine = 0.9
max_slowdown = 2
"""


def test_all_keys_are_read(tmp_path: Path) -> None:
    assert read_settings(written(tmp_path, WHOLE), RECIPES) == ModelSettings(
        title="Digits",
        description="8 × 8",
        tags=("vision",),
        outputs=("scores",),
        class_labels=("0", "1", "1"),
        signature="serving_default",
        recipes=("int8",),
        alias="candidate",
        inputs={"image": InputSettings(shape=("batch", 3, 224, 224), datatype="FP32", range=(0.0, 1.0))},
        preprocessing={
            "image": Preprocessing(
                kind="image",
                size=(224, 200),
                resize="crop",
                interpolation="bicubic",
                channels="BGR",
                layout="NHWC",
                scale=1 / 255,
                mean=(0.5,),
                std=(0.25, 0.5, 1.0),
            ),
            "ids": Preprocessing(
                kind="text",
                tokenizer="tokenizer.json",
                max_length=128,
                attention_mask="mask",
                token_types="types",
                output="hidden",
                pooling="mean",
                normalise=True,
            ),
            "rows": Preprocessing(kind="tabular", columns=("a", "b")),
        },
        gates={"min_cosine": 0.9, "max_slowdown": 2.0},
    )


def test_the_whole_example_has_every_key_there_is() -> None:
    keys = [*TOP, *INPUT, *GATES[:1], KIND, *(key for keys in PREPROCESSING.values() for key in keys)]
    assert [key.name for key in keys if f"{key.name} = " not in WHOLE] == []


@pytest.mark.parametrize(
    "key", [*TOP, *INPUT, *EVALUATION, *GATES, KIND, *(key for keys in PREPROCESSING.values() for key in keys)]
)
def test_the_example_of_every_key_is_allowed(key: Key) -> None:
    key.read(tomllib.loads(f"x = {key.example}")["x"])


def test_without_a_file_there_are_defaults() -> None:
    assert read_settings(None) == ModelSettings()
    assert ModelSettings().recipes is None


def test_no_variants_is_not_the_same_as_nothing_said() -> None:
    assert parse_settings("recipes = []", "x").recipes == ()


def test_a_mark_that_windows_editors_write_is_no_mistake(tmp_path: Path) -> None:
    assert read_settings(written(tmp_path, b"\xef\xbb\xbftitle = 'a'\r\ntags = ['b']\r\n")).tags == ("b",)


@pytest.mark.parametrize(
    ("text", "what", "why"),
    [
        ('title = "a"\ntitle ?= 3\n', "line 2: this is not valid TOML", "title ?= 3"),
        ("title = 'a'\n\ntags = [1\n", "line 3: this is not valid TOML", ""),
        ("title = 'a'\n[inputs\n", "line 2: this is not valid TOML", "[inputs"),
        ("x = " + "9" * 5000, "not valid TOML", "4300"),
        ("# one\ntitel = 'a'\n", "line 2: there is no key 'titel'", "Did you mean 'title'? Keys of the top of the"),
        ("shape = [1]\n", "line 1: there is no key 'shape'", "It belongs into [inputs.NAME]. Keys"),
        ("min_cosine = 1\n", "line 1", "It belongs into [gates]"),
        ("pooling = 'mean'\n", "line 1", '[preprocessing.NAME] with kind = "text"'),
        ("title = 3\n", "line 1: 'title' is not right", "It is a number; it must be a text"),
        ("title = ''\ndescription = 1979-05-27\n", "line 2", "a date or time"),
        ("title = 'a\\u0000b'\n".replace("'", '"'), "line 1: 'title'", "control characters"),
        ("class_labels = ['a', 2]\n", "line 1: entry 2 of 'class_labels'", "a number"),
        ("class_labels = [\n'a',\n# two\n2]\n", "line 4: entry 2 of 'class_labels'", "a number"),
        ("tags = 'a'\n", "line 1: 'tags'", "square brackets"),
        ("tags = ['a', 'a']\n", "entry 2 of 'tags'", "twice"),
        ("outputs = ['a', 'a']\n", "entry 2 of 'outputs'", "twice"),
        ("recipes = ['int7']\n", "line 1: there is no recipe 'int7'", "Did you mean 'int8'? Known: fp16, int8."),
        ("recipes = ['fp32']\n", "line 1: there is no recipe 'fp32'", "Known: fp16, int8."),
        ("alias = 'latest'\n", "line 1: 'alias'", "latest"),
        ("alias = 'Upper Case'\n", "line 1: 'alias'", "lower-case"),
        ("inputs = 3\n", "line 1: 'inputs' must be a table", "[inputs]"),
        ("[inputs]\nx = [1, 8]\n", "line 2: 'inputs.x' must be a table", "For the shape write: [inputs.x]"),
        ("[inputs.x]\nshape = [1, 2.5]\n", "line 2: entry 2 of 'inputs.x.shape'", "whole number"),
        ("[inputs.x]\nshape = [1, 0]\n", "line 2: entry 2 of 'inputs.x.shape'", "from 1"),
        ("[inputs.x]\nshape = [-1, 4]\n", "line 2", 'for example "batch"'),
        ("[inputs.x]\nshape = [" + "1," * 17 + "]\n", "line 2", "17 entries"),
        ("[inputs.x]\n\ndatatype = 'float32'\n", "line 3: 'inputs.x.datatype'", "Did you mean 'FP32'?"),
        ("[inputs.x]\ndatatype = 'fp23'\n", "line 2", "It is one of: BOOL, UINT8"),
        ("[inputs.x]\nrange = [1, 0]\n", "line 2: 'inputs.x.range'", "lowest"),
        ("[inputs.x]\nrange = [0, inf]\n", "line 2: entry 2", "finite"),
        ("[inputs.x]\nrange = [0]\n", "line 2", "1 entries"),
        ("inputs.x.shap = [1]\n", "line 1: there is no key 'inputs.x.shap'", "Did you mean 'shape'?"),
        ("[inputs.'a b']\nx = 1\n", "line 2: there is no key 'inputs.a b.x'", "Keys of [inputs.a b]: shape"),
        ("[gates]\nmin_cos = 1\n", "line 2: there is no key 'gates.min_cos'", "Did you mean 'min_cosine'?"),
        ("[gates]\nmin_cosine = 2\n", "line 2: 'gates.min_cosine'", "from -1 to 1"),
        ("[gates]\nmin_gain = true\n", "line 2: 'gates.min_gain'", "true or false"),
        ("[preprocessing.x]\nsize = [2, 2]\n", "line 1: [preprocessing.x] says no kind", 'kind = "image"'),
        ("[preprocessing.x]\nkind = 'picture'\n", "line 2: 'preprocessing.x.kind'", "image, text, tabular"),
        ("[preprocessing.x]\nkind = 3\n", "line 2: 'preprocessing.x.kind'", "one of"),
        ("[preprocessing.x]\nkind = 'image'\npooling = 'cls'\n", "line 3", "Keys of [preprocessing.x]: kind, size"),
        ("[preprocessing.x]\nkind = 'image'\nstd = [0]\n", "line 3: entry 1", "greater than 0"),
        ("[preprocessing.x]\nkind = 'image'\nscale = '1/0'\n", "line 3", "no fraction"),
        ("[preprocessing.x]\nkind = 'image'\nscale = 0\n", "line 3", "must not be 0"),
        ("[preprocessing.x]\nkind = 'image'\nchannels = 'gray'\n", "line 3", "Did you mean 'grey'?"),
        ("[preprocessing.x]\nkind = 'text'\ntokenizer = '../a'\n", "line 3", "without any folder"),
        ("[preprocessing.x]\nkind = 'text'\nnormalise = 1\n", "line 3", "true or false"),
        ("a = " + "[" * 500 + "]" * 500, "line 1: keys or values are nested too deeply", ""),
        ("a." * 100_000 + "b = 1", "line 1: keys or values are nested too deeply", ""),
    ],
)
def test_a_mistake_is_told_with_file_line_key_and_what_is_allowed(text: str, what: str, why: str) -> None:
    error = refusal(text)
    assert error.what.startswith("digits.toml")
    assert what in error.what
    assert why in error.why
    assert error.fix


def test_all_mistakes_are_told_at_once_in_the_order_of_their_lines() -> None:
    error = refusal("[gates]\nmin_gian = 1\n[inputs.x]\nshape = 3\n[preprocessing.y]\nkind = 'image'\nsize = 1\n")
    assert error.what == "digits.toml, line 2: there is no key 'gates.min_gian'."
    assert "digits.toml, line 4: 'inputs.x.shape' is not right." in error.why
    assert "digits.toml, line 7: 'preprocessing.y.size' is not right." in error.why


def test_text_that_is_no_utf8_is_told_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"digits.toml, line 2: this is not UTF-8"):
        read_settings(written(tmp_path, b"tags = []\ntitle = '\xff'\n"))


def test_a_file_that_is_too_large_is_not_parsed(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="larger than 1 MB"):
        read_settings(written(tmp_path, b"#" * (LARGEST_BYTES + 1)))


def test_a_place_is_named_for_errors_that_show_later() -> None:
    read = parse_settings("title = 'a'\n[inputs.x]\nshape = [1]\n", "digits.toml")
    assert read.place("inputs", "x", "shape") == "digits.toml, line 3"
    assert read.place("outputs") == "digits.toml"
    assert ModelSettings().place("outputs") == "The settings"


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=5), inner, max_size=4)),
    max_leaves=6,
)
NAMES = [
    key.name for key in (*TOP, *INPUT, *EVALUATION, *GATES, KIND, *(k for keys in PREPROCESSING.values() for k in keys))
]


def toml(value: object) -> str:
    """A value as TOML, in one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{toml(str(key))} = {toml(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return f"[{', '.join(toml(inner) for inner in value)}]"
    if isinstance(value, str):
        return '"' + "".join(rf"\U{ord(one):08x}" if not one.isalnum() else one for one in value) + '"'
    return str(value).lower() if value is not None else "1979-05-27"


@given(
    st.lists(
        st.one_of(
            st.tuples(st.sampled_from([*NAMES, "inputs", "gates", "evaluation", "preprocessing"]), JSON).map(
                lambda pair: f"{pair[0]} = {toml(pair[1])}"
            ),
            st.sampled_from(
                ["[inputs.x]", "[gates]", "[evaluation]", "[preprocessing.y]", "kind = 'image'", "kind = 'text'"]
            ),
        ),
        max_size=6,
    ).map("\n".join)
)
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_whatever_stands_under_the_keys_is_read_or_refused_in_words(text: str) -> None:
    try:
        parse_settings(text, "digits.toml", RECIPES)
    except InvalidInput as error:
        assert error.what.startswith("digits.toml")
        assert error.what.encode()
        assert error.why.encode()


@given(st.binary(max_size=200))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_any_bytes_are_read_or_refused_in_words(tmp_path: Path, data: bytes) -> None:
    try:
        read_settings(written(tmp_path, data), RECIPES)
    except InvalidInput as error:
        assert "digits.toml" in error.what
