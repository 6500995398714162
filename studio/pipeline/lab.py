"""Tasks: make a variant and compare it with the reference; then, in a fresh process, measure it and judge it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from studio.core.errors import InvalidInput, NotFound
from studio.core.manifest import Fidelity, Verdict
from studio.core.recipe import OptionValue, Step
from studio.core.rows import row_layout
from studio.core.tensors import Signature
from studio.formats.onnx.files import parse
from studio.optimize.base import Evidence, Given, Module, Recipe, Work, recipes
from studio.pipeline.intake import file_ref
from studio.pipeline.messages import MadeResult, MeasureTask, Progress, VariantResult, VariantTask
from studio.pipeline.modules import module_of
from studio.verify.evidence import FEWEST_ROWS, Split, split
from studio.verify.fidelity import fidelity_of
from studio.verify.graph_info import describe
from studio.verify.inputs import LoadedSamples, load_samples, row_count, split_runs
from studio.verify.layers import layer_errors, worth_looking
from studio.verify.machine import this_machine, tool_versions
from studio.verify.measure import measure, measure_reference
from studio.verify.session import open_session, signature_of
from studio.verify.verdict import judge, judge_fidelity, reference_verdict

_RUN_ROWS = 16


def run_make(task: VariantTask, report: Progress) -> MadeResult:
    """Apply the plan's recipes one after the other, unless there is a graph already, and compare the result with the
    reference. Raises StudioError.
    """
    out = Path(task.out)
    out.mkdir(parents=True, exist_ok=True)
    samples, signature = _samples(task)
    evidence = _evidence(samples, task, signature)
    parameters: dict[str, str] = {}
    tools = tool_versions(*(name for step in task.plan.steps for name in _recipe(step).tools))
    module = module_of(task, lambda detail: report("optimised", None, detail))
    graph_path = Path(task.reference)
    if task.graph:
        graph_path = Path(shutil.copyfile(task.graph, out / "model.onnx"))
    for number, step in enumerate(() if task.graph else task.plan.steps):
        recipe = _recipe(step)
        report("optimised", number / len(task.plan.steps), recipe.title)
        model, given = parse(graph_path), _given(samples, task, signature, module if number == 0 else None)
        reason = recipe.applies(model, given)
        if reason:
            report("optimised", 1.0, f"does not apply: {reason}")
            words = reason if len(task.plan.steps) == 1 else f"{recipe.name}: {reason}"
            wants = recipe.wants_samples(model, given)
            return MadeResult(reason=words, wants_samples=wants, machine=this_machine(), tools=tools)
        made = out / ("model.onnx" if number + 1 == len(task.plan.steps) else f"step-{number}.onnx")
        options = recipe.settings(step.options)
        used = {name: _words(of) for name, of in options.items() if of != ()} | recipe.apply(
            Work(
                src=graph_path,
                out=made,
                report=_share(report, number, len(task.plan.steps)),
                options=options,
                evidence=evidence,
                judge=_judge(task, samples.apart),
                threads=task.threads,
                module=module if number == 0 else None,  # what a step has made has none any more
            )
        )
        if not made.is_file() or made.is_symlink():
            raise InvalidInput(f"The recipe '{recipe.name}' wrote no graph.")
        parameters |= used if len(task.plan.steps) == 1 else {f"{recipe.name}: {name}": of for name, of in used.items()}
        graph_path = made
    graph = describe(parse(graph_path), file_ref(graph_path))
    report("verified", 0.0, "comparing with the reference")
    fidelity = _fidelity(task, graph_path, samples.judged, lambda share, detail: report("verified", share, detail))
    passed = judge_fidelity(task.plan.name, fidelity, task.gates).outcome == "keep"
    trained = any(_recipe(step).trains for step in task.plan.steps)
    if not trained and worth_looking((out.sqnr_db for out in fidelity.outputs), passed):
        report("verified", 1.0, "looking for the layer where it breaks")
        fidelity = replace(
            fidelity, layers=layer_errors(graph_path, task.reference, samples.judged.inputs, task.threads)
        )
    return MadeResult(
        graph=graph,
        graph_path=str(graph_path),
        fidelity=fidelity,
        parameters=parameters,
        machine=this_machine(),
        tools=tools,
    )


def _given(samples: Split, task: VariantTask, signature: Signature, module: Module | None) -> Given:
    # Samples of which none can be set apart are too few: a recipe must be able to say how many there are.
    usable = samples.apart or samples.judged
    rows = 0 if task.kind == "synthetic" else row_count(row_layout(signature), usable.inputs)
    if samples.apart is None and rows >= FEWEST_ROWS:
        rows = 0  # they do not divide, or are one batch
    return Given(kind=task.kind, rows=rows, module=module is not None)


def _words(value: OptionValue) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(value) if isinstance(value, tuple) else str(value)


def _recipe(step: Step) -> Recipe:
    known = recipes()
    if step.recipe not in known:
        raise NotFound(
            f"There is no recipe '{step.recipe}'.",
            f"Known: {', '.join(known)}.",
            "Correct workers.recipes in studio.toml.",
        )
    return known[step.recipe]


def _share(report: Progress, number: int, count: int) -> Callable[[float, str], None]:
    return lambda share, detail: report("optimised", (number + share) / count, detail)


def _evidence(samples: Split, task: VariantTask, signature: Signature) -> Evidence:
    if samples.apart is None:
        return Evidence()
    inputs = samples.apart.inputs
    runs = split_runs(signature, inputs, _RUN_ROWS if task.batchable else 1)
    return Evidence(kind=task.kind, inputs=inputs, runs=tuple(runs), labels=samples.apart.labels)


def _judge(task: VariantTask, apart: LoadedSamples | None) -> Callable[[Path], Verdict] | None:
    """What a recipe may steer by: the gates on fidelity, on the rows it was given."""
    if apart is None:
        return None
    return lambda path: judge_fidelity(path.stem, _fidelity(task, path, apart), task.gates)


def _fidelity(
    task: VariantTask,
    path: Path | str,
    samples: LoadedSamples,
    report: Callable[[float, str], None] | None = None,
) -> Fidelity:
    return fidelity_of(
        path, task.reference, samples.inputs, samples.labels, task.kind, task.batchable, task.threads, report
    )


def run_measure(task: MeasureTask, report: Progress) -> VariantResult:
    """Measure a variant beside its reference, or the reference alone, and judge. Raises StudioError."""
    variant, made = task.variant, task.made
    samples = _samples(variant)[0].judged

    def measuring(share: float, detail: str) -> None:
        report("measured", share, detail)

    how = (samples.inputs, variant.batchable, variant.threads, measuring, variant.measure_seconds)
    if made is None or made.graph is None or made.fidelity is None:
        alone = measure_reference(variant.reference, *how)
        # Against itself: what is learnt is its accuracy on the labelled samples.
        itself = _fidelity(variant, variant.reference, samples)
        return VariantResult(
            verdict=reference_verdict(alone, variant.reference_size),
            fidelity=itself,
            measurement=alone,
            machine=this_machine(),
            tools=tool_versions(),
        )
    measurement = measure(made.graph_path, variant.reference, *how)
    verdict = judge(
        variant.plan.name,
        made.fidelity,
        measurement,
        made.graph.size,
        variant.reference_size,
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


def _samples(task: VariantTask) -> tuple[Split, Signature]:
    signature = signature_of(open_session(task.reference, task.threads, optimised=False))
    return split(load_samples(task.samples, signature), task.kind, signature), signature
