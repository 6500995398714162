"""TensorFlow Lite models, of floats and quantised ones, converted by tf2onnx in the environment of TensorFlow."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from studio.core.errors import InvalidInput, StudioError
from studio.formats.base import ArrivalFiles, Converted, Kit, Recognition
from studio.formats.sniff import head
from studio.formats.tensorflow.tensorflow import import_tensorflow, tensorflow_tools

_MARK = b"TFL3"  # the file identifier of a flatbuffer stands behind its first four bytes


class TfLiteFormat:
    """Recognised by the identifier that every TensorFlow Lite file carries."""

    name = "tflite"
    title = "TensorFlow Lite (.tflite)"
    extra: str | None = "tf"

    def recognise(self, files: ArrivalFiles) -> Recognition | None:
        found = [file for file in files.content if head(file, 8)[4:] == _MARK]
        if len(found) > 1:
            names = ", ".join(file.name for file in found[:5])
            raise InvalidInput(
                f"There are {len(found)} TensorFlow Lite models in this arrival: {names}.",
                "An arrival becomes one version of one model.",
                "Drop each of them alone.",
            )
        return Recognition(model=found[0], detail="TensorFlow Lite model") if found else None

    def convert(self, files: ArrivalFiles, recognition: Recognition, out_dir: Path, kit: Kit) -> Converted:
        path = recognition.model
        kit.report(0.0, "loading TensorFlow")
        import_tensorflow(path, "TensorFlow Lite model")
        from studio.formats._best import best
        from studio.formats.tensorflow._tf_program import OPSETS, first_line, quiet
        from studio.formats.tensorflow._tflite_program import TfLiteProgram

        quiet(kit.threads)
        kit.report(0.3, "loading the model")
        try:
            program = TfLiteProgram.load(path, kit.threads)
        except (StudioError, MemoryError):
            raise
        except Exception as error:  # the interpreter and the reader of flatbuffers raise anything
            raise InvalidInput(
                f"TensorFlow Lite can not load '{path.name}'.",
                f"{first_line(error)}.",
                "Copy it again, or convert it again with the TensorFlow that Studio has (studio environments).",
            ) from error
        # Newest first, since that is what ONNX Runtime fuses best; quantised operators are safest in the older ones.
        opsets = OPSETS if not program.quantised else tuple(sorted(OPSETS))
        offers = [partial(program.to_onnx, path, opset, free) for free in program.freedoms for opset in opsets]
        made = best(offers, program.run, out_dir, kit, program.accepts)
        freed = program.freedoms[made.chosen // len(opsets)]
        return Converted(
            graph=made.graph,
            weights=made.weights,
            cases=made.cases,
            sources=(path,),
            notes=program.notes(made.cases, freed),
            tools=tensorflow_tools(),
            tolerances=program.tolerances(made.cases),
        )


FORMAT = TfLiteFormat()
