"""Loading files of torch.save: tensors alone with PyTorch's restricted unpickler, or everything, once trusted."""

from __future__ import annotations

import importlib.util
import pickle
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from studio.core.errors import InvalidInput, Refused
from studio.formats.pickles.screen import shown
from studio.formats.torch._code import UserCode
from studio.formats.torch.archive import beyond, is_pickled
from studio.formats.torch.common import EXPORT_FIX, loading, said

_FIX = "Copy it again, or save it again with torch.save."


def load_plain(path: Path) -> Any:
    """Tensors and containers. None when the file holds more than these. Raises InvalidInput for a damaged file."""
    try:
        with torch.serialization.safe_globals(_harmless()):
            return torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except pickle.UnpicklingError as error:
        if "weights_only" in str(error).lower() or "global" in str(error).lower():
            return None
        raise InvalidInput(f"PyTorch can not load '{path.name}'.", said(error), _FIX) from error
    except Exception as error:  # PyTorch raises anything on a damaged file
        raise InvalidInput(
            f"PyTorch can not load '{path.name}'.", f"{type(error).__name__}: {said(error)}", _FIX
        ) from error


def _harmless() -> list[Any]:
    """Numbers of numpy, which training loops leave in checkpoints. These only ever make arrays of numbers."""
    import numpy as np

    core = __import__("numpy._core.multiarray", fromlist=["scalar"])
    kinds = [getattr(np.dtypes, name) for name in dir(np.dtypes) if name.endswith("DType") and name != "ObjectDType"]
    old = [(getattr(core, name), f"numpy.core.multiarray.{name}") for name in ("scalar", "_reconstruct")]
    return [core.scalar, core._reconstruct, np.ndarray, np.dtype, *kinds, *old]


def load_trusted(path: Path, code: UserCode) -> Any:
    """Everything, running what the file names. Only ever called after the user said yes to this very file."""

    class Unpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            try:
                return super().find_class(module, name)
            except (ImportError, AttributeError):
                try:
                    return code.find_class(module, name)
                except AttributeError:
                    raise missing_class(path, f"{module}.{name}", code) from None

    def load(file: Any, **more: Any) -> Any:
        return Unpickler(file, **more).load()

    stand_in = SimpleNamespace(__name__="pickle", Unpickler=Unpickler, load=load)
    with loading(path.name, _FIX):
        if is_pickled(path):
            with path.open("rb") as file:
                return load(file)
        return torch.load(path, map_location="cpu", weights_only=False, pickle_module=stand_in)


def check_classes(path: Path, imports: tuple[str, ...], code: UserCode) -> None:
    """Raises Refused for a class that trusting the file would not bring: so it can be told before anybody is asked."""
    for name in beyond(imports):
        module, _, kind = name.rpartition(".")
        if " " in name or not module:  # an oddity in words
            continue
        defined = code.defines(kind) or code.defines(module.rpartition(".")[2])
        if not defined and (module == "__main__" or not _installed(module)):
            raise missing_class(path, name, code)


def _installed(module: str) -> bool:
    """Whether a module could be imported, found without importing any package around it."""
    parts = module.split(".")
    try:
        spec = importlib.util.find_spec(parts[0])
    except (ImportError, ValueError):
        return False
    if spec is None or len(parts) == 1 or parts[0] in (*sys.stdlib_module_names, "torch", "numpy"):
        return spec is not None
    folders = [Path(place).joinpath(*parts[1:-1]) for place in spec.submodule_search_locations or ()]
    return any((folder / parts[-1]).is_dir() or any(folder.glob(f"{parts[-1]}.*")) for folder in folders)


def missing_class(path: Path, name: str, code: UserCode) -> Refused:
    """The words for a class that neither the arrival's Python nor an installed package defines."""
    module, _, kind = name.rpartition(".")
    beside = f"{', '.join(file.path.name for file in code.files)} does not define it." if code.files else ""
    package = module.partition(".")[0]
    other = (
        "" if module == "__main__" else f" If {package} is a package, install it beside Studio: pip install {package}."
    )
    return Refused(
        f"'{path.name}' is an object of the class {shown(name)}, which is not found.",
        f"A pickled module holds its weights, and only the name of its code. {beside}".strip(),
        f"Drop the Python file that defines {shown(kind)} with it, as {path.stem}.py.{shown(other)} {EXPORT_FIX}",
    )
