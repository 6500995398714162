"""Task: an arrival becomes a checked reference graph, or the reason why not."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from studio.core.errors import InvalidInput, Refused, StudioError
from studio.core.manifest import Fidelity, FileRef, Gate, Graph
from studio.core.settings import GateSettings
from studio.core.tensors import DATATYPES, Signature, TensorSpec
from studio.formats.base import ArrivalFiles, Case, Converted
from studio.formats.onnx_files import parse
from studio.formats.registry import recognise
from studio.formats.settings_file import ModelSettings, read_settings
from studio.pipeline.kit import WorkKit, save_example, save_samples
from studio.pipeline.messages import IntakeResult, IntakeTask, Progress
from studio.verify.batching import rows_equal
from studio.verify.fidelity import compare
from studio.verify.graph_info import describe
from studio.verify.inputs import row_count, row_layout
from studio.verify.machine import this_machine, tool_versions
from studio.verify.session import Feed, open_session, run, signature_of
from studio.verify.verdict import parity_gates

_CHUNK = 8 * 1024 * 1024


def run_intake(task: IntakeTask, report: Progress) -> IntakeResult:
    """Recognise, convert, and compare with the source. Raises StudioError; nothing outside `task.out` is written."""
    out = Path(task.out)
    out.mkdir(parents=True, exist_ok=True)
    files = ArrivalFiles.of(tuple(Path(path) for path in task.files), task.stem)
    report("recognised", None, "looking at the files")
    chosen, recognition = recognise(files)
    settings = read_settings(files.settings)
    report("recognised", 1.0, recognition.detail)

    def converting(progress: float | None, detail: str) -> None:
        report("converted", progress, detail)

    kit = WorkKit(files.samples, settings, converting, task.threads, task.trusted)
    converted = chosen.convert(files, recognition, out, kit)
    _check_inside(converted, out)
    report("converted", 1.0, recognition.detail)
    report("checked", 0.1, "comparing with the original")
    session = open_session(converted.graph, task.threads)
    declared = signature_of(session)
    outputs = [run(session, case.inputs) for case in converted.cases]
    parity = _parity(converted.cases, outputs, declared, kit)
    _check_parity(parity, task.gates, recognition.detail)
    report("checked", 0.7, "comparing the rows of batches with single runs")
    inputs, labels = kit.inputs(declared)
    batchable = rows_equal(session, inputs)
    del session
    signature = Signature(
        inputs=declared.inputs, outputs=_outputs(declared, outputs, converted.cases), batchable=batchable
    )
    _check_labels(settings, signature)
    samples = save_samples(out / "samples.npz", inputs, labels)
    example = save_example(out / "example.json", signature, inputs)
    graph = _graph(converted)
    details = (*converted.notes, *_batch_notes(signature))
    report("checked", 1.0, _checked_words(parity))
    return IntakeResult(
        format=chosen.name,
        signature=signature,
        graph=graph,
        graph_path=str(converted.graph),
        weights_paths=tuple(str(path) for path in converted.weights),
        parity=parity,
        samples_kind=kit.kind,
        samples_count=row_count(row_layout(declared), inputs),
        samples_path=str(samples),
        example_path=str(example) if example else "",
        sources=tuple(str(path) for path in (*converted.sources, files.settings, files.samples) if path is not None),
        machine=this_machine(),
        tools={**tool_versions(), **converted.tools},
        title=settings.title,
        description=settings.description,
        tags=settings.tags,
        class_labels=settings.class_labels or converted.class_labels,
        serve_only=converted.serve_only,
        notes=details,
    )


def _check_inside(converted: Converted, out: Path) -> None:
    for path in (converted.graph, *converted.weights):
        if path.parent != out or not path.is_file() or path.is_symlink():
            raise Refused("The format's converter wrote outside its folder.", f"It gave {path}.")
    if not converted.cases:
        raise Refused("The format's converter gave no runs of the source to compare with.")


def _parity(cases: tuple[Case, ...], outputs: list[Feed], signature: Signature, kit: WorkKit) -> Fidelity:
    layout = row_layout(signature)
    sizes = sorted({row_count(layout, case.inputs) for case in cases})
    names = [spec.name for spec in signature.outputs]
    return compare([case.outputs for case in cases], outputs, names, kind=kit.kind, batch_sizes=sizes)


def _check_parity(parity: Fidelity, gates: GateSettings, what: str) -> None:
    failed = [gate for gate in parity_gates(parity, gates) if not gate.passed]
    if failed:
        worst = parity.worst
        figures = f" Worst output: '{worst.name}', off by up to {worst.max_abs:.3g}." if worst else ""
        raise Refused(
            f"The converted graph does not answer as the original ({what}).",
            f"{'; '.join(_words(gate) for gate in failed)}.{figures}",
            "Drop typical inputs with it (.npz of the same stem), or raise gates.parity_max_rel in studio.toml.",
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


def _check_labels(settings: ModelSettings, signature: Signature) -> None:
    """Raises InvalidInput when class labels can not belong to any output."""
    count = len(settings.class_labels)
    scores = [spec for spec in signature.outputs if len(spec.shape) == 2 and isinstance(spec.shape[1], int)]
    widths = [spec.shape[1] for spec in scores if DATATYPES[spec.datatype][0].startswith("float")]
    widths = [width for width in widths if isinstance(width, int) and width > 1]
    if count and widths and count not in widths and len(widths) == len(signature.outputs):
        raise InvalidInput(
            f"The settings file names {count} class labels.",
            f"The model gives {' or '.join(str(width) for width in widths)} scores.",
            "Give one label for each score, in their order, or leave class_labels out.",
        )


def _graph(converted: Converted) -> Graph:
    weights = tuple(file_ref(path) for path in converted.weights)
    for path, ref in zip(converted.weights, weights, strict=True):
        if path.name != ref.sha256:
            raise Refused(f"The weights file {path.name} is not named by its content.")
    try:
        model: Any = parse(converted.graph)
    except StudioError as error:
        raise Refused("The converted graph can not be read back.", error.why) from error
    return describe(model, file_ref(converted.graph), weights)


def file_ref(path: Path) -> FileRef:
    """Name, SHA-256 and size of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return FileRef(name=path.name, sha256=digest.hexdigest(), size=path.stat().st_size)
