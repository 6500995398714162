"""Keras models, `.keras` and whole-model `.h5`, converted on PyTorch: TensorFlow is not needed."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
from pathlib import Path
from typing import Any

from studio.core.errors import InvalidInput, NeedsExtra, Refused, StepFailed, StudioError
from studio.formats.base import ArrivalFiles, Converted, Kit, Recognition
from studio.formats.keras.choice import best
from studio.formats.keras.open import Source, opened
from studio.formats.keras.screen import CONFIG, METADATA, Findings, findings
from studio.formats.pickles.screen import code_file
from studio.formats.sniff import head, zip_names

HDF5 = b"\x89HDF\r\n\x1a\n"
_WINDOW = 2 * 1024 * 1024  # of an .h5, looked through from each end
# Attributes of a whole model; attributes and groups of weights, as Keras 2 and Keras 3 write them.
_WHOLE = b"model_config"
_WEIGHTS_ALONE = ((b"keras_version",), (b"layer_names",), (b"_layer_checkpoint_dependencies",), (b"layers", b"vars"))
_EXPORT = "In Python: model.export('model.onnx', format='onnx'); then drop model.onnx."
_TOOLS = ("keras", "torch", "onnxscript", "onnx")


class KerasFormat:
    """Recognised by a zip's members, or by the names of attributes in an HDF5 file."""

    name = "keras"
    title = "Keras (.keras, .h5)"
    extra: str | None = "keras"

    def recognise(self, files: ArrivalFiles) -> Recognition | None:
        found = [(file, kind) for file in files.content if (kind := _kind(file))]
        if len(found) > 1:
            names = ", ".join(file.name for file, _ in found[:5])
            raise InvalidInput(
                f"There are {len(found)} Keras models in this arrival: {names}.",
                "An arrival becomes one version of one model.",
                "Drop each of them alone.",
            )
        return Recognition(model=found[0][0], detail=found[0][1]) if found else None

    def convert(self, files: ArrivalFiles, recognition: Recognition, out_dir: Path, kit: Kit) -> Converted:
        path = recognition.model
        kit.report(0.0, "loading Keras")
        program_type, is_known = _import_keras(path)
        kit.report(0.3, "looking for code in the file")
        with opened(path) as source:
            seen = findings(source.config, is_known)
            code = _ask(seen, files, path, kit)
            kit.report(0.4, "building the model")
            program = _load(program_type, source, not seen.code, _custom(code), kit)
            if program.keeps_state:
                raise Refused(
                    "The model keeps a state from one call to the next (a layer with stateful=True).",
                    "Requests to an endpoint are answered each by itself.",
                    "Build it again with stateful=False, set the same weights, and save that.",
                )
            kit.report(0.5, "converting to ONNX")
            made, notes = best(program, path, out_dir, kit)
        return Converted(
            graph=made.graph,
            weights=made.weights,
            cases=made.cases,
            sources=(path, *([code] if code else [])),
            notes=(*source.notes, *notes),
            tools={name: importlib.metadata.version(name) for name in _TOOLS},
        )


def _kind(path: Path) -> str:
    start = head(path, 8)
    if start[:2] == b"PK":
        return "Keras 3 model" if {CONFIG, METADATA} <= set(zip_names(path) or ()) else ""
    if start != HDF5:
        return ""
    with path.open("rb") as file:
        parts = [file.read(_WINDOW)]
        size = path.stat().st_size
        if size > _WINDOW:
            file.seek(max(_WINDOW, size - _WINDOW))
            parts.append(file.read(_WINDOW))
    if any(_WHOLE in part for part in parts):
        return "Keras .h5 model"
    alone = any(all(mark in part for mark in marks) for marks in _WEIGHTS_ALONE for part in parts)
    return "Keras .h5 weights" if alone else ""


def _import_keras(path: Path) -> tuple[Any, Any]:
    try:
        import h5py
        import onnxscript

        from studio.formats.keras._program import KerasProgram, is_known

        del h5py, onnxscript
    except ModuleNotFoundError as error:
        raise NeedsExtra(f"'{path.name}' is a Keras model.", "keras") from error
    except (ImportError, OSError) as error:
        raise StepFailed(
            "Keras is installed, but can not be loaded.",
            f"{error}.",
            "Reinstall it: pip install 'ort-studio[keras]'.",
        ) from error
    return KerasProgram, is_known


def _ask(seen: Findings, files: ArrivalFiles, path: Path, kit: Kit) -> Path | None:
    """Ask about everything that would run. Returns the file of Python code beside the model, where that is needed."""
    beside = [file for file in files.content if file.suffix == ".py" and file.stem == path.stem]
    if seen.foreign and not beside:
        names = ", ".join(seen.foreign[:5])
        raise Refused(
            f"The model is made of classes or functions that are no part of Keras: {names}.",
            "Their code is not in the file.",
            f"Drop '{path.stem}.py', which defines them, beside it; or export it where they are. {_EXPORT}",
        )
    code = beside[0] if seen.foreign else None
    asked = [code_file(path, seen.code)] if seen.code else []
    if code is not None:
        asked.append(code_file(code, seen.foreign))
    if asked:
        why = f"It has {', '.join(seen.code)}. " if seen.code else ""
        kit.trust(tuple(asked), why + (f"'{code.name}' defines {', '.join(seen.foreign)}." if code else ""))
    return code


def _custom(code: Path | None) -> dict[str, Any]:
    """Run the user's file, which was said yes to. Returns the classes and functions that it defines."""
    if code is None:
        return {}
    spec = importlib.util.spec_from_file_location("studio_model_code", code)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise Refused(
            f"'{code.name}' could not be run.", f"{type(error).__name__}: {error}.", "Correct it and drop it again."
        ) from error
    return {
        name: one for name, one in vars(module).items() if callable(one) and getattr(one, "__module__", "") == spec.name
    }


def _load(kind: Any, source: Source, safe: bool, custom: dict[str, Any], kit: Kit) -> Any:
    try:
        return kind.load(source.path, safe, custom, kit.threads, bool(source.keras2))
    except (StudioError, MemoryError):
        raise
    except Exception as error:  # Keras raises anything on what it does not know
        from studio.formats.keras._program import first_line

        text = str(error)
        cause = text.rpartition("Exception encountered:")[2].strip()
        needs_tensorflow = "tensorflow" in text.lower() and "require" in text.lower()
        raise Refused(
            "Keras can not build this model.",
            f"{cause.splitlines()[0][:400].rstrip('.') if cause else first_line(error)}.",
            "Its layers need TensorFlow: in Python, model.export('NAME'), then drop the folder NAME."
            if needs_tensorflow
            else f"Save it again with Keras 3, or export it where it was made. {_EXPORT}",
        ) from error


FORMAT = KerasFormat()
