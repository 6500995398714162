"""scikit-learn estimators and pipelines, saved by pickle, joblib or skops.

A pickle runs whatever it names while it is loaded. It is walked through first, without loading anything: one that holds
nothing but what estimators are made of (`_sklearn_names`) is loaded by an unpickler that can import nothing else; any
other waits for the user's word. skops files are loaded with the same list.
"""

from __future__ import annotations

import functools
import importlib.metadata
import tempfile
from pathlib import Path

from studio.core.errors import InvalidInput, NeedsExtra, StepFailed
from studio.formats.base import ArrivalFiles, Converted, Kit, Recognition
from studio.formats.pickles._values import Made
from studio.formats.pickles.compressed import compression, inflated_head
from studio.formats.pickles.screen import first_look, shown
from studio.formats.sklearn.skops import skops_kind
from studio.formats.sniff import head

_HEAD = 64 * 1024
_LIBRARIES = {"sklearn.": "scikit-learn", "xgboost.sklearn.": "XGBoost", "lightgbm.sklearn.": "LightGBM"}
_TOOLS = ("scikit-learn", "skl2onnx", "onnx")


class SklearnFormat:
    """Recognised by the class of the outermost object, which stands first in a pickle and in a skops file's schema."""

    name = "scikit-learn"
    title = "scikit-learn (pickle, joblib, skops)"
    extra: str | None = "sklearn"

    def recognise(self, files: ArrivalFiles) -> Recognition | None:
        found = [seen for file in files.content if (seen := _recognised(file)) is not None]
        if len(found) > 1:
            names = ", ".join(f"{seen.model.name} ({seen.detail})" for seen in found[:5])
            raise InvalidInput(
                f"There are {len(found)} scikit-learn models in this arrival: {names}.",
                "An arrival becomes one version of one model.",
                "Put the steps together in one Pipeline, or drop each of them alone.",
            )
        return found[0] if found else None

    def convert(self, files: ArrivalFiles, recognition: Recognition, out_dir: Path, kit: Kit) -> Converted:
        path = recognition.model
        kit.report(0.0, "loading scikit-learn")
        _import_libraries(path)
        from studio.formats.sklearn._convert import convert
        from studio.formats.sklearn._open import opened
        from studio.formats.sklearn._validate import cross_validated

        kit.report(0.3, "looking for code in the file")
        with tempfile.TemporaryDirectory() as folder:
            loaded = opened(path, Path(folder), kit)
            made = convert(loaded.model, Path(folder), files.samples, out_dir, kit)
        tools = {name: importlib.metadata.version(name) for name in (*_TOOLS, *loaded.tools)}
        return Converted(
            graph=made.graph,
            cases=made.cases,
            sources=(path,),
            notes=(*loaded.notes, *made.notes),
            tools=tools,
            class_labels=made.class_labels,
            cross_validate=functools.partial(cross_validated, made.source),
        )


def _recognised(path: Path) -> Recognition | None:
    start = head(path, _HEAD)
    kind = skops_kind(path) if start[:2] == b"PK" else _pickled_kind(path, start)
    if kind is None:
        return None
    name, how = kind
    library = next((title for start, title in _LIBRARIES.items() if name.startswith(start)), None)
    if library is None:
        return None
    return Recognition(model=path, detail=f"{library} {shown(name.rpartition('.')[2])} ({how})")


def _pickled_kind(path: Path, start: bytes) -> tuple[str, str] | None:
    """The class of what a pickle gives, and how it was saved. None for what is no pickle of an object."""
    packed = compression(start)
    if packed is not None:
        start = inflated_head(path, packed, _HEAD)
    if not (start[:1] == b"\x80" or start[:1] == b"c"):
        return None
    seen = first_look(start)
    if seen is None or not isinstance(seen.value, Made) or seen.kind is None:
        return None
    joblib = any(name.module.startswith("joblib.") for name in seen.names)
    how = "joblib" if joblib or packed else "pickle"
    return str(seen.kind), f"{how}, {packed}" if packed else how


def _import_libraries(path: Path) -> None:
    try:
        import skl2onnx
        import sklearn

        del sklearn, skl2onnx
    except ModuleNotFoundError as error:
        raise NeedsExtra(f"'{path.name}' is a scikit-learn model.", "sklearn") from error
    except (ImportError, OSError) as error:
        raise StepFailed(
            "scikit-learn is installed, but can not be loaded.",
            f"{error}.",
            "Reinstall it: pip install 'ort-studio[sklearn]'.",
        ) from error


FORMAT = SklearnFormat()
