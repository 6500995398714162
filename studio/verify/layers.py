"""Where a variant broke: its tensors against the reference's of the same name, layer by layer.

Both graphs are run as written, with what is between the layers as further outputs. A recipe that quantises or casts
keeps the names of the tensors it works on; one that a fusion took away is passed over. In a QDQ graph the tensor 'x' is
compared as 'x_DequantizeLinear_Output', which is what the next layer sees: under 'x' itself ONNX Runtime's quantiser
leaves what comes before a Relu that it folds into the quantisation.

    SQNR of a tensor  10 log10(Σ r² / Σ (r − x)²) dB over all rows, as for outputs
    damage of a node  by how much that falls from the worst of its inputs to its output, counted between 40 dB, above
                      which nobody sees a difference, and 0 dB, below which there is only noise
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from studio.core.errors import StudioError
from studio.core.manifest import LayerError, Layers
from studio.core.rows import row_layout
from studio.verify.inputs import row_count, take_rows
from studio.verify.session import Feed, Session, first_line, open_model, open_session, signature_of

WORST = 10
LOOK_BELOW_DB = 25.0
"""A variant with an output below this is looked into, even where it passes."""

_ROWS = 8
_SECONDS = 20.0
_MOST_TENSORS = 512
_MOST_BYTES = 2**30  # of a graph's file: it is held several times over
_HELD_BYTES = 2**28  # of the tensors of one run
_FIRST_CHUNK, _LARGEST_CHUNK = 16, 128
_FINE_DB, _NOISE_DB = 40.0, 0.0
_HEAVY = {"Conv", "ConvTranspose", "MatMul", "Gemm", "LSTM", "GRU", "RNN", "Attention", "Softmax", "Add"}
_FOLDED = {"Relu", "Clip"}  # into the quantisation of what they follow
_AFTER = "_DequantizeLinear_Output"


@dataclass
class _Seen:
    """Sums over all rows of one tensor."""

    signal: float = 0.0
    noise: float = 0.0
    non_finite: int = 0
    runs: int = 0

    @property
    def decibels(self) -> float:
        """SQNR in dB; infinite when nothing differs."""
        if self.noise == 0:
            return math.inf
        return 10 * math.log10(self.signal / self.noise) if self.signal > 0 else -math.inf


def layer_errors(
    variant_path: str | Path, reference_path: str | Path, inputs: Feed, threads: int = 1, seconds: float = _SECONDS
) -> Layers | None:
    """The tensors at which a variant loses most, on up to 8 rows of `inputs`, within about `seconds`.

    None where that can not be told: no tensor between the layers kept its name, a graph's file is larger than 1 GB, or
    ONNX Runtime does not take it with further outputs.
    """
    import onnx

    paths = Path(reference_path), Path(variant_path)
    if any(path.stat().st_size > _MOST_BYTES for path in paths):
        return None
    reference, variant = (onnx.load(str(path), load_external_data=False) for path in paths)
    pairs = _pairs(reference.graph, variant.graph)
    if not pairs:
        return None
    runs, unit = _runs(open_session(reference_path, threads, optimised=False), inputs)
    seen = {name: _Seen() for name, _ in pairs}
    deadline = time.monotonic() + seconds
    at, size = 0, _FIRST_CHUNK
    try:
        while at < len(pairs) and time.monotonic() < deadline:
            chunk = pairs[at : at + size]
            with_outputs = [
                _Tapped(model, [pair[side] for pair in chunk], path.parent, threads)
                for side, (model, path) in enumerate(zip((reference, variant), paths, strict=True))
            ]
            held = 0
            for feed in runs:
                one, other = (tapped.run(feed) for tapped in with_outputs)
                held = max(held, sum(array.nbytes for array in (*one, *other) if isinstance(array, np.ndarray)))
                for (name, _), left, right in zip(chunk, one, other, strict=True):
                    _add(seen[name], left, right)
                if time.monotonic() > deadline:
                    break
            at += len(chunk)
            size = int(np.clip(_HELD_BYTES * len(chunk) // max(1, held), 1, _LARGEST_CHUNK))
    except StudioError:
        return None
    # Where time ended early, not every tensor was seen on every run.
    fewest = min((one.runs for one in seen.values() if one.runs), default=0)
    return _layers(reference.graph, seen, fewest * unit)


def _pairs(reference: Any, variant: Any) -> list[tuple[str, str]]:
    """Names of a tensor in the one graph and in the other, in the reference's order."""
    made = {name for node in variant.node for name in node.output if name}
    found: list[tuple[str, str]] = []
    heavy: list[bool] = []
    for node in reference.node:
        if node.op_type in ("Constant", "Shape", "Identity"):
            continue
        for name in node.output:
            other = next((one for one in (name + _AFTER, name) if one and one in made), None)
            if other is not None:
                found.append((name, other))
                heavy.append(node.op_type in _HEAVY)
    if len(found) <= _MOST_TENSORS:
        return found
    # Too many: those of operators with weights first, spread evenly.
    order = [at for at, of_weight in enumerate(heavy) if of_weight] or list(range(len(found)))
    if len(order) < _MOST_TENSORS:
        order += [at for at, of_weight in enumerate(heavy) if not of_weight][: _MOST_TENSORS - len(order)]
    kept = np.linspace(0, len(order) - 1, min(len(order), _MOST_TENSORS)).round().astype(int)
    return [found[at] for at in sorted({order[index] for index in kept})]


