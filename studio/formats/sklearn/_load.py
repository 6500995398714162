"""Loading pickles of scikit-learn estimators, plain or as joblib writes them, after they were looked through.

The unpickler is Python's own one (the machine that looks through a pickle reads frames and opcodes as it does), and
imports nothing but what the look allowed. Imports scikit-learn through the names of the pickle.
"""

from __future__ import annotations

import collections
import importlib
import pickle
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import numpy as np

from studio.core.errors import InvalidInput, Refused, StudioError
from studio.formats.pickles._values import Name
from studio.formats.pickles.screen import shown

_WRAPPER = ("joblib.numpy_pickle", "NumpyArrayWrapper")
_PIECE = 16 * 1024 * 1024
_Python: Any = pickle._Unpickler  # the one in C can not be told to read arrays
# Classes of scikit-learn that newer ones do not have, and what holds the same content.
_GONE: dict[tuple[str, str], Any] = {
    ("sklearn.compose._column_transformer", "_RemainderColsList"): collections.UserList,
}


@dataclass(frozen=True)
class Loaded:
    """An object out of a file, and what the libraries said while it was loaded: each text once."""

    model: Any
    said: tuple[warnings.WarningMessage, ...]


def load(path: Path, file: BinaryIO, allowed: frozenset[Name] | None, saved_with: str) -> Loaded:
    """Unpickle a file. `allowed`: all that may be imported; None when the user said yes to everything in it.

    `path` and `saved_with` (the version of scikit-learn, "" where the file does not say) are for the words. Raises
    InvalidInput, or Refused when what is installed does not fit to it.
    """
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            model = _Unpickler(file, allowed).load()
        except (StudioError, MemoryError, RecursionError):
            raise
        except (ImportError, AttributeError) as error:
            raise _lacking(path, error, saved_with) from error
        except Exception as error:  # whatever the objects' own code makes of their state
            raise _failed(path, error, saved_with) from error
    return Loaded(model, tuple({str(one.message): one for one in said}.values()))


def _versions(saved_with: str) -> str:
    import sklearn

    saved = f"It was saved with scikit-learn {saved_with}" if saved_with else "It does not say what it was saved with"
    return f"{saved}; {sklearn.__version__} is installed."


def _lacking(path: Path, error: Exception, saved_with: str) -> Refused:
    module = getattr(error, "name", None) or ""
    root = str(module).partition(".")[0]
    if isinstance(error, ModuleNotFoundError) and root and root != "sklearn":
        return Refused(
            f"'{path.name}' needs the Python package '{shown(root)}'.",
            "An object in it is of that package, which is not installed where Studio runs.",
            "Install it beside Studio and retry, or save the model without it.",
        )
    return does_not_fit(path, str(error), saved_with)


def does_not_fit(path: Path, why: str, saved_with: str) -> Refused:
    """What to say where another version of scikit-learn saved a file."""
    return Refused(
        f"'{path.name}' does not fit to the installed scikit-learn.",
        f"{_versions(saved_with)} {shown(why)}.",
        _again(saved_with),
    )


def _failed(path: Path, error: Exception, saved_with: str) -> StudioError:
    import sklearn

    why = f"{type(error).__name__}: {shown(str(error).strip() or 'no reason given')}."
    if saved_with and saved_with != sklearn.__version__:
        return does_not_fit(path, why.rstrip("."), saved_with)
    return InvalidInput(f"'{path.name}' can not be loaded.", why, "Save it again, and drop that.")


def _again(saved_with: str) -> str:
    import sklearn

    return (
        f"Load it with scikit-learn {saved_with or 'of the version that saved it'} and train or save it again with "
        f"{sklearn.__version__}; or convert it there with skl2onnx and drop the .onnx file."
    )


