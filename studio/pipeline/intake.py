"""Task: an arrival becomes a checked reference graph, or the reason why not."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from studio.core.errors import Refused, StepFailed, StudioError
from studio.core.manifest import CrossValidation, Fidelity, FileRef, Gate, Graph, gates_with
from studio.core.names import REFERENCE_VARIANT
from studio.core.ort_format import HEAD, is_ort
from studio.core.rows import row_layout
from studio.core.settings import GateSettings
from studio.core.tensors import Signature, TensorSpec
from studio.formats.base import Case, Converted
from studio.formats.clock import limit_runs
from studio.formats.onnx.files import parse
from studio.formats.settings.file import ModelSettings, read_settings
from studio.formats.sniff import head
from studio.optimize.base import recipes
from studio.pipeline import facts
from studio.pipeline.arrival import Opened, open_arrival
from studio.pipeline.kit import WorkKit, save_example, save_samples
from studio.pipeline.messages import Elsewhere, IntakeResult, IntakeTask, Progress
from studio.verify.batching import rows_equal
from studio.verify.fidelity import check_alike, compare
from studio.verify.graph_info import describe
from studio.verify.inputs import by_row, row_count, rows_among, valueless_notes, with_classes
from studio.verify.machine import this_machine, tool_versions
from studio.verify.npz import check_npz
from studio.verify.ort_info import describe_ort
from studio.verify.session import Array, Feed, signature_of
from studio.verify.steadiness import non_finite_notes, unsteady, unsteady_note
from studio.verify.verdict import parity_gates

_CHUNK = 8 * 1024 * 1024


def run_intake(task: IntakeTask, report: Progress) -> IntakeResult:
    """Recognise, convert, and compare with the source. Raises StudioError.

    Nothing is written but to `task.out`, and what archives hold beside it.
    """
    return intake(task, opened(task, report), report).result


@dataclass(frozen=True, kw_only=True)
class Taken:
    """An arrival taken in: what is told of it, what was said of it, and what it was run on."""

    result: IntakeResult
    settings: ModelSettings
    kit: WorkKit


def opened(task: IntakeTask, report: Progress) -> Opened:
    """What the arrival of a task is, unpacked where it came in an archive. Raises StudioError."""
    out = Path(task.out)
    out.mkdir(parents=True, exist_ok=True)
    limit_runs(task.first_run_seconds)
    report("recognised", None, "looking at the files")
    paths = tuple(Path(path) for path in task.files)
    found = open_arrival(paths, task.stem, out.parent, lambda detail: report("recognised", None, detail))
    if found.format.extra in task.warm:
        raise Elsewhere(found.format.extra)
    report("recognised", 1.0, found.recognition.detail)
    return found


def intake(task: IntakeTask, found: Opened, report: Progress) -> Taken:
    """Convert and check what was recognised. Raises StudioError."""
    out, files, recognition = Path(task.out), found.files, found.recognition
    settings = read_settings(files.settings, wanted_recipes() if files.settings else None)
    gates = gates_with(task.gates, settings.gates)
    facts.check_signature(settings, recognition.detail)
    if files.samples is not None:
        check_npz(files.samples)  # formats look into it before it is loaded

    def converting(progress: float | None, detail: str) -> None:
        report("converted", progress, detail)

    kit = WorkKit(files.samples, settings, converting, task.threads, task.trusted)
    converted = found.format.convert(files, recognition, out, kit)
    _check_inside(converted, out)
    converted = facts.named(converted, settings, kit.signature)
    report("converted", 1.0, recognition.detail)
    report("checked", 0.1, "comparing with the original")
    session = kit.session(converted.graph)
    declared = signature_of(session)
    outputs = [kit.run_once(session, case.inputs) for case in converted.cases]
    moving = unsteady(session, converted.cases[0].inputs, outputs[0])
    parity = _parity(converted.cases, outputs, declared, kit, moving)
    _check_parity(parity, gates, recognition.detail, settings, converted.tolerances)
    report("checked", 0.7, "comparing the rows of batches with single runs")
    inputs, labels = kit.inputs(declared)
    batchable = rows_equal(session, inputs)
    del session
    signature = Signature(
        inputs=declared.inputs, outputs=_outputs(declared, outputs, converted.cases), batchable=batchable
    )
    labels_found, label_notes = facts.class_labels(settings, (found.class_labels, converted.class_labels), signature)
    labels, word_notes = facts.numbered(labels, labels_found, signature)
    labels, class_notes = with_classes(labels, by_row(declared, [converted.cases[0].inputs], outputs[:1])[0])
    kind = "samples" if kit.kind == "labelled" and labels is None else kit.kind
    preprocessing = facts.preprocessing(settings, signature)
    assets = facts.assets(settings, found.around, files.stem, out / "assets")
    samples = save_samples(out / "samples.npz", inputs, labels)
    example = save_example(out / "example.json", signature, inputs)
    graph = _graph(converted)
    cross_validation, validation_notes = _cross_validation(converted, settings, inputs, labels, report)
    sources = (found.archive,) if found.archive else converted.sources
    beside = (found.dropped.settings, found.dropped.samples)
    report("checked", 1.0, _checked_words(parity))
    result = IntakeResult(
        format=found.format.name,
        signature=signature,
        graph=graph,
        graph_path=str(converted.graph),
        weights_paths=tuple(str(path) for path in converted.weights),
        parity=replace(parity, inputs=kind),
        samples_kind=kind,
        samples_count=max(kit.count(declared, inputs), 0 if labels is None else len(labels)),
        samples_path=str(samples),
        example_path=str(example) if example else "",
        sources=tuple(str(path) for path in (*sources, *beside) if path is not None),
        machine=this_machine(),
        tools={**tool_versions(), **converted.tools},
        title=settings.title,
        description=settings.description,
        tags=settings.tags,
        class_labels=labels_found,
        serve_only=converted.serve_only,
        notes=(
            *found.notes,
            *converted.notes,
            *label_notes,
            *validation_notes,
            *word_notes,
            *class_notes,
            *valueless_notes(kit.loaded),
            *unsteady_note(moving),
            *non_finite_notes([case.outputs for case in converted.cases], parity),
            *(() if moving else _batch_notes(signature)),
        ),
        recipes=settings.recipes,
        gates=settings.gates,
        alias=settings.alias,
        preprocessing=preprocessing,
        asset_paths=tuple(str(path) for path in assets),
        cross_validation=cross_validation,
    )
    return Taken(result=result, settings=settings, kit=kit)


def _cross_validation(
    converted: Converted, settings: ModelSettings, inputs: Feed, labels: Array | None, report: Progress
) -> tuple[CrossValidation | None, tuple[str, ...]]:
    """What the settings ask for, or a note on why it can not be had: it decides nothing, so it stops nothing."""
    wanted = settings.evaluation
    if not wanted.folds:
        return None, ()
    if converted.cross_validate is None:
        return None, ("It was not cross-validated: that can be done with scikit-learn models alone.",)
    if labels is None:
        return None, ("It was not cross-validated: its samples have no labels.",)
    try:
        made = converted.cross_validate(
            inputs, labels, wanted.folds, wanted.seconds, lambda share, detail: report("checked", share, detail)
        )
    except StepFailed as error:
        return None, (f"It was not cross-validated: {error.what.rstrip('.')}.",)
    if made.folds < made.wanted:
        return made, (f"Cross-validation had time for {made.folds} of {made.wanted} folds.",)
    return made, ()


def wanted_recipes() -> tuple[str, ...]:
    """Recipes that settings may ask for: all but the reference, which every version has."""
    return tuple(name for name in recipes() if name != REFERENCE_VARIANT)


def _check_inside(converted: Converted, out: Path) -> None:
    for path in (converted.graph, *converted.weights):
        if path.parent != out or not path.is_file() or path.is_symlink():
            raise Refused("The format's converter wrote outside its folder.", f"It gave {path}.")
    if not converted.cases:
        raise Refused("The format's converter gave no runs of the source to compare with.")


def _parity(
    cases: tuple[Case, ...], outputs: list[Feed], signature: Signature, kit: WorkKit, moving: tuple[str, ...]
) -> Fidelity:
    """Agreement with the source, over the outputs that do not draw random numbers (`moving` ones)."""
    layout = row_layout(signature)
    sizes = sorted({row_count(layout, case.inputs) for case in cases})
    names = [spec.name for spec in signature.outputs]
    feeds, expected = [case.inputs for case in cases], [case.outputs for case in cases]
    check_alike(expected, outputs, names)
    count = sum(row_count(layout, feed) for feed in feeds)
    if layout is not None and kit.loaded is not None:
        count = rows_among(layout, kit.loaded.inputs, feeds)  # batches overlap, and formats add rows of their own
    expected, outputs = by_row(signature, feeds, expected), by_row(signature, feeds, outputs)
    compared = [name for name in names if name not in moving]
    found = compare(expected, outputs, compared, kind=kit.kind, batch_sizes=sizes, samples=count)
    return replace(found, unjudged=0)  # value by value against the source: NaN is compared too


def _check_parity(
    parity: Fidelity, gates: GateSettings, what: str, settings: ModelSettings, tolerances: dict[str, float]
) -> None:
    failed = [gate for gate in parity_gates(parity, gates, tolerances) if not gate.passed]
    if failed:
        worst = parity.worst
        figures = f" Worst output: '{worst.name}', off by up to {worst.max_abs:.3g}." if worst else ""
        raise Refused(
            f"The converted graph does not answer as the original ({what}).",
            f"{'; '.join(_words(gate) for gate in failed)}.{figures}",
            "Drop typical inputs with it (.npz of the same stem), or raise parity_max_rel under [gates] in "
            f"{settings.origin.name or 'a settings file beside it'}."
            if parity.inputs == "synthetic"
            else "It was compared on your own inputs: convert it to ONNX in another way, or change what differs.",
        )


def _words(gate: Gate) -> str:
    return f"{gate.name}: {gate.value:.3g}, but the rule is {gate.rule}" if gate.value is not None else gate.name


def _checked_words(parity: Fidelity) -> str:
    worst = parity.worst
    batches = ", ".join(str(size) for size in parity.batch_sizes)
    return f"answers as the original: off by at most {worst.max_rel:.1e}, batches of {batches}" if worst else "checked"


def _outputs(declared: Signature, outputs: list[Feed], cases: tuple[Case, ...]) -> tuple[TensorSpec, ...]:
    """The declared outputs, their sizes corrected by what was seen: declared shapes lie, and protocols print them."""
    return tuple(_seen(spec, declared, outputs, cases) for spec in declared.outputs)


def _seen(spec: TensorSpec, declared: Signature, outputs: list[Feed], cases: tuple[Case, ...]) -> TensorSpec:
    shapes = [np.shape(out[spec.name]) for out in outputs]
    if any(len(shape) != len(shapes[0]) for shape in shapes):
        return spec
    if len(spec.shape) != len(shapes[0]):
        dims: tuple[int | str, ...] = tuple("?" for _ in shapes[0])
    else:
        dims = tuple(
            dim if isinstance(dim, str) or all(shape[place] == dim for shape in shapes) else "?"
            for place, dim in enumerate(spec.shape)
        )
    layout = row_layout(declared)
    free = layout is not None and layout.unit == 1 and dims and isinstance(dims[0], str)
    if (
        free
        and layout is not None
        and all(shape[0] == row_count(layout, case.inputs) for shape, case in zip(shapes, cases, strict=True))
    ):
        name = next(one.shape[0] for one in declared.inputs if one.name in layout.names)
        dims = (name if isinstance(name, str) and dims[0] == "?" else dims[0], *dims[1:])
    return TensorSpec(spec.name, spec.datatype, dims)


def _batch_notes(signature: Signature) -> tuple[str, ...]:
    declares = any(spec.shape and isinstance(spec.shape[0], str) for spec in signature.inputs)
    if declares and not signature.batchable:
        return (
            "It declares a free leading size, but the rows of a batch were not seen to equal single runs: "
            "requests are not put together into batches.",
        )
    return ()


def _graph(converted: Converted) -> Graph:
    weights = tuple(file_ref(path) for path in converted.weights)
    for path, ref in zip(converted.weights, weights, strict=True):
        if path.name != ref.sha256:
            raise Refused(f"The weights file {path.name} is not named by its content.")
    file = file_ref(converted.graph)
    if is_ort(head(converted.graph, HEAD)):
        return describe_ort(converted.graph, file)
    try:
        model: Any = parse(converted.graph)
    except StudioError as error:
        raise Refused("The converted graph can not be read back.", error.why) from error
    return describe(model, file, weights)


def file_ref(path: Path) -> FileRef:
    """Name, SHA-256 and size of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return FileRef(name=path.name, sha256=digest.hexdigest(), size=path.stat().st_size)
