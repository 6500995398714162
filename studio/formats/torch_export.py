"""`.pt2` files of torch.export.save: PyTorch programs that carry their graph, weights and example inputs."""

from __future__ import annotations

import importlib.metadata
import zipfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from studio.core.errors import InvalidInput, NeedsExtra, NeedsTrust, Refused, StepFailed, StudioError
from studio.formats.base import Array, ArrivalFiles, Case, Converted, Feed, Kit, Recognition
from studio.formats.onnx_files import INLINE_LIMIT, parse, write_whole
from studio.formats.sniff import zip_names

OPSET = 20
_TOOLS = ("torch", "onnxscript", "onnx")
_AGREE = 1e-3  # of an output's scale: enough to tell a batch that mixes up its rows from rounding


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
        _import_torch(path)
        from studio.formats._torch_program import TorchProgram

        kit.report(0.3, "looking for code in the file")
        program = _load(path, kit, TorchProgram)
        kit.report(0.4, "converting to ONNX")
        notes: list[str] = []
        cases: tuple[Case, ...] | None = None
        relaxed = program.relaxed()
        if relaxed is not None:
            cases = self._relaxed(relaxed, program, out_dir, kit)
            if cases is not None:
                notes.append(
                    f"It was exported for {_rows(program.static_rows)} at a time. The batch was made free, and "
                    "the rows of larger batches were seen to equal the original's."
                )
            else:
                notes.append(f"It takes exactly {_rows(program.static_rows)} at a time, as it was exported.")
        if cases is None:
            kit.report(0.6, "converting to ONNX")
            written = _write(program.to_onnx(OPSET), out_dir)
            cases = _cases(program, written, kit)
        weights = tuple(sorted(child for child in out_dir.iterdir() if len(child.name) == 64))
        tools = {name: importlib.metadata.version(name) for name in _TOOLS}
        return Converted(
            graph=out_dir / "model.onnx",
            weights=weights,
            cases=cases,
            sources=(path,),
            notes=tuple(notes),
            tools=tools,
        )

    def _relaxed(self, relaxed: Any, program: Any, out_dir: Path, kit: Kit) -> tuple[Case, ...] | None:
        """Cases of a graph with the batch made free, or None when its rows are not those of the original."""
        try:
            graph = _write(relaxed.to_onnx(OPSET), out_dir)
            cases = _cases(program, graph, kit)
            outputs = kit.run(graph, tuple(case.inputs for case in cases))
        except StudioError:
            return None
        same = all(_agree(case.outputs, own) for case, own in zip(cases, outputs, strict=True))
        return cases if same and len(cases) > 1 else None


def _rows(count: int) -> str:
    return "one row" if count == 1 else f"{count} rows"


def _is_pt2(path: Path) -> bool:
    names = zip_names(path)
    if names is None:
        return False
    marks = [name for name in names if name.partition("/")[2] == "archive_format"]
    if len(marks) != 1:
        return False
    root = marks[0].partition("/")[0]
    if not any(name.startswith(f"{root}/models/") and name.endswith(".json") for name in names):
        return False
    try:
        with zipfile.ZipFile(path) as archive, archive.open(marks[0]) as mark:
            return mark.read(16).strip() == b"pt2"
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, RuntimeError):
        return False


def _import_torch(path: Path) -> None:
    try:
        import onnxscript
        import torch

        del onnxscript, torch
    except ModuleNotFoundError as error:
        raise NeedsExtra(f"'{path.name}' is a PyTorch program.", "torch") from error
    except (ImportError, OSError) as error:
        raise StepFailed(
            "PyTorch is installed, but can not be loaded.",
            f"{error}.",
            "Reinstall it: pip install 'ort-studio[torch]'.",
        ) from error


def _load(path: Path, kit: Kit, kind: Any) -> Any:
    from studio.formats.pt2_screen import no_pickles, screen

    trusted = False
    try:
        screen(path)
    except NeedsTrust as asking:
        kit.trust(asking.code_files, asking.why)
        trusted = True
    try:
        with nullcontext() if trusted else no_pickles(path):
            return kind.load(path, kit.threads)
    except (StudioError, MemoryError):
        raise
    except Exception as error:  # torch raises anything on a damaged archive
        raise InvalidInput(
            f"PyTorch can not load '{path.name}'.",
            f"{type(error).__name__}: {(str(error).strip() or 'no reason given').splitlines()[0][:400]}.",
            "Save it again with torch.export.save, best with the PyTorch that Studio has.",
        ) from error


def _write(model: Any, out_dir: Path) -> Path:
    graph = out_dir / "model.onnx"
    for old in out_dir.iterdir():
        if len(old.name) == 64:
            old.unlink()
    if model.ByteSize() <= INLINE_LIMIT:
        graph.write_bytes(model.SerializeToString())
        return graph
    import onnx

    onnx.save(model, graph, save_as_external_data=True, location="weights.bin")
    write_whole(parse(graph), out_dir, graph)
    (out_dir / "weights.bin").unlink()
    return graph


def _cases(program: Any, graph: Path, kit: Kit) -> tuple[Case, ...]:
    signature = kit.signature(graph)
    inputs, outputs = [spec.name for spec in signature.inputs], [spec.name for spec in signature.outputs]
    kit.report(0.8, "running the original")
    failure: StudioError | None = None
    for runs in kit.runs(signature, program.ranges(inputs)):
        try:
            return tuple(Case(inputs=feed, outputs=program.run(feed, inputs, outputs)) for feed in runs)
        except StudioError as error:
            failure = error
    raise failure or Refused("There are no inputs to run the model on.")


def _agree(expected: Feed, own: Feed) -> bool:
    return all(name in own and _near(array, own[name]) for name, array in expected.items())


def _near(expected: Array, own: Array) -> bool:
    if expected.shape != own.shape:
        return False
    left, right = expected.astype(np.float64), own.astype(np.float64)
    scale = float(np.max(np.abs(left[np.isfinite(left)]), initial=0.0))
    return bool(np.allclose(left, right, rtol=_AGREE, atol=_AGREE * scale, equal_nan=True))


FORMAT = TorchExportFormat()
