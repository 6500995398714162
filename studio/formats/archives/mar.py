"""TorchServe archives (.mar): which file of them is the model, without running anything of theirs.

A .mar is a zip or .tar.gz with `MAR-INF/MANIFEST.json`, which names the serialized file and the handler: code that
TorchServe runs before and after the model. Studio serves the model alone. Source: torch-model-archiver, "Manifest".
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from studio.core.errors import InvalidInput

MANIFEST = "MAR-INF/MANIFEST.json"
LABELS = "index_to_name.json"
_LARGEST = 1024 * 1024
_MOST_LABELS = 200_000


@dataclass(frozen=True, kw_only=True)
class Mar:
    """`model`: the serialized file. `factory`: the file with the class of its weights. `handler`: a name."""

    model: Path | None
    factory: Path | None
    handler: str
    class_labels: tuple[str, ...]


def read_mar(folder: Path) -> Mar | None:
    """What an unpacked archive says of itself; None when it is no .mar. Raises InvalidInput when it is a broken one."""
    manifest = folder / MANIFEST
    if not manifest.is_file():
        return None
    said = _json(manifest)
    model = said.get("model") if isinstance(said, dict) else None
    if not isinstance(model, dict):
        raise InvalidInput(
            f"{MANIFEST} of the TorchServe archive says nothing of a model.",
            "It has no table 'model'.",
            "Make it again with torch-model-archiver, or drop the model file itself.",
        )
    return Mar(
        model=_file(folder, model, "serializedFile"),
        factory=_file(folder, model, "modelFile"),
        handler=_word(model.get("handler")),
        class_labels=_labels(folder / LABELS),
    )


def _file(folder: Path, model: dict[str, Any], key: str) -> Path | None:
    name = _word(model.get(key)).rpartition("/")[2]
    if not name:
        return None
    path = folder / name
    if name in (".", "..") or "\\" in name or not path.is_file():
        raise InvalidInput(
            f"{MANIFEST} of the TorchServe archive names a file '{name[:80]}' ({key}) that is not in it.",
            fix="Make it again with torch-model-archiver, or drop the model file itself.",
        )
    return path


def _word(value: Any) -> str:
    """A name on one line; nothing that could not be printed."""
    return re.sub(r"[^\x20-\x7e]", "", value)[:200] if isinstance(value, str) else ""


def _labels(path: Path) -> tuple[str, ...]:
    """Class labels of index_to_name.json: {"0": "cat", …} or {"0": ["n02123045", "cat"], …}; none when it is not so."""
    if not path.is_file():
        return ()
    try:
        table = _json(path)
    except InvalidInput:
        return ()
    if not isinstance(table, dict) or len(table) > _MOST_LABELS:
        return ()
    names = [table.get(str(place)) for place in range(len(table))]
    texts = [name[-1] if isinstance(name, list) and name else name for name in names]
    return tuple(text for text in texts if isinstance(text, str)) if all(isinstance(t, str) for t in texts) else ()


def _json(path: Path) -> Any:
    if path.stat().st_size > 16 * _LARGEST:
        raise InvalidInput(f"{path.name} of the TorchServe archive is too large.", "It should be a few lines.")
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise InvalidInput(
            f"{path.name} of the TorchServe archive is no JSON.",
            f"{error}.",
            "Make it again with torch-model-archiver.",
        ) from error
