"""ONNX files, with and without external data. Their source framework is ONNX Runtime without any optimisation.

What serves is the dropped file byte for byte wherever that runs, and can be worked on, as it is. Otherwise the graph is
changed as little as it takes (see onnx_interface, onnx_outputs, onnx_upgrade), and every change is seen to compute the
same as the dropped file and is told in a note.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from studio.core.errors import InvalidInput, Refused, StudioError
from studio.core.tensors import Signature
from studio.formats.base import ArrivalFiles, Bounds, Case, Converted, Feed, Kit, Recognition
from studio.formats.onnx.external_data import check_apart, external
from studio.formats.onnx.files import INLINE_LIMIT, bring_in, parse, write
from studio.formats.onnx.interface import check, several, shaped, tidied
from studio.formats.onnx.outputs import PlainOutputs, axis_of, plain_outputs, plainly, set_axis
from studio.formats.onnx.source import ReferenceSource, RuntimeSource, Source, agree, loads, with_weights
from studio.formats.onnx.upgrade import OLDEST_OPSET, Way, fit_header, stays_words, ways
from studio.formats.onnx.vocabulary import vocabulary
from studio.formats.onnx.words import did_not_run, explained
from studio.formats.sniff import Broken, Field, fields

# ModelProto and OperatorSetIdProto. Source: onnx.proto.
_MODEL_FIELDS = {1: 0, 2: 2, 3: 2, 4: 2, 5: 0, 6: 2, 7: 2, 8: 2, 14: 2, 20: 2, 25: 2, 26: 2}
_IR_VERSION, _GRAPH, _OPSET_IMPORT = 1, 7, 8


class OnnxFormat:
    """Recognised by the outer fields of the protobuf: a plausible IR version, a graph, and nothing foreign."""

    name = "onnx"
    title = "ONNX (.onnx)"
    extra: str | None = None

    def __init__(self, inline_limit: int = INLINE_LIMIT) -> None:
        self._limit = inline_limit

    def recognise(self, files: ArrivalFiles) -> Recognition | None:
        found = [seen for file in files.content if (seen := _recognise(file)) is not None]
        if len(found) > 1:
            raise several([seen.model.name for seen in found], "ONNX models")
        return found[0] if found else None

    def convert(self, files: ArrivalFiles, recognition: Recognition, out_dir: Path, kit: Kit) -> Converted:
        path = recognition.model
        kit.report(0.1, "reading the graph and its weights")
        model = parse(path)
        check(model)
        # Before any runtime sees the file: external data may name any file.
        outside = bool(external(model))
        check_apart(model, path)
        brought = bring_in(model, path.parent, out_dir, self._limit)
        notes = [*fit_header(model), *tidied(model), *shaped(model, kit.settings, files.samples)]
        with _original(path, model, bool(notes), out_dir) as original:
            plain = plain_outputs(model)
            notes += plain.notes
            kit.report(0.4, "running the original without optimisation")
            job = _Job(original, out_dir / "model.onnx", kit, plain, vocabulary(model), files.stem)
            done = job.best(ways(model), unchanged=not outside and not notes)
        return Converted(
            graph=job.graph,
            weights=brought.weights,
            cases=done.cases,
            sources=(path, *brought.sources),
            notes=(*notes, *done.notes),
            class_labels=plain.labels,
        )


@contextmanager
def _original(path: Path, model: Any, declared: bool, out_dir: Path) -> Iterator[Path]:
    """The dropped file; where what it declares had to be put right so far, and nothing that it computes, a copy."""
    if not declared:
        yield path
        return
    copy = out_dir / "original.onnx"
    write(model, copy)
    try:
        yield copy
    finally:
        copy.unlink()


@dataclass(frozen=True)
class _Done:
    cases: tuple[Case, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Job:
    """One model on its way from `original` to `graph`."""

    original: Path
    graph: Path
    kit: Kit
    plain: PlainOutputs
    words: dict[str, tuple[str, ...]]
    stem: str

    def best(self, candidates: Iterator[Way], unchanged: bool) -> _Done:
        """The first way whose graph answers as the original; whether the last one does is the pipeline's to judge."""
        why = ""
        for way, last in _with_last(candidates):
            as_dropped = unchanged and not way.notes
            try:
                signature = self._written(way, as_dropped)
                # What has just been loaded is the dropped file itself.
                source, notes = (RuntimeSource(self.original, self.kit), ()) if as_dropped else self._source(way)
            except StudioError:
                if last:
                    raise
                why = "what the version converter made of it does not run"
                continue
            try:
                runs, answers = self._run(source, signature)
            except StudioError as error:
                if not isinstance(source, ReferenceSource) or not self._runs(signature):
                    raise
                # The graph runs where its definition in Python does not: that lacks something.
                source, notes = self._without_reference(way, error)
                runs, answers = self._run(source, signature)
            axes = self._axes(way.model, signature, runs, answers)
            cases = tuple(
                Case(inputs=feed, outputs=plainly(answer, self.plain, axes))
                for feed, answer in zip(runs, answers, strict=False)  # a slow source answers the first ones only
            )
            notes = (*way.notes, *notes)
            if last or self._agree(cases):
                return _Done(cases, (*notes, stays_words(way.before, why)) if why else notes)
            why = "what the version converter made of it does not answer as the original"
        raise Refused("There is no way to run this model.")

    def _written(self, way: Way, as_dropped: bool) -> Signature:
        if as_dropped:
            # Byte for byte the same file: its hash then says that it is.
            shutil.copyfile(self.original, self.graph)
        else:
            write(way.model, self.graph)
        try:
            return self.kit.signature(self.graph)
        except StudioError as error:
            raise explained(error, way.model) from error.__cause__

    def _source(self, way: Way) -> tuple[Source, tuple[str, ...]]:
        """What runs the original, and a note where that is not ONNX Runtime. Raises Refused where nothing does."""
        runtime = RuntimeSource(self.original, self.kit)
        trouble = loads(self.original, self.kit)
        # ONNX Runtime loads some graphs of older opsets, and then takes their operators for those of opset 7.
        if trouble is None and way.before >= OLDEST_OPSET:
            return runtime, ()
        try:
            source = ReferenceSource(with_weights(parse(self.original), self.original.parent))
        except Refused as error:
            return self._without_reference(way, error)
        return source, (f"It was compared with {source.what}, since ONNX Runtime does not run the dropped file.",)

    def _without_reference(self, way: Way, error: StudioError) -> tuple[Source, tuple[str, ...]]:
        if way.same and not self.plain.notes:
            words = "Nothing here runs the dropped file itself: its graph was compared with itself, unoptimised."
            return RuntimeSource(self.graph, self.kit), (words,)
        raise Refused(
            "The model had to be changed to run, and nothing here runs it unchanged to compare with.",
            f"ONNX Runtime does not run opset {way.before}, nor does onnx.reference run this graph: {error.why}",
            "Export it again with an opset between 13 and 21.",
        ) from error

    def _runs(self, signature: Signature) -> bool:
        """Whether the graph runs on any of the inputs that the original was tried on."""
        for runs in self.kit.runs(signature, dict(self.words)):
            try:
                self.kit.run(self.graph, runs, optimised=False)
            except StudioError:
                continue
            return True
        return False

    def _run(self, source: Source, signature: Signature) -> tuple[tuple[Feed, ...], list[Feed]]:
        """The first set of inputs that the source runs on, and its answers."""
        first: StudioError | None = None
        sets = 0
        bounds: dict[str, Bounds] = dict(self.words)
        for runs in self.kit.runs(signature, bounds):
            sets += 1
            try:
                return runs, source.run(runs)
            except StudioError as error:
                first = first or error
        if first is None:
            raise Refused("There are no inputs to run the model on.")
        raise did_not_run(first, sets, self.stem, [spec.name for spec in signature.inputs]) from first.__cause__

    def _axes(self, model: Any, signature: Signature, runs: tuple[Feed, ...], answers: list[Feed]) -> dict[str, int]:
        if not self.plain.sequences:
            return {}
        rows = [_rows(signature, feed) for feed in runs[: len(answers)]]
        axes = {name: axis_of(name, answers, rows) for name in self.plain.sequences}
        for name, axis in axes.items():
            set_axis(model, name, axis)
        write(model, self.graph)
        return axes

    def _agree(self, cases: tuple[Case, ...]) -> bool:
        try:
            own = self.kit.run(self.graph, tuple(case.inputs for case in cases), optimised=False)
        except StudioError:
            return False
        return all(agree(case.outputs, answer) for case, answer in zip(cases, own, strict=True))


