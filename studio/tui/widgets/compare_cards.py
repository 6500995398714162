"""The cards on top of a comparison: one for each arm, two lines each."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

from studio.core.comparison import Comparison
from studio.core.names import Reference
from studio.core.views import VersionRow
from studio.tui import text
from studio.tui.charts.frame import Line, Run, fitted, length, shorten
from studio.tui.widgets.compare_words import variant_of

_LEAST = 30  # cells: narrower cards go on a second row


def card_lines(comparison: Comparison, versions: Sequence[VersionRow], width: int) -> list[Line]:
    """All cards, side by side as far as they fit."""
    count = len(comparison.arms)
    if not count or width < 1:
        return []
    across = count if width // count >= _LEAST else min(count, 2)
    share = width // across
    lines: list[Line] = []
    for first in range(0, count, across):
        cards = [_card(comparison, versions, n, share - 1) for n in range(first, min(first + across, count))]
        for row in zip_longest(*cards, fillvalue=()):
            lines.append(tuple(run for part in row for run in fitted(part, share)))
    return lines


def arm_labels(comparison: Comparison) -> list[str]:
    """The shortest names that tell the arms apart: `A fp32`, or `A 3-fp32` where versions differ."""
    targets = [arm.target.partition(":") for arm in comparison.arms]
    variants = [tail.partition("-")[2] or tail for _, _, tail in targets]
    if len(set(variants)) < len(variants):
        variants = [tail for _, _, tail in targets]
    if len(set(variants)) < len(variants):
        variants = [arm.target for arm in comparison.arms]
    return [f"{arm.label} {name}" for arm, name in zip(comparison.arms, variants, strict=True)]


def _card(comparison: Comparison, versions: Sequence[VersionRow], index: int, width: int) -> list[Line]:
    arm = comparison.arms[index]
    role = index % 4
    known = variant_of(arm.target, versions)
    asked = comparison.plan.references[index] if index < len(comparison.plan.references) else ""
    names = list(known.aliases) if known else []
    alias = Reference.parse(asked).alias if ":" in asked else None
    if alias and alias not in names:
        names.append(alias)
    head: list[Run] = [("▌", f"series{role}"), (f"{arm.label} ", f"letter{role}")]
    head.append((shorten(arm.target, width - length(head)), "strong"))
    facts: list[list[Run]] = [[(", ".join(names), "label")]] if names else []
    first = _joined(head, facts, width)
    for word in ("accuracy ", "acc "):
        figures = _figures(comparison, versions, index, word)
        second = _joined([("▌", f"series{role}")], figures, width, start="  ")
        if len(second) > sum(len(entry) for entry in figures):
            break
    return [first, second]


def _figures(comparison: Comparison, versions: Sequence[VersionRow], index: int, word: str) -> list[list[Run]]:
    """Size and accuracy with their difference to A, and errors."""
    arm = comparison.arms[index]
    entries: list[list[Run]] = []
    if arm.errors:
        entries.append([(text.plural(arm.errors, "error"), "bad")])
    sizes, accuracies = (_known(comparison, versions, name) for name in ("size", "accuracy"))
    size, accuracy = sizes[index], accuracies[index]
    if size is not None:
        entry: list[Run] = [(text.size(size), "")]
        if index and sizes[0]:
            change = 100 * (size / sizes[0] - 1)
            entry.append(
                (f" {_signed(change, 0)} %", "good" if change <= -0.5 else "bad" if change >= 0.5 else "label")
            )
        entries.append(entry)
    if accuracy is not None:
        entry = [(word, "label"), (text.share(accuracy), "")]
        if index and accuracies[0] is not None:
            points = 100 * (accuracy - accuracies[0])
            role = "good" if points >= 0.005 else "bad" if points <= -0.005 else "label"
            entry.append((f" {_signed(points, 2)} pt", role))
        entries.append(entry)
    return entries


def _known(comparison: Comparison, versions: Sequence[VersionRow], name: str) -> list[float | None]:
    found: list[float | None] = []
    for index, arm in enumerate(comparison.arms):
        variant = variant_of(arm.target, versions)
        value: float | None = None
        if name == "accuracy":
            fidelity = comparison.fidelity[index] if index < len(comparison.fidelity) else None
            value = fidelity.accuracy if fidelity else None
            if value is None and variant is not None:
                value = variant.accuracy
        elif variant is not None:
            value = float(variant.size)
        found.append(value)
    return found


def _signed(value: float, decimals: int) -> str:
    shown = f"{abs(value):.{decimals}f}"
    return shown if float(shown) == 0 else ("−" if value < 0 else "+") + shown


def _joined(head: Sequence[Run], entries: Sequence[Sequence[Run]], width: int, start: str = "   ") -> Line:
    """The head and as many whole entries as fit."""
    line = list(head)
    for n, entry in enumerate(entries):
        more: list[Run] = [(start if n == 0 else "   ", ""), *entry]
        if length(line) + length(more) <= width:
            line += more
    return tuple(line)
