"""Ensembles of decision trees as ONNX graphs: what XGBoost and LightGBM models are made of. Imports onnx.

The graph is one TreeEnsembleRegressor, which gives raw scores, and plain operators that make of them what the library
answers. Comparisons come out the same to the last bit: inputs are 32-bit floats, and thresholds the largest such that
are not above the source's own; or both are 64-bit floats, where 32 bits can not hold the values (`Ensemble.doubles`).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from studio.formats.base import Array
from studio.formats.boosters._common import INPUT, LABEL, PREDICTION, PROBABILITIES
from studio.formats.boosters._rounding import as_kind

_OPSET, _ML_OPSET, _IR = 17, 3, 8
_NEVER = float(np.finfo(np.float32).max)

Head = Literal[
    "raw", "sigmoid", "binary", "classes", "each class", "several", "exp", "hinge", "signed square", "log1p exp"
]
"""What becomes of raw scores r [batch, outputs], s being `scale`.

raw            prediction = r
sigmoid        prediction = σ(s·r)
binary         probabilities = [1 − p, p] with p = σ(s·r), label = p > ½
classes        probabilities = softmax(r), label = argmax
each class     probabilities = σ(s·r), each for itself, label = argmax
several        the same, label = p > ½ for each: several may hold at once
exp            prediction = eʳ
hinge          label = r > 0
signed square  prediction = r·|r|
log1p exp      prediction = log(1 + eʳ)
"""


@dataclass(frozen=True)
class Tree:
    """A binary tree as arrays with one entry a node; node 0 is the root, and a leaf has `left` −1.

    A value of `feature` below `threshold` goes left (`Ensemble.inclusive`: also one equal to it), NaN where
    `missing_left` says. `members`, for the nodes that have it, lists the categories that go left; all others go right.
    `weights` [nodes, len(outputs)] are what a leaf adds to the raw scores `outputs`.
    """

    feature: Array
    threshold: Array
    left: Array
    right: Array
    missing_left: Array
    weights: Array
    outputs: tuple[int, ...] = (0,)
    members: dict[int, Array] = field(default_factory=dict)


@dataclass(frozen=True)
class Ensemble:
    """Trees and what is done with their sum: (base + Σ) · `factor`, then `head`.

    `whole`: features that are categories; their values are cut to whole numbers, `towards_zero` or downwards.
    `zero_missing`: features whose zeros, to within 1e-35, count as missing. `labels`: what `label` says in place of 0,
    1, 2 …, one a class; `cut`: the probability above which a binary label is the second one. `doubles`: the graph takes
    64-bit floats; `rounds`: the source itself rounds values to 32-bit ones before it compares them.
    """

    features: int
    outputs: int
    trees: tuple[Tree, ...]
    base: Array
    head: Head
    inclusive: bool
    scale: float = 1.0
    factor: float = 1.0
    whole: tuple[int, ...] = ()
    towards_zero: bool = False
    zero_missing: tuple[int, ...] = ()
    labels: Array | None = None
    cut: float = 0.5
    doubles: bool = False
    rounds: bool = False

    @property
    def kind(self) -> Any:
        """The numpy type that values are compared as."""
        return np.float64 if self.doubles and not self.rounds else np.float32


def reachable(left: Array, right: Array) -> Array:
    """Nodes that the root leads to, root first; −1 = no child. Raises ValueError unless they are a binary tree."""
    count = len(left)
    if count and not (max(left.max(), right.max()) < count and min(left.min(), right.min()) >= -1):
        raise ValueError("a tree has a child that does not exist")
    seen = np.zeros(count, bool)
    level, levels = np.zeros(1, np.int64), []
    while len(level):
        if seen[level].any() or len(np.unique(level)) < len(level):
            raise ValueError("a tree runs in a circle")
        seen[level] = True
        levels.append(level)
        inner = level[left[level] >= 0]
        if (right[inner] < 0).any():
            raise ValueError("a node has only one child")
        level = np.concatenate([left[inner], right[inner]])
    return np.concatenate(levels)


def to_onnx(ensemble: Ensemble) -> onnx.ModelProto:
    """The graph: `input` FP32 or FP64 [batch, features], outputs as `Head` says, each [batch] or [batch, n]."""
    body = _Body()
    given = TensorProto.DOUBLE if ensemble.doubles else TensorProto.FLOAT
    scores = _scores(ensemble, body)
    outputs = _head(ensemble, scores, body)
    graph = helper.make_graph(
        body.nodes,
        "trees",
        [helper.make_tensor_value_info(INPUT, given, ["batch", ensemble.features])],
        outputs,
        body.constants,
    )
    imports = [helper.make_opsetid("", _OPSET), helper.make_opsetid("ai.onnx.ml", _ML_OPSET)]
    return helper.make_model(graph, opset_imports=imports, ir_version=_IR, producer_name="studio")


class _Body:
    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def add(self, kind: str, *inputs: str, out: str = "", **attributes: Any) -> str:
        output = out or f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [output], **attributes))
        return output

    def constant(self, values: Any, kind: Any = np.float32) -> str:
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(values, kind), name))
        return name


def _scores(ensemble: Ensemble, body: _Body) -> str:
    values = INPUT
    if ensemble.doubles and ensemble.rounds:
        values = body.add("Cast", values, to=TensorProto.FLOAT)
    if ensemble.whole:
        cut = body.add("Floor", values)
        if ensemble.towards_zero:
            cut = body.add(
                "Where", body.add("Less", values, body.constant(0.0, ensemble.kind)), body.add("Ceil", values), cut
            )
        values = body.add("Where", body.constant(_mask(ensemble.features, ensemble.whole), bool), cut, values)
    if ensemble.zero_missing:
        tiny = body.add("LessOrEqual", body.add("Abs", values), body.constant(np.float32(1e-35), ensemble.kind))
        missing = body.add("And", tiny, body.constant(_mask(ensemble.features, ensemble.zero_missing), bool))
        values = body.add("Where", missing, body.constant(np.nan, ensemble.kind), values)
    scores = f"scores_{len(body.nodes)}"
    body.nodes.append(_ensemble_node(ensemble, values, scores))
    if ensemble.factor != 1.0:
        scores = body.add("Mul", scores, body.constant(ensemble.factor))
    return scores


def _mask(features: int, chosen: tuple[int, ...]) -> Array:
    mask = np.zeros(features, bool)
    mask[list(chosen)] = True
    return mask


def _ensemble_node(ensemble: Ensemble, values: str, scores: str) -> onnx.NodeProto:
    """Source: ONNX operators, ai.onnx.ml.TreeEnsembleRegressor version 3; 64-bit numbers are tensors."""
    kind = ensemble.kind
    node = helper.make_node("TreeEnsembleRegressor", [values], [scores], domain="ai.onnx.ml")
    flat = [_flat(_compared(tree, kind), ensemble.inclusive) for tree in ensemble.trees]
    places = [np.arange(len(part.left)) for part in flat]
    _numbers(node, "nodes_treeids", [np.full(len(part.left), tree) for tree, part in enumerate(flat)])
    _numbers(node, "nodes_nodeids", places)
    _numbers(node, "nodes_featureids", [part.feature for part in flat])
    _numbers(node, "nodes_truenodeids", [part.left for part in flat])
    _numbers(node, "nodes_falsenodeids", [part.right for part in flat])
    _numbers(node, "nodes_missing_value_tracks_true", [part.missing_left for part in flat])
    _floats(node, "nodes_values", [part.threshold for part in flat], kind)
    modes = node.attribute.add()
    modes.name, modes.type = "nodes_modes", onnx.AttributeProto.STRINGS
    for part in flat:
        modes.strings.extend(_MODES[mode] for mode in part.mode.tolist())
    leaves = [np.flatnonzero(tree.left < 0) for tree in ensemble.trees]
    wide = [len(tree.outputs) for tree in ensemble.trees]
    ids = [np.tile(tree.outputs, len(nodes)) for tree, nodes in zip(ensemble.trees, leaves, strict=True)]
    counts = [len(at) * n for at, n in zip(leaves, wide, strict=True)]
    _numbers(node, "target_treeids", [np.full(count, tree) for tree, count in enumerate(counts)])
    _numbers(node, "target_nodeids", [np.repeat(at, n) for at, n in zip(leaves, wide, strict=True)])
    _numbers(node, "target_ids", ids)
    weights = [tree.weights[at].ravel() for tree, at in zip(ensemble.trees, leaves, strict=True)]
    _floats(node, "target_weights", weights, kind)
    node.attribute.append(helper.make_attribute("n_targets", ensemble.outputs))
    _floats(node, "base_values", [ensemble.base], kind)
    return node


_LEAF, _LESS, _AT_MOST, _EQUAL = range(4)
_MODES = (b"LEAF", b"BRANCH_LT", b"BRANCH_LEQ", b"BRANCH_EQ")


@dataclass(frozen=True)
class _Flat:
    feature: Array
    threshold: Array
    left: Array
    right: Array
    missing_left: Array
    mode: Array


def _compared(tree: Tree, kind: Any) -> Tree:
    """The tree with thresholds of the type that values are compared as."""
    same = np.asarray(tree.threshold).dtype == kind
    return tree if same else replace(tree, threshold=as_kind(tree.threshold, kind))


def _flat(tree: Tree, inclusive: bool) -> _Flat:
    """Sets of categories become chains of comparisons, one a category, which all lead to the same left child."""
    leaf = tree.left < 0
    mode = np.where(leaf, _LEAF, _AT_MOST if inclusive else _LESS)
    threshold = np.where(leaf, 0, tree.threshold).astype(tree.threshold.dtype)
    feature, left = np.where(leaf, 0, tree.feature), np.where(leaf, 0, tree.left)
    right, missing = np.where(leaf, 0, tree.right), np.where(leaf, 0, tree.missing_left).astype(np.int64)
    more: list[tuple[int, float, int, int]] = []
    for node, members in tree.members.items():
        mode[node] = _EQUAL
        values = np.sort(members).tolist() or [_NEVER]  # an empty set: nothing but NaN can go left
        threshold[node] = values[0]
        last = right[node]
        for place, value in enumerate(values[1:]):
            if place == 0:
                right[node] = len(leaf) + len(more)
            following = len(leaf) + len(more) + 1 if place < len(values) - 2 else last
            more.append((int(feature[node]), value, int(left[node]), int(following)))
    if more:
        features, values_, lefts, rights = zip(*more, strict=True)
        feature, left, right = np.append(feature, features), np.append(left, lefts), np.append(right, rights)
        threshold = np.append(threshold, np.asarray(values_, threshold.dtype))
        missing = np.append(missing, np.zeros(len(more), np.int64))
        mode = np.append(mode, np.full(len(more), _EQUAL))
    return _Flat(feature, threshold, left, right, missing, mode)


def _numbers(node: onnx.NodeProto, name: str, parts: list[Array]) -> None:
    attribute = node.attribute.add()
    attribute.name, attribute.type = name, onnx.AttributeProto.INTS
    for part in parts:
        attribute.ints.extend(part.astype(np.int64).tolist())


def _floats(node: onnx.NodeProto, name: str, parts: list[Array], kind: Any) -> None:
    if kind is np.float64:
        values = np.concatenate([np.ravel(part) for part in parts]).astype(kind)
        node.attribute.append(helper.make_attribute(f"{name}_as_tensor", numpy_helper.from_array(values, name)))
        return
    attribute = node.attribute.add()
    attribute.name, attribute.type = name, onnx.AttributeProto.FLOATS
    for part in parts:
        attribute.floats.extend(part.astype(np.float32).tolist())


def _head(ensemble: Ensemble, scores: str, body: _Body) -> list[onnx.ValueInfoProto]:
    """The operators after the raw scores; declared outputs."""
    width = ensemble.outputs
    if ensemble.scale != 1.0:
        scores = body.add("Mul", scores, body.constant(ensemble.scale))
    match ensemble.head:
        case "raw":
            body.add("Identity", scores, out=PREDICTION)
        case "sigmoid":
            body.add("Sigmoid", scores, out=PREDICTION)
        case "exp":
            body.add("Exp", scores, out=PREDICTION)
        case "log1p exp":
            body.add("Softplus", scores, out=PREDICTION)
        case "signed square":
            body.add("Mul", scores, body.add("Abs", scores), out=PREDICTION)
        case "hinge":
            return [_label(_above(scores, 0.0, body), ensemble.labels, body)]
        case "binary":
            yes = body.add("Sigmoid", scores)
            no = body.add("Sub", body.constant(1.0), yes)
            body.add("Concat", no, yes, axis=1, out=PROBABILITIES)
            return [_label(_above(yes, ensemble.cut, body), ensemble.labels, body), _floats_out(PROBABILITIES, 2)]
        case "several":
            body.add("Sigmoid", scores, out=PROBABILITIES)
            held = body.add("Greater", PROBABILITIES, body.constant(0.5))
            body.add("Cast", held, out=LABEL, to=TensorProto.INT64)
            labels = helper.make_tensor_value_info(LABEL, TensorProto.INT64, ["batch", width])
            return [labels, _floats_out(PROBABILITIES, width)]
        case "classes" | "each class":
            if ensemble.head == "classes":
                body.add("Softmax", scores, axis=1, out=PROBABILITIES)
            else:
                body.add("Sigmoid", scores, out=PROBABILITIES)
            best = body.add("ArgMax", scores, axis=1, keepdims=0)
            return [_label(best, ensemble.labels, body), _floats_out(PROBABILITIES, width)]
    return [_floats_out(PREDICTION, width)]


def _above(scores: str, limit: float, body: _Body) -> str:
    """0 or 1 for each row of scores [batch, 1]."""
    flat = body.add("Squeeze", scores, body.constant([1], np.int64))
    return body.add("Cast", body.add("Greater", flat, body.constant(limit)), to=TensorProto.INT64)


def _label(classes: str, labels: Array | None, body: _Body) -> onnx.ValueInfoProto:
    """The class of each row, by number or by name."""
    if labels is None:
        body.add("Identity", classes, out=LABEL)
        kind = TensorProto.INT64
    else:
        body.add("Gather", body.constant(labels, labels.dtype), classes, axis=0, out=LABEL)
        kind = helper.np_dtype_to_tensor_dtype(labels.dtype)
    return helper.make_tensor_value_info(LABEL, kind, ["batch"])


def _floats_out(name: str, width: int) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", width])
