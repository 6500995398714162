"""TensorFlow SavedModels and frozen graphs, converted by tf2onnx in a converter environment of their own."""

from __future__ import annotations

import importlib.metadata
from functools import partial
from pathlib import Path
from typing import Any

from studio.core.errors import InvalidInput, NeedsEnvironment, NeedsSettings, Refused, StepFailed, StudioError
from studio.formats.base import ArrivalFiles, Converted, Kit, Recognition
from studio.formats.pickles.screen import code_file
from studio.formats.settings.file import ModelSettings
from studio.formats.tensorflow.tf_wire import is_graph_def, is_saved_model, operations, reaching

ENVIRONMENT = "tensorflow"
SAVED_MODEL = "TensorFlow SavedModel"
_FROZEN = "TensorFlow frozen graph"
_DISTRIBUTIONS = ("tensorflow-cpu", "tensorflow", "tf2onnx", "onnx")


class TensorFlowFormat:
    """Recognised by the layout of its protobuf messages, whatever the files are called."""

    name = "tensorflow"
    title = "TensorFlow SavedModel, frozen graph (.pb)"
    extra: str | None = "tf"

    def recognise(self, files: ArrivalFiles) -> Recognition | None:
        saved = [file for file in files.content if is_saved_model(file)]
        frozen = [file for file in files.content if not saved and is_graph_def(file)]
        if len(saved) + len(frozen) > 1:
            names = ", ".join(file.name for file in (saved or frozen)[:5])
            raise InvalidInput(
                f"There are {len(saved) + len(frozen)} TensorFlow models in this arrival: {names}.",
                "An arrival becomes one version of one model.",
                "Drop each of them alone.",
            )
        if saved:
            return Recognition(model=saved[0], detail=SAVED_MODEL)
        return Recognition(model=frozen[0], detail=_FROZEN) if frozen else None

    def convert(self, files: ArrivalFiles, recognition: Recognition, out_dir: Path, kit: Kit) -> Converted:
        path, saved = recognition.model, recognition.detail == SAVED_MODEL
        kit.report(0.0, "looking for operations that reach outside")
        found = reaching(operations(path, saved))
        if found:
            why = f"Its graph has operations that read, write or run something outside of it: {', '.join(found)}."
            kit.trust((code_file(path, found),), why)
        kit.report(0.1, "loading TensorFlow")
        import_tensorflow(path, "TensorFlow model")
        from studio.formats._best import best
        from studio.formats.tensorflow._tf_program import OPSETS, TfProgram, first_line, quiet

        quiet(kit.threads)
        kit.report(0.3, "loading the model")
        try:
            program = (_saved_model if saved else _frozen)(TfProgram, path, kit.settings)
        except (StudioError, MemoryError):
            raise
        except Exception as error:  # TensorFlow raises anything on what it can not read
            raise InvalidInput(
                f"TensorFlow can not load '{path.parent.name if saved else path.name}'.",
                f"{first_line(error)}.",
                "Save it again, best with the TensorFlow that Studio has (studio environments).",
            ) from error
        made = best([partial(program.to_onnx, opset) for opset in OPSETS], program.run, out_dir, kit)
        return Converted(
            graph=made.graph,
            weights=made.weights,
            cases=made.cases,
            sources=tuple(files.content) if saved else (path,),
            tools=tensorflow_tools(),
        )


def import_tensorflow(path: Path, what: str) -> None:
    """Raises NeedsEnvironment where TensorFlow is not here, StepFailed where it does not load."""
    try:
        import tensorflow
        import tf2onnx

        del tensorflow, tf2onnx
    except ModuleNotFoundError as error:
        raise NeedsEnvironment(f"'{path.name}' is a {what}.", ENVIRONMENT) from error
    except (ImportError, OSError) as error:
        raise StepFailed(
            "TensorFlow is installed, but can not be loaded.",
            f"{error}.",
            f"Make its environment again: studio environments remove {ENVIRONMENT}, then retry.",
        ) from error


def tensorflow_tools() -> dict[str, str]:
    """The versions of what converts."""
    found: dict[str, str] = {}
    for name in _DISTRIBUTIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _saved_model(kind: Any, path: Path, settings: ModelSettings) -> Any:
    if path.name != "saved_model.pb":
        raise Refused(
            f"'{path.name}' is one file of a SavedModel.",
            "Its variables are in other files, which belong into a folder with it.",
            "Drop the whole folder, with saved_model.pb and variables/ in it.",
        )
    return kind.of_saved_model(path.parent, settings.signature)


def _frozen(kind: Any, path: Path, settings: ModelSettings) -> Any:
    """The graph as the settings describe it: which inputs and outputs, and shapes where it has none of its own."""
    shapes = {
        name: tuple(None if isinstance(size, str) else size for size in one.shape)
        for name, one in settings.inputs.items()
        if one.shape is not None
    }
    try:
        program = kind.of_graph(path, tuple(settings.inputs), settings.outputs, shapes)
    except InvalidInput:
        # Names for the outputs need not be names of nodes.
        program = kind.of_graph(path, tuple(settings.inputs), (), shapes)
    unknown = tuple(one.name for one in program.inputs if one.shape is None)
    if unknown:
        raise NeedsSettings(
            f"'{path.name}' does not tell the shape of what it takes.",
            unknown,
            f"These inputs have none: {', '.join(unknown)}.",
            f'Write {path.stem}.toml beside it: [inputs.{unknown[0]}] and below it shape = ["batch", …].',
        )
    return program


FORMAT = TensorFlowFormat()