class _Tapped:
    """A graph whose inner tensors are outputs too."""

    def __init__(self, model: Any, names: Sequence[str], folder: Path, threads: int) -> None:
        import onnx

        have = {out.name for out in model.graph.output}
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        # Their types are for the runtime to infer.
        copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in dict.fromkeys(names) if name not in have)
        self._names = list(names)
        self._session = open_model(copy.SerializeToString(), folder, threads)

    def run(self, feed: Feed) -> list[Any]:
        try:
            result: list[Any] = self._session.run(self._names, feed)
        except Exception as error:  # onnxruntime's exceptions share no base class
            raise StudioError("A graph does not run with what is between its layers.", first_line(error)) from error
        return result


def _runs(session: Session, inputs: Feed) -> tuple[list[Feed], int]:
    """Up to eight of the smallest possible runs, spread over all rows; and the rows of each."""
    layout = row_layout(signature_of(session))
    if layout is None:
        return [inputs], 1
    units = row_count(layout, inputs) // layout.rows
    starts = sorted({int(at) for at in np.linspace(0, units - 1, min(units, _ROWS)).round()})
    return [take_rows(layout, inputs, at * layout.rows, layout.rows) for at in starts], layout.rows


def _add(seen: _Seen, left: object, right: object) -> None:
    if not isinstance(left, np.ndarray) or not isinstance(right, np.ndarray):
        return
    if left.dtype.kind != "f" or right.dtype.kind != "f" or left.shape != right.shape or not left.size:
        return
    one, other = left.astype(np.float64), right.astype(np.float64)
    there = np.isfinite(one)
    good = there & np.isfinite(other)
    seen.runs += 1
    seen.signal += float(np.square(one[good]).sum())
    seen.noise += float(np.square(one[good] - other[good]).sum())
    seen.non_finite += int(np.count_nonzero(there & ~good))


def _layers(graph: Any, seen: dict[str, _Seen], rows: int) -> Layers | None:
    levels: dict[str, float] = {}
    spoilt: set[str] = set()
    makers = {name: node for node in graph.node for name in node.output}
    found: list[tuple[float, LayerError]] = []
    order = 0
    for node in graph.node:
        before = min((levels.get(name, math.inf) for name in node.input), default=math.inf)
        tainted = any(name in spoilt for name in node.input)
        for name in node.output:
            here = seen.get(name)
            if here is None or not here.runs:
                levels[name] = before
                if tainted:
                    spoilt.add(name)
                continue
            order += 1
            after = levels[name] = here.decibels
            folded = node.op_type in _FOLDED and node.input[0] not in seen
            maker = makers.get(node.input[0], node) if folded else node
            error = LayerError(
                order=order,
                operator=maker.op_type,
                node=maker.name or name,
                tensor=name,
                sqnr_db=_told(after),
                before_db=_told(before),
                non_finite=here.non_finite,
            )
            damage = _clipped(before) - _clipped(after)
            if here.non_finite:
                spoilt.add(name)
                damage = math.inf if not tainted else damage
            if damage > 0:
                found.append((damage, error))
    if not found:
        return None
    worst = tuple(error for _, error in sorted(found, key=lambda one: (-one[0], one[1].order))[:WORST])
    return Layers(rows=rows, compared=order, worst=worst, sentence=_sentence(worst[0]))


def _clipped(decibels: float) -> float:
    return min(_FINE_DB, max(_NOISE_DB, decibels))


def _told(decibels: float) -> float | None:
    return max(decibels, -200.0) if decibels < math.inf else None


def _sentence(error: LayerError) -> str:
    """`breaks at Conv 'features.3': SQNR 31 → 9 dB`."""
    where = f"{error.operator} '{error.node}'"
    if error.non_finite:
        return f"breaks at {where}: {error.non_finite} values become NaN or infinite"
    before = "exact" if error.before_db is None else f"{error.before_db:.0f}"
    after = math.inf if error.sqnr_db is None else error.sqnr_db
    verb = "breaks at" if after < LOOK_BELOW_DB else "loses most at"
    return f"{verb} {where}: SQNR {before} → {after:.0f} dB"


def worth_looking(sqnr: Iterable[float | None], passed: bool) -> bool:
    """Whether a variant is to be looked into: it fails, or an output's SQNR is below 25 dB."""
    return not passed or any(value is not None and value < LOOK_BELOW_DB for value in sqnr)
