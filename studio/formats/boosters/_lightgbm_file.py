"""Reading a LightGBM model file into trees, with every length and index checked.

The library reads the same file afterwards, for its answers. It trusts the offsets and counts in the file, so most
damaged ones make it crash. Source: GBDT::SaveModelToString, GBDT::LoadModelFromString, Tree::Tree(const char*) and
include/LightGBM/tree.h of LightGBM 4.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from studio.core.errors import InvalidInput, Refused
from studio.formats.base import Array
from studio.formats.boosters._trees import Ensemble, Head, Tree, reachable

_LARGEST = 2**31
_CATEGORICAL, _DEFAULT_LEFT, _MISSING_SHIFT = 1, 2, 2
_ZERO = np.float64(np.float32(1e-35))  # kZeroThreshold in include/LightGBM/meta.h
_NO_MISSING, _ZERO_MISSING, _NAN_MISSING = range(3)

_KNOWN = (
    "Tree num_leaves num_cat split_feature split_gain threshold decision_type left_child right_child leaf_value "
    "leaf_weight leaf_count internal_value internal_weight internal_count cat_boundaries cat_threshold is_linear "
    "leaf_const num_features leaf_features leaf_coeff shrinkage"
)
_LINES = frozenset(_KNOWN.split())

# What is made of the sum of the trees. Source: ConvertOutput in src/objective/*.hpp.
_OBJECTIVES: dict[str, Head] = {
    "binary": "binary",
    "multiclass": "classes",
    "multiclassova": "each class",
    "cross_entropy": "sigmoid",
    "cross_entropy_lambda": "log1p exp",
    "poisson": "exp",
    "gamma": "exp",
    "tweedie": "exp",
    "regression": "raw",
    "regression_l1": "raw",
    "huber": "raw",
    "fair": "raw",
    "quantile": "raw",
    "mape": "raw",
    "lambdarank": "raw",
    "rank_xendcg": "raw",
}


@dataclass(frozen=True)
class LightGBMModel:
    """`objective` is the file's own line, empty for one that the user wrote."""

    ensemble: Ensemble
    objective: str
    names: tuple[str, ...]
    categories: dict[str, tuple[str, ...]]
    notes: tuple[str, ...]


def read(path: Path) -> LightGBMModel:
    """Parse and check. Raises InvalidInput for a damaged file, Refused for what has no ONNX form."""
    if path.stat().st_size >= _LARGEST:
        raise Refused(f"'{path.name}' is larger than 2 GB.", "An ONNX graph of these trees would be too.")
    return parse(path.name, path.read_bytes())


def parse(name: str, data: bytes) -> LightGBMModel:
    """The same of a model's text; `name` is for the words."""
    try:
        return _model(name, data.replace(b"\r\n", b"\n"), crlf=b"\r\n" in data)
    except (KeyError, ValueError, OverflowError, IndexError) as error:
        reason = f"it has no line {error}" if isinstance(error, KeyError) else str(error)
        raise InvalidInput(
            f"'{name}' is a damaged LightGBM model.",
            f"{reason[:1].upper()}{reason[1:]}.",
            "Copy it again, byte for byte, or save it again with booster.save_model.",
        ) from error


