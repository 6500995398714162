"""Trees at the end of a pipeline that skl2onnx does not know, or not wholly: XGBoost, LightGBM, HistGradientBoosting.

They are turned into ONNX as those libraries' own files are (`_trees`), behind what skl2onnx makes of the steps before.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from sklearn.pipeline import Pipeline

from studio.core.errors import InvalidInput, Refused
from studio.formats.base import Array
from studio.formats.boosters import _trees
from studio.formats.boosters._common import INPUT, LABEL, thresholds
from studio.formats.boosters._doubles import too_fine
from studio.formats.boosters._trees import Ensemble, Head, Tree
from studio.formats.onnx.names import rename_outputs
from studio.formats.sklearn._adapt import last
from studio.formats.sklearn._columns import Column

_PREFIX = "trees_"


@dataclass(frozen=True)
class Tail:
    """`before`: an estimator whose output the trees take; None where they take the model's own columns.

    `classes`: what the labels 0, 1, 2 … stand for.
    """

    before: Any | None
    ensemble: Ensemble
    classes: Array | None


def tail_of(model: Any, folder: Path) -> Tail | None:
    """The trees at a model's end, where they are of the kind that this is for. `folder`: for a file of theirs."""
    final = last(model)
    root = type(final).__module__.partition(".")[0]
    before = _steps_before(model)
    if root == "xgboost":
        ensemble = _xgboost(final, folder)
    elif root == "lightgbm":
        ensemble = _lightgbm(final, folder)
    elif type(final).__name__.startswith("HistGradientBoosting"):
        ensemble = _hist(final)
        if getattr(final, "_preprocessor", None) is not None:
            before = [*before, ("categories", final._preprocessor)]
    else:
        return None
    classes = getattr(final, "classes_", None)
    plain = classes is None or np.array_equal(classes, np.arange(len(classes)))
    steps = Pipeline(before) if before else None
    return Tail(steps, ensemble, None if plain else np.asarray(classes))


def _steps_before(model: Any) -> list[tuple[str, Any]]:
    """All steps of nested pipelines but the very last one."""
    found: list[tuple[str, Any]] = []
    while hasattr(model, "steps"):
        kept = [(name, step) for name, step in model.steps if step is not None and step != "passthrough"]
        found += [(f"{len(found)}_{name}", step) for name, step in kept[:-1]]
        model = kept[-1][1]
    return found


def _xgboost(final: Any, folder: Path) -> Ensemble:
    from studio.formats.boosters._xgboost_file import read

    if not (final.missing is None or math.isnan(final.missing)):
        raise Refused(
            f"This {type(final).__name__} takes {final.missing!r} for a missing value.",
            "In ONNX only NaN is one.",
            "Train it with missing=float('nan') on inputs that have NaN there.",
        )
    booster = final.get_booster()
    best = getattr(final, "best_iteration", None) if final.early_stopping_rounds else None
    path = folder / "booster.ubj"
    (booster if best is None else booster[: best + 1]).save_model(path)
    ensemble: Ensemble = read(path, binary=True).ensemble
    return ensemble


def _lightgbm(final: Any, folder: Path) -> Ensemble:
    from studio.formats.boosters._lightgbm_file import read

    path = folder / "booster.txt"
    final.booster_.save_model(path)
    ensemble: Ensemble = read(path).ensemble
    return ensemble


def _hist(final: Any) -> Ensemble:
    """Source: sklearn/ensemble/_hist_gradient_boosting, _predictor.pyx and gradient_boosting.py."""
    classifier = type(final).__name__.endswith("Classifier")
    outputs = len(final._predictors[0])
    trees = [_hist_tree(tree, output) for group in final._predictors for output, tree in enumerate(group)]
    link = type(final._loss.link).__name__
    head: Head = "raw"
    if classifier:
        head = "binary" if outputs == 1 else "classes"
    elif link == "LogLink":
        head = "exp"
    features = int(final._bin_mapper.n_bins_non_missing_.shape[0])
    if any((tree.feature[tree.left >= 0] >= features).any() for tree in trees):
        raise InvalidInput(f"This {type(final).__name__} is damaged: a tree asks for a column that is not there.")
    return Ensemble(
        features=features,
        outputs=outputs,
        trees=tuple(trees),
        base=np.ravel(final._baseline_prediction).astype(np.float64),
        head=head,
        inclusive=True,
    )


