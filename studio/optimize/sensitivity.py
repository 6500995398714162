"""How much each layer's quantisation harms the outputs, and which layers to leave in 32 bits for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from math import inf, log10
from typing import Any

import numpy as np
import numpy.typing as npt

from studio.optimize import qdq
from studio.optimize.base import Feed
from studio.optimize.calibration import Ranges

Outputs = list[npt.NDArray[Any]]


def decibels(damage: float) -> str:
    """'31.2 dB': the outputs' signal over the error, '∞' without any."""
    return "∞ dB" if damage <= 0 else f"{-10 * log10(damage):.1f} dB"


def damage_of(reference: Sequence[Outputs], got: Sequence[Outputs]) -> float:
    """Power of the error over the power of the outputs, the worst of all outputs; infinite for NaN and infinities.

    Outputs that are no floats count by the share of entries that changed, where there are no others.
    """
    worst = 0.0
    exact = 0.0
    floats = any(array.dtype.kind == "f" for array in reference[0])
    for place, example in enumerate(reference[0]):
        wanted = [run[place] for run in reference]
        made = [run[place] for run in got]
        if example.dtype.kind == "f":
            error = sum(float(np.sum((a.astype(np.float64) - b) ** 2)) for a, b in zip(wanted, made, strict=True))
            power = sum(float(np.sum(a.astype(np.float64) ** 2)) for a in wanted)
            share = error / power if power else error
            worst = max(worst, share if np.isfinite(share) else inf)
        elif not floats:
            changed = sum(int(np.count_nonzero(a != b)) for a, b in zip(wanted, made, strict=True))
            exact = max(exact, changed / max(1, sum(a.size for a in wanted)))
    return worst if floats else exact


def run_graph(model: Any, runs: Sequence[Feed], threads: int) -> list[Outputs]:
    """Outputs of an in-memory graph for each run."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [[np.asarray(array) for array in session.run(None, feed)] for feed in runs]


def damages(
    typed: Any,
    ranges: Ranges,
    layers: Sequence[str],
    runs: Sequence[Feed],
    seconds: float,
    threads: int = 1,
    report: Callable[[float, str], None] = lambda share, text: None,
) -> dict[str, float]:
    """The damage of each layer when it alone is quantised, worst first.

    Each alone, since damages then add up, nearly, and none hides behind another. Layers come from both ends towards the
    middle, the ends being where damage is likeliest; after `seconds` (at least one is measured) the rest is left out.
    """
    began = time.monotonic()
    reference = run_graph(typed, runs, threads)
    found: dict[str, float] = {}
    for number, layer in enumerate(_from_both_ends(layers)):
        if number and time.monotonic() - began > seconds:
            break
        report(number / len(layers), f"measuring the damage of layer {number + 1} of {len(layers)}")
        found[layer] = damage_of(reference, run_graph(qdq.quantise(typed, ranges, [layer]), runs, threads))
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def _from_both_ends(layers: Sequence[str]) -> list[str]:
    order = [place for pair in zip(range(len(layers)), reversed(range(len(layers))), strict=True) for place in pair]
    return [layers[place] for place in dict.fromkeys(order)]


def fewest_kept(most: int, holds: Callable[[int], bool]) -> int | None:
    """The fewest layers, of at most `most`, to leave in 32 bits so that `holds`, by halving; None where `most` is not
    enough. That more layers kept do no harm is taken for granted."""
    if most < 1 or not holds(most):
        return None
    low, high = 1, most
    while low < high:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle + 1
    return high
