"""Reading an XGBoost model file, JSON or UBJSON, into trees, with every index checked.

The library reads the same file afterwards, for its answers; it takes indices on trust, and a damaged file makes it
crash. Source: XGBoost documentation, "Introduction to Model IO" and its JSON schema; src/objective of XGBoost 3.2.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from studio.core.errors import InvalidInput, Refused
from studio.formats.base import Array
from studio.formats.boosters import _ubjson
from studio.formats.boosters._trees import Ensemble, Head, Tree, reachable

_LARGEST = 2**31
_ROOTS = (2**31 - 1, -1)

# What each objective does with the raw score, and the space that its intercept (base_score) is written in.
_LOGIT, _LOG, _PLAIN = "logit", "log", "plain"
_OBJECTIVES: dict[str, tuple[Head, str]] = {
    "reg:squarederror": ("raw", _PLAIN),
    "reg:linear": ("raw", _PLAIN),
    "reg:squaredlogerror": ("raw", _PLAIN),
    "reg:pseudohubererror": ("raw", _PLAIN),
    "reg:absoluteerror": ("raw", _PLAIN),
    "reg:quantileerror": ("raw", _PLAIN),
    "reg:expectileerror": ("raw", _PLAIN),
    "reg:logistic": ("sigmoid", _LOGIT),
    "reg:gamma": ("exp", _LOG),
    "reg:tweedie": ("exp", _LOG),
    "count:poisson": ("exp", _LOG),
    "survival:cox": ("exp", _LOG),
    "survival:aft": ("exp", _LOG),
    "binary:logistic": ("binary", _LOGIT),
    "binary:logitraw": ("raw", _PLAIN),
    "binary:hinge": ("hinge", _PLAIN),
    "multi:softprob": ("classes", _PLAIN),
    "multi:softmax": ("classes", _PLAIN),
    "rank:ndcg": ("raw", _PLAIN),
    "rank:pairwise": ("raw", _PLAIN),
    "rank:map": ("raw", _PLAIN),
}


@dataclass(frozen=True)
class XGBoostModel:
    """`rounds`: boosting rounds that count; 0 for all. `types`: one a feature ('q', 'c' …), or none."""

    ensemble: Ensemble
    objective: str
    names: tuple[str, ...]
    types: tuple[str, ...]
    categories: dict[str, tuple[str, ...]]
    rounds: int
    notes: tuple[str, ...]


def read(path: Path, binary: bool) -> XGBoostModel:
    """Parse and check. Raises InvalidInput for a damaged file, Refused for what has no ONNX form."""
    return _checked(path.name, _document(path, binary))


def check_state(data: bytes) -> None:
    """Check what a pickled Booster keeps: the document of a file, beside its settings. Raises InvalidInput, Refused."""
    name = "Booster in this pickle"
    try:
        document = _ubjson.loads(data)["Model"]
    except (ValueError, OverflowError, KeyError, TypeError, RecursionError) as error:
        raise _damaged(name, f"{_reason(error)}.") from error
    _checked(name, document)


def _checked(name: str, document: Any) -> XGBoostModel:
    try:
        return _model(name, document)
    except (KeyError, TypeError, ValueError, OverflowError, IndexError, AttributeError) as error:
        raise _damaged(name, f"{_reason(error)}.") from error


def _reason(error: Exception) -> str:
    return f"it has no {error}" if isinstance(error, KeyError) else str(error) or type(error).__name__


def _damaged(name: str, why: str) -> InvalidInput:
    return InvalidInput(
        f"'{name}' is a damaged XGBoost model.", why[:1].upper() + why[1:], "Copy it again, or save it again."
    )


def _document(path: Path, binary: bool) -> Any:
    if path.stat().st_size >= _LARGEST:
        raise Refused(f"'{path.name}' is larger than 2 GB.", "An ONNX graph of these trees would be too.")
    data = path.read_bytes()
    try:
        return _ubjson.loads(data) if binary else json.loads(data)
    except RecursionError as error:
        raise _damaged(path.name, "it is nested too deeply.") from error
    except (ValueError, OverflowError) as error:
        raise _damaged(path.name, f"{error}.") from error


def _model(name: str, document: Any) -> XGBoostModel:
    learner = document["learner"]
    booster = learner.get("gradient_booster")
    if not isinstance(booster, dict) or "learner_model_param" not in learner:
        raise Refused(
            f"'{name}' holds settings of XGBoost, and no model.",
            "It looks like the output of save_config().",
            "Save the model with booster.save_model('model.json').",
        )
    parameters = learner["learner_model_param"]
    features = int(parameters["num_feature"])
    outputs = max(int(parameters.get("num_class", 0)), int(parameters.get("num_target", 1)), 1)
    if not 0 < features < 2**24 or outputs >= 2**20:
        raise ValueError(f"it says that it has {features} features and {outputs} outputs")
    objective = str(learner["objective"]["name"])
    if objective not in _OBJECTIVES:
        raise Refused(
            f"'{name}' was trained for '{objective}', which Studio does not know.",
            "What XGBoost makes of the sum of the trees depends on it.",
            "Convert it with a tool that knows it, and drop the .onnx file.",
        )
    head, space = _OBJECTIVES[objective]
    if head == "binary" and outputs > 1:
        head = "several"
    attributes = learner.get("attributes") or {}
    trees, rounds, notes = _trees(name, booster, features, outputs, attributes)
    base = _base(parameters["base_score"], outputs, space)
    names = _texts(learner.get("feature_names"), features)
    core = booster.get("gbtree", booster)
    types = _texts(learner.get("feature_types"), features)
    whole = sorted({int(tree.feature[node]) for tree in trees for node in tree.members})
    ensemble = Ensemble(
        features=features,
        outputs=outputs,
        trees=trees,
        base=base,
        head=head,
        inclusive=False,
        rounds=True,
        whole=tuple(whole),
    )
    return XGBoostModel(
        ensemble=ensemble,
        objective=objective,
        names=names,
        types=types,
        categories=_encoded(core["model"].get("cats") or {}, names),
        rounds=rounds,
        notes=notes,
    )


def _encoded(table: Any, names: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """What the codes 0, 1, 2 … of a feature stand for, where the file tells texts."""
    found = {}
    for place, part in enumerate(table.get("enc") or ()):
        ends = [int(end) for end in part.get("offsets") or ()]
        raw = np.asarray(part.get("values") or (), np.int64)
        if len(ends) > 1 and (np.diff(ends) >= 0).all() and ends[0] >= 0 and ends[-1] <= len(raw):
            data = raw.astype(np.uint8).tobytes()
            name = names[place] if names else str(place)
            found[name] = tuple(data[a:b].decode("utf-8", "replace") for a, b in pairwise(ends))
    return found


def _texts(value: Any, features: int) -> tuple[str, ...]:
    texts = tuple(str(item) for item in value or ())
    if texts and len(texts) != features:
        raise ValueError(f"it has {features} features and {len(texts)} names or types of them")
    return texts


def _base(text: Any, outputs: int, space: str) -> Array:
    values = np.atleast_1d(np.asarray(json.loads(str(text)), np.float64))
    if values.ndim != 1 or len(values) not in (1, outputs) or not np.isfinite(values).all():
        raise ValueError(f"its base_score is {text}")
    if space == _LOGIT:
        if not ((values > 0) & (values < 1)).all():
            raise ValueError(f"its base_score {text} is no probability")
        values = -np.log(1 / values - 1)
    elif space == _LOG:
        if not (values > 0).all():
            raise ValueError(f"its base_score {text} is not positive")
        values = np.log(values)
    return np.asarray(np.broadcast_to(values, (outputs,)), np.float32)


def _trees(
    name: str, booster: Any, features: int, outputs: int, attributes: Any
) -> tuple[tuple[Tree, ...], int, tuple[str, ...]]:
    kind = booster["name"]
    dropped: Array | None = None
    if kind == "dart":
        dropped = np.asarray(booster["weight_drop"], np.float32)
        booster = booster["gbtree"]
    elif kind != "gbtree":
        raise Refused(
            f"'{name}' is a linear model of XGBoost ('{kind}'), which has no trees.",
            "Studio converts XGBoost's trees.",
            "Its weights are in the file: a torch.nn.Linear or scikit-learn model with them can be dropped instead.",
        )
    model = booster["model"]
    found = model["trees"]
    groups = np.asarray(model["tree_info"], np.int64)
    if len(groups) != len(found) or int(model["gbtree_model_param"]["num_trees"]) != len(found):
        raise ValueError(f"it has {len(found)} trees, and says otherwise")
    if dropped is not None and len(dropped) != len(found):
        raise ValueError(f"it has {len(found)} trees and {len(dropped)} weights of them")
    if len(groups) and not (groups.min() >= 0 and groups.max() < outputs):
        raise ValueError("a tree adds to an output that does not exist")
    trees = [_tree(tree, features, outputs, int(group)) for tree, group in zip(found, groups, strict=True)]
    rounds = 0
    notes: tuple[str, ...] = ()
    if "best_iteration" in attributes and "scikit_learn" in attributes:
        # The scikit-learn interface stops at the best round; the Booster itself counts all that were trained.
        rounds = int(attributes["best_iteration"]) + 1
        ends = [int(end) for end in model.get("iteration_indptr") or ()]
        a_round = ends[1] - ends[0] if len(ends) > 1 else outputs * _parallel(model)
        last = ends[rounds] if rounds < len(ends) else rounds * a_round
        if not 0 < last <= len(trees):
            raise ValueError(f"its best round is {rounds} of fewer")
        if last < len(trees):
            notes = (f"Stopped early: the first {rounds} rounds count, as XGBClassifier and XGBRegressor predict.",)
        trees = trees[:last]
    if dropped is not None:
        trees = [_weighted(tree, weight) for tree, weight in zip(trees, dropped, strict=False)]
    return tuple(trees), rounds, notes


def _parallel(model: Any) -> int:
    return max(1, int(model["gbtree_model_param"].get("num_parallel_tree", 1)))


def _weighted(tree: Tree, weight: Any) -> Tree:
    return replace(tree, weights=tree.weights * weight)


def _tree(table: Any, features: int, outputs: int, group: int) -> Tree:
    """One tree, only the nodes that the root leads to: deleted ones stay in the file."""
    left, right = _whole(table, "left_children"), _whole(table, "right_children")
    count = len(left)
    feature = _whole(table, "split_indices", count)
    condition = _reals(table, "split_conditions", count)
    missing_left = _whole(table, "default_left", count) != 0
    kind = _whole(table, "split_type", count) if "split_type" in table else np.zeros(count, np.int64)
    wide = int(table["tree_param"].get("size_leaf_vector", "0") or 0)
    leaf = left == -1
    order = reachable(np.where(leaf, -1, left), np.where(leaf, -1, right))
    inner = order[~leaf[order]]
    parents = _whole(table, "parents", count)
    if (parents[left[inner]] != inner).any() or (parents[right[inner]] != inner).any() or parents[0] not in _ROOTS:
        raise ValueError("the parents and children in a tree contradict each other")
    if len(inner) and not (feature[inner].min() >= 0 and feature[inner].max() < features):
        raise ValueError("a tree asks for a feature that does not exist")
    if not np.isfinite(condition[order]).all():
        raise ValueError("a tree holds numbers that are none")
    weights = _vectors(table, leaf, right, wide, outputs) if wide > 1 else condition[:, None]
    members = _members(table, kind, set(inner.tolist()))
    place = np.full(count, -1, np.int64)
    place[order] = np.arange(len(order))
    new_left, new_right = np.where(leaf, -1, place[left])[order], np.where(leaf, -1, place[right])[order]
    swapped = np.isin(order, list(members))
    # XGBoost lists the categories that go right; here they go left, and the children change places.
    return Tree(
        feature=feature[order],
        threshold=condition[order],
        left=np.where(swapped, new_right, new_left),
        right=np.where(swapped, new_left, new_right),
        missing_left=missing_left[order] ^ swapped,
        weights=weights[order],
        outputs=tuple(range(outputs)) if wide > 1 else (group,),
        members={int(place[node]): values for node, values in members.items()},
    )


def _whole(table: Any, key: str, count: int | None = None) -> Array:
    values = np.asarray(table[key], np.int64)
    if values.ndim != 1 or not len(values) or (count is not None and len(values) != count):
        raise ValueError(f"{key} of a tree has the wrong length")
    return values


def _reals(table: Any, key: str, count: int) -> Array:
    values = np.asarray(table[key], np.float32)
    if values.shape != (count,):
        raise ValueError(f"{key} of a tree has the wrong length")
    return values


def _vectors(table: Any, leaf: Array, right: Array, wide: int, outputs: int) -> Array:
    """Weights of leaves that give several outputs, [nodes, outputs]. A leaf's right child is its row in the table."""
    if wide != outputs:
        raise ValueError(f"a tree gives {wide} outputs, and the model {outputs}")
    if "leaf_weights" in table:
        rows = np.asarray(table["leaf_weights"], np.float32).reshape(-1, outputs)
        at = np.where(leaf, right, 0)
    else:  # before XGBoost 3.1
        rows = np.asarray(table["base_weights"], np.float32).reshape(-1, outputs)
        at = np.where(leaf, np.arange(len(leaf)), 0)
    if not len(rows) or not (at.min() >= 0 and at.max() < len(rows)) or not np.isfinite(rows).all():
        raise ValueError("a leaf has no weights")
    return rows[at]


def _members(table: Any, kind: Array, inner: set[int]) -> dict[int, Array]:
    """Categories by node. Source: schema of Model IO, `categories*`."""
    nodes = [int(node) for node in table.get("categories_nodes", ())]
    starts = [int(start) for start in table.get("categories_segments", ())]
    sizes = [int(size) for size in table.get("categories_sizes", ())]
    values = np.asarray(table.get("categories", ()), np.int64)
    if not len(nodes) == len(starts) == len(sizes):
        raise ValueError("the categories of a tree do not correspond")
    found = {}
    for node, start, size in zip(nodes, starts, sizes, strict=True):
        if start < 0 or size < 0 or start + size > len(values):
            raise ValueError("the categories of a tree reach beyond their table")
        if node in inner:
            found[node] = values[start : start + size].astype(np.float32)
    if {node for node in inner if kind[node]} != set(found):
        raise ValueError("a split by category has no categories")
    return found
