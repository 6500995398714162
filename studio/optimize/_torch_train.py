"""Training a smaller torch module on the rows set apart, towards labels and the original's answers. Imports torch.

Layers of batch normalisation learn their statistics anew; everything else stays in evaluation mode, so that nothing is
drawn at random but the order of rows.
"""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from studio.core.errors import InvalidInput, Refused, StepFailed
from studio.optimize.base import Evidence, Report

_HELD_OUT = 5  # one row in so many is held out, to see when to stop
_FEWEST_HELD_OUT = 8
_BATCH = 32
_NORM = 5.0  # of all gradients together
_DECAY = 1e-4
_TINY = 1e-12

Tensors = tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class Lesson:
    """What to train towards.

    `labels`: the share of the labels in the loss, the rest being the original's answers; 1 looks at labels alone.
    `temperature` softens scores before they are compared (Hinton et al., "Distilling the Knowledge in a Neural
    Network", 2015).
    """

    epochs: int
    rate: float
    labels: float
    temperature: float
    seconds: float
    seed: int

    @property
    def patience(self) -> int:
        """Epochs without progress on the rows held out, after which it stops: many, since the last steps count."""
        return max(8, min(60, self.epochs // 3))


@dataclass(frozen=True)
class Trained:
    """What came of it. `epoch`: the one whose weights were kept, 0 = those before any training.

    `first`, `best`: the loss on the rows held out before training and with the weights that were kept.
    """

    epochs: int
    epoch: int
    why: str
    first: float
    best: float
    seconds: float


class Rows:
    """The rows to train with, what the original answers to them, and which of them are held out."""

    def __init__(self, module: Any, names: tuple[str, ...], evidence: Evidence, seed: int) -> None:
        inputs = evidence.inputs or {}
        count = evidence.rows
        missing = [name for name in names if name not in inputs]
        if missing:
            raise InvalidInput(f"There are no samples for the input '{missing[0]}'.")
        arrays = [torch.from_numpy(np.array(inputs[name], order="C")) for name in names]
        self._inputs = tuple(arrays)
        self._split = tuple(tensor.ndim > 0 and len(tensor) == count for tensor in arrays)
        order = np.random.default_rng(seed).permutation(count)
        held = max(_FEWEST_HELD_OUT, count // _HELD_OUT)
        self.held_out, self.taught = np.sort(order[:held]), np.sort(order[held:])
        self.answers = self._answers(module, count)
        if not any(one.is_floating_point() for one in self.answers):
            raise Refused(
                "The network gives whole numbers alone.",
                "There is nothing in them to train towards: they say which class, and not how near it was.",
                "Let the model give its scores, too.",
            )
        self.main = _main(self.answers)
        self.labels, self.classes = _labels(evidence.labels, self.answers, self.main)

    def take(self, rows: npt.NDArray[Any]) -> Tensors:
        """The inputs of some rows, in the module's order; what has no rows comes whole."""
        index = torch.from_numpy(rows)
        return tuple(
            tensor.index_select(0, index) if split else tensor
            for tensor, split in zip(self._inputs, self._split, strict=True)
        )

    def _answers(self, module: Any, count: int) -> Tensors:
        """The original's outputs [rows, …]. Raises StepFailed where they do not have one entry a row."""
        parts: list[Tensors] = []
        with torch.no_grad():
            for rows in _batches(np.arange(count)):
                parts.append(outputs_of(module, self.take(rows)))
        found = tuple(torch.cat(pieces) for pieces in zip(*parts, strict=True))
        if any(len(tensor) != count for tensor in found):
            raise StepFailed(
                "The original does not give one answer a row.", "It can not be told what to train each row towards."
            )
        return found


def outputs_of(module: Any, inputs: Tensors) -> Tensors:
    """What a module gives, as a tuple. Scalars become rows of their own."""
    answer = module(*inputs)
    return (answer,) if isinstance(answer, torch.Tensor) else tuple(answer)


def _batches(rows: npt.NDArray[Any]) -> Iterator[npt.NDArray[Any]]:
    for start in range(0, len(rows), _BATCH):
        yield rows[start : start + _BATCH]


def _main(answers: Tensors) -> int | None:
    """Which output holds scores [rows, classes]; None where none does."""
    places = [place for place, one in enumerate(answers) if one.ndim == 2 and one.shape[1] > 1]
    return next((place for place in places if answers[place].is_floating_point()), None)


def _labels(labels: npt.NDArray[Any] | None, answers: Tensors, main: int | None) -> tuple[torch.Tensor | None, bool]:
    """Labels to train towards and whether they are classes; None where they are of no use for these outputs."""
    if labels is None or labels.dtype.kind not in "biuf" or labels.ndim != 1:
        return None, False
    whole = bool(np.array_equal(labels, np.round(labels)))
    if main is not None:
        if whole and labels.min() >= 0 and labels.max() < answers[main].shape[1]:
            return torch.from_numpy(labels.astype(np.int64)), True
        return None, False
    values = [one for one in answers if one.is_floating_point() and one.numel() == len(labels)]
    if values and not (whole and set(np.unique(labels)) <= {0, 1}):
        return torch.from_numpy(labels.astype(np.float32)), False
    return None, False


def loss_of(module: Any, rows: Rows, index: npt.NDArray[Any], lesson: Lesson) -> torch.Tensor:
    """The loss over some rows: scores are compared as probabilities and as numbers, every other output as numbers.

    As numbers: mean squared error over the variance of the original's answers. With scores p, q of the original and of
    the student at temperature T: T² KL(p ‖ q), and cross-entropy with the labels.
    """
    answers = outputs_of(module, rows.take(index))
    where = torch.from_numpy(index)
    to_labels = lesson.labels if rows.labels is not None else 0.0
    total = torch.zeros(())
    for place, (own, original) in enumerate(zip(answers, rows.answers, strict=True)):
        if not own.is_floating_point():
            continue
        target = original.index_select(0, where)
        if to_labels < 1:
            total = total + (1 - to_labels) * _apart(own, target, original)
        if place == rows.main and rows.classes:
            soft, own_soft = _log_scores(target, original), _log_scores(own, original)
            if to_labels < 1:
                total = total + (1 - to_labels) * _divergence(soft, own_soft, lesson.temperature)
            if to_labels > 0 and rows.labels is not None:
                total = total + to_labels * functional.nll_loss(
                    own_soft.log_softmax(dim=1), rows.labels.index_select(0, where)
                )
        elif rows.labels is not None and not rows.classes and own.numel() == len(index) and to_labels > 0:
            labels = rows.labels.index_select(0, where)
            total = total + to_labels * _apart(own.reshape(-1), labels, rows.labels)
    return total


def _apart(own: torch.Tensor, target: torch.Tensor, everything: torch.Tensor) -> torch.Tensor:
    scale = everything.float().var(unbiased=False).clamp_min(_TINY)
    return functional.mse_loss(own.float(), target.float()) / scale


def _log_scores(scores: torch.Tensor, original: torch.Tensor) -> torch.Tensor:
    """Scores whose softmax gives probabilities: those of a model that ends in a softmax are turned back."""
    ends = bool((original >= 0).all()) and bool(torch.allclose(original.sum(1), torch.ones(()), atol=1e-2))
    return scores.clamp_min(1e-8).log() if ends else scores


def _divergence(target: torch.Tensor, own: torch.Tensor, temperature: float) -> torch.Tensor:
    return temperature**2 * functional.kl_div(
        (own / temperature).log_softmax(dim=1),
        (target / temperature).log_softmax(dim=1),
        reduction="batchmean",
        log_target=True,
    )


def train(student: Any, rows: Rows, lesson: Lesson, report: Report) -> Trained:
    """Train `student`, which then has the weights that did best on the rows held out.

    Raises StepFailed where the loss is not finite from the start.
    """
    started = time.monotonic()
    torch.manual_seed(lesson.seed)
    shuffle = np.random.default_rng(lesson.seed)
    first = best = _held_out(student, rows, lesson)
    if not np.isfinite(first):
        raise StepFailed(
            "The smaller network can not be trained.", "It answers with NaN or infinity.", "Take out fewer channels."
        )
    kept, epoch_kept, done = copy.deepcopy(student.state_dict()), 0, 0
    weights = [one for one in student.parameters() if one.requires_grad]
    steps = -(-len(rows.taught) // _BATCH)
    optimiser = torch.optim.AdamW(weights, lr=lesson.rate, weight_decay=_DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=max(1, steps * lesson.epochs))
    why = "all epochs done"
    for epoch in range(1, lesson.epochs + 1):
        _learning(student, True)
        losses = []
        for index in _batches(shuffle.permutation(rows.taught)):
            if len(index) > 1 or len(rows.taught) == 1:  # one row has no statistics
                losses.append(_step(student, rows, index, lesson, optimiser, weights))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                schedule.step()
        _learning(student, False)
        done, held = epoch, _held_out(student, rows, lesson)
        if held < best:
            best, epoch_kept, kept = held, epoch, copy.deepcopy(student.state_dict())
        report(
            epoch / lesson.epochs,
            f"epoch {epoch} of {lesson.epochs}: loss {np.mean(losses or [0]):.3g}, on rows held out {held:.3g}",
        )
        if epoch - epoch_kept >= lesson.patience:
            why = f"stopped early: no progress for {lesson.patience} epochs"
            break
        if time.monotonic() - started > lesson.seconds:
            why = f"stopped early: its {lesson.seconds:g} s were over"
            break
    student.load_state_dict(kept)
    return Trained(done, epoch_kept, why, first, best, time.monotonic() - started)


def _step(
    student: Any, rows: Rows, index: npt.NDArray[Any], lesson: Lesson, optimiser: Any, weights: list[Any]
) -> float:
    optimiser.zero_grad()
    loss = loss_of(student, rows, index, lesson)
    if not torch.isfinite(loss):
        return float("inf")  # the weights stay as they are
    loss.backward()
    torch.nn.utils.clip_grad_norm_(weights, _NORM)
    optimiser.step()
    return float(loss.detach())


def _learning(module: Any, on: bool) -> None:
    for part in module.modules():
        if isinstance(part, torch.nn.modules.batchnorm._BatchNorm):
            part.train(on)


def _held_out(student: Any, rows: Rows, lesson: Lesson) -> float:
    """The mean loss over the rows held out."""
    with torch.no_grad():
        parts = [(len(index), float(loss_of(student, rows, index, lesson))) for index in _batches(rows.held_out)]
    total = sum(count * loss for count, loss in parts) / sum(count for count, _ in parts)
    return total if np.isfinite(total) else float("inf")