class _RawArray:
    """Stands for joblib's NumpyArrayWrapper: says how to read the bytes behind it."""

    subclass: Any
    shape: tuple[int, ...]
    order: str
    dtype: Any
    numpy_array_alignment_bytes: int | None = None

    def read(self, unpickler: _Unpickler) -> Any:
        """Source: joblib/numpy_pickle.py, NumpyArrayWrapper.read_array."""
        if self.dtype.hasobject:
            # Its names are looked up as those of the outer pickle: the same are allowed.
            inner = _Python(unpickler.file)
            inner.find_class = unpickler.find_class
            return inner.load()
        if self.numpy_array_alignment_bytes is not None:
            unpickler.file.read(unpickler.file.read(1)[0])
        count = int(np.prod([int(size) for size in self.shape], dtype=np.int64))
        array = np.empty(count, dtype=self.dtype)
        piece = max(1, _PIECE // max(1, self.dtype.itemsize))
        for start in range(0, count, piece):
            part = array[start : start + piece]
            data = unpickler.file.read(part.nbytes)
            part[:] = np.frombuffer(data, dtype=self.dtype, count=len(part))
        array = array.reshape(self.shape[::-1]).transpose() if self.order == "F" else array.reshape(self.shape)
        foreign_order = ">" if sys.byteorder == "little" else "<"
        return array.byteswap().view(array.dtype.newbyteorder("=")) if self.dtype.byteorder == foreign_order else array


class _Unpickler(_Python):  # type: ignore[misc]
    dispatch: ClassVar[dict[int, Any]] = dict(_Python.dispatch)

    def __init__(self, file: BinaryIO, allowed: frozenset[Name] | None) -> None:
        super().__init__(file)
        self.file, self._allowed = file, allowed

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == _WRAPPER:
            return _RawArray
        if self._allowed is not None and Name(*_new_names(module, name, self.proto)) not in self._allowed:
            raise InvalidInput(f"The pickle names {shown(f'{module}.{name}')}, which it was not seen to name.")
        if (module, name) in _GONE and not hasattr(importlib.import_module(module), name):
            return _GONE[module, name]
        return super().find_class(module, name)

    def load_build(self) -> None:
        _check_booster(self.stack[-2], self.stack[-1])
        super().load_build()
        made = self.stack[-1]
        if isinstance(made, _RawArray):
            self.stack[-1] = made.read(self)
        else:
            _check_places(made)

    dispatch[pickle.BUILD[0]] = load_build


def _new_names(module: str, name: str, proto: int) -> tuple[str, str]:
    import _compat_pickle

    if proto >= 3:
        return module, name
    return _compat_pickle.NAME_MAPPING.get((module, name)) or (
        _compat_pickle.IMPORT_MAPPING.get(module, module),
        name,
    )


def _check_places(made: Any) -> None:
    """Raises ValueError when places in an array, which compiled code follows blindly, lead out of it."""
    module, kind = type(made).__module__, type(made).__name__
    if module.startswith("scipy.sparse."):
        made.check_format(full_check=True)
    elif (module, kind) == ("sklearn.tree._tree", "Tree"):
        inner = made.children_left != -1
        _check_branches(inner, made.children_left, made.children_right)
        if not ((made.feature[inner] >= 0) & (made.feature[inner] < made.n_features)).all():
            raise ValueError("a tree in it asks for a column that is not there")
    elif kind == "TreePredictor":
        nodes = made.nodes
        inner = nodes["is_leaf"] == 0
        _check_branches(inner, nodes["left"].astype(np.int64), nodes["right"].astype(np.int64))
        sets = nodes["bitset_idx"][inner & (nodes["is_categorical"] != 0)]
        if (nodes["feature_idx"][inner] < 0).any() or (sets >= len(made.raw_left_cat_bitsets)).any():
            raise ValueError("a tree in it asks for a column that is not there")
    elif module in ("sklearn.neighbors._kd_tree", "sklearn.neighbors._ball_tree"):
        _check_neighbours(*made.get_arrays())


def _check_booster(made: Any, state: Any) -> None:
    """Look through the model that a booster hands to its library, which crashes on most damaged ones."""
    root, kind = type(made).__module__.partition(".")[0], type(made).__name__
    if kind != "Booster" or not isinstance(state, dict):
        return
    if root == "xgboost" and state.get("handle") is not None:
        from studio.formats.boosters._xgboost_file import check_state

        check_state(bytes(state["handle"]))
    elif root == "lightgbm":
        from studio.formats.boosters._lightgbm_file import parse

        text = state.get("_handle", state.get("handle"))
        if text is not None:
            parse("Booster in this pickle", text.encode())


def _check_branches(inner: Any, left: Any, right: Any) -> None:
    """Children stand behind their parent, which also rules out circles."""
    count = np.arange(len(inner))
    for children in (left, right):
        if not ((children > count) & (children < len(inner)))[inner].all():
            raise ValueError("a tree in it has a branch that leads nowhere")


def _check_neighbours(data: Any, index: Any, nodes: Any, bounds: Any) -> None:
    """A tree over rows: node i has the children 2i + 1 and 2i + 2. Source: sklearn/neighbors/_binary_tree.pxi."""
    count, places = len(data), np.arange(len(nodes))
    whole = (
        len(index) == count
        and ((index >= 0) & (index < count)).all()
        and ((nodes["idx_start"] >= 0) & (nodes["idx_end"] <= count)).all()
        and (nodes["idx_start"] <= nodes["idx_end"]).all()
        and (2 * places[nodes["is_leaf"] == 0] + 2 < len(nodes)).all()
        and bounds.shape[1:] == (len(nodes), data.shape[1])
    )
    if not whole:
        raise ValueError("a tree of neighbours in it leads to rows that are not there")
