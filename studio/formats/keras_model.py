"""Keras models, `.keras` and whole-model `.h5`, converted on PyTorch: TensorFlow is not needed."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import shutil
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from studio.core.errors import InvalidInput, NeedsExtra, NeedsSettings, Refused, StepFailed, StudioError
from studio.core.tensors import DATATYPES, TensorSpec
from studio.formats.base import ArrivalFiles, Case, Converted, Kit, Recognition, answered
from studio.formats.keras_config import modernise, without_training
from studio.formats.keras_screen import (
    CONFIG,
    METADATA,
    WEIGHTS,
    Findings,
    check_hdf5,
    findings,
    parse_config,
    read_archive,
)
from studio.formats.pickle_screen import code_file
from studio.formats.sniff import head, zip_names

HDF5 = b"\x89HDF\r\n\x1a\n"
_WINDOW = 8 * 1024 * 1024  # of an .h5, looked through from each end
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
        with _opened(path) as source:
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
            made, notes = _best(program, path, out_dir, kit)
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


@dataclass(frozen=True)
class _Source:
    """A file that Keras can load, and its configuration. `keras2`: the version that wrote it, if that was Keras 2."""

    path: Path
    config: Any
    keras2: str = ""

    @property
    def notes(self) -> tuple[str, ...]:
        return (f"Keras {self.keras2} wrote it; it was read as Keras 3 understands it.",) if self.keras2 else ()


@contextmanager
def _opened(path: Path) -> Iterator[_Source]:
    """The file, looked through for links, bombs and the like; a changed copy where Keras 3 could not read it."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            source = _archive(path, Path(folder)) if head(path, 2) == b"PK" else _hdf5(path, Path(folder))
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
            raise _damaged(path, error) from error
        yield source


def _archive(path: Path, folder: Path) -> _Source:
    import h5py

    config = parse_config(read_archive(path), path)
    changed = without_training(config)
    version = _version(path)
    old = not version.startswith("3.")
    if old:
        modernise(config)
    with zipfile.ZipFile(path) as archive:
        if WEIGHTS in archive.namelist():
            inner = folder / WEIGHTS
            with archive.open(WEIGHTS) as reading, inner.open("wb") as writing:
                shutil.copyfileobj(reading, writing)
            try:
                with h5py.File(inner, "r") as file:
                    check_hdf5(file, path)
            except (OSError, KeyError, RuntimeError) as error:
                raise _damaged(path, error) from error
            inner.unlink()
        if not changed and not old:
            return _named(path, config, folder, ".keras")
        copy = folder / "model.keras"
        with zipfile.ZipFile(copy, "w") as rewritten:
            for member in archive.infolist():
                if member.filename == CONFIG:
                    rewritten.writestr(CONFIG, json.dumps(config))
                else:
                    with archive.open(member) as reading, rewritten.open(member.filename, "w") as writing:
                        shutil.copyfileobj(reading, writing)
    return _Source(copy, config, version if old else "")


def _version(path: Path) -> str:
    """The version of Keras that wrote a `.keras` file, '3.' where it does not tell."""
    with zipfile.ZipFile(path) as archive:
        try:
            told = json.loads(archive.read(METADATA))
        except (ValueError, RecursionError):
            return "3."
    return str(told.get("keras_version", "3.")) if isinstance(told, dict) else "3."


def _hdf5(path: Path, folder: Path) -> _Source:
    import h5py

    try:
        with h5py.File(path, "r") as file:
            check_hdf5(file, path)
            text, version = file.attrs.get("model_config"), _text(file.attrs.get("keras_version")) or "1"
            if text is None:
                raise Refused(
                    f"'{path.name}' holds weights alone, not the model that they belong to.",
                    "There are no layers in it, only their numbers.",
                    "In Python: load them into the model, then model.save('NAME.keras'); drop that file.",
                )
    except (OSError, KeyError, RuntimeError, UnicodeDecodeError) as error:
        raise _damaged(path, error) from error
    config = parse_config(_text(text), path)
    without_training(config)
    if version.startswith("3."):
        return _named(path, config, folder, ".h5")
    modernise(config)
    copy = folder / "model.h5"
    shutil.copyfile(path, copy)
    with h5py.File(copy, "r+") as file:
        file.attrs["model_config"] = json.dumps(config)
    return _Source(copy, config, version)


def _named(path: Path, config: Any, folder: Path, suffix: str) -> _Source:
    """Keras chooses its reader by the suffix, and the arrival may have any name."""
    if path.suffix == suffix:
        return _Source(path, config)
    link = folder / f"model{suffix}"
    link.symlink_to(path.resolve())
    return _Source(link, config)


def _text(value: Any) -> str:
    return value.decode("utf-8") if isinstance(value, bytes) else str(value or "")


def _damaged(path: Path, error: Exception) -> InvalidInput:
    return InvalidInput(
        f"'{path.name}' is a damaged or truncated file.", f"{error}.", "Copy it again, or save the model again."
    )


def _import_keras(path: Path) -> tuple[Any, Any]:
    try:
        import h5py
        import onnxscript

        from studio.formats._keras_program import KerasProgram, is_known

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


def _load(kind: Any, source: _Source, safe: bool, custom: dict[str, Any], kit: Kit) -> Any:
    try:
        return kind.load(source.path, safe, custom, kit.threads, bool(source.keras2))
    except (StudioError, MemoryError):
        raise
    except Exception as error:  # Keras raises anything on what it does not know
        from studio.formats._keras_program import first_line

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