def _hist_tree(tree: Any, output: int) -> Tree:
    nodes = tree.nodes
    leaf = nodes["is_leaf"].astype(bool)
    members: dict[int, Array] = {}
    for node in np.flatnonzero(nodes["is_categorical"].astype(bool) & ~leaf):
        words = tree.raw_left_cat_bitsets[nodes["bitset_idx"][node]]
        bits = np.unpackbits(np.ascontiguousarray(words, dtype="<u4").view(np.uint8), bitorder="little")
        members[int(node)] = np.flatnonzero(bits).astype(np.float32)
    return Tree(
        feature=nodes["feature_idx"].astype(np.int64),
        threshold=nodes["num_threshold"].astype(np.float64),
        left=np.where(leaf, -1, nodes["left"].astype(np.int64)),
        right=np.where(leaf, -1, nodes["right"].astype(np.int64)),
        missing_left=nodes["missing_go_to_left"].astype(bool),
        weights=nodes["value"].reshape(-1, 1),
        outputs=(output,),
        members=members,
    )


def add_edges(tail: Tail, columns: Sequence[Column]) -> None:
    """Tell the columns that trees take directly what they are compared with."""
    if tail.before is not None:
        return
    exact = too_fine(tail.ensemble) is not None
    for feature, values in thresholds(replace(tail.ensemble, doubles=exact)).items():
        if feature >= len(columns):
            continue
        columns[feature].missing, columns[feature].exact = True, exact
        if feature in tail.ensemble.whole:
            columns[feature].choices, columns[feature].open = values.astype(np.float64), True
        else:
            columns[feature].edges.extend(float(value) for value in values[:2000])


def graph_of(tail: Tail, before: onnx.ModelProto | None, doubles: bool) -> onnx.ModelProto:
    """The trees behind the graph of the steps before them, or alone. `doubles`: inputs are 64-bit floats."""
    wide = doubles and not (before is not None and tail.ensemble.rounds)
    trees = _trees.to_onnx(replace(tail.ensemble, doubles=wide))
    if tail.classes is not None:
        _name_labels(trees, tail.classes)
    if before is None:
        return trees
    outputs = [output.name for output in trees.graph.output]
    own = onnx.compose.add_prefix(trees, prefix=_PREFIX)
    taken = before.graph.output[0].name
    cast = helper.make_node("Cast", [taken], [f"{_PREFIX}{INPUT}"], to=trees.graph.input[0].type.tensor_type.elem_type)
    before.graph.node.extend([cast, *own.graph.node])
    before.graph.initializer.extend(own.graph.initializer)
    del before.graph.output[:]
    before.graph.output.extend(own.graph.output)
    versions = {entry.domain: entry for entry in before.opset_import}
    for entry in own.opset_import:
        if entry.domain not in versions:
            before.opset_import.append(entry)
        elif entry.version > versions[entry.domain].version:
            versions[entry.domain].version = entry.version
    rename_outputs(before, {f"{_PREFIX}{name}": name for name in outputs})
    return before


def _name_labels(graph: onnx.ModelProto, classes: Array) -> None:
    """Labels 0, 1, 2 … as the classes that they stand for."""
    texts = classes.dtype.kind in "OUS"
    values = np.asarray([str(one) for one in classes], dtype=object) if texts else classes.astype(np.int64)
    for output in graph.graph.output:
        if output.name != LABEL:
            continue
        rename_outputs(graph, {LABEL: f"{LABEL}_place"})
        graph.graph.initializer.append(numpy_helper.from_array(values, f"{LABEL}_classes"))
        graph.graph.node.append(helper.make_node("Gather", [f"{LABEL}_classes", f"{LABEL}_place"], [LABEL]))
        output.name = LABEL
        output.type.tensor_type.elem_type = TensorProto.STRING if texts else TensorProto.INT64
        return