def _model(name: str, data: bytes, crlf: bool) -> LightGBMModel:
    head = data.partition(b"\nend of trees")[0].partition(b"\nTree=")[0]
    if b"\nend of trees" not in data:
        raise ValueError("it ends before its trees do: the line 'end of trees' is missing")
    _parameters(data.partition(b"\nend of trees")[2])
    table = _table(head)
    features = _count(table, "max_feature_idx") + 1
    outputs = _count(table, "num_tree_per_iteration")
    classes = _count(table, "num_class")
    names = tuple(table["feature_names"].split())
    if not 0 < features < 2**24 or not 0 < outputs < 2**20 or not 0 < classes < 2**20:
        raise ValueError(f"it says that it has {features} features and {outputs} trees a round")
    if len(names) != features or len(table["feature_infos"].split()) != features:
        raise ValueError(f"it has {features} features and {len(names)} names of them")
    trees, zero_missing, categorical = _trees(name, _blocks(data, table, crlf), features, outputs)
    objective = table.get("objective", "")
    chosen, scale, notes = _objective(name, objective, outputs)
    rounds = max(1, len(trees) // outputs)
    ensemble = Ensemble(
        features=features,
        outputs=outputs,
        trees=trees,
        base=np.zeros(outputs, np.float32),
        head=chosen,
        inclusive=True,
        scale=scale,
        factor=1.0 / rounds if "average_output" in table else 1.0,
        whole=categorical,
        towards_zero=True,
        zero_missing=zero_missing,
    )
    return LightGBMModel(
        ensemble=ensemble,
        objective=objective,
        names=() if names == tuple(f"Column_{place}" for place in range(features)) else names,
        categories=_pandas(data, names, table["feature_infos"].split()),
        notes=notes,
    )


def _parameters(tail: bytes) -> None:
    """What stands after the trees: the settings of the training, each as `[name: value]`."""
    _, begin, rest = tail.partition(b"\nparameters:\n")
    listed, end, _ = rest.partition(b"\nend of parameters")
    if begin and not end:
        raise ValueError("it ends in the middle: the line 'end of parameters' is missing")
    for line in listed.decode("utf-8", "replace").splitlines():
        if line and not (line.startswith("[") and line.endswith("]") and ": " in line):
            raise ValueError(f"the line '{line[:60]}' is no parameter")


def _table(text: bytes) -> dict[str, str]:
    """Lines of `key=value`, and keys alone."""
    found = {}
    for line in text.decode("utf-8", "replace").splitlines():
        key, _, value = line.partition("=")
        if key in found:
            raise ValueError(f"the line '{key[:40]}' is there twice")
        if key:
            found[key] = value
    return found


def _count(table: dict[str, str], key: str) -> int:
    value = table[key]
    if not value.isascii() or not value.isdigit() or len(value) > 9:
        raise ValueError(f"the line '{key}={value[:40]}' holds no number")
    return int(value)


def _blocks(data: bytes, table: dict[str, str], crlf: bool) -> list[dict[str, str]]:
    """The lines of each tree. `tree_sizes` must say exactly where each begins: the library jumps there."""
    first = data.find(b"\nTree=")
    end = data.find(b"\nend of trees")
    body = data[first + 1 : end + 1] if 0 <= first < end else b""
    starts = [0, *(place + 1 for place in _places(body, b"\nTree="))] if body else []
    if crlf:  # every line was a byte longer, and LightGBM, which reads the file as bytes, would jump astray
        raise ValueError("its line ends were changed to those of Windows, so that the sizes in it no longer fit")
    if "tree_sizes" in table:
        sizes = [int(size) for size in table["tree_sizes"].split()]
        expected = [0, *np.cumsum(np.asarray(sizes, np.int64)).tolist()]
        if any(size <= 0 for size in sizes) or expected[:-1] != starts or expected[-1] != len(body):
            raise ValueError(
                f"it says that it has {len(sizes)} trees of certain sizes, and its {len(starts)} do not fit"
            )
    blocks = []
    for place, (start, stop) in enumerate(zip(starts, [*starts[1:], len(body)], strict=True)):
        lines = _table(body[start:stop])
        if _count(lines, "Tree") != place:
            raise ValueError(f"its tree {place} is numbered {lines['Tree']}")
        blocks.append(lines)
    return blocks


def _places(data: bytes, mark: bytes) -> list[int]:
    found, at = [], data.find(mark)
    while at >= 0:
        found.append(at)
        at = data.find(mark, at + 1)
    return found


def _trees(
    name: str, blocks: list[dict[str, str]], features: int, outputs: int
) -> tuple[tuple[Tree, ...], tuple[int, ...], tuple[int, ...]]:
    """Trees, the features whose zeros are missing values, and the features that are categories."""
    if len(blocks) % outputs:
        raise ValueError(f"it has {len(blocks)} trees, which are no whole rounds of {outputs}")
    kinds: dict[int, set[int]] = {}
    categorical: set[int] = set()
    trees = []
    for place, lines in enumerate(blocks):
        if lines.get("is_linear", "0") != "0":
            raise Refused(
                f"'{name}' has a linear model in each leaf (linear_tree=true).",
                "ONNX's trees have a number in each leaf.",
                "Train it with linear_tree=false.",
            )
        trees.append(_tree(lines, features, place % outputs, kinds, categorical))
    numeric = {feature: seen for feature, seen in kinds.items() if _ZERO_MISSING in seen}
    mixed = [feature for feature, seen in numeric.items() if len(seen) > 1]
    if mixed:
        raise Refused(
            f"'{name}' counts zeros of column {mixed[0]} as missing in some trees and not in others.",
            "It was put together from models with different settings.",
            "Train it in one go, with one setting of zero_as_missing.",
        )
    return tuple(trees), tuple(sorted(numeric)), tuple(sorted(categorical))


def _numbers(lines: dict[str, str], key: str, count: int, kind: Any) -> Array:
    try:
        values = np.array(lines[key].split(), np.float64)
    except ValueError as error:
        raise ValueError(f"the line '{key}' of a tree holds something else than numbers") from error
    if len(values) != count:
        raise ValueError(f"the line '{key}' of a tree has {len(values)} numbers, and {count} belong there")
    if kind is np.int64:
        if not (np.abs(values) < 2**40).all() or (values != np.floor(values)).any():
            raise ValueError(f"the line '{key}' of a tree holds something else than whole numbers")
        return values.astype(np.int64)
    return values


def _tree(lines: dict[str, str], features: int, output: int, kinds: dict[int, set[int]], categorical: set[int]) -> Tree:
    leaves = _count(lines, "num_leaves")
    if leaves < 1:
        raise ValueError("a tree has no leaves")
    inner = leaves - 1
    values = _numbers(lines, "leaf_value", leaves, np.float64)
    if not np.isfinite(values).all():
        raise ValueError("a leaf holds a number that is none")
    _statistics(lines, leaves)
    if not inner:
        nothing = np.zeros(1, np.int64)
        return Tree(nothing, np.zeros(1), nothing - 1, nothing - 1, nothing, values[:, None], (output,))
    feature = _numbers(lines, "split_feature", inner, np.int64)
    threshold = _numbers(lines, "threshold", inner, np.float64)
    decision = _numbers(lines, "decision_type", inner, np.int64)
    left = _child(_numbers(lines, "left_child", inner, np.int64), inner, leaves)
    right = _child(_numbers(lines, "right_child", inner, np.int64), inner, leaves)
    if feature.min() < 0 or feature.max() >= features:
        raise ValueError("a tree asks for a column that does not exist")
    if np.isnan(threshold).any() or decision.min() < 0 or decision.max() > 11 or ((decision >> 2) > 2).any():
        raise ValueError("a tree compares in a way that does not exist")
    by_category = decision & _CATEGORICAL != 0
    kind, to_left = decision >> _MISSING_SHIFT, decision & _DEFAULT_LEFT != 0
    for column, seen in zip(feature[~by_category].tolist(), kind[~by_category].tolist(), strict=True):
        kinds.setdefault(column, set()).add(seen)
    categorical |= set(feature[by_category].tolist())
    # A missing value where none was seen in training counts as 0.
    missing_left = np.where(kind == _NO_MISSING, threshold >= 0, to_left) & ~by_category
    end = np.full(leaves, -1)
    tree = Tree(
        feature=np.append(feature, np.zeros(leaves, np.int64)),
        threshold=np.append(as_compared(threshold), np.zeros(leaves)),
        left=np.append(left, end),
        right=np.append(right, end),
        missing_left=np.append(missing_left, np.zeros(leaves, bool)),
        weights=np.append(np.zeros(inner), values)[:, None],
        outputs=(output,),
        members=_members(lines, by_category, threshold),
    )
    if len(reachable(tree.left, tree.right)) != inner + leaves:
        raise ValueError("a tree has parts that nothing leads to")
    return tree


def _statistics(lines: dict[str, str], leaves: int) -> None:
    """Lines that no prediction needs, and that the library reads all the same."""
    for key, count in (
        ("split_gain", leaves - 1),
        ("leaf_weight", leaves),
        ("leaf_count", leaves),
        ("internal_value", leaves - 1),
        ("internal_weight", leaves - 1),
        ("internal_count", leaves - 1),
        ("shrinkage", 1),
    ):
        if key in lines and (lines[key] or leaves > 1):
            _numbers(lines, key, count, np.float64)
    unknown = [key for key in lines if key not in _LINES]
    if unknown:
        raise ValueError(f"a tree has the line '{unknown[0][:40]}', which belongs into none")


def _child(values: Array, inner: int, leaves: int) -> Array:
    """Children as LightGBM numbers them, leaf n being −n − 1, as places: inner nodes first, then leaves."""
    if values.max() >= inner or values.min() < -leaves:
        raise ValueError("a tree has a child that does not exist")
    return np.where(values >= 0, values, inner - values - 1)


def as_compared(values: Array) -> Array:
    """Thresholds such that a plain x ≤ threshold gives what LightGBM decides, which takes numbers up to 1e-35 for 0."""
    below_zero, at_zero = (values >= -_ZERO) & (values < 0), (values >= 0) & (values <= _ZERO)
    found = np.where(below_zero, np.nextafter(-_ZERO, -np.inf), values)
    return np.asarray(np.where(at_zero, _ZERO, found), np.float64)


def _members(lines: dict[str, str], by_category: Array, threshold: Array) -> dict[int, Array]:
    """Categories that go left, by node: bits of 32-bit words between two boundaries."""
    nodes = np.flatnonzero(by_category)
    sets = _count(lines, "num_cat")
    if not sets:
        if len(nodes):
            raise ValueError("a split by category has no categories")
        return {}
    edges = _numbers(lines, "cat_boundaries", sets + 1, np.int64)
    if edges[0] != 0 or (np.diff(edges) < 0).any() or edges[-1] > 2**24:
        raise ValueError("the categories of a tree have impossible boundaries")
    words = _numbers(lines, "cat_threshold", int(edges[-1]), np.int64)
    if len(words) and (words.min() < 0 or words.max() >= 2**32):
        raise ValueError("the categories of a tree are no 32-bit words")
    found = {}
    for node in nodes.tolist():
        chosen = threshold[node]
        if not 0 <= chosen < sets or chosen != int(chosen):
            raise ValueError("a split by category names a set that does not exist")
        own = words[edges[int(chosen)] : edges[int(chosen) + 1]].astype("<u4")
        found[node] = np.flatnonzero(np.unpackbits(own.view(np.uint8), bitorder="little")).astype(np.float64)
    return found


def _objective(name: str, line: str, outputs: int) -> tuple[Head, float, tuple[str, ...]]:
    words = line.split()
    if not words or words[0] == "custom":
        note = "It was trained with an objective of its own, which the file does not hold: the raw scores come out."
        return "raw", 1.0, (note,)
    head = _OBJECTIVES.get(words[0])
    if head is None:
        raise Refused(
            f"'{name}' was trained for '{words[0]}', which Studio does not know.",
            "What LightGBM makes of the sum of the trees depends on it.",
            "Convert it with a tool that knows it, and drop the .onnx file.",
        )
    if (head in ("classes", "each class")) != (outputs > 1):
        raise ValueError(f"it is for '{words[0]}', and has {outputs} trees a round")
    options = dict(word.partition(":")[::2] for word in words[1:])
    scale = float(options.get("sigmoid", "1")) if head in ("binary", "each class") else 1.0
    if not (np.isfinite(scale) and scale > 0):
        raise ValueError(f"its objective is '{line[:60]}'")
    return ("signed square" if words[0] == "regression" and "sqrt" in words else head), scale, ()


def _pandas(data: bytes, names: tuple[str, ...], infos: list[str]) -> dict[str, tuple[str, ...]]:
    """What the codes of categories stand for, where the model was trained on a pandas table."""
    place = data.rfind(b"\npandas_categorical:")
    if place < 0:
        return {}
    try:
        table = json.loads(data[place:].partition(b":")[2])
    except (ValueError, RecursionError) as error:
        raise ValueError("its last line, pandas_categorical, is no JSON") from error
    if not isinstance(table, list):
        return {}
    # A feature that is a category lists its codes, "1:2:0"; another has a range "[a:b]", or "none".
    columns = [name for name, info in zip(names, infos, strict=True) if info != "none" and not info.startswith("[")]
    if len(columns) != len(table):
        return {}
    return {name: tuple(str(item) for item in texts) for name, texts in zip(columns, table, strict=True)}
