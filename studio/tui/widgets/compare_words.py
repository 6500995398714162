"""A comparison in words: how it was measured, what the gates saw, whether B may be promoted and why not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from studio.core.comparison import Comparison
from studio.core.manifest import Gate, Machine
from studio.core.names import PRODUCTION
from studio.core.views import VariantRow, VersionRow
from studio.tui import text
from studio.tui.charts.frame import Line, Run, length, shorten
from studio.tui.charts.scale import value_label

_INPUTS = {
    "labelled": "labelled inputs",
    "samples": "sample inputs",
    "captured": "recorded requests",
    "synthetic": "made-up inputs, drawn from the signature",
}


@dataclass(frozen=True)
class Promotion:
    """Whether an arm may become production. `words` name what would change, or the reason why it can not."""

    enabled: bool
    label: str
    reference: str
    words: str


def variant_of(target: str, versions: Sequence[VersionRow]) -> VariantRow | None:
    """The row of a full reference such as `digits:3-int8`; None where the list does not have it."""
    for version in versions:
        for variant in version.variants:
            if target == f"{version.model}:{version.version}-{variant.variant}":
                return variant
    return None


def candidate_label(comparison: Comparison) -> str:
    """The arm to promote: B, or with more arms the one that is better in the first row that has a better side."""
    if len(comparison.arms) < 2:
        return ""
    others = [arm.label for arm in comparison.arms[1:]]
    return next((row.better for row in comparison.rows if row.better in others), others[0])


def promotion(comparison: Comparison | None, versions: Sequence[VersionRow] = ()) -> Promotion:
    """Whether `p` does something now. Slower is not a reason to refuse: the verdict says so, the user decides."""
    if comparison is None:
        return Promotion(False, "", "", "nothing is compared yet")
    label = candidate_label(comparison)
    if not label:
        return Promotion(False, "", "", "one variant alone was measured")
    arm = next(one for one in comparison.arms if one.label == label)
    reason = _why_not(comparison, label)
    variant = variant_of(arm.target, versions)
    if not reason and variant is not None and PRODUCTION in variant.aliases:
        reason = f"{label} is production already"
    if reason:
        return Promotion(False, label, arm.target, reason)
    model = arm.target.partition(":")[0]
    return Promotion(True, label, arm.target, f"{model}:{PRODUCTION} becomes {arm.target} (asks first)")


def _why_not(comparison: Comparison, label: str) -> str:
    if comparison.state == "queued":
        return "the comparison waits for its turn"
    if comparison.state == "running":
        return f"still measuring, {comparison.elapsed:.0f} of {comparison.plan.seconds:.0f} s"
    if comparison.state == "cancelled":
        return "the comparison was cancelled"
    if comparison.state == "failed" or comparison.problem is not None:
        return "the comparison failed"
    arm = next(one for one in comparison.arms if one.label == label)
    if not arm.requests:
        return f"{label} answered nothing"
    if arm.errors:
        return f"{label} answered {text.plural(arm.errors, 'request')} of {arm.requests} with an error"
    failed = [gate for gate in comparison.gates if not gate.passed]
    if failed:
        more = f", and {len(failed) - 1} more" if len(failed) > 1 else ""
        return f"gate failed: {gate_words(failed[0])}{more}"
    return ""


def gate_words(gate: Gate) -> str:
    """`cosine ≥ 0.99, saw 0.971`; the gate's name only where its rule does not say it."""
    return f"{_rule(gate)}, saw {gate_value(gate.value)}" if gate.value is not None else _rule(gate)


def _rule(gate: Gate) -> str:
    return gate.rule if gate.name.casefold() in gate.rule.casefold() else f"{gate.name}: {gate.rule}"


def gate_value(value: float | None) -> str:
    """Enough digits to tell a share near 1 from 1; never rounded up to it."""
    if value is None or not 0.9 < value < 1:
        return "1" if value == 1 else value_label(value)
    return f"{math.floor(value * 1e5 + 1e-6) / 1e5:.5f}".rstrip("0").rstrip(".")


