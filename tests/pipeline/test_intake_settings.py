"""What a settings file says, through a real worker: kept, held against the model, and told with its line."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from studio.core.errors import InvalidInput, Refused
from studio.core.preprocessing import Preprocessing
from studio.core.settings import GateSettings
from studio.core.tensors import Signature, TensorSpec
from studio.formats.base import ArrivalFiles
from studio.formats.settings.file import parse_settings
from studio.pipeline import facts
from tests.formats.archives import tarred, zipped
from tests.formats.graphs import finish, linear, save
from tests.pipeline.conftest import Runner, content

TOKENIZER = b'{"version": "1.0", "model": {"type": "WordLevel"}}'


def settings(tmp_path: Path, text: str, name: str = "linear") -> Path:
    path = tmp_path / f"{name}.toml"
    path.write_text(text)
    return path


async def test_everything_that_is_said_is_kept(runner: Runner, tmp_path: Path) -> None:
    path = save(linear(), tmp_path / "linear.onnx")
    said = settings(
        tmp_path,
        'outputs = ["scores"]\nrecipes = []\nalias = "candidate"\nclass_labels = ["a", "b", "c"]\n'
        '[inputs.x]\nshape = ["batch", 4]\ndatatype = "FP32"\nrange = [2, 3]\n'
        '[preprocessing.x]\nkind = "tabular"\ncolumns = ["p", "q", "r", "s"]\n'
        "[gates]\nparity_max_rel = 0.5\n",
    )
    result = await runner.intake(path, said)
    assert [spec.describe() for spec in result.signature.outputs] == ["scores FP32 [batch × 3]"]
    assert [one.name for one in result.parity.outputs] == ["scores"]
    assert (result.recipes, result.alias, result.gates) == ((), "candidate", {"parity_max_rel": 0.5})
    assert result.preprocessing == {"x": Preprocessing(kind="tabular", columns=("p", "q", "r", "s"))}
    assert result.class_labels == ("a", "b", "c")
    with np.load(result.samples_path) as kept:
        assert 2 <= kept["x"].min() <= kept["x"].max() <= 3
    assert onnx.load(result.graph_path).graph.output[0].name == "scores"


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("a", "b", "c"), ""),
        (("a", "b", "x"), "its class_labels lack c"),
        ((), "nothing says which is which (b, a, c)"),
    ],
)
async def test_labels_that_are_words_are_numbered_or_it_is_said_why_not(
    runner: Runner, tmp_path: Path, names: tuple[str, ...], said: str
) -> None:
    path = save(linear(), tmp_path / "linear.onnx")
    words = np.array(["b", "a", "c", "b"])
    np.savez(tmp_path / "linear.npz", x=np.ones((4, 4), np.float32), labels=words)
    text = f"class_labels = {json.dumps(names)}\n" if names else ""
    result = await runner.intake(path, settings(tmp_path, text), tmp_path / "linear.npz")
    told = [note for note in result.notes if "No accuracy is known" in note]
    assert len(told) == bool(said) and all(said in note for note in told)
    assert result.samples_kind == ("samples" if said else "labelled")
    with np.load(result.samples_path) as kept:
        assert ("labels" in kept.files) == (not said)
        assert said or kept["labels"].tolist() == [1, 0, 2, 1]


async def test_labels_of_which_none_is_a_class_give_no_accuracy(runner: Runner, tmp_path: Path) -> None:
    path = save(linear(), tmp_path / "linear.onnx")
    np.savez(tmp_path / "linear.npz", x=np.ones((4, 4), np.float32), labels=np.full(4, 9))
    result = await runner.intake(path, tmp_path / "linear.npz")
    assert (result.samples_kind, result.parity.inputs) == ("samples", "samples")
    assert any("No accuracy is known" in note and "classes 0 to 2" in note for note in result.notes)
    with np.load(result.samples_path) as kept:
        assert "labels" not in kept.files
    np.savez(tmp_path / "linear.npz", x=np.ones((4, 4), np.float32), labels=np.array([9, 0, 1, 2]))
    result = await runner.intake(path, tmp_path / "linear.npz")
    assert (result.samples_kind, result.parity.inputs) == ("labelled", "labelled")
    assert any("1 of 4 labels of the samples are none of its classes (9)" in note for note in result.notes)


async def test_labels_that_are_no_whole_numbers_give_a_classifier_no_accuracy(runner: Runner, tmp_path: Path) -> None:
    path = save(linear(), tmp_path / "linear.onnx")
    np.savez(tmp_path / "linear.npz", x=np.ones((4, 4), np.float32), labels=np.array([0.5, 1.5, 1.0, 0.5]))
    result = await runner.intake(path, tmp_path / "linear.npz")
    assert result.samples_kind == "samples"
    (note,) = [note for note in result.notes if "No accuracy is known" in note]
    assert "no whole numbers (0.5, 1.5)" in note and "from 0" in note


async def test_samples_are_checked_before_any_format_looks_into_them(runner: Runner, tmp_path: Path) -> None:
    path = save(linear(), tmp_path / "linear.onnx")
    buffer = io.BytesIO()
    np.lib.format.write_array_header_2_0(buffer, {"descr": "<f4", "fortran_order": False, "shape": (2**40, 4)})
    with zipfile.ZipFile(tmp_path / "linear.npz", "w") as archive:
        archive.writestr("x.npy", buffer.getvalue())
    with pytest.raises(InvalidInput, match="damaged, or cut short"):
        await runner.intake(path, tmp_path / "linear.npz")


@pytest.mark.parametrize(
    ("shape", "sent", "count"),
    [([4], (4,), 1), ([4], (10, 4), 10), ([2, 3], (5, 2, 3), 5), ([1, 4], (10, 4), 10), ([4, 3], (8, 3), 8)],
)
async def test_samples_of_a_model_without_a_batch_are_counted_by_runs(
    runner: Runner, tmp_path: Path, shape: list[int], sent: tuple[int, ...], count: int
) -> None:
    one = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", one[:1], one[1:])
    path = save(finish(graph), tmp_path / "plain.onnx")
    np.savez(tmp_path / "plain.npz", x=np.ones(sent, np.float32))
    assert (await runner.intake(path, tmp_path / "plain.npz")).samples_count == count


async def test_a_signature_is_chosen_only_where_there_are_several(runner: Runner, tmp_path: Path) -> None:
    path = save(linear(), tmp_path / "linear.onnx")
    with pytest.raises(InvalidInput, match=r"linear.toml, line 1: ONNX, opset 17 has no signatures"):
        await runner.intake(path, settings(tmp_path, 'signature = "serving_default"\n'))


async def test_an_archive_gives_what_its_file_gives(runner: Runner, tmp_path: Path) -> None:
    plain = await runner.intake(save(linear(), tmp_path / "linear.onnx"))
    members = {
        "linear/linear.onnx": content(tmp_path / "linear.onnx"),
        "linear/any.toml": b"title = 'Inside'\n[preprocessing.x]\nkind = 'tabular'\n",
    }
    archive = tarred(tmp_path / "linear.tar.gz", members)
    result = await runner.intake(archive)
    assert result.graph.file.sha256 == plain.graph.file.sha256
    assert result.signature == plain.signature
    assert result.sources == (str(archive),)
    assert result.title == "Inside"
    assert any("linear.tar.gz" in note for note in result.notes)


async def test_a_torchserve_archive_brings_its_labels(runner: Runner, tmp_path: Path) -> None:
    manifest = {"model": {"serializedFile": "linear.onnx", "handler": "image_classifier"}}
    members = {
        "MAR-INF/MANIFEST.json": json.dumps(manifest).encode(),
        "linear.onnx": linear().SerializeToString(),
        "index_to_name.json": b'{"0": "cat", "1": "dog", "2": "hen"}',
    }
    result = await runner.intake(zipped(tmp_path / "linear.mar", members))
    assert result.class_labels == ("cat", "dog", "hen")
    assert any("image_classifier" in note for note in result.notes)


async def test_a_tokenizer_is_kept_for_serving(runner: Runner, tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Cast", ["input_ids"], ["hidden"], to=TensorProto.FLOAT)],
        "ids",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "tokens"])],
        [helper.make_tensor_value_info("hidden", TensorProto.FLOAT, ["batch", "tokens"])],
    )
    path = save(finish(graph), tmp_path / "ids.onnx")
    (tmp_path / "ids.tokenizer.json").write_bytes(TOKENIZER)
    said = settings(tmp_path, '[preprocessing.input_ids]\nkind = "text"\ntokenizer = "tokenizer.json"\n', "ids")
    result = await runner.intake(path, tmp_path / "ids.tokenizer.json", said)
    assert [content(path) for path in result.asset_paths] == [TOKENIZER]
    assert Path(result.asset_paths[0]).name == result.preprocessing["input_ids"].tokenizer == "tokenizer.json"
    assert result.preprocessing["input_ids"].output == "hidden"


@pytest.mark.parametrize(
    ("text", "what", "why"),
    [
        ("title = 'a'\nrecipes = ['int9']\n", "linear.toml, line 2: there is no recipe 'int9'", "int8"),
        ("\noutputs = ['a', 'b']\n", "linear.toml, line 2: 2 outputs are named", "gives 1: y"),
        ("outputs = ['x']\n", "linear.toml, line 1: an output can not be called 'x'", "input"),
        ("class_labels = ['a', 'b']\n", "linear.toml, line 1: 2 class labels are named", "3 scores"),
        ("[inputs.z]\nshape = [1]\n", "linear.toml, line 1: the model has no input 'z'", "x"),
        ("[inputs.x]\nshape = ['n', 5]\n", "linear.toml, line 2: the shape of 'x'", "x FP32 [batch × 4]"),
        ("[inputs.x]\ndatatype = 'INT8'\n", "linear.toml, line 2: the datatype of 'x'", "INT8"),
    ],
)
async def test_what_does_not_fit_the_model_is_told_with_its_line(
    runner: Runner, tmp_path: Path, text: str, what: str, why: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        await runner.intake(save(linear(), tmp_path / "linear.onnx"), settings(tmp_path, text))
    assert what in caught.value.what
    assert why in caught.value.why
    assert caught.value.fix


async def test_gates_of_the_model_decide_over_its_conversion(runner: Runner, tmp_path: Path) -> None:
    path = save(linear(), tmp_path / "linear.onnx")
    gates = GateSettings(parity_max_rel=-1.0)  # nothing passes
    with pytest.raises(Refused, match="does not answer as the original") as caught:
        await runner.intake(path, gates=gates)
    assert "[gates]" in caught.value.fix
    await runner.intake(path, settings(tmp_path, "[gates]\nparity_max_rel = 0.1\n"), gates=gates)


IMAGE = Signature((TensorSpec("x", "FP32", ("n", 3, 8, 9)),), (TensorSpec("y", "FP32", ("n", 2)),))
FREE = Signature((TensorSpec("x", "FP32", ("n", "h", "w", 3)),), (TensorSpec("y", "FP32", ("n", 2)),))
GREY = Signature((TensorSpec("x", "UINT8", ("n", 8, 8)),), (TensorSpec("y", "FP32", ("n", 2)),))
TEXT = Signature((TensorSpec("x", "BYTES", ("n",)),), (TensorSpec("y", "FP32", ("n", 2)),))
IDS = Signature(
    (TensorSpec("x", "INT64", ("n", "t")), TensorSpec("attention_mask", "INT64", ("n", "t"))),
    (TensorSpec("y", "FP32", ("n", "t", 4)), TensorSpec("z", "FP32", ("n", 4))),
)
ROW = Signature((TensorSpec("x", "FP32", ("n", 3)),), (TensorSpec("y", "FP32", ("n", 2)),))


def said_of(text: str, signature: Signature) -> dict[str, Preprocessing]:
    return facts.preprocessing(parse_settings(f"[preprocessing.x]\n{text}", "m.toml"), signature)


@pytest.mark.parametrize(
    ("text", "signature"),
    [
        ("kind = 'image'", IMAGE),
        ("kind = 'image'\nsize = [8, 9]\nmean = [1, 2, 3]\nstd = [1]", IMAGE),
        ("kind = 'image'\nlayout = 'NHWC'\nsize = [32, 32]", FREE),
        ("kind = 'image'\nlayout = 'NHW'\nchannels = 'grey'", GREY),
        ("kind = 'text'", TEXT),
        ("kind = 'text'\ntokenizer = 't.json'\npooling = 'mean'\noutput = 'z'", IDS),
        ("kind = 'tabular'\ncolumns = ['a', 'b', 'c']", ROW),
        ("kind = 'tabular'", TEXT),
    ],
)
def test_preprocessing_that_fits_is_taken(text: str, signature: Signature) -> None:
    assert said_of(text, signature).keys() == {"x"}


def test_names_that_a_text_model_has_are_filled_in() -> None:
    found = said_of("kind = 'text'\ntokenizer = 't.json'", IDS)["x"]
    assert (found.attention_mask, found.token_types, found.output) == ("attention_mask", "", "y")


@pytest.mark.parametrize(
    ("text", "signature", "what", "why"),
    [
        ("kind = 'image'\nlayout = 'NHWC'", IMAGE, "line 3: 'layout'", "n × 3 × 8 × 9"),
        ("kind = 'image'\nchannels = 'grey'", IMAGE, "line 3: 'channels'", "1 in the place of C"),
        ("kind = 'image'\nsize = [9, 8]", IMAGE, "line 3: 'size'", "n × 3 × 8 × 9"),
        ("kind = 'image'\nmean = [1, 2]", IMAGE, "line 3: 'mean'", "2 entries for 3 channels"),
        ("kind = 'image'\nlayout = 'NHWC'", FREE, "line 1: 'size'", "any size"),
        ("kind = 'image'", ROW, "line 1: 'layout'", "4 dimensions"),
        ("kind = 'image'", TEXT, "line 2: 'kind'", "texts"),
        ("kind = 'text'", IDS, "line 1: 'tokenizer'", "needs a tokenizer"),
        ("kind = 'text'\ntokenizer = 't.json'", TEXT, "line 3: 'tokenizer'", "whole numbers"),
        ("kind = 'text'\ntokenizer = 't.json'\noutput = 'q'", IDS, "line 4: 'output'", "y, z"),
        ("kind = 'text'\ntokenizer = 't.json'\nattention_mask = 'q'", IDS, "line 4: 'attention_mask'", "x, att"),
        ("kind = 'tabular'\ncolumns = ['a']", ROW, "line 3: 'columns'", "1 column is named"),
        ("kind = 'tabular'", IMAGE, "line 2: 'kind'", "one dimension"),
    ],
)
def test_preprocessing_that_does_not_fit_is_told_with_its_line(
    text: str, signature: Signature, what: str, why: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        said_of(text, signature)
    assert f"m.toml, {what} of the input 'x' does not fit" in caught.value.what
    assert why in caught.value.why


def test_preprocessing_of_an_input_that_is_not_there_is_told() -> None:
    with pytest.raises(InvalidInput, match=r"m.toml, line 1: the model has no input 'q'"):
        facts.preprocessing(parse_settings("[preprocessing.q]\nkind = 'text'", "m.toml"), ROW)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, "there is no file 't.json'"),
        ({"a/t.json": TOKENIZER, "b/t.json": TOKENIZER}, "2 files 't.json'"),
        ({"t.json": b"vocab"}, "no JSON"),
        ({"t.json": b"{}"}, "no tokenizer.json"),
        ({"t.json": b"[" * 100_000}, "no JSON"),
    ],
)
def test_a_tokenizer_that_is_none_is_told(tmp_path: Path, files: dict[str, bytes], words: str) -> None:
    for name, data in {"m.onnx": b"", **files}.items():
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(data)
    said = parse_settings("[preprocessing.x]\nkind = 'text'\ntokenizer = 't.json'", "m.toml")
    with pytest.raises(InvalidInput) as caught:
        facts.assets(said, ArrivalFiles.of((tmp_path / "in",)).content, "m", tmp_path / "out")
    assert "m.toml, line 3: " in caught.value.what
    assert words in caught.value.what


def test_labels_of_the_source_count_when_the_settings_give_none() -> None:
    nothing = parse_settings("", "m.toml")
    assert facts.class_labels(nothing, ((), ("p", "q")), ROW) == (("p", "q"), ())
    labels, notes = facts.class_labels(nothing, (("p", "q", "r"),), ROW)
    assert labels == ()
    assert "names for 3 classes, but gives 2 scores" in notes[0]
    assert facts.class_labels(parse_settings("class_labels = ['a', 'b']", "m"), (("p", "q"),), ROW) == (("a", "b"), ())
