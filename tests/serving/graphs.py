"""Small ONNX models, made here, with the signatures that they really have."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from studio.core.preprocessing import Preprocessing
from studio.core.routing import ModelRoutes, RoutingTable, Target
from studio.core.tensors import Dim, Signature, TensorSpec

ONNX_TYPES = {
    "BOOL": TensorProto.BOOL,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "FP16": TensorProto.FLOAT16,
    "BF16": TensorProto.BFLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "BYTES": TensorProto.STRING,
}


def save(
    path: Path, nodes: list, inputs: list[TensorSpec], outputs: list[TensorSpec], weights: list | None = None
) -> Path:
    def info(spec: TensorSpec) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(spec.name, ONNX_TYPES[spec.datatype], list(spec.shape))

    graph = helper.make_graph(nodes, "g", [info(s) for s in inputs], [info(s) for s in outputs], weights or [])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    path.write_bytes(model.SerializeToString())
    return path


def target(
    path: Path,
    inputs: list[TensorSpec],
    outputs: list[TensorSpec],
    *,
    model: str = "m",
    version: int = 1,
    variant: str = "fp32",
    batchable: bool = False,
    labels: tuple[str, ...] = (),
    varies: bool = False,
    preprocessing: dict[str, Preprocessing] | None = None,
    assets: dict[str, Path] | None = None,
) -> Target:
    return Target(
        model=model,
        version=version,
        variant=variant,
        path=str(path),
        sha256=hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else "0" * 64,
        signature=Signature(tuple(inputs), tuple(outputs), batchable),
        class_labels=labels,
        varies=varies,
        preprocessing=preprocessing or {},
        assets={name: str(place) for name, place in (assets or {}).items()},
    )


def identity(folder: Path, datatype: str = "FP32", shape: tuple[Dim, ...] = ("n",), **names: object) -> Target:
    """y = x."""
    x, y = TensorSpec("x", datatype, shape), TensorSpec("y", datatype, shape)
    path = folder / f"identity-{datatype}-{'x'.join(map(str, shape))}.onnx"
    save(path, [helper.make_node("Identity", ["x"], ["y"])], [x], [y])
    return target(path, [x], [y], **names)  # type: ignore[arg-type]


def scaled(folder: Path, factor: float, **names: object) -> Target:
    """y = factor · x, FP32 [batch, 4]; batchable. Tells by its answer which version answered."""
    x, y = TensorSpec("x", "FP32", ("batch", 4)), TensorSpec("y", "FP32", ("batch", 4))
    path = folder / f"scaled-{factor}.onnx"
    weight = numpy_helper.from_array(np.array(factor, np.float32), "k")
    save(path, [helper.make_node("Mul", ["x", "k"], ["y"])], [x], [y], [weight])
    return target(path, [x], [y], batchable=True, **names)  # type: ignore[arg-type]


def sums(folder: Path, **names: object) -> Target:
    """x FP32 [batch, 2] itself as scores, and its sum by row."""
    x, scores, total = (TensorSpec(n, "FP32", shape) for n, shape in (
        ("x", ("batch", 2)), ("scores", ("batch", 2)), ("total", ("batch", 1))
    ))  # fmt: skip
    axis = numpy_helper.from_array(np.array([1], np.int64), "axis")
    nodes = [
        helper.make_node("Identity", ["x"], ["scores"]),
        helper.make_node("ReduceSum", ["x", "axis"], ["total"], keepdims=1),
    ]
    path = save(folder / "sums.onnx", nodes, [x], [scores, total], [axis])
    return target(path, [x], [scores, total], batchable=True, **names)  # type: ignore[arg-type]


def total(folder: Path, **names: object) -> Target:
    """x FP32 [3] to its sum, which has no dimensions."""
    x, y = TensorSpec("x", "FP32", (3,)), TensorSpec("y", "FP32", ())
    path = save(folder / "total.onnx", [helper.make_node("ReduceSum", ["x"], ["y"], keepdims=0)], [x], [y])
    return target(path, [x], [y], **names)  # type: ignore[arg-type]


def add_and_subtract(folder: Path, **names: object) -> Target:
    """Two INT32 inputs [batch, 16], their sum and difference, as in Triton's 'simple' model."""
    specs = [TensorSpec(name, "INT32", ("batch", 16)) for name in ("INPUT0", "INPUT1", "OUTPUT0", "OUTPUT1")]
    nodes = [
        helper.make_node("Add", ["INPUT0", "INPUT1"], ["OUTPUT0"]),
        helper.make_node("Sub", ["INPUT0", "INPUT1"], ["OUTPUT1"]),
    ]
    path = save(folder / "simple.onnx", nodes, specs[:2], specs[2:])
    return target(path, specs[:2], specs[2:], batchable=True, **names)  # type: ignore[arg-type]


