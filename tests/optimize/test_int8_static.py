"""Static quantisation on real graphs: what it makes, what it keeps out, and when it does not apply."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from studio.core.errors import Refused
from studio.optimize import graphs, layers, processor
from studio.optimize.base import Evidence, Given, Work, recipes

from .conftest import Run, save, value

RECIPE = recipes()["int8-static"]
REAL = Given(kind="samples", rows=64)


def evidence(feed: dict[str, np.ndarray], batch: int = 16, kind="samples") -> Evidence:
    rows = max(len(array) for array in feed.values())
    runs = tuple({name: array[at : at + batch] for name, array in feed.items()} for at in range(0, rows, batch))
    return Evidence(kind=kind, inputs=feed, runs=runs)


def images(rows: int, seed: int, *shape: int) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(seed).standard_normal((rows, *shape)).astype(np.float32)}


def sqnr(reference: np.ndarray, got: np.ndarray) -> float:
    return float(10 * np.log10(np.sum(reference**2.0) / np.sum((reference - got) ** 2.0)))


def make(src: Path, real: Evidence, judge=None, **options) -> tuple[Path, dict[str, str]]:
    out = src.with_name(f"{src.stem}-static.onnx")
    told: list[float] = []
    work = Work(
        src=src,
        out=out,
        report=lambda share, text: told.append(share),
        options=RECIPE.settings(options),
        evidence=real,
        judge=judge,
    )
    parameters = RECIPE.apply(work)
    assert told == sorted(told) and told[-1] == 1.0
    return out, parameters


@pytest.fixture
def attention_net(tmp_path: Path) -> Path:
    """One layer of attention behind a mask of the lowest float there is, as exporters write it."""
    random = np.random.default_rng(0)
    weights = {name: random.standard_normal((32, 32)).astype(np.float32) / 6 for name in "qkvoz"}
    weights |= {"one": np.float32([1]), "low": np.float32([np.finfo(np.float32).min]), "scale": np.float32([5.7])}
    weights |= {"table": random.standard_normal((100, 32)).astype(np.float32)}
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["e"]),
        *(helper.make_node("MatMul", ["e", name], [f"{name}1"], name=f"layer_{name}") for name in "qkv"),
        helper.make_node("Transpose", ["k1"], ["kt"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["q1", "kt"], ["s0"]),
        helper.make_node("Div", ["s0", "scale"], ["s1"]),
        helper.make_node("Cast", ["mask"], ["mf"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["one", "mf"], ["inverse"]),
        helper.make_node("Mul", ["inverse", "low"], ["hidden"]),
        helper.make_node("Unsqueeze", ["hidden", "axis"], ["row"]),
        helper.make_node("Add", ["s1", "row"], ["s2"]),
        helper.make_node("Softmax", ["s2"], ["p"], axis=-1),
        helper.make_node("MatMul", ["p", "v1"], ["a"]),
        helper.make_node("MatMul", ["a", "o"], ["o1"], name="layer_o"),
        helper.make_node("Add", ["o1", "one"], ["o2"]),
        helper.make_node("MatMul", ["o2", "z"], ["y"], name="layer_z"),
    ]
    inputs = [value(name, "n", "t", kind=TensorProto.INT64) for name in ("ids", "mask")]
    weights["axis"] = np.int64([1])
    return save(tmp_path / "attention.onnx", nodes, inputs, [value("y", "n", "t", 32)], weights)


def sentences(rows: int, seed: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    lengths = random.integers(3, 11, rows)
    return {"ids": random.integers(0, 100, (rows, 10)), "mask": (np.arange(10) < lengths[:, None]).astype(np.int64)}


def test_a_net_is_quantised_in_the_one_fast_format_and_agrees(residual_net: Path, outputs_of: Run) -> None:
    assert RECIPE.applies(onnx.load(residual_net), REAL) == ""
    out, parameters = make(residual_net, evidence(images(64, 1, 3, 12, 12)))
    model = onnx.load(out)
    onnx.checker.check_model(model, full_check=True)
    test = images(32, 2, 3, 12, 12)
    assert sqnr(outputs_of(residual_net, test)["y"], outputs_of(out, test)["y"]) > 25
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    counts = graphs.operator_counts(model)
    # Batch normalisation lies in the convolutions, and activations in their rounding.
    assert not {"BatchNormalization", "Relu", "ConvInteger", "QLinearConv"} & set(counts)
    roundings = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
    assert {tensors[node.input[2]].data_type for node in roundings} == {TensorProto.UINT8}
    kinds = {}
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in tensors:
            kinds.setdefault(tensors[node.input[0]].data_type, []).append(list(tensors[node.input[1]].dims))
    # Signed weights with one scale per channel, whose zero is 0; 32-bit biases.
    assert sorted(kinds[TensorProto.INT8]) == [[10], [16], [16]] and set(kinds) == {TensorProto.INT8, TensorProto.INT32}
    assert parameters["method"] == "static, minmax" and parameters["calibration"] == "64 rows, samples"
    assert parameters["layers quantised"] == "3 of 3" and parameters["layers kept"] == "none"
    assert parameters["weights"].startswith("int8 per channel") and parameters["activations"] == "uint8"


def test_the_runtime_runs_it_on_integers(residual_net: Path, tmp_path: Path) -> None:
    out, _ = make(residual_net, evidence(images(64, 1, 3, 12, 12)))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    onnxruntime.InferenceSession(out, options, providers=["CPUExecutionProvider"])
    counts = graphs.operator_counts(onnx.load(tmp_path / "optimised.onnx"))
    assert counts["QLinearConv"] == 2 and counts["QLinearAdd"] == 1 and counts["QGemm"] == 1
    assert counts["QLinearGlobalAveragePool"] == 1 and not {"Conv", "Gemm", "Add"} & set(counts)


def test_scores_are_not_rounded_where_nothing_quantised_reads_them(residual_net: Path, outputs_of: Run) -> None:
    out, _ = make(residual_net, evidence(images(64, 1, 3, 12, 12)))
    makers = {name: node.op_type for node in onnx.load(out).graph.node for name in node.output}
    assert makers["y"] == "Gemm"
    scores = outputs_of(out, images(200, 2, 3, 12, 12))["y"]
    assert len(np.unique(scores)) > 256


def test_attention_stays_in_32_bits_and_its_layers_do_not(attention_net: Path, outputs_of: Run) -> None:
    model = onnx.load(attention_net)
    assert layers.has_attention(model) and RECIPE.applies(model, REAL) == ""
    out, parameters = make(attention_net, evidence(sentences(64, 1)))
    assert parameters["layers quantised"] == "5 of 5"
    made = onnx.load(out)
    rounded = {node.input[0] for node in made.graph.node if node.op_type == "QuantizeLinear"}
    assert rounded == {"e", "a", "o2"}  # what the five layers read, and nothing in between
    test = sentences(32, 2)
    assert sqnr(outputs_of(attention_net, test)["y"], outputs_of(out, test)["y"]) > 25


def test_the_tool_by_itself_ruins_attention(attention_net: Path, tmp_path: Path, outputs_of: Run) -> None:
    # The day this passes, keeping attention out has lost its reason.
    from onnxruntime.quantization import QuantType, quantize_static

    left = list(evidence(sentences(64, 1)).runs)

    class Reader:
        def get_next(self):
            return left.pop() if left else None

    out = tmp_path / "whole.onnx"
    quantize_static(attention_net, out, Reader(), per_channel=True, activation_type=QuantType.QUInt8)
    test = sentences(32, 2)
    assert not sqnr(outputs_of(attention_net, test)["y"], outputs_of(out, test)["y"]) > 10


def test_symbolic_sizes_need_no_symbolic_shape_inference(attention_net: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The quantisers' own pre-processing runs it, and fails on transformers.
    import onnxruntime.quantization.shape_inference as tool

    def refuse(*args: object, **kwargs: object) -> None:
        raise Exception("Incomplete symbolic shape inference")

    monkeypatch.setattr(tool, "quant_pre_process", refuse)
    monkeypatch.setattr("onnxruntime.quantization.quant_pre_process", refuse)
    assert make(attention_net, evidence(sentences(32, 1)))[0].is_file()


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (Given(), "needs real samples: ranges learnt from made-up inputs are wrong"),
        (Given(kind="synthetic", rows=500), "needs real samples: ranges learnt from made-up inputs are wrong"),
        (
            Given(kind="labelled", rows=15),
            "it has 15 rows of samples to calibrate with, and needs 16, beside as many to judge on",
        ),
        (
            Given(kind="captured", rows=1),
            "it has 1 row of samples to calibrate with, and needs 16, beside as many to judge on",
        ),
        (Given(kind="captured", rows=16), ""),
    ],
)
def test_it_never_calibrates_on_made_up_or_few_rows(given: Given, why: str, residual_net: Path) -> None:
    assert RECIPE.applies(onnx.load(residual_net), given).startswith(why)
    assert bool(RECIPE.applies(onnx.load(residual_net), given)) == bool(why)


def test_made_up_rows_are_refused_even_where_nobody_asked_first(residual_net: Path) -> None:
    with pytest.raises(Refused, match="nothing to calibrate with"):
        make(residual_net, evidence(images(64, 1, 3, 12, 12), kind="synthetic"))
    assert not residual_net.with_name("residual-static.onnx").exists()


def test_graphs_without_layers_and_quantised_ones_say_why(trees: Path, residual_net: Path) -> None:
    why = RECIPE.applies(onnx.load(trees), REAL)
    assert (
        why == "it has no convolution or matrix multiplication with constant 32-bit weights, only TreeEnsembleRegressor"
    )
    out, _ = make(residual_net, evidence(images(64, 1, 3, 12, 12)))
    assert RECIPE.applies(onnx.load(out), REAL).startswith("it is quantised already (")


@pytest.mark.parametrize("method", ["percentile", "entropy"])
def test_other_methods_of_calibration_learn_other_ranges(method: str, residual_net: Path, outputs_of: Run) -> None:
    scales = {}
    for each in ("minmax", method):
        out, parameters = make(residual_net, evidence(images(64, 1, 3, 12, 12)), method=each, percentile=99.0)
        assert parameters["method"] == f"static, {each}"
        scales[each] = {
            tensor.name: float(numpy_helper.to_array(tensor))
            for tensor in onnx.load(out).graph.initializer
            if tensor.name.endswith("_scale") and not tensor.dims
        }
    assert scales["minmax"].keys() == scales[method].keys()
    assert any(scales[method][name] < 0.95 * scale for name, scale in scales["minmax"].items())


def test_a_method_that_fails_on_the_values_is_told_in_words(
    residual_net: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*args: object, **kwargs: object) -> None:
        raise ValueError("Too many bins for data range. Cannot create 128 finite-sized bins.")

    monkeypatch.setattr("onnxruntime.quantization.calibrate.HistogramCollector.collect", crash)
    with pytest.raises(Refused, match="Calibrating with 'entropy' failed") as caught:
        make(residual_net, evidence(images(64, 1, 3, 12, 12)), method="entropy")
    assert "Too many bins" in caught.value.why and "minmax" in caught.value.fix
    assert not residual_net.with_name("residual-static.onnx").exists()


@pytest.mark.parametrize("method", ["percentile", "entropy"])
def test_the_mask_of_attention_does_not_break_histograms(method: str, attention_net: Path, outputs_of: Run) -> None:
    rows = evidence(sentences(64, 1))
    out, _ = make(attention_net, rows, method=method)
    test = sentences(32, 2)
    assert sqnr(outputs_of(attention_net, test)["y"], outputs_of(out, test)["y"]) > 15


def test_rows_are_as_many_as_asked(residual_net: Path) -> None:
    _, parameters = make(residual_net, evidence(images(96, 1, 3, 12, 12)), rows=32)
    assert parameters["calibration"] == "32 rows, samples"


@pytest.mark.filterwarnings("ignore:All-NaN axis")
def test_a_layer_behind_infinite_activations_stays_in_32_bits(tmp_path: Path, outputs_of: Run) -> None:
    random = np.random.default_rng(0)
    weights = {name: random.standard_normal((32, 32)).astype(np.float32) / 6 for name in "abc"}
    weights |= {"low": np.float32([-np.inf]), "zero": np.float32([0])}
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["h"], name="first"),
        helper.make_node("Less", ["h", "zero"], ["negative"]),
        helper.make_node("Where", ["negative", "low", "h"], ["masked"]),
        helper.make_node("Exp", ["masked"], ["e"]),
        helper.make_node("MatMul", ["masked", "b"], ["spoilt"], name="spoilt"),
        helper.make_node("MatMul", ["e", "c"], ["y"], name="last"),
    ]
    outputs = [value("y", "n", 32), value("spoilt", "n", 32)]
    src = save(tmp_path / "masked.onnx", nodes, [value("x", "n", 32)], outputs, weights)
    out, parameters = make(src, evidence(images(32, 1, 32)))
    assert parameters["layers quantised"] == "2 of 3" and parameters["layers kept"] == "spoilt"
    test = images(16, 2, 32)
    assert sqnr(outputs_of(src, test)["y"], outputs_of(out, test)["y"]) > 15


@pytest.mark.filterwarnings("ignore:All-NaN axis")
def test_where_no_layer_has_a_range_it_is_refused(tmp_path: Path) -> None:
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    weights = {"w": np.eye(32, dtype=np.float32)}
    src = save(tmp_path / "m.onnx", [node], [value("x", "n", 32)], [value("y", "n", 32)], weights)
    with pytest.raises(Refused, match="no layer left to quantise"):
        make(src, evidence({"x": np.full((32, 32), np.inf, np.float32)}))


def test_layers_can_be_kept_by_name(residual_net: Path) -> None:
    out, parameters = make(residual_net, evidence(images(64, 1, 3, 12, 12)))
    gemm = next(node.name for node in onnx.load(out).graph.node if node.op_type == "Gemm")
    out, parameters = make(residual_net, evidence(images(64, 1, 3, 12, 12)), keep=(gemm,))
    assert parameters["layers quantised"] == "2 of 3" and parameters["layers kept"] == gemm
    tensors = {tensor.name: tensor.data_type for tensor in onnx.load(out).graph.initializer}
    kept = next(node for node in onnx.load(out).graph.node if node.op_type == "Gemm")
    assert tensors[kept.input[1]] == TensorProto.FLOAT
    with pytest.raises(Refused, match="no layer 'nope'") as caught:
        make(residual_net, evidence(images(64, 1, 3, 12, 12)), keep=("nope",))
    assert gemm in caught.value.why


@pytest.mark.parametrize("opset", [11, 12, 17])
def test_old_operator_sets_get_scales_by_channel_too(opset: int, tmp_path: Path, outputs_of: Run) -> None:
    weights = {"k": np.random.default_rng(0).standard_normal((8, 3, 3, 3)).astype(np.float32)}
    nodes = [helper.make_node("Conv", ["x", "k"], ["c"]), helper.make_node("Relu", ["c"], ["y"])]
    shape = [value("x", "n", 3, 12, 12)]
    src = save(tmp_path / "old.onnx", nodes, shape, [value("y", "n", 8, 10, 10)], weights, ir_version=6, opset=opset)
    out, _ = make(src, evidence(images(32, 1, 3, 12, 12)))
    tensors = {tensor.name: tensor for tensor in onnx.load(out).graph.initializer}
    assert any(list(tensor.dims) == [8] and name.startswith("k_scale") for name, tensor in tensors.items())
    test = images(16, 2, 3, 12, 12)
    assert sqnr(outputs_of(src, test)["y"], outputs_of(out, test)["y"]) > 25


def test_a_fixed_batch_is_calibrated_in_its_own_batches(tmp_path: Path, outputs_of: Run) -> None:
    weights = {"k": np.random.default_rng(0).standard_normal((8, 3, 3, 3)).astype(np.float32)}
    node = helper.make_node("Conv", ["x", "k"], ["y"])
    src = save(tmp_path / "four.onnx", [node], [value("x", 4, 3, 12, 12)], [value("y", 4, 8, 10, 10)], weights)
    out, parameters = make(src, evidence(images(32, 1, 3, 12, 12), batch=4))
    assert parameters["calibration"] == "32 rows, samples"
    test = images(4, 2, 3, 12, 12)
    assert sqnr(outputs_of(src, test)["y"], outputs_of(out, test)["y"]) > 25


def test_weights_keep_to_seven_bits_where_products_overflow(
    residual_net: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    highest = {}
    for saturates in (False, True):
        monkeypatch.setattr(processor, "saturates", lambda saturates=saturates: saturates)
        out, parameters = make(residual_net, evidence(images(64, 1, 3, 12, 12)))
        assert ("7 bits" in parameters["weights"]) == saturates
        tensors = onnx.load(out).graph.initializer
        weights = [numpy_helper.to_array(tensor) for tensor in tensors if tensor.data_type == TensorProto.INT8]
        highest[saturates] = max(int(np.abs(array.astype(int)).max()) for array in weights)
    assert highest == {False: 127, True: 64}


def test_a_clip_that_keeps_zero_out_is_not_rounded_away(tmp_path: Path, outputs_of: Run) -> None:
    random = np.random.default_rng(0)
    weights = {name: random.standard_normal((8, 8, 3, 3)).astype(np.float32) / 8 for name in ("k0", "k1")}
    weights |= {"low": np.float32(2), "high": np.float32(3)}
    nodes = [
        helper.make_node("Conv", ["x", "k0"], ["c"]),
        helper.make_node("Clip", ["c", "low", "high"], ["r"]),
        helper.make_node("Conv", ["r", "k1"], ["y"]),
    ]
    src = save(tmp_path / "clip.onnx", nodes, [value("x", "n", 8, 9, 9)], [value("y", "n", 8, 5, 5)], weights)
    out, _ = make(src, evidence(images(32, 1, 8, 9, 9)))
    assert "Clip" in graphs.operator_counts(onnx.load(out))
    test = images(16, 2, 8, 9, 9)
    assert sqnr(outputs_of(src, test)["y"], outputs_of(out, test)["y"]) > 25


def test_biases_that_are_rows_of_a_table_are_taken(tmp_path: Path) -> None:
    """As scikit-learn's networks are exported: a product, and behind it the addition of [1, n]."""
    random = np.random.default_rng(0)
    weights = {
        name: random.standard_normal(shape).astype(np.float32) / 6
        for name, shape in {"w1": (64, 48), "b1": (1, 48), "w2": (48, 10), "b2": (1, 10)}.items()
    }
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["p1"]),
        helper.make_node("Add", ["p1", "b1"], ["h1"]),
        helper.make_node("Relu", ["h1"], ["r1"]),
        helper.make_node("MatMul", ["r1", "w2"], ["p2"]),
        helper.make_node("Add", ["p2", "b2"], ["y"]),
    ]
    src = save(
        tmp_path / "mlp.onnx",
        nodes,
        [value("x", "batch", 64)],
        [value("y", "batch", 10)],
        weights,
    )
    feed = {"x": random.standard_normal((64, 64)).astype(np.float32)}
    out, parameters = make(src, evidence(feed))
    assert parameters["layers quantised"] == "2 of 2"
    reference, got = (onnxruntime.InferenceSession(str(path)).run(None, feed)[0] for path in (src, out))
    assert sqnr(reference, got) > 25
