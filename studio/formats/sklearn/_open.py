"""From a file to a loaded estimator: look through it, ask where it is more than data, load it, say what was noticed."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import warnings
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from studio.core.errors import InvalidInput, NeedsExtra, Refused, StudioError
from studio.formats.base import Kit
from studio.formats.pickles._values import Made, Table
from studio.formats.pickles.compressed import compression, inflate
from studio.formats.pickles.screen import Screened, code_file, described, first_look, screen_pickle, shown
from studio.formats.sklearn._load import Loaded, does_not_fit, load
from studio.formats.sklearn._names import CALLED, PLAIN, foreign
from studio.formats.sklearn.skops import check_size
from studio.formats.sniff import head

_NEXT = 64 * 1024
_TOLD = 5
_BOOSTERS = {"xgboost": "boosters", "lightgbm": "boosters"}


@dataclass(frozen=True)
class Opened:
    """A model, what to tell of how it was saved, and distributions beside scikit-learn that it is made of."""

    model: Any
    notes: tuple[str, ...]
    tools: tuple[str, ...]


def opened(path: Path, folder: Path, kit: Kit) -> Opened:
    """Load a pickle, a joblib or a skops file. `folder`: an empty one, for what is unpacked.

    Raises NeedsTrust for what is more than data; Refused, NeedsExtra or InvalidInput for what can not be loaded.
    """
    tools: tuple[str, ...] = ()
    if head(path, 2) == b"PK":
        loaded = _skops(path, kit)
        tools = ("skops",)
    else:
        loaded, tools = _pickled(path, folder, kit)
    return Opened(loaded.model, _notes(loaded), tools)


def _pickled(path: Path, folder: Path, kit: Kit) -> tuple[Loaded, tuple[str, ...]]:
    kind = compression(head(path, 64))
    plain = path
    if kind is not None:
        plain = folder / "unpacked"
        inflate(path, kind, plain)
    with plain.open("rb") as file:
        seen = screen_pickle(file, f"'{path.name}'", arrays=True)
        _check_alone(path, seen, file)
        tools = _boosters(path, [name.module for name in seen.names])
        unknown = foreign(seen)
        if unknown:
            _check_loadable(path, [name.module for name in seen.names if name not in PLAIN], _saved_with(seen))
            kit.trust((code_file(path, unknown),), _why(unknown))
        file.seek(0)
        return load(path, file, None if unknown else PLAIN, _saved_with(seen)), tools


def _check_alone(path: Path, seen: Screened, file: BinaryIO) -> None:
    """Raises Refused when another pickle follows: only the first one would be loaded."""
    following = first_look(file.read(_NEXT))
    if following is not None and following.value is not None:
        raise Refused(
            f"'{path.name}' holds several pickles, one behind the other.",
            f"The first is {described(seen.value)}, the second {described(following.value)}.",
            "Put the steps together in one Pipeline and save that, or save each in a file of its own.",
        )


def _boosters(path: Path, modules: Sequence[str]) -> tuple[str, ...]:
    """Distributions of the booster libraries that a pickle needs. Raises NeedsExtra when one is not installed."""
    found: dict[str, None] = {}
    for module in modules:
        root = module.partition(".")[0]
        if root not in _BOOSTERS:
            continue
        if importlib.util.find_spec(root) is None:
            raise NeedsExtra(f"'{path.name}' holds a model of {root}.", _BOOSTERS[root])
        found[_distribution(root)] = None
    return tuple(found)


def _distribution(root: str) -> str:
    """The name under which a library is installed: XGBoost comes under two."""
    for name in (root, f"{root}-cpu"):
        try:
            importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        return name
    return "scikit-learn"


def _check_loadable(path: Path, modules: Sequence[str], saved_with: str) -> None:
    """Raises Refused where the user's word would not help: what the pickle names is not here."""
    for module in modules:
        root = module.partition(".")[0]
        if root == "__main__":
            raise Refused(
                f"'{path.name}' needs a function or a class of the script that saved it.",
                "A pickle holds only its name, not its code, and that script is not here.",
                "Build the model from scikit-learn's own estimators, or convert it in that script with skl2onnx.",
            )
        if root == "sklearn" and not _installed(module):
            raise does_not_fit(path, f"There is no module {shown(module)} in it", saved_with)
        if not root.isidentifier() or importlib.util.find_spec(root) is None:
            raise Refused(
                f"'{path.name}' needs the Python package '{shown(root)}'.",
                "An object in it is of that package, which is not installed where Studio runs.",
                "Install it beside Studio and retry, or save the model without it.",
            )


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError, AttributeError):
        return False


def _why(unknown: Sequence[str]) -> str:
    more = f" and {len(unknown) - _TOLD} more" if len(unknown) > _TOLD else ""
    return (
        "A model that only holds scikit-learn's estimators and numbers is loaded without a question; this one holds "
        f"more: {', '.join(unknown[:_TOLD])}{more}."
    )


def _saved_with(seen: Screened) -> str:
    """The version of scikit-learn that an estimator carries in its state."""
    state = seen.value.state if isinstance(seen.value, Made) else None
    version = state.known.get("_sklearn_version") if isinstance(state, Table) else None
    return shown(version) if isinstance(version, str) else ""


def _notes(loaded: Loaded) -> tuple[str, ...]:
    for warning in loaded.said:
        saved = getattr(warning.message, "original_sklearn_version", None)
        if saved is not None:
            installed = getattr(warning.message, "current_sklearn_version", "another version")
            return (
                f"It was saved by scikit-learn {shown(str(saved))} and loaded by {installed}. Answers are compared "
                "with those that it gives there.",
            )
    return ()


def _skops(path: Path, kit: Kit) -> Loaded:
    check_size(path)
    try:
        from studio.formats.sklearn import _skops as library
    except ModuleNotFoundError as error:
        raise NeedsExtra(f"'{path.name}' is a skops file.", "sklearn") from error
    plain = {str(name) for name in CALLED if name.module.startswith("sklearn.")}
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            unknown = [name for name in library.get_untrusted_types(file=path) if name not in plain]
            if unknown:
                named = tuple(map(shown, unknown))
                _check_loadable(path, [name.rpartition(".")[0] or name for name in unknown], "")
                kit.trust((code_file(path, named),), _why(named))
            model = library.load(path, trusted=[*sorted(plain), *unknown])
        except (StudioError, MemoryError, RecursionError):
            raise
        except (zipfile.BadZipFile, zlib.error, json.JSONDecodeError, EOFError) as error:
            raise InvalidInput(f"'{path.name}' is damaged.", f"{error}.", "Copy it again, wholly.") from error
        except Exception as error:  # skops raises what reading a hostile schema leads it to
            raise InvalidInput(
                f"'{path.name}' can not be loaded by skops.",
                f"{type(error).__name__}: {shown(str(error).strip() or 'no reason given')}.",
                "Save it again with skops.io.dump, best with the scikit-learn that Studio has.",
            ) from error
    return Loaded(model, tuple({str(one.message): one for one in said}.values()))
