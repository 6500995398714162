"""The user's own Python beside weights: found, shown before it runs, and run without leaving what was shown.

A factory is a Python file that defines `model`, a function that returns an nn.Module (or the module itself), and
perhaps `example_inputs` and `dynamic_shapes`. Loading it runs it: every Python file of the arrival is asked about.
"""

from __future__ import annotations

import ast
import importlib.abc
import importlib.machinery
import importlib.util
import linecache
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from studio.core.errors import CodeFile, InvalidInput, Refused, StudioError
from studio.formats.pickles.screen import code_file, shown

FACTORY = "model"
_LARGEST = 4 * 1024 * 1024
_MOST_SHOWN = 60
_TELLING_CALLS = frozenset({"exec", "eval", "compile", "__import__", "open"})
# Files of these names get another one: conversion itself imports what is called so.
_TAKEN = frozenset({*sys.stdlib_module_names, "ml_dtypes", "numpy", "onnx", "onnx_ir", "onnxruntime", "onnxscript"}) | {
    "safetensors",
    "studio",
    "sympy",
    "torch",
}


@dataclass(frozen=True)
class PythonFile:
    """One of the arrival's Python files. `imports` and `defines`: names, from its text alone."""

    path: Path
    module: str
    source: bytes
    imports: tuple[str, ...]
    defines: frozenset[str]

    def as_code(self) -> CodeFile:
        """What to ask about it."""
        return code_file(self.path, self.imports)


@dataclass
class UserCode:
    """The Python files of an arrival. `factory`: the one that defines `model`, None without one."""

    files: tuple[PythonFile, ...] = ()
    factory: PythonFile | None = None
    _loaded: dict[str, ModuleType] = field(default_factory=dict)

    def as_code(self) -> tuple[CodeFile, ...]:
        return tuple(file.as_code() for file in self.files)

    def load(self, file: PythonFile) -> ModuleType:
        """Run a file, once. It may import the others of the arrival. Raises Refused with its line when it fails."""
        if file.module in self._loaded:
            return self._loaded[file.module]
        if not self._loaded:
            _install(_Finder({one.module: one for one in self.files}))
        with telling(file):
            self._loaded[file.module] = importlib.import_module(file.module)
        return self._loaded[file.module]

    def find_class(self, module: str, name: str) -> Any:
        """A class that a pickle names as `module.name`, where the arrival's files define one of that name."""
        ending = module.rpartition(".")[2]
        ranked = sorted(self.files, key=lambda file: (file.module != module, file.module.rpartition(".")[2] != ending))
        for file in ranked:
            if name.partition(".")[0] in file.defines:
                found: Any = self.load(file)
                for part in name.split("."):
                    found = getattr(found, part)
                return found
        raise AttributeError(f"{module}.{name}")

    def defines(self, name: str) -> bool:
        """Whether any file defines a class or function of this name."""
        return any(name.partition(".")[0] in file.defines for file in self.files)


def user_code(content: Sequence[Path], stem: str) -> UserCode:
    """Read the Python files of an arrival without running them. Raises InvalidInput for what is no Python."""
    paths = [path for path in content if path.suffix == ".py"]
    if not paths:
        return UserCode()
    root = min((path.parent for path in paths), key=lambda folder: len(folder.parts))
    files = tuple(_read(path, root) for path in paths)
    factories = [file for file in files if FACTORY in file.defines]
    named = [file for file in factories if file.path.stem == stem]
    if len(named or factories) > 1:
        names = ", ".join(file.path.name for file in named or factories)
        raise InvalidInput(
            f"Several Python files define '{FACTORY}': {names}.",
            "One of them must make the model.",
            f"Call that one {stem}.py.",
        )
    chosen = named or factories
    return UserCode(files, chosen[0] if chosen else None)