def gate_table(gates: Sequence[Gate], width: int) -> list[Line]:
    """One gate a line: symbol, rule, what was seen, and a word."""
    if not gates:
        return [(("no gates were set", "label"),)]
    seen = max(4, *(len(gate_value(gate.value)) for gate in gates))
    room = max(4, width - seen - 12)
    names = min(room, max(len(_rule(gate)) for gate in gates))
    lines: list[Line] = [((f"  {'gates':<{names}}  {'saw':>{seen}}", "label"),)]
    for gate in gates:
        mark, word, role = ("✓", "passed", "good") if gate.passed else ("✗", "failed", "bad")
        lines.append(
            (
                (f"{mark} ", role),
                (f"{shorten(_rule(gate), names):<{names}}  ", ""),
                (f"{gate_value(gate.value):>{seen}}  ", "label"),
                (word, role),
            )
        )
    return lines


def gate_lines(gates: Sequence[Gate], width: int) -> list[Line]:
    """As many gates a line as fit: symbol, rule, what was seen."""
    entries: list[list[Run]] = []
    for gate in gates:
        mark, role = ("✓ ", "good") if gate.passed else ("✗ ", "bad")
        words = shorten(("" if gate.passed else "failed: ") + gate_words(gate), max(4, width - 2))
        entries.append([(mark, role), (words, "" if gate.passed else "bad")])
    return flow(entries, width, [("   ", "")])


def promotion_line(state: Promotion, width: int) -> Line:
    """The key and what it would do, or why it does nothing now."""
    if not state.label:
        return (("promote: ", "label"), (shorten(state.words, width - 9), "label"))
    if state.enabled:
        head: list[Run] = [("p ", "good"), (f"promote {state.label}: ", "strong")]
        return (*head, (shorten(state.words, width - length(head)), "label"))
    head = [("p ", "label"), (f"promote {state.label} is off: ", "label")]
    return (*head, (shorten(state.words, width - length(head)), "warn"))


def measured_lines(comparison: Comparison, width: int) -> list[Line]:
    """How it was measured, wrapped between its parts: inputs, clients, duration, slices, threads, machine."""
    plan = comparison.plan
    inputs = _INPUTS[comparison.inputs]
    labels = " ".join(arm.label for arm in comparison.arms)
    seconds = f"{plan.seconds:g} s"
    turns = f" in turns {labels}, {plan.slice_seconds:g} s each" if len(comparison.arms) > 1 else ""
    parts = [
        f"{comparison.samples} {inputs}" if comparison.samples else inputs,
        text.plural(plan.clients, "client"),
        seconds + turns,
        comparison.threads,
        *machine_words(comparison.machine),
    ]
    entries: list[list[Run]] = [[(shorten(part, width), "")] for part in parts]
    head = "measured on " if length(entries[0]) + 12 <= width else ""
    return flow([[(head, "label"), *entries[0]], *entries[1:]], width, [(" · ", "faint")])


def machine_words(machine: Machine | None) -> list[str]:
    if machine is None:
        return ["machine not known yet"]
    return [f"{machine.cpu}, {text.plural(machine.cores, 'core')}, {text.size(machine.memory)}", machine.runtime]


def flow(entries: Sequence[Sequence[Run]], width: int, between: Sequence[Run]) -> list[Line]:
    """Entries one after another, wrapped between them only."""
    lines: list[list[Run]] = []
    for entry in entries:
        if lines and length([*lines[-1], *between, *entry]) <= width:
            lines[-1] += [*between, *entry]
        else:
            lines.append(list(entry))
    return [tuple(line) for line in lines]


def wrap(words: str, width: int, role: str, most: int = 3) -> list[Line]:
    """Words on at most `most` lines; the last one is shortened."""
    lines: list[str] = []
    for word in words.split():
        if (lines and len(lines[-1]) + 1 + len(word) <= width) or len(lines) == most:
            lines[-1] += " " + word
        else:
            lines.append(word)
    return [((shorten(line, width), role),) for line in lines]
