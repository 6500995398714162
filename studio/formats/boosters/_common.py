"""What the formats of boosted trees share: words, and inputs that tell a conversion apart from its source."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from studio.core.errors import InvalidInput, NeedsExtra, Refused, StepFailed, StudioError
from studio.formats.base import Array, Case, Feed, Kit
from studio.formats.boosters._rounding import as_kind

if TYPE_CHECKING:
    from studio.formats.boosters._trees import Ensemble, Head

INPUT, LABEL, PROBABILITIES, PREDICTION = "input", "label", "probabilities", "prediction"

Predict = Callable[[Array], Feed]

_ROWS = 192
_SEED = 7
_TIE = 1e-5
_LARGEST = np.finfo(np.float32).max
_MOST = 1e30  # a threshold may be the largest number there is
_NAMES = 40


def only(library: str, found: list[Path]) -> Path | None:
    """The one model among the files; None when there is none. Raises InvalidInput when there are several."""
    if len(found) > 1:
        names = ", ".join(file.name for file in found[:5])
        raise InvalidInput(
            f"There are {len(found)} {library} models in this arrival: {names}.",
            "An arrival becomes one version of one model.",
            "Drop each of them alone.",
        )
    return found[0] if found else None


def import_library(module: str, library: str, path: Path, extra: str) -> Any:
    """A booster's own library. Raises NeedsExtra where it is not installed, StepFailed where it does not load."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise NeedsExtra(f"'{path.name}' is a model of {library}.", extra) from error
    except (ImportError, OSError) as error:
        raise StepFailed(
            f"{library} is installed, but can not be loaded.",
            f"{error}.",
            f"Reinstall it: pip install 'ort-studio[{extra}]'.",
        ) from error


def unreadable(library: str, path: Path, error: Exception) -> InvalidInput:
    """What a library said of a file that it does not load."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = re.sub(r"^(\[[\d:]+\] )?\S+:\d+: ", "", lines[0]) if lines else type(error).__name__
    return InvalidInput(
        f"{library} can not read '{path.name}'.",
        f"{said[:300]}.",
        f"Save it again, best with the {library} that Studio has.",
    )


def answers_as(head: Head, values: Array) -> Feed:
    """What a library answers, [rows, outputs], under the names and in the shapes of the graph's outputs."""
    match head:
        case "binary":
            one = values[:, 0]
            return {LABEL: (one > 0.5).astype(np.int64), PROBABILITIES: np.stack([1 - one, one], axis=1)}
        case "several":
            return {LABEL: (values > 0.5).astype(np.int64), PROBABILITIES: values}
        case "classes" | "each class":
            return {LABEL: np.argmax(values, axis=1), PROBABILITIES: values}
        case "hinge":
            return {LABEL: values[:, 0].astype(np.int64)}
    return {PREDICTION: values}


def cases_of(
    ensemble: Ensemble, graph: Path, predict: Predict, kit: Kit, rows64: Array | None = None
) -> tuple[Case, ...]:
    """Runs of the source: the user's samples or drawn rows, and rows on and beside the thresholds of the trees.

    `rows64`: rows in 64-bit floats, as a user has them: the source answers for these, the graph for what its own input
    holds of them, so that a loss on the way shows. Raises the library's StudioError when it accepts none of them.
    """
    low, high = bounds(ensemble)
    failure: StudioError | None = None
    for runs in kit.runs(kit.signature(graph), {INPUT: (low, high)}):
        try:
            drawn = tuple(Case(inputs=feed, outputs=predict(feed[INPUT])) for feed in runs)
        except StudioError as error:
            failure = error
            continue
        kind = np.float64 if ensemble.doubles else np.float32
        if rows64 is not None and len(rows64):
            with np.errstate(over="ignore"):
                feed = {INPUT: rows64.astype(kind)}
            drawn = (*drawn, *_clear(ensemble, feed, predict(rows64)))
        rows = near_thresholds(ensemble, _ROWS).astype(kind)
        return (*drawn, *_clear(ensemble, {INPUT: rows}, predict(rows)))
    raise failure or Refused("There are no inputs to run the model on.")


def _clear(ensemble: Ensemble, feed: Feed, answers: Feed) -> tuple[Case, ...]:
    """The rows that are not decided by less than rounding, as a run; none where all are."""
    clear = ~tied(ensemble, answers)
    if not clear.any():
        return ()
    outputs = {name: array[clear] for name, array in answers.items()}
    return (Case(inputs={INPUT: feed[INPUT][clear]}, outputs=outputs),)


