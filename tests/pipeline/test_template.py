"""Settings files that Studio writes: the reader takes them, and the model comes out the same with them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from studio.core.errors import InvalidInput, NeedsSettings, NeedsTrust, from_problem
from studio.core.preprocessing import Preprocessing
from studio.core.tensors import DATATYPES, Signature, TensorSpec
from studio.formats.settings.file import InputSettings, ModelSettings, parse_settings
from studio.formats.settings.template import Known, template, title_of
from studio.pipeline.kit import WorkKit
from studio.pipeline.messages import IntakeTask, TemplateResult, TemplateTask
from studio.pipeline.process import spawn_worker
from tests.formats.archives import zipped
from tests.formats.graphs import finish, linear, save, weights
from tests.pipeline.conftest import Runner

RECIPES = ("fp16", "int8")


async def made(runner: Runner, *files: Path, stem: str = "net") -> TemplateResult:
    runner.runs += 1
    runner.scratch.mkdir()
    arrival = IntakeTask(files=tuple(map(str, files)), out=str(runner.scratch / "out"), stem=stem)
    async with spawn_worker(runner.settings, runner.scratch, runner.root / "job.log") as worker:
        return await worker.run(TemplateTask(arrival=arrival))


def tokens() -> onnx.ModelProto:
    """Looks ids up in a table of two rows, so that only 0 and 1 can be drawn; a mask, text and odd names beside."""
    table = numpy_helper.from_array(weights(0, (2, 3)), "table")
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["found"]),
        helper.make_node("Cast", ["attention_mask"], ["kept"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["kept", "last"], ["wide"]),
        helper.make_node("Mul", ["found", "wide"], ["a b/0"]),
        helper.make_node("Identity", ["word"], ["same"]),
    ]
    inputs = [
        helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", "t"]),
        helper.make_tensor_value_info("attention_mask", TensorProto.INT64, ["batch", "t"]),
        helper.make_tensor_value_info("word", TensorProto.STRING, ["batch"]),
    ]
    outputs = [
        helper.make_tensor_value_info("a b/0", TensorProto.FLOAT, ["batch", "t", 3]),
        helper.make_tensor_value_info("same", TensorProto.STRING, ["batch"]),
    ]
    last = numpy_helper.from_array(np.array([2]), "last")
    return finish(helper.make_graph(nodes, "tokens", inputs, outputs, [table, last]))


def image() -> onnx.ModelProto:
    """A mean over an image of any size."""
    graph = helper.make_graph(
        [helper.make_node("ReduceMean", ["image"], ["y"], axes=[2, 3], keepdims=0)],
        "image",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [None, 3, "h", "w"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 3])],
    )
    return finish(graph)


def fixed() -> onnx.ModelProto:
    """One row exactly, bytes in."""
    graph = helper.make_graph(
        [helper.make_node("Cast", ["pixels"], ["y"], to=TensorProto.FLOAT)],
        "fixed",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, [1, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4, 4])],
    )
    return finish(graph)


@pytest.mark.parametrize("model", [linear, tokens, image, fixed])
async def test_a_model_comes_out_the_same_with_the_file_that_was_written_for_it(
    runner: Runner, tmp_path: Path, model: Any
) -> None:
    path = save(model(), tmp_path / "net.onnx")
    written = await made(runner, path)
    assert written.problem is None
    said = tmp_path / "net.toml"
    said.write_text(written.text, encoding="utf-8")
    without, with_it = await runner.intake(path), await runner.intake(path, said)
    assert with_it.title == "Net"
    same = (
        "signature",
        "graph",
        "parity",
        "samples_kind",
        "samples_count",
        "class_labels",
        "notes",
        "recipes",
        "gates",
    )
    assert {name: getattr(with_it, name) for name in same} == {name: getattr(without, name) for name in same}
    with np.load(without.samples_path) as one, np.load(with_it.samples_path) as other:
        for name in one.files:
            np.testing.assert_array_equal(one[name], other[name])


async def test_what_was_seen_stands_in_the_file(runner: Runner, tmp_path: Path) -> None:
    written = await made(runner, save(tokens(), tmp_path / "net.onnx"))
    said = parse_settings(written.text, "net.toml", RECIPES)
    assert said.outputs == ("a b/0", "same")
    assert said.inputs == {
        "ids": InputSettings(shape=("batch", "t"), datatype="INT64", range=(0.0, 1.0)),
        "attention_mask": InputSettings(shape=("batch", "t"), datatype="INT64", range=(1.0, 1.0)),
        "word": InputSettings(shape=("batch",), datatype="BYTES"),
    }
    assert (written.format, written.detail) == ("onnx", "ONNX, opset 17")


async def test_what_was_said_already_is_kept(runner: Runner, tmp_path: Path) -> None:
    path = save(linear(), tmp_path / "net.onnx")
    text = (
        "title = 'Mine'\ndescription = 'a\\tb'\ntags = ['x']\noutputs = ['scores']\nclass_labels = ['a', 'b', 'c']\n"
        "recipes = []\nalias = 'candidate'\n[inputs.x]\nrange = [0.5, 2]\n"
        "[preprocessing.x]\nkind = 'tabular'\ncolumns = ['p', 'q', 'r', 's']\n[gates]\nmin_gain = 0.25\n"
    ).replace("'a\\tb'", '"a\\tb"')
    (tmp_path / "net.toml").write_text(text)
    before = parse_settings(text, "net.toml", RECIPES)
    written = await made(runner, path, tmp_path / "net.toml")
    after = parse_settings(written.text, "net.toml", RECIPES)
    seen = {"x": InputSettings(shape=("batch", 4), datatype="FP32", range=(0.5, 2.0))}
    assert after == ModelSettings(**{**vars(before), "inputs": seen})


async def test_an_archive_brings_its_own_words_along(runner: Runner, tmp_path: Path) -> None:
    members = {"net.onnx": linear().SerializeToString(), "any.toml": b"description = 'Inside.'"}
    written = await made(runner, zipped(tmp_path / "net.zip", members))
    assert parse_settings(written.text, "net.toml").description == "Inside."
    assert written.settings_inside == ""


async def test_a_settings_file_inside_a_folder_is_told(runner: Runner, tmp_path: Path) -> None:
    folder = tmp_path / "net"
    (folder / "deep").mkdir(parents=True)
    save(linear(), folder / "net.onnx")
    (folder / "deep" / "any.toml").write_text("")
    assert (await made(runner, folder)).settings_inside == "net/deep/any.toml"


ASKING = """
from studio.core.errors import CodeFile, NeedsSettings
from studio.formats.base import Converted, Recognition
from studio.formats.pickles.screen import code_file