def _with_last(candidates: Iterator[Way]) -> Iterator[tuple[Way, bool]]:
    """Each way, and whether it is the last one."""
    here = next(candidates, None)
    while here is not None:
        ahead = next(candidates, None)
        yield here, ahead is None
        here = ahead


def _rows(signature: Signature, feed: Feed) -> int:
    """Rows of a run: the leading size of the inputs that have a free one; 1 where none has."""
    free = [spec.name for spec in signature.inputs if spec.shape and isinstance(spec.shape[0], str)]
    return len(feed[free[0]]) if free else 1


def _recognise(path: Path) -> Recognition | None:
    seen: set[int] = set()
    opset = 0
    try:
        with path.open("rb") as file:
            end = file.seek(0, 2)
            for field in fields(file, 0, end):
                if _MODEL_FIELDS.get(field.number) != field.wire:
                    return None
                if field.number == _IR_VERSION and not 0 < field.value < 1000:
                    return None
                seen.add(field.number)
                if field.number == _OPSET_IMPORT:
                    opset = max(opset, _opset(file.name, field))
    except Broken as error:
        if error.kind == "truncated" and {_IR_VERSION} <= seen and path.suffix.lower() == ".onnx":
            raise InvalidInput(
                f"'{path.name}' ends in the middle.",
                "It begins as an ONNX file, but a part of it is missing.",
                "Copy it again, wholly.",
            ) from error
        return None
    except OSError as error:
        raise InvalidInput(f"'{path.name}' can not be read.", f"{error.strerror}.") from error
    if not {_IR_VERSION, _GRAPH} <= seen:
        return None
    return Recognition(model=path, detail=f"ONNX, opset {opset}" if opset else "ONNX")


def _opset(name: str, field: Field) -> int:
    """Version of an OperatorSetIdProto of the default domain, 0 for others."""
    with Path(name).open("rb") as file:
        parts = list(fields(file, field.start, field.start + field.length, most=8))
        domains = [part for part in parts if part.number == 1 and part.length]
        return 0 if domains else max((part.value for part in parts if part.number == 2), default=0)


FORMAT = OnnxFormat()
