"""Missing values in trees and forests: where scikit-learn sends them, and whether a graph sends them there too."""

from __future__ import annotations

from typing import Any

import numpy as np

from studio.formats.base import Array, Feed
from studio.formats.sklearn._adapt import last

_EVERY = 5
_AGREE = 1e-3
_ENSEMBLES = ("TreeEnsembleClassifier", "TreeEnsembleRegressor")
_TRACKS = "nodes_missing_value_tracks_true"
NOTE = (
    "Missing values (NaN) are answered otherwise than by the original: fill them before they are sent, or put an "
    "imputer into the pipeline."
)


def follow(graph: Any, model: Any) -> None:
    """Let a graph's trees send missing values where the estimator's go; skl2onnx sends all of them to the right.

    Leaves everything as it is where the graph's trees are not the estimator's, node by node.
    """
    trees = _trees(last(model))
    ensembles = [
        node for node in graph.graph.node if node.op_type in ("TreeEnsembleClassifier", "TreeEnsembleRegressor")
    ]
    if not trees or len(ensembles) != 1:
        return
    found = {attribute.name: attribute for attribute in ensembles[0].attribute}
    try:
        places = list(zip(found["nodes_treeids"].ints, found["nodes_nodeids"].ints, strict=True))
        modes, features = list(found["nodes_modes"].strings), list(found["nodes_featureids"].ints)
    except (KeyError, ValueError):
        return
    if len(places) != sum(tree.node_count for tree in trees) or len(modes) != len(places) != len(features):
        return
    tracks = []
    for (tree, node), mode, feature in zip(places, modes, features, strict=True):
        if not (tree < len(trees) and node < trees[tree].node_count):
            return
        inner = mode == b"BRANCH_LEQ"
        if inner and trees[tree].feature[node] != feature:
            return
        tracks.append(int(inner and bool(trees[tree].missing_go_to_left[node])))
    if _TRACKS in found:
        ensembles[0].attribute.remove(found[_TRACKS])
    attribute = ensembles[0].attribute.add()
    attribute.name, attribute.type = _TRACKS, 7  # AttributeProto.INTS
    attribute.ints.extend(tracks)


def _trees(final: Any) -> list[Any]:
    """The trees of a tree or a forest, in their order; none of anything else."""
    members = [final] if hasattr(final, "tree_") else getattr(final, "estimators_", None)
    if not isinstance(members, list) or not all(hasattr(one, "tree_") for one in members):
        return []
    trees = [one.tree_ for one in members]
    return trees if all(hasattr(tree, "missing_go_to_left") for tree in trees) else []


def with_gaps(feed: Feed) -> Feed | None:
    """Rows with some values missing; None where nothing is a float."""
    holed = {}
    for place, (name, array) in enumerate(feed.items()):
        holed[name] = array
        if array.dtype.kind == "f" and array.ndim == 2:
            holed[name] = array.copy()
            rows, columns = array.shape
            row = np.arange(rows)
            holed[name][row % _EVERY == 1, (row[row % _EVERY == 1] + place) % columns] = np.nan
    return holed if any(holed[name] is not feed[name] for name in feed) else None


def differ(expected: Feed, own: Feed) -> bool:
    """Whether an answer strays by more than rounding. Labels count where they are all there is: ties decide others."""
    floats = [name for name, values in expected.items() if values.dtype.kind == "f"]
    if not floats:
        return any(bool((expected[name].astype(str) != own[name].astype(str)).any()) for name in expected)
    return any(_strays(expected[name], own[name]) for name in floats)


def _strays(expected: Array, own: Array) -> bool:
    scale = float(np.max(np.abs(expected[np.isfinite(expected)]), initial=1e-30))
    return not np.allclose(expected, own, rtol=_AGREE, atol=_AGREE * scale, equal_nan=True)
