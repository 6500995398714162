"""CatBoost model files: a check of the file before the library sees it, and the trees from what the library tells.

The library itself verifies a file's outer structure, but not everything in it: damaged texts of JSON and damaged trees
make it crash. Source: catboost/libs/model/flatbuffers/model.fbs; FlatBuffers, "Internals"; the JSON export of
CatBoost 1.2 ("JSON model tutorial").
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from studio.core.errors import InvalidInput, Refused
from studio.formats.base import Array
from studio.formats.boosters._trees import Ensemble, Head, Tree

MAGIC = b"CBM1"
# Values of the information table that the library parses as JSON.
_JSON_KEYS = ("params", "training", "output_options", "class_params", "multiclass_params", "flat_params")
_INFO, _TREES = 2, 1
_SIZES, _STARTS, _LEAF_VALUES, _STEPS, _LEAF_IDS = 2, 3, 8, 10, 11
_DEEPEST = 100

# What CatBoostClassifier, CatBoostRegressor and CatBoostRanker make of the raw values.
_LOSSES: dict[str, Head] = {
    "Logloss": "binary",
    "CrossEntropy": "binary",
    "MultiClass": "classes",
    "MultiClassOneVsAll": "each class",
    "MultiLogloss": "several",
    "MultiCrossEntropy": "several",
    "Poisson": "exp",
    "Tweedie": "exp",
}


def damaged(name: str, why: str) -> InvalidInput:
    return InvalidInput(f"'{name}' is a damaged CatBoost model.", f"{why}.", "Copy it again, or save it again.")


def check(path: Path) -> None:
    """Walk the parts of a .cbm that the library does not verify. Raises InvalidInput."""
    data = path.read_bytes()
    if len(data) < 16:
        raise damaged(path.name, "It ends after its first bytes")
    size = int.from_bytes(data[4:8], "little")
    if 8 + size > len(data):
        raise damaged(path.name, f"It should have at least {8 + size:,} bytes, and has {len(data):,}")
    try:
        core = _Core(data[8 : 8 + size])
        root = core.offset(0)
        for key, value in core.pairs(root, _INFO):
            if key in _JSON_KEYS:
                _is_json(key, value)
        trees = core.table(root, _TREES)
        if trees is not None:
            _check_steps(core, trees)
    except (ValueError, IndexError, struct.error, RecursionError) as error:
        raise damaged(path.name, f"{str(error)[:1].upper()}{str(error)[1:]}" or "Its structure is broken") from error


def _is_json(key: str, value: bytes) -> None:
    try:
        found = json.loads(value)
    except ValueError as error:
        raise ValueError(f"its table '{key}' is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"its table '{key}' is no table")


class _Core:
    """A flatbuffer, read with bounds. Offsets are from its beginning."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def number(self, form: str, at: int) -> int:
        if at < 0:
            raise ValueError("an offset in it points out of the file")
        return int(struct.unpack_from(f"<{form}", self._data, at)[0])

    def offset(self, at: int) -> int:
        return at + self.number("I", at)

    def field(self, table: int, number: int) -> int | None:
        """Where a field of a table is; None when it has none."""
        shape = table - self.number("i", table)
        place = 4 + 2 * number
        if place + 2 > self.number("H", shape):
            return None
        inside = self.number("H", shape + place)
        return table + inside if inside else None

    def table(self, table: int, number: int) -> int | None:
        at = self.field(table, number)
        return None if at is None else self.offset(at)

    def vector(self, table: int, number: int, kind: str) -> Array:
        """A vector of numbers; empty when there is none."""
        at = self.table(table, number)
        if at is None:
            return np.zeros(0, kind)
        count = self.number("I", at)
        if at + 4 + count * np.dtype(kind).itemsize > len(self._data):
            raise ValueError("a list in it is longer than the file")
        return np.frombuffer(self._data, kind, count, at + 4)

    def text(self, table: int, number: int) -> bytes:
        return self.vector(table, number, "u1").tobytes()

    def pairs(self, table: int, number: int) -> list[tuple[str, bytes]]:
        at = self.table(table, number)
        if at is None:
            return []
        count = self.number("I", at)
        places = [at + 4 + 4 * place for place in range(min(count, len(self._data) // 4))]
        tables = [self.offset(place) for place in places]
        return [(self.text(one, 0).decode("utf-8", "replace"), self.text(one, 1)) for one in tables]


def _check_steps(core: _Core, trees: int) -> None:
    """Trees that are not symmetric: each node says how far on its children are, and must stay within its tree."""
    steps = core.vector(trees, _STEPS, "<u4")
    count = len(steps)
    if not count:
        return
    pairs = np.stack([steps & 0xFFFF, steps >> 16], axis=1).astype(np.int64)
    starts, sizes = core.vector(trees, _STARTS, "<i4").astype(np.int64), core.vector(trees, _SIZES, "<i4")
    leaves, values = core.vector(trees, _LEAF_IDS, "<u4"), core.vector(trees, _LEAF_VALUES, "<f8")
    if len(leaves) != count or len(starts) != len(sizes) or int(sizes.sum()) != count:
        raise ValueError("the lists of its trees do not correspond")
    for start, size in zip(starts.tolist(), sizes.tolist(), strict=True):
        if start < 0 or size <= 0 or start + size > count:
            raise ValueError("a tree lies outside of the list of nodes")
        own = pairs[start : start + size]
        if (np.arange(size)[:, None] + own >= size).any():
            raise ValueError("a tree has a child that does not exist")
    ends = (pairs == 0).any(axis=1)
    if ends.any() and int(leaves[ends].max()) >= len(values):
        raise ValueError("a leaf has no value")


@dataclass(frozen=True)
class CatBoostModel:
    """`loss`: what it was trained for. `labels`: what the source calls its classes, in the order of its outputs."""

    ensemble: Ensemble
    loss: str
    names: tuple[str, ...]
    labels: tuple[str, ...]
    notes: tuple[str, ...]


def model_of(name: str, document: Any) -> CatBoostModel:
    """The trees of a model in the library's JSON. Raises Refused for what has no ONNX form, InvalidInput."""
    try:
        return _model(name, document)
    except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
        raise damaged(name, f"What CatBoost says of it makes no sense ({type(error).__name__}: {error})") from error


class _Splits:
    """Turns the library's trees into ours: a value above the border goes right."""

    def __init__(self, places: dict[int, int], missing_right: dict[int, bool], outputs: int, scale: float) -> None:
        self._places, self._missing_right = places, missing_right
        self._outputs, self._scale = outputs, scale

    def _split(self, split: Any) -> tuple[int, float, bool]:
        if split["split_type"] != "FloatFeature":
            raise ValueError(f"a split by {split['split_type']}")
        feature = int(split["float_feature_index"])
        return self._places[feature], float(split["border"]), not self._missing_right[feature]

    def _tree(self, splits: list[tuple[int, float, bool]], left: Any, right: Any, values: Array) -> Tree:
        """Inner nodes first, in the order of `splits`; then the leaves with `values` [leaves, outputs]."""
        count = len(values)
        feature, border, missing_left = zip(*splits, strict=True) if splits else ((), (), ())
        if not np.isfinite(values).all():
            raise ValueError("a leaf holds a number that is none")
        end = np.full(count, -1)
        return Tree(
            feature=np.append(np.asarray(feature, np.int64), np.zeros(count, np.int64)),
            threshold=np.append(np.asarray(border, np.float64), np.zeros(count)).astype(np.float32),
            left=np.append(np.asarray(left, np.int64), end),
            right=np.append(np.asarray(right, np.int64), end),
            missing_left=np.append(np.asarray(missing_left, bool), np.zeros(count, bool)),
            weights=np.concatenate([np.zeros((len(splits), self._outputs)), values * self._scale]).astype(np.float32),
            outputs=tuple(range(self._outputs)),
        )

    def symmetric(self, table: Any) -> Tree:
        """All nodes of a level ask the same; bit n of a leaf's number is the answer to the n-th split."""
        levels = [self._split(split) for split in table.get("splits") or ()]
        depth = len(levels)
        values = np.asarray(table["leaf_values"], np.float64).reshape(-1, self._outputs)
        if depth > _DEEPEST or len(values) != 2**depth:
            raise ValueError(f"a tree of {depth} levels has {len(values)} leaves")
        splits = [split for level, split in enumerate(levels) for _ in range(2**level)]
        place = [np.arange(2**level) for level in range(depth)]
        below = [2 ** (level + 1) - 1 for level in range(depth)]
        left = [at + start for at, start in zip(place, below, strict=True)]
        right = [at + start + 2**level for level, (at, start) in enumerate(zip(place, below, strict=True))]
        nothing = np.zeros(0, np.int64)
        return self._tree(splits, np.concatenate([nothing, *left]), np.concatenate([nothing, *right]), values)

    def free(self, table: Any) -> Tree:
        """Trees of any shape, as nested tables with `left` and `right`."""
        inner: list[Any] = []
        leaves: list[Any] = []
        waiting = [table]
        number: dict[int, tuple[bool, int]] = {}
        while waiting:
            node = waiting.pop()
            kind = inner if "split" in node else leaves
            number[id(node)] = (kind is inner, len(kind))
            kind.append(node)
            if kind is inner:
                waiting += [node["left"], node["right"]]

        def at(node: Any) -> int:
            is_inner, place = number[id(node)]
            return place if is_inner else len(inner) + place

        values = np.asarray([node["value"] for node in leaves], np.float64).reshape(-1, self._outputs)
        splits = [self._split(node["split"]) for node in inner]
        return self._tree(splits, [at(node["left"]) for node in inner], [at(node["right"]) for node in inner], values)


def _answers(information: Any, loss: str, outputs: int) -> tuple[Head, list[Any], tuple[str, ...]]:
    """What becomes of the raw values, the classes, and what to say of it."""
    head = _LOSSES.get(loss, "raw")
    if head == "raw" or head == "exp":
        notes: tuple[str, ...] = ()
        if loss == "RMSEWithUncertainty":
            notes = ("The columns of 'prediction' are the mean and the logarithm of the standard deviation.",)
        elif loss.startswith("Python") or not loss:
            notes = ("It was trained with an objective of its own, which the file does not hold: raw values come out.",)
        return head, [], notes
    labels = list((information.get("class_params") or {}).get("class_names") or ())
    expected = 2 if head == "binary" else outputs
    if (head == "binary") != (outputs == 1) or len(labels) not in (0, expected):
        raise ValueError(f"it has {len(labels)} classes and {outputs} outputs")
    return head, labels or list(range(expected)), ()


def _label_values(labels: list[Any]) -> Array | None:
    """Labels as an array; None where they are 0, 1, 2 …"""
    if labels == list(range(len(labels))) and not isinstance(labels[0], bool):
        return None
    if all(isinstance(label, bool) for label in labels):
        return np.asarray(labels, bool)
    if all(isinstance(label, int) for label in labels):
        return np.asarray(labels, np.int64)
    if all(isinstance(label, int | float) for label in labels):
        return np.asarray(labels, np.float32)
    return np.asarray([str(label) for label in labels], object)


def _model(name: str, document: Any) -> CatBoostModel:
    columns = document["features_info"]
    for kind, words in (
        (
            "categorical_features",
            "categorical features (cat_features), which CatBoost encodes with statistics of its own",
        ),
        ("text_features", "text features, which CatBoost turns into numbers in its own way"),
        ("embedding_features", "embedding features, which CatBoost turns into numbers in its own way"),
    ):
        if columns.get(kind):
            raise Refused(
                f"'{name}' has {words}.",
                "ONNX has no form for that.",
                "Turn those columns into numbers before the training, and train without declaring them.",
            )
    floats = columns["float_features"]
    features = 1 + max((int(one["flat_feature_index"]) for one in floats), default=-1)
    if features < 1:
        raise Refused(f"'{name}' has no features.", "An endpoint needs at least one number to send.")
    places = {int(one["feature_index"]): int(one["flat_feature_index"]) for one in floats}
    treatments = {int(one["feature_index"]): one.get("nan_value_treatment", "AsIs") == "AsTrue" for one in floats}
    scale, bias = document["scale_and_bias"]
    base = np.atleast_1d(np.asarray(bias, np.float64))
    outputs = len(base)
    splits = _Splits(places, treatments, outputs, float(scale))
    if "oblivious_trees" in document:
        trees = tuple(splits.symmetric(tree) for tree in document["oblivious_trees"])
    else:
        trees = tuple(splits.free(tree) for tree in document["trees"])
    information = document["model_info"]
    loss = str((information.get("params") or {}).get("loss_function", {}).get("type", ""))
    head, labels, notes = _answers(information, loss, outputs)
    texts = [""] * features
    for one in floats:
        texts[int(one["flat_feature_index"])] = str(one.get("feature_id", ""))
    ensemble = Ensemble(
        features=features,
        outputs=outputs,
        trees=trees,
        base=base.astype(np.float32),
        head=head,
        inclusive=True,
        rounds=True,
        labels=_label_values(labels) if head in ("binary", "classes", "each class") else None,
        cut=float(information.get("binclass_probability_threshold", 0.5)),
    )
    names = tuple(texts) if any(texts) else ()
    return CatBoostModel(ensemble, loss, names, tuple(str(label) for label in labels), notes)
