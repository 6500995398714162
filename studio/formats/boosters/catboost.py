"""CatBoost models as `save_model` writes them: `.cbm`.

No trust is needed: the file is a FlatBuffer of numbers and texts. CatBoost writes no Python objects into it (a custom
loss is saved by its kind alone) and reads it in C++. Damaged files can crash that, so what the library does not verify
is checked before, and it runs in the worker.

The trees come from the library's own JSON export and are turned into ONNX here. Its ONNX export gives probabilities as
maps, declares the shape [N] for outputs of [N, 1], gave wrong probabilities for MultiClassOneVsAll and MultiLogloss,
and refuses Lossguide and Depthwise trees, several targets and labels that are booleans or fractions (CatBoost 1.2.10).
"""

from __future__ import annotations

import importlib.metadata
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from studio.core.errors import StepFailed
from studio.formats.base import Array, ArrivalFiles, Converted, Feed, Kit, Recognition
from studio.formats.boosters._common import (
    LABEL,
    answers_as,
    cases_of,
    feature_note,
    import_library,
    only,
    unreadable,
)
from studio.formats.sniff import head

_LIBRARY = "CatBoost"
_MAGIC = b"CBM1"


class CatBoostFormat:
    """Recognised by its first bytes, `CBM1`."""

    name = "catboost"
    title = "CatBoost (.cbm)"
    extra: str | None = "catboost"

    def recognise(self, files: ArrivalFiles) -> Recognition | None:
        model = only(_LIBRARY, [file for file in files.content if head(file, 4) == _MAGIC])
        return Recognition(model=model, detail=_LIBRARY) if model else None

    def convert(self, files: ArrivalFiles, recognition: Recognition, out_dir: Path, kit: Kit) -> Converted:
        path = recognition.model
        kit.report(0.0, "looking at the file")
        from studio.formats.boosters._catboost_file import check, model_of
        from studio.formats.boosters._doubles import as_told
        from studio.formats.boosters._trees import to_onnx

        check(path)
        kit.report(0.1, f"loading {_LIBRARY}")
        library = import_library("catboost", _LIBRARY, path, "catboost")
        kit.report(0.3, f"{_LIBRARY} reads the file")
        booster = _load(library, path)
        kit.report(0.5, f"{_LIBRARY} tells its trees")
        model = model_of(path.name, _document(library, booster, path))
        graph = out_dir / "model.onnx"
        ensemble = as_told(model.ensemble, kit)
        graph.write_bytes(to_onnx(ensemble).SerializeToString())
        kit.report(0.8, f"{_LIBRARY} answers")
        source = _Source(library, booster, model, kit.threads)
        loss = (f"Loss: {model.loss}.",) if model.loss else ()
        named = model.ensemble.labels is not None
        return Converted(
            graph=graph,
            cases=cases_of(ensemble, graph, source.predict, kit),
            sources=(path,),
            notes=(*loss, *feature_note(model.names), *model.notes),
            tools={"catboost": library.__version__, "onnx": importlib.metadata.version("onnx")},
            class_labels=model.labels if named else (),
        )


def _load(library: Any, path: Path) -> Any:
    try:
        return library.CatBoost().load_model(str(path))
    except (library.CatBoostError, ValueError) as error:
        raise unreadable(_LIBRARY, path, error) from error


def _document(library: Any, booster: Any, path: Path) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "trees.json"
        try:
            booster.save_model(str(file), format="json")
            return json.loads(file.read_bytes())
        except (library.CatBoostError, ValueError, RecursionError) as error:
            raise unreadable(_LIBRARY, path, error) from error


@dataclass
class _Source:
    library: Any
    booster: Any
    model: Any
    threads: int

    def predict(self, rows: Array) -> Feed:
        """The library's answers under the graph's names. Raises StepFailed when it refuses the inputs."""
        ensemble = self.model.ensemble
        classes = ensemble.head in ("binary", "classes", "each class", "several")
        values = self._ask(
            rows, "Probability" if classes else "Exponent" if ensemble.head == "exp" else "RawFormulaVal"
        )
        values = np.asarray(values, np.float64).reshape(len(rows), -1)
        answers = answers_as(ensemble.head, values[:, 1:] if ensemble.head == "binary" else values)
        if classes and ensemble.head != "several":
            said = np.asarray(self._ask(rows, "Class")).reshape(len(rows))
            kind = np.dtype(np.int64) if ensemble.labels is None else ensemble.labels.dtype
            answers[LABEL] = said.astype(kind)
        return {
            name: array.astype(np.float32) if array.dtype == np.float64 else array for name, array in answers.items()
        }

    def _ask(self, rows: Array, kind: str) -> Any:
        try:
            return self.booster.predict(rows, prediction_type=kind, thread_count=self.threads)
        except (self.library.CatBoostError, ValueError) as error:
            raise StepFailed(
                f"{_LIBRARY} failed on inputs of shape {list(rows.shape)}.",
                f"{str(error).strip().splitlines()[0][:300]}.",
                "Drop sample inputs with it: an .npz of the same stem with typical rows.",
            ) from error


FORMAT = CatBoostFormat()
