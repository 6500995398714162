"""How near one set of outputs comes to another: a variant to its reference, a converted graph to its source.

All arithmetic is in float64. Over all values of an output, reference r and other x:

    cosine       Σ r·x / (‖r‖ ‖x‖)
    correlation  the same after each column's mean of r is taken off both: how far x follows the inputs as r does
    SQNR         10 log10(Σ r² / Σ (r − x)²) dB, None when nothing differs
    max_abs      max |r − x|
    max_rel      max |r − x| / max |r|: relative to the output's scale, since single values come arbitrarily near 0
    top-1        scores [rows, classes ≥ 2]: the share of rows with the same largest score
    top-k        from ten classes on: the mean share of the reference's five largest that are among the five largest
    ranks        embeddings: Spearman's ρ of the similarities between all pairs of rows (studio.verify.ranks)

Integers, booleans and strings are compared by equality: `top1_agreement` is the share of equal values and `max_rel` the
share of unequal ones. `non_finite` counts NaN and infinity where the reference is finite, `changed_non_finite` NaN and
infinity of the reference that are something else; those values are left out of the other figures. A row with the first
never agrees. Rows to which the reference answers NaN are left out of agreement and of the figures against labels, on
both sides: there is nothing to agree with. What an output is, and the figures against labels: studio.verify.tasks and
studio.verify.scores.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from studio.core.errors import InvalidInput, Refused
from studio.core.manifest import Fidelity, InputsKind, OutputFidelity, Scores, TaskKind
from studio.core.rows import row_layout
from studio.verify.inputs import by_row, row_count, split_runs, take_rows
from studio.verify.ranks import rank_correlation
from studio.verify.session import Array, Feed, open_session, run, signature_of
from studio.verify.tasks import (
    Role,
    accuracy_of,
    answered,
    answers_of,
    is_float,
    role_of,
    scores_of,
    squeezed,
    task_of,
    top,
)

_TOP_K = 5
_TOP_K_CLASSES = 10
_MIN_ROWS = 5  # fewer rows say nothing of how an output follows its inputs
_SINGLE_ROWS = 32
_BATCH = 32
_BUDGET_SECONDS = 20.0  # for the reference's runs; a variant runs the same rows


def compare(
    reference_outputs: Sequence[Feed],
    outputs: Sequence[Feed],
    names: Sequence[str],
    labels: Array | None = None,
    kind: InputsKind = "synthetic",
    batch_sizes: Sequence[int] = (1,),
    samples: int | None = None,
) -> Fidelity:
    """Fidelity of `outputs` against `reference_outputs`: one dict of arrays by output name for each run, same order.

    `names` are the outputs to compare. `labels` has one entry for each row over all runs. `samples`: how many were run,
    where outputs may have other rows than the inputs. Raises InvalidInput when the runs do not correspond, Refused when
    an output has another shape or type than the reference's.
    """
    if not reference_outputs or len(reference_outputs) != len(outputs):
        raise InvalidInput(
            f"{len(outputs)} runs can not be compared with {len(reference_outputs)}.", "They must pair up."
        )
    parts: list[OutputFidelity] = []
    rows = 0
    for name in names:
        pairs = [_pair(name, ref, own) for ref, own in zip(reference_outputs, outputs, strict=True)]
        whole = all(left.ndim and left.shape[1:] == pairs[0][0].shape[1:] for left, _ in pairs)
        if whole:
            left = np.concatenate([left for left, _ in pairs])
            right = np.concatenate([right for _, right in pairs])
            rows = max(rows, len(left))
        else:  # sizes differ from run to run: no common columns, only values
            left = np.concatenate([np.ravel(left) for left, _ in pairs])
            right = np.concatenate([np.ravel(right) for _, right in pairs])
        parts.append(_output(name, left, right, role_of(name, left) if whole else "other", columns=whole))
    references, own = _joined(reference_outputs, names), _joined(outputs, names)
    count = len(labels) if labels is not None else rows if samples is None else samples
    good = answered(references, labels)
    unjudged = int(np.count_nonzero(~good))
    if unjudged:
        references, own = _only(references, good), _only(own, good)
        labels = labels[good] if labels is not None and good.any() else None
    task = task_of(references, labels)
    found = _against(labels, task, own, references)
    if task == "binary":
        parts = [_with_sides(part, own.get(part.name), references.get(part.name)) for part in parts]
    return Fidelity(
        inputs=kind,
        samples=count,
        batch_sizes=tuple(batch_sizes),
        outputs=tuple(parts),
        accuracy=found.accuracy,
        reference_accuracy=found.reference_accuracy,
        task=task,
        scores=found.scores,
        reference_scores=found.reference_scores,
        unjudged=unjudged,
    )


@dataclass(frozen=True, kw_only=True)
class _Right:
    """How often each side is right; nothing without labels."""

    accuracy: float | None = None
    reference_accuracy: float | None = None
    scores: Scores | None = None
    reference_scores: Scores | None = None


def _against(labels: Array | None, task: TaskKind, own: Feed, references: Feed) -> _Right:
    if labels is None:
        return _Right()
    mine, base = answers_of(own, labels), answers_of(references, labels)
    return _Right(
        accuracy=accuracy_of(mine, labels),
        reference_accuracy=accuracy_of(base, labels),
        scores=scores_of(task, mine, labels),
        reference_scores=scores_of(task, base, labels),
    )


def _only(outputs: Feed, rows: Array) -> Feed:
    return {name: array[rows] if len(array) == len(rows) else array for name, array in outputs.items()}


def _with_sides(part: OutputFidelity, own: Array | None, reference: Array | None) -> OutputFidelity:
    """Top-1 agreement of a single probability of two classes: the share of rows on the same side of 1/2."""
    if own is None or reference is None or part.top1_agreement is not None or role_of(part.name, reference) != "value":
        return part
    left, right = (squeezed(side).astype(np.float64) for side in (reference, own))
    if not len(left) or not np.all((left >= 0) & (left <= 1)):
        return part
    same = ((left > 0.5) == (right > 0.5)) & np.isfinite(right)
    return replace(part, top1_agreement=float(same.mean()))


def _pair(name: str, reference: Feed, own: Feed) -> tuple[Array, Array]:
    if name not in reference or name not in own:
        raise Refused(
            f"The output '{name}' is missing.", f"There are {', '.join(own)}; the reference has {', '.join(reference)}."
        )
    left, right = np.asarray(reference[name]), np.asarray(own[name])
    if left.shape != right.shape:
        raise Refused(
            f"The output '{name}' has the shape {list(right.shape)}.", f"The reference gives {list(left.shape)}."
        )
    if is_float(left) != is_float(right):
        raise Refused(f"The output '{name}' holds {right.dtype} values.", f"The reference gives {left.dtype}.")
    return left, right


def check_alike(reference_outputs: Sequence[Feed], outputs: Sequence[Feed], names: Sequence[str]) -> None:
    """Compare nothing but names, shapes and kinds of values. Raises Refused where they differ."""
    for name in names:
        for reference, own in zip(reference_outputs, outputs, strict=True):
            _pair(name, reference, own)


def _output(name: str, left: Array, right: Array, role: Role, columns: bool) -> OutputFidelity:
    if not is_float(left):
        return _by_equality(name, left, right)
    left, right = left.astype(np.float64), right.astype(np.float64)
    good = np.isfinite(left) & np.isfinite(right)
    bad = int(np.count_nonzero(np.isfinite(left) & ~np.isfinite(right)))
    kept = np.isfinite(left) | (left == right) | (np.isnan(left) & np.isnan(right))
    a, b = left[good], right[good]
    error = np.abs(a - b)
    max_abs = float(error.max(initial=0.0))
    scale = float(np.abs(a).max(initial=0.0))
    noise, signal = float(np.square(error).sum()), float(np.square(a).sum())
    top1, topk = _same_choice(left, right) if role == "scores" and len(left) else (None, None)
    return OutputFidelity(
        name=name,
        cosine=_cosine(a, b),
        sqnr_db=float(10 * np.log10(signal / noise)) if signal > 0 and noise > 0 else None,
        max_abs=max_abs,
        max_rel=max_abs / scale if scale > 0 else max_abs,
        top1_agreement=top1,
        non_finite=bad,
        changed_non_finite=int(np.count_nonzero(~kept)),
        correlation=_correlation(left, right, good) if columns and len(left) >= _MIN_ROWS else None,
        topk_agreement=topk,
        rank_correlation=rank_correlation(left, right) if role == "embedding" else None,
    )


def _same_choice(left: Array, right: Array) -> tuple[float | None, float | None]:
    """Top-1 and top-k agreement of scores [rows, classes]; None without a row that the reference has an answer to."""
    answered_ = ~np.isnan(left).any(axis=1)
    left, right = left[answered_], right[answered_]
    if not len(left):
        return None, None
    spoilt = (np.isfinite(left) & ~np.isfinite(right)).any(axis=1)
    same = (top(left) == top(right)) & ~spoilt
    if left.shape[1] < _TOP_K_CLASSES:
        return float(same.mean()), None
    one, other = (np.argsort(np.where(np.isnan(side), np.inf, -side), axis=1)[:, :_TOP_K] for side in (left, right))
    shared = (one[:, :, None] == other[:, None, :]).any(axis=2).mean(axis=1)
    return float(same.mean()), float(np.where(spoilt, 0.0, shared).mean())


def _cosine(a: Array, b: Array) -> float | None:
    lengths = float(np.linalg.norm(a) * np.linalg.norm(b))
    if lengths > 0:
        # Rounding may carry a cosine of 1 a little above it.
        return min(1.0, float(np.dot(a, b)) / lengths)
    # A zero vector has no direction; against a reference that has one, nothing agrees.
    return 0.0 if np.any(a) else None


def _correlation(left: Array, right: Array, good: Array) -> float | None:
    mean = np.mean(left, axis=0, where=good) if good.any(axis=0).all() else np.zeros(left.shape[1:])
    a, b = (left - mean)[good], (right - mean)[good]
    scale = float(np.abs(left[good]).max(initial=0.0))
    if float(np.abs(a).max(initial=0.0)) <= 1e-6 * scale:
        return None  # the reference itself does not move
    return _cosine(a, b)


def _by_equality(name: str, left: Array, right: Array) -> OutputFidelity:
    equal = np.asarray(left == right)
    share = float(equal.mean()) if equal.size else 1.0
    numbers = left.dtype.kind in "biu" and right.dtype.kind in "biu" and left.size
    distance = float(np.abs(left.astype(np.float64) - right.astype(np.float64)).max()) if numbers else float(share < 1)
    return OutputFidelity(
        name=name, cosine=None, sqnr_db=None, max_abs=distance, max_rel=1.0 - share, top1_agreement=share
    )


def _joined(outputs: Sequence[Feed], names: Sequence[str]) -> dict[str, Array]:
    """All runs of each output as one array [rows, …]; without those whose sizes differ from run to run."""
    found: dict[str, Array] = {}
    for name in names:
        arrays = [np.asarray(run_[name]) for run_ in outputs]
        if all(array.ndim and array.shape[1:] == arrays[0].shape[1:] for array in arrays):
            found[name] = np.concatenate(arrays)
    return found


def fidelity_of(
    variant_path: str | Path,
    reference_path: str | Path,
    inputs: Feed,
    labels: Array | None = None,
    kind: InputsKind = "synthetic",
    batchable: bool = False,
    threads: int = 1,
    on_progress: Callable[[float, str], None] | None = None,
) -> Fidelity:
    """Fidelity of one graph against another. Each row of `inputs` runs once: some alone, the rest in batches of 32.

    Rows beyond what the reference does in 20 s are left out; `samples` says how many were used. Raises Refused or
    StepFailed when a graph does not load or run.
    """
    reference = open_session(reference_path, threads)
    signature = signature_of(reference)
    layout = row_layout(signature)
    runs = split_runs(signature, inputs)
    if batchable and layout is not None and layout.unit == 1:
        count = row_count(layout, inputs)
        alone = min(_SINGLE_ROWS, -(-count // 2))
        rest = range(alone, count, _BATCH)
        runs = runs[:alone] + [take_rows(layout, inputs, at, min(_BATCH, count - at)) for at in rest]
    expected: list[Feed] = []
    started = time.monotonic()
    for feed in runs:
        expected.append(run(reference, feed))
        if time.monotonic() - started > _BUDGET_SECONDS:
            break
    del reference
    variant = open_session(variant_path, threads)
    got: list[Feed] = []
    for done, feed in enumerate(runs[: len(expected)]):
        got.append(run(variant, feed))
        if on_progress and done % 16 == 0:
            on_progress(done / len(expected), f"{done} of {len(expected)} runs compared")
    runs = runs[: len(expected)]
    sizes = [row_count(layout, feed) for feed in runs]
    count = sum(sizes)
    # One run of labelled samples that do not divide: the rows are somewhere in it.
    used = labels if labels is None or count == 1 else labels[:count]
    if used is None or len(used) == count:
        expected, got = by_row(signature, runs, expected), by_row(signature, runs, got)
    names = [spec.name for spec in signature.outputs]
    return compare(expected, got, names, used, kind, sorted(set(sizes)), count)