class Asking:
    name, title, extra = "asking", "a format that asks", None

    def recognise(self, files):
        path = files.content[0]
        start = path.read_bytes()[:3]
        return Recognition(model=path, detail="asking") if start in (b"ASK", b"RUN") else None

    def convert(self, files, recognition, out_dir, kit):
        if recognition.model.read_bytes()[:3] == b"RUN":
            kit.trust((code_file(recognition.model, ("os.system",)),), "It calls a program.")
        if kit.settings.inputs.keys() != {"x", "a b"}:
            raise NeedsSettings("It does not tell its inputs.", ("x", "a b"), "Nobody wrote them down.")
        raise AssertionError

FORMAT = Asking()
"""


@pytest.mark.parametrize("kind", [b"ASK", b"RUN"])
async def test_a_model_that_asks_gets_a_file_with_the_question(
    runner: Runner, tmp_path: Path, plugin: Any, kind: bytes
) -> None:
    plugin(ASKING, "[studio.formats]\nasking = odd_package:FORMAT\n")
    path = tmp_path / "net.ask"
    path.write_bytes(kind)
    written = await made(runner, path)
    assert written.problem is not None
    question = from_problem(written.problem)
    assert isinstance(question, NeedsSettings if kind == b"ASK" else NeedsTrust)
    assert "QUESTION: " in written.text
    (tmp_path / "net.toml").write_text(written.text)
    # As it is, the file changes nothing: the same question is asked.
    with pytest.raises(type(question)) as caught:
        await runner.intake(path, tmp_path / "net.toml")
    assert caught.value.problem == written.problem
    if kind == b"ASK":
        switched = parse_settings(on(written.text), "net.toml")
        assert switched.inputs.keys() == {"x", "a b"}
        assert switched.inputs["x"].shape == ("batch", "features")  # no size that nobody knows


async def test_what_would_be_refused_is_refused(runner: Runner, tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(b"\x08\x0a" + bytes(10))
    with pytest.raises(Exception, match=r"net.onnx"):
        await made(runner, tmp_path / "net.onnx")
    (tmp_path / "net.toml").write_text("titel = 3")
    with pytest.raises(InvalidInput, match=r"net.toml, line 1: there is no key 'titel'"):
        await made(runner, save(linear(), tmp_path / "net.onnx"), tmp_path / "net.toml")


def on(text: str) -> str:
    """The text with every line switched on."""
    return re.sub(r"^#(?=[a-z\[])", "", text, flags=re.MULTILINE)


NAMES = st.text(min_size=1, max_size=12)
PLAIN = st.text(st.characters(min_codepoint=32, blacklist_categories=("Cs", "Cc")), min_size=1, max_size=12).filter(
    str.strip
)
SPECS = st.builds(
    TensorSpec,
    NAMES.filter(lambda name: not any(0xD800 <= ord(letter) < 0xE000 for letter in name)),
    st.sampled_from(sorted(DATATYPES)),
    st.lists(st.one_of(st.integers(1, 2**31 - 1), PLAIN), max_size=5).map(tuple),
)
FACTS = st.one_of(
    st.builds(
        Preprocessing,
        kind=st.just("image"),
        size=st.one_of(st.none(), st.tuples(st.integers(1, 999), st.integers(1, 999))),
        channels=st.sampled_from(["RGB", "BGR", "grey"]),
        scale=st.floats(1e-6, 1e6),
        mean=st.lists(st.floats(-10, 10), max_size=3).map(tuple),
        std=st.lists(st.floats(0.1, 10), max_size=3).map(tuple),
    ),
    st.builds(Preprocessing, kind=st.just("text"), pooling=st.sampled_from(["none", "mean"]), normalise=st.booleans()),
    st.builds(Preprocessing, kind=st.just("tabular"), columns=st.lists(PLAIN, max_size=3, unique=True).map(tuple)),
)


@given(
    st.builds(
        Known,
        stem=PLAIN,
        detail=NAMES,
        settings=st.builds(
            ModelSettings,
            description=PLAIN,
            tags=st.lists(PLAIN, max_size=3, unique=True).map(tuple),
            recipes=st.one_of(st.none(), st.just(()), st.just(("int8",))),
            alias=st.sampled_from(["", "candidate"]),
            preprocessing=st.dictionaries(PLAIN, FACTS, max_size=2),
            gates=st.dictionaries(st.sampled_from(["min_cosine", "min_gain"]), st.floats(0, 1), max_size=2),
        ),
        inputs=st.lists(SPECS, max_size=4, unique_by=lambda spec: spec.name).map(tuple),
        outputs=st.lists(PLAIN, max_size=4, unique=True).map(tuple),
        class_labels=st.lists(PLAIN, max_size=40).map(tuple),
        recipes=st.just(RECIPES),
    )
)
@settings(deadline=None)
def test_the_reader_takes_whatever_is_written_and_says_the_same(known: Known) -> None:
    text = template(known)
    read = parse_settings(text, "net.toml", RECIPES)
    assert read.title == title_of(known.stem) or not title_of(known.stem)
    assert (read.outputs, read.class_labels) == (known.outputs, known.class_labels)
    for name in ("description", "tags", "recipes", "alias", "preprocessing", "gates"):
        assert getattr(read, name) == getattr(known.settings, name), name
    assert {name: (one.shape, one.datatype) for name, one in read.inputs.items()} == {
        spec.name: (spec.shape, spec.datatype) for spec in known.inputs
    }
    parse_settings(on(text), "net.toml", RECIPES)


@given(NAMES, NAMES)
@settings(deadline=None)
def test_a_question_is_always_a_comment(what: str, name: str) -> None:
    asked = NeedsSettings(what, (name,) if not any(0xD800 <= ord(one) < 0xE000 for one in name) else ())
    text = template(
        Known(stem="net", detail="x", recipes=RECIPES, question=asked.problem, missing=asked.missing_inputs)
    )
    assert parse_settings(text, "net.toml", RECIPES) == ModelSettings(title="Net")
    parse_settings(on(text), "net.toml", RECIPES)


def test_only_bounds_that_are_two_numbers_are_written_down() -> None:
    names = ("rows", "columns", "words", "two", "usual", "none")
    kinds = {"words": "BYTES", "usual": "INT64"}
    signature = Signature(tuple(TensorSpec(name, kinds.get(name, "FP32"), ("batch", 2)) for name in names), ())
    ranges = {
        "rows": np.ones((3, 2), np.float32),
        "columns": (np.zeros(2), np.ones(2)),
        "words": ("yes", "no"),
        "two": (0.5, 2.0),
    }
    kit = WorkKit(None, ModelSettings(), lambda *_: None)
    next(kit.runs(signature, ranges))
    assert kit.bounds(signature) == {"two": (0.5, 2.0), "usual": (0.0, 9.0)}


@pytest.mark.parametrize(
    ("stem", "title"), [("mobilenet_v2-quick", "Mobilenet v2 quick"), ("a", "A"), ("__", ""), ("net.v2", "Net v2")]
)
def test_a_title_is_guessed_from_the_name(stem: str, title: str) -> None:
    assert title_of(stem) == title