def bounds(ensemble: Ensemble) -> tuple[Array, Array]:
    """For each feature the lowest and highest value worth trying: a little beyond all thresholds on it."""
    low, high = np.zeros(ensemble.features), np.ones(ensemble.features)
    for feature, values in thresholds(ensemble).items():
        lowest, highest = float(values.min()), float(values.max())
        margin = 0.25 * (highest - lowest) or max(1.0, 0.1 * abs(lowest))
        low[feature], high[feature] = max(lowest - margin, -_MOST), min(highest + margin, _MOST)
    for feature in ensemble.whole:  # codes of categories, and one that nothing has seen
        low[feature], high[feature] = 0, max(1.0, float(thresholds(ensemble)[feature].max()) + 1)
    return low, high


def thresholds(ensemble: Ensemble) -> dict[int, Array]:
    """The values that each feature is compared with: thresholds, or categories."""
    found: dict[int, list[Array]] = {}
    for tree in ensemble.trees:
        inner = np.flatnonzero(tree.left >= 0)
        plain = inner[~np.isin(inner, list(tree.members))]
        for feature in np.unique(tree.feature[plain]).tolist():
            found.setdefault(feature, []).append(tree.threshold[plain[tree.feature[plain] == feature]])
        for node, members in tree.members.items():
            found.setdefault(int(tree.feature[node]), []).append(members)
    values = {feature: np.unique(as_kind(np.concatenate(parts), ensemble.kind)) for feature, parts in found.items()}
    return {feature: array for feature, array in values.items() if len(array)}


def near_thresholds(ensemble: Ensemble, rows: int) -> Array:
    """Rows [rows, features] of which every value is on a threshold, the next number beside one, 0, missing or random.

    A comparison that is off by one bit, or the wrong way round for equal or missing values, shows here and nowhere
    else.
    """
    generator = np.random.default_rng(_SEED)
    low, high = bounds(ensemble)
    kind = ensemble.kind
    drawn = generator.uniform(low, high, (rows, ensemble.features)).astype(kind)
    for feature, values in thresholds(ensemble).items():
        chosen = generator.choice(values, rows)
        side = generator.integers(0, 4, rows)
        if feature in ensemble.whole:
            chosen = np.where(side == 0, values.max() + 1, chosen)
        else:
            with np.errstate(over="ignore"):
                up, down = np.nextafter(chosen, kind(np.inf)), np.nextafter(chosen, kind(-np.inf))
            chosen = np.where(side == 1, up, np.where(side == 2, down, chosen))
        use = generator.random(rows) < 0.7
        drawn[use, feature] = np.clip(chosen[use], -_LARGEST, _LARGEST)
    special = generator.random(drawn.shape)
    drawn[special < 0.08] = np.nan
    drawn[special > 0.95] = 0.0
    return drawn


def tied(ensemble: Ensemble, answers: Feed) -> Array:
    """Rows whose class is decided by less than rounding: either answer is right there."""
    rows = len(next(iter(answers.values())))
    scores = answers.get(PROBABILITIES)
    if scores is None:
        return np.zeros(rows, bool)
    if ensemble.head in ("binary", "several"):
        chosen = scores[:, 1:] if ensemble.head == "binary" else scores
        return np.asarray((np.abs(chosen - ensemble.cut) < _TIE).any(axis=1))
    top = np.sort(scores, axis=1)
    return np.asarray(top[:, -1] - top[:, -2] < _TIE)


def feature_note(names: tuple[str, ...]) -> tuple[str, ...]:
    """What the columns of the input are, for the manifest; nothing where the file has no names."""
    if not names:
        return ()
    rest = f" … and {len(names) - _NAMES} more" if len(names) > _NAMES else ""
    return (f"Columns of '{INPUT}', in order: {', '.join(names[:_NAMES])}{rest}.",)


def category_notes(categories: dict[str, tuple[str, ...]]) -> tuple[str, ...]:
    """Which number stands for which category."""
    notes = []
    for name, texts in categories.items():
        coded = ", ".join(f"{code} = {text}" for code, text in enumerate(texts[:_NAMES]))
        notes.append(f"'{name}' is given by numbers: {coded}{' …' if len(texts) > _NAMES else ''}.")
    return tuple(notes)
