"""Which rows a variant is made with, and which it is judged on: never the same."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from studio.core.manifest import InputsKind
from studio.core.rows import row_layout
from studio.core.tensors import Signature
from studio.verify.inputs import LoadedSamples, pick_rows, row_count
from studio.verify.session import Array

FEWEST_ROWS = 16
"""With fewer rows than these none is set apart: half of so few would judge nothing."""
_SHARE = 4
_CALIBRATION_ROWS = 128  # more bring MinMax ranges no nearer, and take longer


@dataclass(frozen=True)
class Split:
    """`judged` is what all variants of a version are compared on; `apart` what recipes may calibrate and train with."""

    judged: LoadedSamples
    apart: LoadedSamples | None


def split(samples: LoadedSamples, kind: InputsKind, signature: Signature, seed: int = 0) -> Split:
    """Set a quarter of the rows apart, or 128 where that is more, but never more than half; the same rows every time.

    Rows are drawn at random, since files are often sorted by class. Nothing is set apart of made-up inputs, of fewer
    than 16 rows, and of inputs that do not divide into rows.
    """
    layout = row_layout(signature)
    count = row_count(layout, samples.inputs)
    if kind == "synthetic" or layout is None or count < max(FEWEST_ROWS, 2 * layout.rows):
        return Split(samples, None)
    apart = min(count // 2, max(_CALIBRATION_ROWS, count // _SHARE))
    apart = max(layout.rows, apart - apart % layout.rows)
    order = np.random.default_rng(seed).permutation(count)
    chosen, rest = np.sort(order[:apart]), np.sort(order[apart:])

    def take(index: Array) -> LoadedSamples:
        rows = pick_rows(layout, samples.inputs, index)
        return LoadedSamples(rows, None if samples.labels is None else samples.labels[index], samples.kind)

    return Split(take(rest), take(chosen))