def mlp(folder: Path, **names: object) -> Target:
    """64-64-10 with softmax: the 'tiny' model."""
    rng = np.random.default_rng(7)
    x, y = TensorSpec("x", "FP32", ("batch", 64)), TensorSpec("y", "FP32", ("batch", 10))
    weights = [
        numpy_helper.from_array(rng.normal(size=(64, 64)).astype(np.float32), "w1"),
        numpy_helper.from_array(rng.normal(size=(64, 10)).astype(np.float32), "w2"),
    ]
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "w2"], ["l"]),
        helper.make_node("Softmax", ["l"], ["y"]),
    ]
    path = save(folder / "mlp.onnx", nodes, [x], [y], weights)
    return target(path, [x], [y], batchable=True, **names)  # type: ignore[arg-type]


WORDS = ("[PAD]", "[UNK]", "the", "cat", "dog", "sat", "ran")


def sentences(folder: Path, how: Preprocessing | None = None, **names: object) -> Target:
    """An encoder: ids and mask [batch, length] to the words' own vectors [batch, length, 4]. Its tokenizer splits at
    blanks and knows `WORDS`."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    tokenizer = Tokenizer(WordLevel({word: place for place, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    ids, mask = (TensorSpec(name, "INT64", ("batch", "length")) for name in ("input_ids", "attention_mask"))
    hidden = TensorSpec("last_hidden_state", "FP32", ("batch", "length", 4))
    table = np.random.default_rng(3).normal(size=(len(WORDS), 4)).astype(np.float32)
    nodes = [
        helper.make_node("Cast", ["attention_mask"], ["m"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["m", "last"], ["m3"]),
        helper.make_node("Gather", ["table", "input_ids"], ["g"]),
        helper.make_node("Mul", ["g", "m3"], ["last_hidden_state"]),
    ]
    weights = [numpy_helper.from_array(table, "table"), numpy_helper.from_array(np.array([2], np.int64), "last")]
    path = save(folder / "sentences.onnx", nodes, [ids, mask], [hidden], weights)
    how = how or Preprocessing(
        kind="text", tokenizer="tokenizer.json", attention_mask="attention_mask", pooling="mean", normalise=True
    )
    assets = {"tokenizer.json": folder / "tokenizer.json"}
    return target(path, [ids, mask], [hidden], batchable=True, preprocessing={"input_ids": how}, assets=assets, **names)  # type: ignore[arg-type]


def slow(folder: Path, least: int = 0, **names: object) -> Target:
    """Runs long: a loop of 40·(n + `least`) products of 64 × 64, some 0.1 ms for each n. Input n INT64 [1]."""
    n, y = TensorSpec("n", "INT64", (1,)), TensorSpec("y", "FP32", (64, 64))
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["go_on"]),
            helper.make_node("MatMul", ["state", "w"], ["next"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, [64, 64]),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, [64, 64]),
        ],
    )
    weights = [
        numpy_helper.from_array(np.eye(64, dtype=np.float32), "w"),
        numpy_helper.from_array(np.array(40, np.int64), "rounds"),
        numpy_helper.from_array(np.array(least, np.int64), "least"),
        numpy_helper.from_array(np.array(True), "yes"),
        numpy_helper.from_array(np.array([], np.int64), "scalar"),
    ]
    nodes = [
        helper.make_node("Reshape", ["n", "scalar"], ["n0"]),
        helper.make_node("Add", ["n0", "least"], ["n1"]),
        helper.make_node("Mul", ["n1", "rounds"], ["trips"]),
        helper.make_node("Loop", ["trips", "yes", "w"], ["y"], body=body),
    ]
    path = save(folder / "slow.onnx", nodes, [n], [y], weights)
    return target(path, [n], [y], varies=True, **names)  # type: ignore[arg-type]


def broken(folder: Path, **names: object) -> Target:
    """A file that is no model."""
    path = folder / "broken.onnx"
    path.write_bytes(b"this is not a model")
    spec = TensorSpec("x", "FP32", ("batch", 4))
    return target(path, [spec], [TensorSpec("y", "FP32", ("batch", 4))], **names)  # type: ignore[arg-type]


def table(
    *targets: Target,
    generation: int = 1,
    primary: str = "",
    aliases: dict[str, str] | None = None,
    pinned: tuple[str, ...] | None = None,
) -> RoutingTable:
    """A table of these targets. The first of each model is primary and everything is pinned unless told otherwise."""
    models = {}
    for name in dict.fromkeys(each.model for each in targets):
        own = {each.key: each for each in targets if each.model == name}
        models[name] = ModelRoutes(model=name, primary=primary or next(iter(own)), aliases=aliases or {}, targets=own)
    names = tuple(each.name for each in targets) if pinned is None else pinned
    return RoutingTable(generation=generation, models=models, pinned=names)
