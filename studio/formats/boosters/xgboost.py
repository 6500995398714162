"""XGBoost models as `Booster.save_model` and `XGBClassifier.save_model` write them: JSON and UBJSON.

No trust is needed: both hold numbers and texts alone. XGBoost writes no Python objects into them (a custom objective or
metric is not saved), and reads them with a parser in C++; the scikit-learn interface keeps a small JSON text among the
attributes. What remains is the crash of that parser on a damaged file, so every length and index is checked before, and
the library runs in the worker.

The trees are turned into ONNX here. The onnxmltools converter gave wrong answers for ranking, hinge, DART, Cox, raw
scores, quantiles and several outputs when it was tried against XGBoost 3.2.
"""

from __future__ import annotations

import importlib.metadata
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from studio.core.errors import StepFailed
from studio.formats.base import Array, ArrivalFiles, Converted, Feed, Kit, Recognition
from studio.formats.boosters._common import (
    answers_as,
    cases_of,
    category_notes,
    feature_note,
    import_library,
    only,
    unreadable,
)
from studio.formats.sniff import head

_LIBRARY = "XGBoost"
_JSON = re.compile(rb'\s*\{\s*"(learner|version)"\s*:')
_PARTS = re.compile(rb'"(attributes|feature_names|gradient_booster|learner_model_param|learner_train_param)"\s*:')
_LOOK = 4096


class XGBoostFormat:
    """Recognised by the first key of the document, `learner`, in either encoding."""

    name = "xgboost"
    title = "XGBoost (.json, .ubj)"
    extra: str | None = "boosters"

    def recognise(self, files: ArrivalFiles) -> Recognition | None:
        found = [(file, kind) for file in files.content if (kind := encoding(file))]
        model = only(_LIBRARY, [file for file, _ in found])
        return Recognition(model=model, detail=f"{_LIBRARY}, {found[0][1]}") if model else None

    def convert(self, files: ArrivalFiles, recognition: Recognition, out_dir: Path, kit: Kit) -> Converted:
        path = recognition.model
        kit.report(0.0, "reading the trees")
        from studio.formats.boosters._doubles import as_told
        from studio.formats.boosters._trees import to_onnx
        from studio.formats.boosters._xgboost_file import read

        model = read(path, binary=encoding(path) == "UBJSON")
        kit.report(0.3, f"loading {_LIBRARY}")
        library = import_library("xgboost", _LIBRARY, path, "boosters")
        graph = out_dir / "model.onnx"
        ensemble = as_told(model.ensemble, kit)
        graph.write_bytes(to_onnx(ensemble).SerializeToString())
        kit.report(0.6, f"{_LIBRARY} reads the file")
        source = _Source(library, _load(library, path, kit.threads), model)
        kit.report(0.8, f"{_LIBRARY} answers")
        return Converted(
            graph=graph,
            cases=cases_of(ensemble, graph, source.predict, kit),
            sources=(path,),
            notes=(
                f"Objective: {model.objective}.",
                *feature_note(model.names),
                *category_notes(model.categories),
                *model.notes,
            ),
            tools={"xgboost": library.__version__, "onnx": importlib.metadata.version("onnx")},
        )


def encoding(path: Path) -> str:
    """'JSON' or 'UBJSON' for an XGBoost model, '' for anything else."""
    start = head(path, _LOOK)
    if start[:1] == b"{" and start[1:2] in (b"L", b"l", b"U", b"i", b"I") and b"learner" in start[2:18]:
        return "UBJSON"
    return "JSON" if _JSON.match(start) and b'"learner"' in start and _PARTS.search(start) else ""


def _load(library: Any, path: Path, threads: int) -> Any:
    booster = library.Booster({"nthread": threads, "verbosity": 0})
    try:
        # From memory: the library chooses its parser by the name of a file, and ours may have any name.
        booster.load_model(bytearray(path.read_bytes()))
    except (library.core.XGBoostError, ValueError) as error:
        raise unreadable(_LIBRARY, path, error) from error
    return booster


@dataclass
class _Source:
    library: Any
    booster: Any
    model: Any

    def predict(self, rows: Array) -> Feed:
        """The library's answers under the graph's names. Raises StepFailed when it refuses the inputs."""
        return answers_as(self.model.ensemble.head, self._raw(rows).astype(np.float32).reshape(len(rows), -1))

    def _raw(self, rows: Array) -> Any:
        types = [kind if kind in ("c", "q") else "q" for kind in self.model.types] or None
        try:
            if self.model.objective == "multi:softmax":  # it answers classes alone; the same trees give probabilities
                self.booster.set_param({"objective": "multi:softprob"})
            data = self.library.DMatrix(rows, feature_types=types, enable_categorical=True, nthread=1)
            return self.booster.predict(data, iteration_range=(0, self.model.rounds), validate_features=False)
        except (self.library.core.XGBoostError, ValueError) as error:
            raise StepFailed(
                f"{_LIBRARY} failed on inputs of shape {list(rows.shape)}.",
                f"{str(error).strip().splitlines()[0][:300]}.",
                "Drop sample inputs with it: an .npz of the same stem with typical rows.",
            ) from error


FORMAT = XGBoostFormat()
