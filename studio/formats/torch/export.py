"""`.pt2` files of torch.export.save: PyTorch programs that carry their graph, weights and example inputs."""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from studio.core.errors import InvalidInput, NeedsTrust, Refused, StudioError
from studio.formats.base import ArrivalFiles, Case, Converted, Kit, Network, Recognition, answered
from studio.formats.sniff import zip_names
from studio.formats.torch.common import OPSET, import_torch, loading, tools
from studio.formats.torch.pt2_screen import compiled


class TorchExportFormat:
    """Recognised by the archive's own mark: a zip with `*/archive_format` = `pt2` and a graph under `*/models/`."""

    name = "torch-export"
    title = "PyTorch torch.export (.pt2)"
    extra: str | None = "torch"

    def recognise(self, files: ArrivalFiles) -> Recognition | None:
        found = [file for file in files.content if _is_pt2(file)]
        if len(found) > 1:
            names = ", ".join(file.name for file in found[:5])
            raise InvalidInput(
                f"There are {len(found)} PyTorch programs in this arrival: {names}.",
                "An arrival becomes one version of one model.",
                "Drop each of them alone.",
            )
        return Recognition(model=found[0], detail="PyTorch exported program") if found else None

    def convert(self, files: ArrivalFiles, recognition: Recognition, out_dir: Path, kit: Kit) -> Converted:
        path = recognition.model
        kit.report(0.0, "loading PyTorch")
        import_torch(f"'{path.name}' is a PyTorch program.")
        from studio.formats.torch import _exported
        from studio.formats.torch._choice import output_shapes
        from studio.formats.torch._program import TorchProgram

        kit.report(0.3, "looking for code in the file")
        program = _load(path, kit, TorchProgram)
        kit.report(0.4, "converting to ONNX")
        notes: list[str] = []
        made: _Made | None = None
        relaxed = program.relaxed()
        if relaxed is not None:
            made = self._relaxed(relaxed, program, out_dir, kit)
            if made is not None:
                notes.append(
                    f"It was exported for {_rows(program.static_rows)} at a time. The batch was made free, and "
                    "the rows of larger batches were seen to equal the original's."
                )
            else:
                notes.append(f"It takes exactly {_rows(program.static_rows)} at a time, as it was exported.")
        elif program.static_rows:
            notes.append(
                f"It takes exactly {_rows(program.static_rows)} at a time, as it was exported; its graph does not let "
                "that be changed. Exported with dynamic_shapes, it would take any number."
            )
        if made is None:
            kit.report(0.6, "converting to ONNX")
            made = _made(program, program, out_dir, kit)
        others = tuple(Case(inputs=feed, outputs=made.model.run(feed)) for feed in program.others(made.model))
        cases = (*made.cases, *others)
        inputs = {spec.name: spec.shape for spec in made.model.signature().inputs}
        _exported.declare(made.proto, inputs, output_shapes(made.model, cases))
        _exported.leave_out_traces(made.proto)
        graph, weights = _exported.write_model(made.proto, out_dir)
        return Converted(
            graph=graph,
            weights=weights,
            cases=made.cases if files.samples is not None else cases,
            sources=(path,),
            notes=tuple(notes),
            tools=tools(),
        )

    def network(self, files: ArrivalFiles, recognition: Recognition, graph: Path, kit: Kit) -> Network:
        path = recognition.model
        kit.report(0.0, "loading PyTorch")
        import_torch(f"'{path.name}' is a PyTorch program.")
        from studio.formats.torch._network import trainable
        from studio.formats.torch._program import TorchProgram

        program = _load(path, kit, TorchProgram)
        signature = kit.signature(graph)
        free = any(isinstance(size, str) for spec in signature.inputs for size in spec.shape[:1])
        relaxed = program.relaxed() if free else None
        return trainable((relaxed or program).model(signature), graph, kit)

    def _relaxed(self, relaxed: Any, program: Any, out_dir: Path, kit: Kit) -> _Made | None:
        """A graph with the batch made free, or None when its rows are not those of the original."""
        from studio.formats.torch._exported import agree

        try:
            made = _made(relaxed, program, out_dir, kit)
            outputs = kit.run(made.graph, tuple(case.inputs for case in made.cases))
        except StudioError:
            return None
        return made if agree(made.cases, outputs) and len(made.cases) > 1 else None


@dataclass(frozen=True)
class _Made:
    """A graph, the original as a model with its names, and runs of the original."""

    proto: Any
    graph: Path
    model: Any
    cases: tuple[Case, ...]


def _made(exported: Any, original: Any, out_dir: Path, kit: Kit) -> _Made:
    from studio.formats.torch._exported import write_model

    proto = exported.to_onnx(OPSET)
    graph, _ = write_model(proto, out_dir)
    model = original.model(kit.signature(graph))
    kit.report(0.8, "running the original")
    failure: StudioError | None = None
    for runs in kit.runs(model.signature(), model.ranges()):
        try:
            return _Made(proto, graph, model, answered(model.run, runs))
        except StudioError as error:
            failure = error
    raise failure or Refused("There are no inputs to run the model on.")


def _rows(count: int) -> str:
    return "one row" if count == 1 else f"{count} rows"


def _is_pt2(path: Path) -> bool:
    """Whether it is one. Raises Refused for a package of compiled code, which is marked as one too."""
    names = zip_names(path)
    if names is None:
        return False
    marks = [name for name in names if name.partition("/")[2] == "archive_format"]
    if len(marks) != 1:
        return False
    root = marks[0].partition("/")[0]
    try:
        with zipfile.ZipFile(path) as archive, archive.open(marks[0]) as mark:
            if mark.read(16).strip() != b"pt2":
                return False
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, RuntimeError, zlib.error, EOFError):
        return False
    if any(name.startswith(f"{root}/data/aotinductor/") for name in names):
        raise compiled(path)
    return any(name.startswith(f"{root}/models/") and name.endswith(".json") for name in names)


def _load(path: Path, kit: Kit, kind: Any) -> Any:
    from studio.formats.torch.pt2_screen import no_pickles, screen

    fix = "Save it again with torch.export.save, best with the PyTorch that Studio has."
    try:
        screen(path)
        with loading(path.name, fix), no_pickles(path):
            return kind.load(path, kit.threads)
    except NeedsTrust as asking:  # of the screen, or of what it has missed
        kit.trust(asking.code_files, asking.why)
    with loading(path.name, fix):
        return kind.load(path, kit.threads)


FORMAT = TorchExportFormat()