@dataclass(frozen=True)
class _Attempt:
    graph: Path
    weights: tuple[Path, ...]
    cases: tuple[Case, ...]
    agrees: bool


Shapes = list[tuple[int | None, ...]]


def _best(program: Any, path: Path, out_dir: Path, kit: Kit) -> tuple[_Attempt, tuple[str, ...]]:
    """The first conversion that answers as Keras does: free sizes before fixed ones, and the quick exporter first.

    Where none does, the last that could be run: the parity gate then tells its figures. Raises what the first exporter
    said where none gave a graph, NeedsSettings where sizes have to be fixed and nobody said to what.
    """
    declared: Shapes = [one.shape for one in program.inputs]
    given = [_given(one, kit) for one in program.inputs]
    single: Shapes = [(1, *shape[1:]) if shape[:1] == (None,) else shape for shape in given]
    ran: tuple[Shapes, bool] | None = None
    failure: StudioError | None = None
    for shapes in [declared] + [given] * (given != declared) + [single] * (single != given):
        if shapes is single and any(None in shape[1:] for shape in given):
            continue
        for dynamo in _exporters(program, shapes):
            kit.report(0.6, "converting to ONNX" + (" with the newer exporter" if dynamo else ""))
            try:
                attempt = _attempt(program, shapes, dynamo, out_dir, kit)
            except _Disagrees:
                ran = (shapes, dynamo)
                continue
            except StudioError as error:
                failure = failure or error
                continue
            if attempt.agrees:
                return attempt, _sizes_note(declared, shapes)
            ran = (shapes, dynamo)
    free = tuple(one.name for one, shape in zip(program.inputs, given, strict=True) if None in shape[1:])
    if ran is not None and free:
        raise _needs_sizes(path, program, free)
    if ran is not None:
        return _attempt(program, *ran, out_dir, kit), ()
    raise failure or Refused("There are no inputs to run the model on.")


def _exporters(program: Any, shapes: Shapes) -> tuple[bool, ...]:
    """Which exporters to try, False for the older one. One that can not work takes as long to say so."""
    if program.large:
        return (True,)
    return (False,) if program.steps and any(None in shape[1:] for shape in shapes) else (False, True)


class _Disagrees(Exception):
    """The graph failed where the original did not."""


def _attempt(program: Any, shapes: Shapes, dynamo: bool, out_dir: Path, kit: Kit) -> _Attempt:
    from studio.formats._exported import agree, write_model

    graph, weights = write_model(program.to_onnx(shapes, dynamo, out_dir), out_dir)
    signature = kit.signature(graph)
    kit.report(0.8, "running the original")
    failure: StudioError | None = None
    for runs in kit.runs(signature, program.ranges()):
        try:
            cases = answered(program.run, runs)
        except StudioError as error:
            failure = error
            continue
        try:
            answers = kit.run(graph, tuple(case.inputs for case in cases))
        except StudioError as error:
            raise _Disagrees from error
        return _Attempt(graph, weights, cases, agree(cases, answers))
    raise failure or Refused("There are no inputs to run the model on.")


def _given(one: Any, kit: Kit) -> tuple[int | None, ...]:
    """The input's shape with what the user's settings say of its free sizes. Raises InvalidInput."""
    said = kit.settings.inputs.get(one.name)
    if said is None or said.shape is None:
        return tuple(one.shape)
    if len(said.shape) != len(one.shape):
        raise InvalidInput(
            f"{kit.settings.place('inputs', one.name)}: '{one.name}' has {len(said.shape)} sizes.",
            f"The model takes {len(one.shape)}: {[size or 'free' for size in one.shape]}.",
        )
    return tuple(
        size if size is not None or isinstance(told, str) else told
        for size, told in zip(one.shape, said.shape, strict=True)
    )


def _sizes_note(declared: Shapes, shapes: Shapes) -> tuple[str, ...]:
    if shapes == declared:
        return ()
    if any(own[:1] == (None,) and fixed[:1] == (1,) for own, fixed in zip(declared, shapes, strict=True)):
        return ("It takes exactly one row at a time: no graph for any number of rows answered as the original.",)
    return (
        "It takes inputs of exactly the sizes in its settings: a graph for any size did not answer as the original.",
    )


def _needs_sizes(path: Path, program: Any, free: tuple[str, ...]) -> NeedsSettings:
    one = next(one for one in program.inputs if one.name in free)
    example = ", ".join('"batch"' if place == 0 else str(size or 20) for place, size in enumerate(one.shape))
    return NeedsSettings(
        f"The model '{path.stem}' takes inputs of any size, and can only be converted for one.",
        free,
        "Its layers repeat themselves for every step of the input: masked recurrent layers, for example.",
        f"Write {path.stem}.toml beside it: [inputs.{one.name}] and below it shape = [{example}].",
        tuple(
            TensorSpec(
                one.name,
                next((kind for kind, (dtype, _) in DATATYPES.items() if dtype == one.dtype), ""),
                tuple("batch" if place == 0 else size or "?" for place, size in enumerate(one.shape)),
            )
            for one in program.inputs
            if one.name in free
        ),
    )


FORMAT = KerasFormat()
