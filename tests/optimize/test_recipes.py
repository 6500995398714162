"""Each recipe on graphs it fits and graphs it does not, and the traps of the tools beneath."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from studio.core.errors import Refused
from studio.optimize import graphs, processor
from studio.optimize.base import GROUP, Evidence, Given, Recipe, Work, recipes

from .conftest import save, value


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    left, right = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
    return float(left @ right / np.linalg.norm(left) / np.linalg.norm(right))


def make(name: str, src: Path) -> tuple[Path, dict[str, str], list[float]]:
    out, told = src.with_name(f"{src.stem}-{name}.onnx"), []
    recipe = recipes()[name]
    rows = {"x": np.zeros((16, 1), np.float32)}
    work = Work(
        src=src,
        out=out,
        report=lambda share, text: told.append(share),
        options=recipe.settings({}),
        evidence=Evidence(kind="samples", inputs=rows, runs=(rows,)),
    )
    parameters = recipe.apply(work)
    return out, parameters, told


IMAGES = {"x": np.random.default_rng(1).standard_normal((6, 1, 8, 8)).astype(np.float32)}
IDS = {"ids": np.random.default_rng(1).integers(0, 500, (6, 12))}


@pytest.mark.parametrize("name", ["fp16", "int8"])
def test_a_variant_is_smaller_valid_and_near(name: str, conv_net: Path, outputs_of) -> None:
    assert recipes()[name].applies(onnx.load(conv_net), Given()) == ""
    out, parameters, told = make(name, conv_net)
    model = onnx.load(out)
    onnx.checker.check_model(model, full_check=True)
    assert model.ir_version == 10
    assert out.stat().st_size < 0.6 * conv_net.stat().st_size
    reference, got = outputs_of(conv_net, IMAGES)["y"], outputs_of(out, IMAGES)["y"]
    assert got.dtype == np.float32 and got.shape == reference.shape
    assert cosine(reference, got) > 0.999
    assert parameters and all(isinstance(text, str) for text in parameters.values())
    assert told == sorted(told) and told[-1] == 1.0


def test_int8_leaves_convolutions_alone(conv_net: Path) -> None:
    out, parameters, _ = make("int8", conv_net)
    counts = graphs.operator_counts(onnx.load(out))
    assert counts["Conv"] == 1 and "ConvInteger" not in counts
    assert counts["MatMulInteger"] == 2 and "Gemm" not in counts
    assert parameters["operators"] == "Gemm × 2"


def test_the_quantiser_alone_fails_on_such_a_graph(conv_net: Path, tmp_path: Path) -> None:
    # The day this passes, clearing value_info in int8 has lost its reason.
    from onnxruntime.quantization import quantize_dynamic

    with pytest.raises(Exception, match=r"InferenceError|ShapeInference"):
        quantize_dynamic(conv_net, tmp_path / "out.onnx", op_types_to_quantize=["MatMul"])


def test_int8_weights_have_one_scale_per_channel(conv_net: Path) -> None:
    out, parameters, _ = make("int8", conv_net)
    scales = {tensor.name: tensor.dims for tensor in onnx.load(out).graph.initializer if "w1" in tensor.name}
    assert [list(dims) for name, dims in scales.items() if "scale" in name] == [[64]]
    assert parameters["weights"].startswith("int8 per channel")


def test_int8_takes_embeddings_where_there_is_no_convolution(text_net: Path, outputs_of) -> None:
    out, parameters, _ = make("int8", text_net)
    assert parameters["operators"] == "Gather × 1, MatMul × 1"
    assert out.stat().st_size < 0.4 * text_net.stat().st_size
    assert cosine(outputs_of(text_net, IDS)["y"], outputs_of(out, IDS)["y"]) > 0.99


def test_int8_reads_weights_in_constant_nodes(tmp_path: Path, outputs_of) -> None:
    weight = numpy_helper.from_array(np.random.default_rng(0).standard_normal((32, 32)).astype(np.float32))
    nodes = [helper.make_node("Constant", [], ["w"], value=weight), helper.make_node("MatMul", ["x", "w"], ["y"])]
    src = save(tmp_path / "m.onnx", nodes, [value("x", "n", 32)], [value("y", "n", 32)])
    assert recipes()["int8"].applies(onnx.load(src), Given()) == ""
    out, _, _ = make("int8", src)
    feed = {"x": np.random.default_rng(1).standard_normal((4, 32)).astype(np.float32)}
    assert cosine(outputs_of(src, feed)["y"], outputs_of(out, feed)["y"]) > 0.999


def test_int8_takes_old_graphs_that_list_weights_as_inputs(tmp_path: Path, outputs_of) -> None:
    weights = {"w": np.random.default_rng(0).standard_normal((32, 32)).astype(np.float32)}
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    inputs = [value("x", "n", 32), value("w", 32, 32)]
    src = save(tmp_path / "old.onnx", [node], inputs, [value("y", "n", 32)], weights, ir_version=3, opset=11)
    out, _, _ = make("int8", src)
    feed = {"x": np.ones((2, 32), np.float32)}
    assert cosine(outputs_of(src, feed)["y"], outputs_of(out, feed)["y"]) > 0.99


def test_int8_takes_graphs_with_fused_operators(tmp_path: Path, outputs_of) -> None:
    random = np.random.default_rng(0)
    weights = {"w": random.standard_normal((32, 32)).astype(np.float32), "b": np.zeros(32, np.float32)}
    nodes = [
        helper.make_node("FastGelu", ["x", "b"], ["g"], name="gelu", domain="com.microsoft"),
        # Its result has no type that shape inference could find, since it lies between fused operators.
        helper.make_node("MatMul", ["g", "w"], ["m"], name="matmul"),
        helper.make_node("FastGelu", ["m", "b"], ["y"], name="gelu2", domain="com.microsoft"),
    ]
    domains = [("com.microsoft", 1)]
    src = save(tmp_path / "m.onnx", nodes, [value("x", "n", 32)], [value("y", "n", 32)], weights, domains)
    out, _, _ = make("int8", src)
    feed = {"x": random.standard_normal((4, 32)).astype(np.float32)}
    assert cosine(outputs_of(src, feed)["y"], outputs_of(out, feed)["y"]) > 0.999
    assert {entry.domain for entry in onnx.load(out).opset_import} == {"", "com.microsoft"}


def test_what_a_recipe_does_not_fit_it_says_why(trees: Path, tmp_path: Path, conv_net: Path) -> None:
    model = onnx.load(trees)
    assert recipes()["int8"].applies(model, Given()).startswith("its work is a tree ensemble (TreeEnsembleRegressor)")
    assert "only compute in 32 bits (TreeEnsembleRegressor)" in recipes()["fp16"].applies(model, Given())
    node = helper.make_node("Conv", ["x", "k"], ["y"])
    weights = {"k": np.ones((4, 3, 3, 3), np.float32)}
    only = save(tmp_path / "c.onnx", [node], [value("x", "n", 3, 9, 9)], [value("y", "n", 4, 7, 7)], weights)
    assert recipes()["int8"].applies(onnx.load(only), Given()).startswith("its weights are in convolutions (Conv × 1)")
    assert "too few to gain" in recipes()["fp16"].applies(onnx.load(only), Given())
    relu = helper.make_node("Relu", ["x"], ["y"])
    plain = onnx.load(save(tmp_path / "r.onnx", [relu], [value("x", "n")], [value("y", "n")]))
    assert recipes()["int8"].applies(plain, Given()).endswith("constant 32-bit weights, only Relu")
    for name in ("fp16", "int8"):
        made = onnx.load(make(name, conv_net)[0])
        assert "already" in recipes()[name].applies(made, Given())
    assert "quantised already" in recipes()["fp16"].applies(onnx.load(make("int8", conv_net)[0]), Given())


def test_fp16_counts_what_it_clips(tmp_path: Path) -> None:
    weights = {"w": np.ones((32, 32), np.float32)}
    weights["w"][0, :3] = 1e6
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    src = save(tmp_path / "m.onnx", [node], [value("x", "n", 32)], [value("y", "n", 32)], weights)
    assert make("fp16", src)[1]["clipped values"] == "3"


def test_fp16_keeps_types_and_strings_at_the_border(tmp_path: Path, outputs_of) -> None:
    weights = {"w": np.random.default_rng(0).standard_normal((32, 32)).astype(np.float32)}
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["y"]),
        helper.make_node("ArgMax", ["y"], ["top"], axis=1, keepdims=0),
        helper.make_node("Identity", ["text"], ["echo"]),
    ]
    inputs = [value("x", "n", 32), value("text", "n", kind=TensorProto.STRING)]
    outputs = [value("y", "n", 32), value("top", "n", kind=TensorProto.INT64), value("echo", "n", kind=8)]
    src = save(tmp_path / "m.onnx", nodes, inputs, outputs, weights)
    feed = {"x": np.eye(32, dtype=np.float32)[:3], "text": np.array(["a", "b", "c"], object)}
    got = outputs_of(make("fp16", src)[0], feed)
    assert got["y"].dtype == np.float32 and got["top"].dtype == np.int64
    assert got["echo"].tolist() == ["a", "b", "c"]


def test_fp32_is_the_same_file_with_its_weights_inside(conv_net: Path, outputs_of) -> None:
    out, parameters, _ = make("fp32", conv_net)
    assert out.read_bytes() == conv_net.read_bytes() and parameters == {"graph": "unchanged"}
    apart = conv_net.with_name("apart.onnx")
    onnx.save(onnx.load(conv_net), apart, save_as_external_data=True, location="apart.bin", size_threshold=0)
    out, parameters, _ = make("fp32", apart)
    (conv_net.parent / "apart.bin").unlink()
    assert parameters == {"graph": "external weights taken in"}
    assert np.array_equal(outputs_of(out, IMAGES)["y"], outputs_of(conv_net, IMAGES)["y"])


@pytest.mark.parametrize("name", ["fp16", "int8"])
def test_variants_of_graphs_with_external_weights_stand_alone(name: str, conv_net: Path, outputs_of) -> None:
    apart = conv_net.with_name("apart.onnx")
    onnx.save(onnx.load(conv_net), apart, save_as_external_data=True, location="apart.bin", size_threshold=0)
    out, _, _ = make(name, apart)
    (conv_net.parent / "apart.bin").unlink()
    assert outputs_of(out, IMAGES)["y"].shape == (6, 10)


def test_a_broken_graph_is_refused_in_words(tmp_path: Path) -> None:
    src = tmp_path / "broken.onnx"
    src.write_bytes(b"\x08\x0a no graph")
    for name in recipes().keys() - {"pruned", "distilled"}:  # those begin with a torch module
        with pytest.raises(Refused):
            make(name, src)
        assert not (tmp_path / f"broken-{name}.onnx").exists()


def test_a_variant_with_another_interface_is_refused_and_removed(conv_net: Path, text_net: Path) -> None:
    copy = conv_net.with_name("copy.onnx")
    copy.write_bytes(text_net.read_bytes())
    with pytest.raises(Refused, match="other inputs or outputs"):
        graphs.check_loads(copy, conv_net)
    assert not copy.exists()


def test_nodes_are_sorted_behind_what_they_read_in_branches_too() -> None:
    branch = helper.make_graph([helper.make_node("Relu", ["late"], ["o"])], "b", [], [value("o", 2)])
    nodes = [
        helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch),
        helper.make_node("Neg", ["x"], ["late"]),
    ]
    graph = helper.make_graph(nodes, "g", [value("x", 2), value("c", kind=TensorProto.BOOL)], [value("y", 2)])
    graphs.sort_nodes(graph)
    assert [node.op_type for node in graph.node] == ["Neg", "If"]


def test_weights_keep_to_seven_bits_where_the_processor_saturates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpu = tmp_path / "cpuinfo"
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    cpu.write_text("flags : avx2 fma")
    assert processor.saturates(cpu)
    cpu.write_text("flags : avx2 avx512_vnni")
    assert not processor.saturates(cpu)
    assert processor.saturates(tmp_path / "missing")
    monkeypatch.setattr("platform.machine", lambda: "arm64")
    assert not processor.saturates(tmp_path / "missing")


def test_a_dynamo_export_takes_both_recipes(tmp_path: Path, outputs_of) -> None:
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3, padding=1), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(256, 10)
    ).eval()
    src = tmp_path / "exported.onnx"
    shapes = ({0: torch.export.Dim("batch")},)
    example = (torch.zeros(2, 1, 8, 8),)
    torch.onnx.export(net, example, src, dynamo=True, external_data=False, verbose=False, dynamic_shapes=shapes)
    name = onnx.load(src).graph.input[0].name
    feed = {name: IMAGES["x"]}
    reference = next(iter(outputs_of(src, feed).values()))
    for recipe in ("fp16", "int8"):
        assert recipes()[recipe].applies(onnx.load(src), Given()) == ""
        out, _, _ = make(recipe, src)
        assert cosine(reference, next(iter(outputs_of(out, feed).values()))) > 0.999


def test_built_in_recipes_are_found() -> None:
    found = recipes()
    assert {"fp32", "fp16", "int8"} <= set(found)
    assert all(recipe.name == name and recipe.title for name, recipe in found.items())


OTHERS = Recipe(name="thin", title="Thin", applies=lambda model: "", apply=lambda src, out, report: {})
IMPOSTOR = Recipe(name="int8", title="Not ours", applies=lambda model: "", apply=lambda src, out, report: {})
NO_RECIPE = "text"


def test_packages_add_recipes_and_can_neither_replace_nor_break_ours(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    entries = [
        importlib.metadata.EntryPoint(name, f"{__name__}:{target}", GROUP)
        for name, target in (("thin", "OTHERS"), ("int8", "IMPOSTOR"), ("text", "NO_RECIPE"), ("gone", "MISSING"))
    ]
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: entries if group == GROUP else [])
    found = recipes()
    assert found["thin"] is OTHERS
    assert found["int8"].title != "Not ours"
    assert [record.args[0] for record in caplog.records] == ["int8", "text", "gone"]
