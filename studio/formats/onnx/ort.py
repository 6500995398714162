"""`.ort` files: graphs that ONNX Runtime wrote in its own format. They are served as they are, and nothing else."""

from __future__ import annotations

import importlib.metadata
import shutil
from pathlib import Path

from studio.core.errors import InvalidInput, Refused, StudioError
from studio.core.ort_format import HEAD, is_ort
from studio.formats.base import ArrivalFiles, Case, Converted, Kit, Recognition
from studio.formats.onnx.interface import several
from studio.formats.onnx.words import did_not_run
from studio.formats.sniff import head

SERVE_ONLY = (
    "An .ort file is a graph that ONNX Runtime has prepared already. It can be run, but neither changed nor turned "
    "back into ONNX: drop the .onnx file that it was made of for smaller or faster variants."
)
_NOTE = (
    "There is no original to compare an .ort file with. It was run twice, in two sessions and on several batches, and "
    "compared with itself."
)


class OrtFormat:
    """Recognised by the FlatBuffers identifier `ORTM` in bytes 4 to 7."""

    name = "ort"
    title = "ONNX Runtime (.ort), to serve only"
    extra: str | None = None

    def recognise(self, files: ArrivalFiles) -> Recognition | None:
        found = [file for file in files.content if is_ort(head(file, HEAD))]
        if len(found) > 1:
            raise several([file.name for file in found], "ONNX Runtime files")
        return Recognition(model=found[0], detail="ONNX Runtime format") if found else None

    def convert(self, files: ArrivalFiles, recognition: Recognition, out_dir: Path, kit: Kit) -> Converted:
        path = recognition.model
        kit.report(0.3, "loading the graph")
        graph = Path(shutil.copyfile(path, out_dir / "model.ort"))
        try:
            signature = kit.signature(graph)
        except StudioError as error:
            if error.__cause__ is None:  # loads, and can not be served: that is said already
                raise
            version = importlib.metadata.version("onnxruntime")
            raise InvalidInput(
                f"ONNX Runtime {version} can not load '{path.name}'.",
                f"It is damaged, or was made for another version: {error.why.rstrip('.')}.",
                "Copy it again, or make it again from the .onnx file with "
                f"python -m onnxruntime.tools.convert_onnx_models_to_ort (onnxruntime {version}).",
            ) from error
        kit.report(0.6, "running the graph")
        first: StudioError | None = None
        sets = 0
        for runs in kit.runs(signature):
            sets += 1
            try:
                answers = kit.run(graph, runs)
            except StudioError as error:
                first = first or error
                continue
            cases = tuple(Case(inputs=feed, outputs=own) for feed, own in zip(runs, answers, strict=True))
            return Converted(graph=graph, cases=cases, sources=(path,), notes=(_NOTE,), serve_only=SERVE_ONLY)
        if first is None:
            raise Refused("There are no inputs to run the model on.")
        names = [spec.name for spec in signature.inputs]
        raise did_not_run(first, sets, files.stem, names) from first.__cause__


FORMAT = OrtFormat()
