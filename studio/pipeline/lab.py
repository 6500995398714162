"""Tasks: make a variant and compare it with the reference; then, in a fresh process, measure it and judge it."""

from __future__ import annotations

from pathlib import Path

from studio.core.errors import InvalidInput, NotFound
from studio.formats.onnx.files import parse
from studio.optimize.base import recipes
from studio.pipeline.intake import file_ref
from studio.pipeline.messages import MadeResult, MeasureTask, Progress, VariantResult, VariantTask
from studio.verify.fidelity import fidelity_of
from studio.verify.graph_info import describe
from studio.verify.inputs import LoadedSamples, load_samples
from studio.verify.machine import this_machine, tool_versions
from studio.verify.measure import measure, measure_reference
from studio.verify.session import open_session, signature_of
from studio.verify.verdict import judge, reference_verdict


def run_make(task: VariantTask, report: Progress) -> MadeResult:
    """Apply the recipe and compare the result with the reference. Raises StudioError."""
    out = Path(task.out)
    out.mkdir(parents=True, exist_ok=True)
    known = recipes()
    recipe = known.get(task.recipe)
    if recipe is None:
        raise NotFound(
            f"There is no recipe '{task.recipe}'.",
            f"Known: {', '.join(known)}.",
            "Correct workers.recipes in studio.toml.",
        )
    report("optimised", 0.0, recipe.title)
    reason = recipe.applies(parse(Path(task.reference)))
    if reason:
        report("optimised", 1.0, f"does not apply: {reason}")
        return MadeResult(reason=reason, machine=this_machine(), tools=tool_versions())
    path = out / "model.onnx"
    parameters = recipe.apply(Path(task.reference), path, lambda share, detail: report("optimised", share, detail))
    if not path.is_file() or path.is_symlink():
        raise InvalidInput(f"The recipe '{task.recipe}' wrote no graph.")
    graph = describe(parse(path), file_ref(path))
    report("verified", 0.0, "comparing with the reference")
    samples = _samples(task)
    fidelity = fidelity_of(
        path,
        task.reference,
        samples.inputs,
        samples.labels,
        task.kind,
        task.batchable,
        task.threads,
        lambda share, detail: report("verified", share, detail),
    )
    return MadeResult(
        graph=graph,
        graph_path=str(path),
        fidelity=fidelity,
        parameters=parameters,
        machine=this_machine(),
        tools=tool_versions(),
    )


def run_measure(task: MeasureTask, report: Progress) -> VariantResult:
    """Measure a variant beside its reference, or the reference alone, and judge. Raises StudioError."""
    variant, made = task.variant, task.made
    samples = _samples(variant)

    def measuring(share: float, detail: str) -> None:
        report("measured", share, detail)

    if made is None or made.graph is None or made.fidelity is None:
        alone = measure_reference(variant.reference, samples.inputs, variant.batchable, variant.threads, measuring)
        # Against itself: what is learnt is its accuracy on the labelled samples.
        itself = fidelity_of(
            variant.reference,
            variant.reference,
            samples.inputs,
            samples.labels,
            variant.kind,
            variant.batchable,
            variant.threads,
        )
        return VariantResult(
            verdict=reference_verdict(alone, variant.reference_size),
            fidelity=itself,
            measurement=alone,
            machine=this_machine(),
            tools=tool_versions(),
        )
    measurement = measure(
        made.graph_path, variant.reference, samples.inputs, variant.batchable, variant.threads, measuring
    )
    verdict = judge(
        variant.recipe,
        made.fidelity,
        measurement,
        made.graph.size,
        variant.reference_size,
        variant.reference_measurement,
        variant.gates,
    )
    return VariantResult(
        verdict=verdict,
        graph=made.graph,
        graph_path=made.graph_path,
        fidelity=made.fidelity,
        measurement=measurement,
        parameters=made.parameters,
        machine=made.machine,
        tools=made.tools,
    )


def _samples(task: VariantTask) -> LoadedSamples:
    session = open_session(task.reference, task.threads, optimised=False)
    return load_samples(task.samples, signature_of(session))
