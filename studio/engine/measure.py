"""What a comparison needs from the engine: targets, samples, gates, and the endpoint to measure through."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from studio.bench.comparison import run_comparison
from studio.core.comparison import Comparison
from studio.core.manifest import Fidelity, Gate, VariantManifest, VersionManifest
from studio.core.settings import ServingSettings
from studio.engine.keep import Keep
from studio.engine.supervisor import Supervisor


class Measure:
    """Runs one comparison through the real endpoint, on the samples of the first arm's version."""

    def __init__(self, keep: Keep, supervisor: Supervisor, settings: ServingSettings) -> None:
        self._keep, self._supervisor, self._settings = keep, supervisor, settings

    async def run(self, comparison: Comparison, on_update: Callable[[Comparison], None]) -> Comparison:
        """The finished comparison. Raises StudioError when it can not be measured."""
        targets = [self._keep.resolve(reference) for reference in comparison.plan.references]
        fidelity: list[Fidelity | None] = []
        gates: list[Gate] = []
        judged: list[int] = []  # rows behind each arm's accuracy
        samples: dict[str, Path | None] = {}
        for target in targets:
            detail = await self._keep.version_detail(target.model, target.version)
            variant = next((one for one in detail.variants if one.variant == target.variant), None)
            fidelity.append(_fidelity(detail.manifest, variant))
            judged.append(variant.fidelity.samples if variant and variant.fidelity else 0)
            if variant and target is not targets[0]:
                gates += [replace(gate, name=f"{target.name} {gate.name}") for gate in variant.verdict.gates]
            file = detail.manifest.samples.file
            samples[target.name] = self._keep.store.blobs.path(file.sha256) if file else None
            machine = detail.manifest.machine
            kind, count = detail.manifest.samples.kind, detail.manifest.samples.count
            if target is targets[0]:
                first = (machine, kind, count)
        machine, kind, count = first
        alone = comparison.plan.clients == 1
        prepared = replace(
            comparison,
            arms=tuple(
                replace(arm, threads=self._settings.threads_of(target.threads if alone else 1))
                for arm, target in zip(comparison.arms, targets, strict=True)
            ),
            fidelity=tuple(fidelity),
            gates=tuple(gates),
            machine=machine,
            inputs=kind,
            samples=count,
        )
        on_update(prepared)
        measured = await run_comparison(prepared, self._supervisor.url, targets, samples, on_update)
        if measured.state != "done" or len(set(samples.values())) > 1:
            return measured  # accuracies on different samples can not be compared
        arms = range(1, len(targets))
        words = " ".join(_accuracy_words(measured, arm, min(judged[0], judged[arm])) for arm in arms)
        return replace(measured, verdict=f"{measured.verdict} {words}".strip())


def _accuracy_words(comparison: Comparison, index: int, count: int) -> str:
    """Whether an arm is more accurate than the first, by the normal interval of two proportions (95 %)."""
    mine, other = comparison.fidelity[0], comparison.fidelity[index]
    if mine is None or other is None or mine.accuracy is None or other.accuracy is None or not count:
        return ""
    spread = math.sqrt(sum(share * (1 - share) / count for share in (mine.accuracy, other.accuracy)))
    gap = other.accuracy - mine.accuracy
    first, label = comparison.arms[0].label, comparison.arms[index].label
    figures = f"{100 * mine.accuracy:.1f} % against {100 * other.accuracy:.1f} % on {count} labelled samples"
    if abs(gap) <= 1.96 * spread:
        return f"{first} and {label} are not distinguishable in accuracy: {figures}."
    return f"{label if gap > 0 else first} is more accurate: {first} {figures.replace('against', f'against {label}')}."


def _fidelity(version: VersionManifest, variant: VariantManifest | None) -> Fidelity | None:
    """Against the source framework: the reference's parity with it, or a variant's agreement with the reference."""
    if variant is None:
        return version.parity
    if variant.is_reference and variant.fidelity is not None:
        return replace(version.parity, accuracy=variant.fidelity.accuracy)
    return variant.fidelity
