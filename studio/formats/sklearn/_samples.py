"""The user's samples as they were saved, before the kit casts them to the types of a graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from studio.core.errors import InvalidInput
from studio.formats.base import Feed
from studio.formats.sklearn._columns import NUMBER, WHOLE, Column
from studio.formats.sklearn._source import Source

_SAMPLES = 500


def sample_arrays(samples: Path | None) -> Feed:
    if samples is None:
        return {}
    try:
        with np.load(samples, allow_pickle=False) as found:
            return {name: found[name] for name in found.files}
    except Exception as error:  # the kit reads them again and says it in full
        raise InvalidInput(f"The sample inputs '{samples.name}' can not be read.", f"{error}.") from error


def sampled(source: Source, samples: Path | None) -> Feed | None:
    """The user's samples before anything casts them; None where they are not such that the kit takes as they are."""
    arrays = {name: array for name, array in sample_arrays(samples).items() if name != "labels"}
    if len(arrays) == 1 and len(source.names) == 1:
        arrays = {next(iter(source.names)): next(iter(arrays.values()))}
    if set(arrays) != set(source.names) or any(array.dtype.kind not in "fiu" for array in arrays.values()):
        return None
    sizes = {name: 1 if source.alone else len(source.columns) for name in arrays}
    rows = {len(array) for array in arrays.values() if array.ndim == 2}
    if any(array.ndim != 2 or array.shape[1] != sizes[name] for name, array in arrays.items()) or len(rows) != 1:
        return None
    kinds = {name: np.int64 if _is_whole(source, column) else np.float64 for name, column in source.names.items()}
    return {name: array[:_SAMPLES].astype(kinds[name]) for name, array in arrays.items()}


def _is_whole(source: Source, column: Column | None) -> bool:
    return (column or together([one for one in source.columns if one.used])).kind == WHOLE


def together(columns: Sequence[Column]) -> Column:
    """What a single input of all columns holds: whole numbers or texts only where all of them do."""
    kinds = {column.kind for column in columns}
    return replace(columns[0], kind=kinds.pop() if len(kinds) == 1 else NUMBER)
