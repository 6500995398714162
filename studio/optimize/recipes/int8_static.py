"""int8-static: 8-bit weights and activations, their ranges learnt from real samples; the worst layers stay in 32 bits.

Unsigned activations, signed weights with one scale per output channel: the one combination that is fast on processors.
Never on made-up inputs, since ranges learnt from noise clip what is real. Attention is kept out (see `layers`).
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

from studio.core.errors import Refused
from studio.optimize import graphs, layers, processor, qdq, sensitivity
from studio.optimize.base import MORE_SAMPLES, Feed, Given, Option, Recipe, Work
from studio.optimize.calibration import METHODS, Ranges, calibrate

FEWEST_ROWS = 16
_DAMAGE_ROWS = 16  # enough to order layers by
_TOLD = 12  # layers named in the parameters
_OLDEST_OPSET = 13  # the first with one scale per channel


def applies(model: Any, given: Given) -> str:
    """'' or why not: no real samples, or nothing to quantise."""
    if quantised := graphs.already_quantised(model):
        return f"it is quantised already ({quantised})"
    if not layers.has_layers(model):
        return (
            "it has no convolution or matrix multiplication with constant 32-bit weights, "
            f"only {graphs.operator_words(model)}"
        )
    if given.kind == "synthetic":
        return f"needs real samples: ranges learnt from made-up inputs are wrong. {MORE_SAMPLES}"
    if given.rows < FEWEST_ROWS:
        rows = f"{given.rows} row{'s' if given.rows != 1 else ''} of samples"
        needed = f"needs {FEWEST_ROWS}, beside as many to judge on"
        return f"it has {rows} to calibrate with, and {needed}. {MORE_SAMPLES}"
    return ""


@dataclass(frozen=True)
class _Prepared:
    """A tidied graph with types, its ranges, the layers that can be quantised, and those that have no usable range."""

    typed: Any
    ranges: Ranges
    able: list[str]
    unable: list[str]


def apply(work: Work) -> dict[str, str]:
    """Write the quantised graph. Raises Refused when that fails, leaves nothing to quantise or does not load."""
    runs = _runs(work)
    with tempfile.TemporaryDirectory(dir=work.out.parent) as place:
        folder = Path(place)
        prepared = _prepare(work, runs, folder)
        kept, parameters = _choose(work, prepared, runs, folder)
    chosen = [layer for layer in prepared.able if layer not in kept]
    work.report(0.9, "writing the variant")
    made = qdq.quantise(prepared.typed, prepared.ranges, chosen)
    if not graphs.already_quantised(made):
        raise Refused("Nothing was quantised.", "The quantiser found no layer that it can use.")
    graphs.save(made, work.out)
    graphs.check_loads(work.out, work.src)
    work.report(1.0, "done")
    every = prepared.able + prepared.unable
    return {
        "method": f"static, {work.text('method')}",
        "weights": f"int8 per channel{', 7 bits' if processor.saturates() else ''}",
        "activations": "uint8",
        "format": "QDQ",
        "calibration": f"{sum(_rows(feed) for feed in runs)} rows, {work.evidence.kind}",
        "layers quantised": f"{len(chosen)} of {len(every)}",
        "layers kept": ", ".join([*kept, *prepared.unable]) or "none",
        **parameters,
    }


def _runs(work: Work) -> list[Feed]:
    """As many runs as make up the rows that are wanted."""
    if work.evidence.kind == "synthetic" or not work.evidence.runs:
        raise Refused(
            "There is nothing to calibrate with.",
            "Ranges learnt from made-up inputs are wrong.",
            "Drop the model with an .npz of real inputs.",
        )
    wanted = work.number("rows")
    runs: list[Feed] = []
    for feed in work.evidence.runs:
        if sum(_rows(run) for run in runs) >= wanted:
            break
        runs.append(feed)
    return runs


def _rows(feed: Feed) -> int:
    return max((len(array) for array in feed.values() if array.ndim), default=1)


def _prepare(work: Work, runs: Sequence[Feed], folder: Path) -> _Prepared:
    work.report(0.0, "reading the graph")
    tidied = folder / "tidied.onnx"
    model = graphs.tidied(_current(work.src, folder), tidied)
    layers.type_layers(model)
    tidied.write_bytes(model.SerializeToString())
    work.report(0.05, "learning ranges from samples")
    with qdq.quiet():
        ranges = calibrate(
            tidied,
            layers.operators_of(model),
            runs,
            work.text("method"),
            folder,
            work.threads,
            work.number("percentile"),
        )
    every = layers.layers_of(model)
    asked = work.options["keep"]
    assert isinstance(asked, tuple)
    if unknown := [name for name in asked if name not in every]:
        raise Refused(
            f"There is no layer '{unknown[0]}' to keep in 32 bits.",
            f"Its layers: {', '.join(every)}.",
            "Correct 'keep'.",
        )
    nodes = {node.name: node for node in model.graph.node}
    unable = [
        name
        for name in every
        if name in asked
        or ranges.wild & {*nodes[name].input, *nodes[name].output}
        or nodes[name].input[0] not in ranges.by_tensor
    ]
    able = [name for name in every if name not in unable]
    if not able:
        raise Refused(
            "There is no layer left to quantise.",
            "None of its inputs has a finite range on the samples, or all are kept.",
        )
    return _Prepared(qdq.with_types(model), ranges, able, unable)


def _current(src: Path, folder: Path) -> Path:
    """The graph in an operator set that has one scale per channel: itself, mostly."""
    import onnx

    try:
        imports = onnx.load(src, load_external_data=False).opset_import
    except Exception as error:
        raise Refused("The graph can not be read.", graphs.first_line(error), "Export it again.") from error
    version = next((entry.version for entry in imports if entry.domain in ("", "ai.onnx")), _OLDEST_OPSET)
    if version >= _OLDEST_OPSET:
        return src
    try:
        newer = onnx.version_converter.convert_version(graphs.load(src), _OLDEST_OPSET)
    except Exception as error:
        raise Refused(
            f"The graph's operator set, {version}, is too old to quantise by channel.",
            graphs.first_line(error),
            f"Export it again with operator set {_OLDEST_OPSET} or newer.",
        ) from error
    graphs.save(newer, folder / "newer.onnx")
    return folder / "newer.onnx"


def _choose(work: Work, prepared: _Prepared, runs: Sequence[Feed], folder: Path) -> tuple[list[str], dict[str, str]]:
    """Which layers to leave in 32 bits so that the gates hold, and what to say of it."""
    judge = work.judge
    if not work.options["mixed"] or judge is None:
        return [], {}

    def holds(kept: Sequence[str]) -> bool:
        path = folder / f"{work.out.stem}.onnx"
        chosen = [layer for layer in prepared.able if layer not in kept]
        graphs.save(qdq.quantise(prepared.typed, prepared.ranges, chosen), path)
        return judge(path).outcome == "keep"

    work.report(0.2, "judging with all layers quantised")
    if holds([]):
        return [], {"gates on the calibration rows": "held with every layer quantised"}
    few: list[Feed] = []
    for feed in runs:
        if sum(_rows(run) for run in few) < _DAMAGE_ROWS:
            few.append(feed)
    harm = sensitivity.damages(
        prepared.typed,
        prepared.ranges,
        prepared.able,
        few,
        work.number("seconds"),
        work.threads,
        lambda share, text: work.report(0.25 + 0.45 * share, text),
    )
    worst = list(harm)
    told = {
        "damage by layer": ", ".join(f"{name} {sensitivity.decibels(harm[name])}" for name in worst[:_TOLD])
        + (" …" if len(worst) > _TOLD else ""),
        "layers measured": f"{len(worst)} of {len(prepared.able)}",
    }
    work.report(0.7, "looking for the fewest layers to keep")
    most = min(len(worst), len(prepared.able) - 1, ceil(len(prepared.able) * work.number("max_kept")))
    fewest = sensitivity.fewest_kept(most, lambda count: holds(worst[:count]))
    if fewest is None:
        return [], told | {"gates on the calibration rows": f"not held, even with the {most} worst layers kept"}
    return worst[:fewest], told | {"gates on the calibration rows": f"held with the {fewest} worst layers kept"}


RECIPE = Recipe(
    name="int8-static",
    title="8-bit weights and activations, static",
    applies=applies,
    apply=apply,
    options=(
        Option(name="rows", default=128, help="rows to learn ranges from", low=16, high=4096),
        Option(name="method", default="minmax", help="how ranges are learnt from the rows", choices=METHODS),
        Option(
            name="percentile",
            default=99.999,
            help="share of values inside the range, in percent, where the method is 'percentile'",
            low=90.0,
            high=100.0,
        ),
        Option(name="mixed", default=True, help="leave the worst layers in 32 bits until the gates hold"),
        Option(name="max_kept", default=0.5, help="largest share of layers left in 32 bits", low=0.0, high=1.0),
        Option(name="seconds", default=60.0, help="time to measure layers in, in seconds", low=0.0, high=3600.0),
        Option(name="keep", default=(), help="names of layers to leave in 32 bits whatever comes"),
    ),
)
