"""Whether an ensemble of trees needs 64-bit floats: timestamps, long numbers of customers, thresholds close together.

XGBoost and CatBoost round values to 32 bits themselves (`Ensemble.rounds`); LightGBM and HistGradientBoosting do not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from studio.formats.base import Array, Feed, Kit
from studio.formats.boosters._common import INPUT, bounds, thresholds
from studio.formats.boosters._trees import Ensemble

_WHOLE = 2.0**24  # from here on 32-bit floats no longer hold every whole number
_NEVER = 1e30  # thresholds that stand for "all" and "none"
_STEPS = 4  # of 32-bit floats between two thresholds, so that what lies between them stays there
_DRAWN, _SAMPLES, _SHARE = 256, 2000, 0.01
_SEED = 13


def as_told(ensemble: Ensemble, kit: Kit) -> Ensemble:
    """With 64-bit inputs where the user's settings say FP64."""
    return replace(ensemble, doubles=told(kit) == "FP64")


def told(kit: Kit) -> str:
    one = kit.settings.inputs.get(INPUT)
    return one.datatype if one else ""


def as_needed(
    ensemble: Ensemble, predict: Callable[[Array], Feed], samples: Array | None, kit: Kit, names: tuple[str, ...]
) -> tuple[Ensemble, tuple[str, ...]]:
    """With 64-bit inputs where the settings or the source's own answers ask for them, and what to say of it.

    `samples`: the user's rows [rows, features] as they were saved.
    """
    if ensemble.rounds or told(kit) == "FP64":
        return as_told(ensemble, kit), ()
    feature = too_fine(ensemble)
    if told(kit):
        if feature is None:
            return ensemble, ()
        return ensemble, (
            f"'{INPUT}' is {told(kit)}, as the settings say; {_column(feature, names)} is compared with numbers that "
            "32 bits can not hold, so that 64-bit rows may get other answers from the original.",
        )
    wide = replace(ensemble, doubles=True)
    if feature is not None:
        return wide, (
            f"It takes 64-bit floats: {_column(feature, names)} is compared with numbers such as "
            f"{_example(wide, feature)}, which 32-bit ones can not tell from their neighbours.",
        )
    lost = samples is not None and bool(strays(predict, samples).any())
    if lost or strays(predict, plain_rows(wide, _DRAWN)).mean() > _SHARE:
        return wide, ("It takes 64-bit floats: with rows in 32-bit ones the original itself answers otherwise.",)
    return ensemble, ()


def _column(feature: int, names: tuple[str, ...]) -> str:
    return f"column '{names[feature]}'" if feature < len(names) else f"column {feature}"


def _example(ensemble: Ensemble, feature: int) -> str:
    values = thresholds(ensemble)[feature]
    return repr(float(values[np.argmax(np.where(np.abs(values) < _NEVER, np.abs(values), 0))]))


def too_fine(ensemble: Ensemble) -> int | None:
    """The first feature that is compared with what 32-bit floats can not hold, or not tell apart; None without one."""
    if ensemble.rounds:
        return None
    for feature, values in sorted(thresholds(replace(ensemble, doubles=True)).items()):
        values = values[np.abs(values) < _NEVER]
        largest = float(np.abs(values).max(initial=0.0))
        if largest >= _WHOLE:
            return feature
        pairs = np.maximum(np.abs(values[1:]), np.abs(values[:-1])).astype(np.float32)
        if feature not in ensemble.whole and (np.diff(values) < _STEPS * np.spacing(pairs).astype(np.float64)).any():
            return feature
    return None


def plain_rows(ensemble: Ensemble, rows: int) -> Array:
    """Ordinary rows [rows, features] of 64-bit floats, over the range of the thresholds."""
    low, high = bounds(ensemble)
    drawn = np.random.default_rng(_SEED).uniform(low, high, (rows, ensemble.features))
    if ensemble.whole:
        drawn[:, list(ensemble.whole)] = np.floor(drawn[:, list(ensemble.whole)])
    return drawn


def strays(predict: Callable[[Array], Feed], rows: Array) -> Array:
    """Which rows the source itself answers otherwise when they are rounded to 32-bit floats first."""
    with np.errstate(over="ignore"):
        exact, rounded = predict(rows), predict(rows.astype(np.float32).astype(np.float64))
    found = np.zeros(len(rows), bool)
    for name, values in exact.items():
        left, right = values.reshape(len(rows), -1), rounded[name].reshape(len(rows), -1)
        found |= ~((left == right) | ((left != left) & (right != right))).all(axis=1)
    return found


def sample_rows(samples: Path | None, features: int) -> Array | None:
    """The user's rows as 64-bit floats, before anything casts them. None where there are none of that shape."""
    if samples is None:
        return None
    try:
        with np.load(samples, allow_pickle=False) as archive:
            names = [name for name in archive.files if name != "labels"]
            found = archive[INPUT if INPUT in names else names[0]] if names else None
    except Exception:  # the kit reads them again, and says in full what is wrong
        return None
    if found is None or found.ndim != 2 or found.shape[1] != features or found.dtype.kind not in "fiub":
        return None
    return np.asarray(found[:_SAMPLES], np.float64)
