"""What holds for every recipe: no files left behind, none beyond protobuf's limit, versions that the runtime reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from google.protobuf.message import EncodeError

from studio.core.errors import Refused
from studio.optimize import graphs
from studio.optimize.base import Evidence, Given, Work, recipes

GRAPHS = {"fp32", "fp16", "int8", "int8-static", "int4", "int8-weights", "sparse"}
"""Recipes that need a graph alone, and take the net of this file."""
ROWS = {"x": np.random.default_rng(0).standard_normal((32, 1, 8, 8)).astype(np.float32)}
REAL = Evidence(kind="samples", inputs=ROWS, runs=(ROWS,))


def make(name: str, src: Path, out: Path) -> dict[str, str]:
    recipe = recipes()[name]
    assert recipe.applies(onnx.load(src), Given(kind="samples", rows=32)) == ""
    return recipe.apply(Work(src=src, out=out, options=recipe.settings({}), evidence=REAL))


@pytest.mark.parametrize("name", sorted(GRAPHS))
def test_nothing_but_the_variant_is_left_behind(
    name: str, conv_net: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The tools have left files of many megabytes in the current folder.
    here, there, temporary = tmp_path / "here", tmp_path / "there", tmp_path / "temporary"
    for folder in (here, there, temporary):
        folder.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    make(name, conv_net, there / "variant.onnx")
    assert [path.name for path in there.iterdir()] == ["variant.onnx"]
    assert not list(here.iterdir()) and not list(temporary.iterdir())


@pytest.mark.parametrize("name", sorted(GRAPHS - {"fp32"}))
def test_a_variant_beyond_two_gigabytes_is_refused_in_words(
    name: str, conv_net: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graphs, "_MAX_BYTES", 1000)
    with pytest.raises(Refused, match="larger than 2 GB"):
        make(name, conv_net, tmp_path / "variant.onnx")
    assert not (tmp_path / "variant.onnx").exists()


def test_a_graph_that_protobuf_can_not_even_count_is_too_large(conv_net: Path, tmp_path: Path) -> None:
    class Huge:
        def __init__(self) -> None:
            self.ir_version, self.opset_import, self.functions = 10, [], ()
            self.graph = onnx.load(conv_net).graph

        def ByteSize(self) -> int:
            raise EncodeError("Failed to serialize proto")

    with pytest.raises(Refused, match="larger than 2 GB"):
        graphs.save(Huge(), tmp_path / "huge.onnx")


@pytest.mark.parametrize("name", sorted(GRAPHS))
def test_a_variant_is_of_versions_that_the_runtime_reads_on_every_processor(
    name: str, conv_net: Path, tmp_path: Path
) -> None:
    source = onnx.load(conv_net)
    if name != "fp32":  # which is a copy; graphs that the runtime has written import all that it knows
        graphs.import_domain(source, "com.microsoft.nchwc")
        onnx.save(source, conv_net)
    make(name, conv_net, tmp_path / "variant.onnx")
    model = onnx.load(tmp_path / "variant.onnx")
    assert model.ir_version <= graphs.MAX_IR_VERSION
    # No layout of one processor (com.microsoft.nchwc), and no operator set that only a quantiser knows.
    assert {entry.domain for entry in model.opset_import} <= {"", "com.microsoft"}
    used = {node.domain for node in graphs.all_nodes(model.graph)}
    assert {entry.domain for entry in model.opset_import} <= used | {""}


def test_no_recipe_knows_of_the_converter_that_writes_invalid_graphs() -> None:
    # onnxconverter_common.float16 does, of transformers; onnxruntime.transformers.float16 does not.
    import studio.optimize as package

    sources = [path.read_text(encoding="utf-8") for path in Path(package.__path__[0]).glob("*.py")]
    assert not any("onnxconverter_common" in text for text in sources)


@pytest.mark.parametrize("name", sorted(GRAPHS - {"fp32"}))
def test_convolutions_never_become_the_slow_kind(name: str, conv_net: Path, tmp_path: Path) -> None:
    # Structure and not time: ConvInteger runs many times slower than the convolution that it replaces.
    make(name, conv_net, tmp_path / "variant.onnx")
    assert "ConvInteger" not in graphs.operator_counts(onnx.load(tmp_path / "variant.onnx"))


def test_the_tool_s_default_makes_the_slow_kind(conv_net: Path, tmp_path: Path) -> None:
    # The day this fails, int8 may take convolutions too.
    from onnxruntime.quantization import quantize_dynamic

    model = onnx.load(conv_net)
    del model.graph.value_info[:]
    quantize_dynamic(model, tmp_path / "out.onnx")
    assert graphs.operator_counts(onnx.load(tmp_path / "out.onnx"))["ConvInteger"] == 1
