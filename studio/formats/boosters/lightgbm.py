"""LightGBM models as `Booster.save_model` writes them: text.

No trust is needed: the file holds numbers, names, and the parameters of the training as text, which prediction does not
act on. LightGBM writes no Python objects into it (a custom objective is not saved); the only other language in it is
the JSON of the line `pandas_categorical`. But the library follows offsets in the file blindly and crashes on most
damaged ones, so everything is checked before it sees the file, and it runs in the worker.

LightGBM compares 64-bit floats, so a model of timestamps or long numbers takes them here too (`_doubles`).

The trees are turned into ONNX here. The onnxmltools converter rounds thresholds to the nearest 32-bit float and gave
wrong answers for missing values, random forests and scores of rankings when it was tried against LightGBM 4.7.
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

_LIBRARY = "LightGBM"
_ROWS = 64
_START = re.compile(rb"tree\r?\nversion=v\d")


class LightGBMFormat:
    """Recognised by its first two lines, `tree` and `version=v…`."""

    name = "lightgbm"
    title = "LightGBM (.txt)"
    extra: str | None = "boosters"

    def recognise(self, files: ArrivalFiles) -> Recognition | None:
        model = only(_LIBRARY, [file for file in files.content if _START.match(head(file, 32))])
        return Recognition(model=model, detail=_LIBRARY) if model else None

    def convert(self, files: ArrivalFiles, recognition: Recognition, out_dir: Path, kit: Kit) -> Converted:
        path = recognition.model
        kit.report(0.0, "reading the trees")
        from studio.formats.boosters._doubles import as_needed, plain_rows, sample_rows, strays, told
        from studio.formats.boosters._lightgbm_file import read
        from studio.formats.boosters._trees import to_onnx

        model = read(path)
        kit.report(0.3, f"loading {_LIBRARY}")
        library = import_library("lightgbm", _LIBRARY, path, "boosters")
        kit.report(0.5, f"{_LIBRARY} reads the file")
        source = _Source(library, _load(library, path), model, kit.threads)
        samples = sample_rows(files.samples, model.ensemble.features)
        ensemble, width = as_needed(model.ensemble, source.predict, samples, kit, model.names)
        graph = out_dir / "model.onnx"
        graph.write_bytes(to_onnx(ensemble).SerializeToString())
        kit.report(0.8, f"{_LIBRARY} answers")
        rows = None if told(kit) == "FP32" else samples if samples is not None else plain_rows(ensemble, _ROWS)
        if rows is not None and not ensemble.doubles:
            rows = rows[~strays(source.predict, rows)]
        objective = (f"Objective: {model.objective}.",) if model.objective else ()
        return Converted(
            graph=graph,
            cases=cases_of(ensemble, graph, source.predict, kit, rows),
            sources=(path,),
            notes=(*objective, *feature_note(model.names), *category_notes(model.categories), *model.notes, *width),
            tools={"lightgbm": library.__version__, "onnx": importlib.metadata.version("onnx")},
        )


def _load(library: Any, path: Path) -> Any:
    try:
        return library.Booster(model_file=str(path))
    except (library.basic.LightGBMError, ValueError, KeyError, UnicodeDecodeError) as error:
        raise unreadable(_LIBRARY, path, error) from error


@dataclass
class _Source:
    library: Any
    booster: Any
    model: Any
    threads: int

    def predict(self, rows: Array) -> Feed:
        """The library's answers under the graph's names. Raises StepFailed when it refuses the inputs."""
        try:
            answers = self.booster.predict(rows, num_threads=self.threads)
        except (self.library.basic.LightGBMError, ValueError) as error:
            raise StepFailed(
                f"{_LIBRARY} failed on inputs of shape {list(rows.shape)}.",
                f"{str(error).strip().splitlines()[0][:300]}.",
                "Drop sample inputs with it: an .npz of the same stem with typical rows.",
            ) from error
        values = np.asarray(answers, np.float64).reshape(len(rows), -1)
        return {
            name: array.astype(np.float32) if array.dtype == np.float64 else array
            for name, array in answers_as(self.model.ensemble.head, values).items()
        }


FORMAT = LightGBMFormat()