def _read(path: Path, root: Path) -> PythonFile:
    source = path.read_bytes()
    if len(source) > _LARGEST:
        raise InvalidInput(f"'{path.name}' is larger than {_LARGEST // 1024**2} MB.", "That is no Python file.")
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = f" in line {error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
        raise InvalidInput(
            f"'{path.name}' is no valid Python{line}.", f"{getattr(error, 'msg', error)}.", "Correct it, drop it again."
        ) from error
    inside = path.relative_to(root).with_suffix("")
    parts = inside.parts[:-1] if inside.name == "__init__" else inside.parts
    names = [part.replace(".", "_") for part in parts or (inside.name,)]
    if names[0] in _TAKEN:
        names[0] = f"arrival_{names[0]}"
    return PythonFile(path, ".".join(names), source, _imports(tree), _defined(tree))


def _imports(tree: ast.Module) -> tuple[str, ...]:
    """Everything that a file imports anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(one.name for one in node.names)
        elif isinstance(node, ast.ImportFrom):
            origin = "." * node.level + (node.module or "")
            found.update(f"{origin}.{one.name}".replace("..", ".") if node.module else one.name for one in node.names)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _TELLING_CALLS:
            found.add(f"builtins.{node.func.id}")
    names = sorted(shown(name) for name in found)
    return tuple(names[:_MOST_SHOWN]) + ((f"and {len(names) - _MOST_SHOWN} more",) if len(names) > _MOST_SHOWN else ())


def _defined(tree: ast.Module) -> frozenset[str]:
    """Names that a file gives at its top: functions, classes, values, and what it imports by name."""
    found: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign):
            found.update(target.id for target in node.targets if isinstance(target, ast.Name))
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found.add(node.target.id)
        elif isinstance(node, ast.ImportFrom):
            found.update(one.asname or one.name for one in node.names)
    return frozenset(found)


class telling:
    """Turns whatever the user's code raises into Refused, with the line of theirs that raised it."""

    def __init__(self, file: PythonFile) -> None:
        self._file = file

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: Any, error: BaseException | None, _trace: Any) -> None:
        if error is None or isinstance(error, StudioError | MemoryError | KeyboardInterrupt | GeneratorExit):
            return
        own = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(self._file.path)]
        line = f" in line {own[-1].lineno}" if own else ""
        text = (str(error).strip() or "no reason given").splitlines()[0][:400]
        missing = isinstance(error, ModuleNotFoundError)
        raise Refused(
            f"'{self._file.path.name}' failed{line}.",
            f"{type(error).__name__}: {text}.",
            "Install that package beside Studio, or drop the missing Python file with it."
            if missing
            else "Correct it, and drop it again. The job's log has the whole traceback.",
        ) from error


def _install(finder: _Finder) -> None:
    """From now on this arrival's files can be imported, and none of an earlier one's."""
    for other in [one for one in sys.meta_path if isinstance(one, _Finder)]:
        sys.meta_path.remove(other)
        for name in other.names:
            sys.modules.pop(name, None)
    for name in finder.names:
        sys.modules.pop(name, None)
    sys.meta_path.insert(0, finder)


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """Imports the arrival's files, and nothing beside them: no compiled files, which nobody was asked about."""

    def __init__(self, files: dict[str, PythonFile]) -> None:
        self._files = files

    @property
    def names(self) -> set[str]:
        return {name.rsplit(".", cut)[0] for name in self._files for cut in range(name.count(".") + 1)}

    def find_spec(self, fullname: str, _path: Any = None, _target: Any = None) -> importlib.machinery.ModuleSpec | None:
        file = self._files.get(fullname)
        if file is not None:
            spec = importlib.machinery.ModuleSpec(
                fullname, self, origin=str(file.path), is_package=file.path.name == "__init__.py"
            )
            spec.has_location = True
            return spec
        if any(name.startswith(f"{fullname}.") for name in self._files):
            return importlib.machinery.ModuleSpec(fullname, None, is_package=True)  # a folder without __init__.py
        return None

    def get_source(self, fullname: str) -> str:
        return self._files[fullname].source.decode("utf-8", "replace")

    def get_code(self, fullname: str) -> Any:
        file = self._files[fullname]
        name = str(file.path)
        # inspect and torch.jit.script read sources through this cache; None for the time: never look at the file.
        linecache.cache[name] = (len(file.source), None, self.get_source(fullname).splitlines(True), name)
        return compile(file.source, name, "exec", dont_inherit=True)

    def is_package(self, fullname: str) -> bool:
        return self._files[fullname].path.name == "__init__.py"
