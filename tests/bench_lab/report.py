"""The tables of docs/lab.md: every recipe, every figure, and the choice against the search."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from studio.core.choice import Choice
from studio.core.manifest import Interval, VariantManifest, VersionManifest
from tests.bench_lab.exhaustive import Search

PAGE = Path(__file__).parents[2] / "docs" / "lab.md"
BEGIN, END = "<!-- bench-lab: begin -->", "<!-- bench-lab: end -->"
NONE = "–"


@dataclass(frozen=True)
class Tried:
    """One model: what the lab found and chose, and what the search found. `seconds`: from drop to the last verdict."""

    name: str
    about: str
    version: VersionManifest
    variants: tuple[VariantManifest, ...]
    choice: Choice
    search: Search
    seconds: float

    @property
    def right(self) -> bool:
        return self.choice.variant in self.search.rounds and self.search.among_the_best(self.choice.variant)


def render(found: Sequence[Tried], how: str) -> str:
    """Everything that the run found. `how` says with what options it was measured."""
    machine = found[0].variants[0].machine
    right = sum(one.right for one in found)
    head = (
        f"{found[0].version.created[:10]}, {machine.cpu}, {machine.cores} cores, {machine.runtime}; {how}; load "
        f"average at the end {os.getloadavg()[1]:.1f}."
    )
    words = f"The automatic choice was among the best passing variants for **{right} of {len(found)}** models."
    parts = [head, words, _choices(found)]
    for one in found:
        parts += [f"### {one.name}", f"{one.about[0].upper()}{one.about[1:]}. {one.choice.sentence}", _variants(one)]
        told = [f"- {v.variant}: {v.verdict.sentence}" for v in one.variants if v.measurement is None]
        if told:
            parts.append("\n".join(told))
    return "\n\n".join(parts) + "\n"


def write(text: str) -> None:
    """Put the text between the markers of the page."""
    page = PAGE.read_text(encoding="utf-8")
    before, after = page.partition(BEGIN)[0], page.partition(END)[2]
    PAGE.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{after}", encoding="utf-8")


def _choices(found: Sequence[Tried]) -> str:
    lines = [
        "| model | auto's choice | the search's best | auto behind the best | right | seconds in the lab |",
        "|---|---|---|--:|---|--:|",
    ]
    for one in found:
        known = one.choice.variant in one.search.rounds
        behind = f"{100 * (one.search.behind(one.choice.variant)[0] - 1):.1f} %" if known else NONE
        lines.append(
            f"| {one.name} | {one.choice.variant} | {one.search.best} | {behind} | {'yes' if one.right else '**no**'} "
            f"| {one.seconds:.0f} |"
        )
    return "\n".join(lines)


def _variants(one: Tried) -> str:
    heads = ["variant", "outcome", "size", "p50 ms, batch 1", "speed-up", "rows/s at batch", "search, ms"]
    heads += ["load ms", "memory", "cosine", "SQNR dB", "top-1", "score"]
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * 2}{'--:|' * (len(heads) - 2)}"]
    for variant in one.variants:
        if variant.measurement is None or variant.graph is None:
            continue
        taken = one.search.rounds.get(variant.variant)
        fidelity, measured = variant.fidelity, variant.measurement
        outs = fidelity.outputs if fidelity and not variant.is_reference else ()
        cells = [
            variant.variant,
            variant.verdict.outcome,
            _bytes(variant.graph.size),
            f"{measured.p50:.3g}",
            _interval(measured.speedup),
            f"{measured.throughput:,.0f} at {measured.throughput_batch}".replace(",", " "),
            f"{sorted(taken)[len(taken) // 2]:.3g}" if taken else NONE,
            f"{measured.load_ms:.3g}",
            _bytes(measured.peak_memory),
            _worst([out.cosine for out in outs], ".4f"),
            _worst([out.sqnr_db for out in outs], ".0f"),
            _worst([out.top1_agreement for out in outs], ".3f"),
            _score(variant),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _score(variant: VariantManifest) -> str:
    """Against labels, where there are some."""
    if variant.fidelity is None or variant.fidelity.accuracy is None:
        return NONE
    return f"{100 * variant.fidelity.accuracy:.1f} %"


def _interval(value: Interval | None) -> str:
    return NONE if value is None else f"{value.value:.2f} ({value.low:.2f}–{value.high:.2f})"


def _worst(values: Sequence[float | None], form: str) -> str:
    known = [value for value in values if value is not None]
    return format(min(known), form) if known else NONE


def _bytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.0f} kB"
