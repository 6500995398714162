"""ONNX files, with and without external data. Their source framework is ONNX Runtime without any optimisation."""

from __future__ import annotations

import shutil
from pathlib import Path

from studio.core.errors import InvalidInput, StudioError
from studio.formats.base import ArrivalFiles, Case, Converted, Kit, Recognition
from studio.formats.external_data import external
from studio.formats.onnx_files import Written, parse, write_whole
from studio.formats.sniff import Broken, Field, fields

# ModelProto and OperatorSetIdProto. Source: onnx.proto.
_MODEL_FIELDS = {1: 0, 2: 2, 3: 2, 4: 2, 5: 0, 6: 2, 7: 2, 8: 2, 14: 2, 20: 2, 25: 2, 26: 2}
_IR_VERSION, _GRAPH, _OPSET_IMPORT = 1, 7, 8


class OnnxFormat:
    """Recognised by the outer fields of the protobuf: a plausible IR version, a graph, and nothing foreign."""

    name = "onnx"
    title = "ONNX (.onnx)"
    extra: str | None = None

    def recognise(self, files: ArrivalFiles) -> Recognition | None:
        found = [seen for file in files.content if (seen := _recognise(file)) is not None]
        if len(found) > 1:
            names = ", ".join(seen.model.name for seen in found[:5])
            raise InvalidInput(
                f"There are {len(found)} ONNX models in this arrival: {names}.",
                "An arrival becomes one version of one model.",
                "Drop each of them alone, or in a folder of its own.",
            )
        return found[0] if found else None

    def convert(self, files: ArrivalFiles, recognition: Recognition, out_dir: Path, kit: Kit) -> Converted:
        path = recognition.model
        kit.report(0.1, "reading the graph and its weights")
        model = parse(path)
        if external(model):
            written = write_whole(model, path.parent, out_dir / "model.onnx")
            source = path
        else:
            # Byte for byte the same file: its hash then says that it is.
            written = Written(Path(shutil.copyfile(path, out_dir / "model.onnx")), (), ())
            source = written.graph
        del model
        kit.report(0.5, "running the original without optimisation")
        return Converted(
            graph=written.graph,
            weights=written.weights,
            cases=run_source(source, written.graph, kit),
            sources=(path, *written.sources),
        )


def run_source(source: Path, graph: Path, kit: Kit) -> tuple[Case, ...]:
    """The first set of runs that the unoptimised source accepts. Raises the error of the last set when none does."""
    failure: StudioError | None = None
    for runs in kit.runs(kit.signature(graph)):
        try:
            outputs = kit.run(source, runs, optimised=False)
        except StudioError as error:
            failure = error
            continue
        return tuple(Case(inputs=feed, outputs=out) for feed, out in zip(runs, outputs, strict=True))
    raise failure or InvalidInput("There are no inputs to run the model on.")


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
