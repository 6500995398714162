"""Task: a settings file for a model, from taking it in without registering it."""

from __future__ import annotations

from pathlib import Path

from studio.core.errors import Problem, Waiting
from studio.formats.settings.file import read_settings
from studio.formats.settings.template import Known, template
from studio.pipeline.arrival import Opened
from studio.pipeline.intake import Taken, intake, opened, wanted_recipes
from studio.pipeline.messages import IntakeTask, Progress, TemplateResult, TemplateTask


def run_template(task: TemplateTask, report: Progress) -> TemplateResult:
    """Recognise, convert and check as for an arrival, and write down what was seen.

    A model that waits for a word of the user gets a file with that question in it. Raises StudioError otherwise.
    """
    arrival = task.arrival
    found = opened(arrival, report)
    try:
        known = _known(arrival, found, intake(arrival, found, report))
    except Waiting as asking:
        known = _asking(arrival, found, asking.problem)
    inside = found.dropped.settings
    return TemplateResult(
        text=template(known),
        format=found.format.name,
        detail=found.recognition.detail,
        problem=known.question,
        settings_inside=_below(inside, arrival) if inside is not None else "",
    )


def _known(task: IntakeTask, found: Opened, taken: Taken) -> Known:
    result = taken.result
    return Known(
        stem=task.stem,
        detail=found.recognition.detail,
        settings=taken.settings,
        inputs=result.signature.inputs,
        outputs=tuple(spec.name for spec in result.signature.outputs),
        class_labels=result.class_labels,
        ranges=taken.kit.bounds(result.signature),
        recipes=wanted_recipes(),
        gates=task.gates,
    )


def _asking(task: IntakeTask, found: Opened, question: Problem) -> Known:
    return Known(
        stem=task.stem,
        detail=found.recognition.detail,
        settings=read_settings(found.files.settings, wanted_recipes()),
        recipes=wanted_recipes(),
        gates=task.gates,
        question=question,
        missing=question.missing_inputs,
        hints=question.hints,
    )


def _below(file: Path, task: IntakeTask) -> str:
    """Where a settings file lies in the folder that was given; empty when it lies beside the model."""
    for path in map(Path, task.files):
        if path.is_dir() and file.is_relative_to(path):
            return f"{path.name}/{file.relative_to(path)}"
    return ""
