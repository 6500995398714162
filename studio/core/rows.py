"""How the inputs of a model divide into rows."""

from __future__ import annotations

from dataclasses import dataclass

from studio.core.tensors import Signature


@dataclass(frozen=True)
class RowLayout:
    """Which inputs hold rows, and the leading size of the smallest possible run (`unit`, more than 1: it is fixed).

    `whole`: the model has no batch, so such a run is one row, and `unit` is a size of it and not a number of rows.
    """

    names: frozenset[str]
    unit: int
    whole: bool = False

    @property
    def length(self) -> int:
        """How much of the leading size one row takes."""
        return self.unit if self.whole else 1

    @property
    def rows(self) -> int:
        """Rows of the smallest possible run."""
        return self.unit // self.length


def row_layout(signature: Signature) -> RowLayout | None:
    """How inputs divide into runs. None when they do not: no rows, or a batch that is not the first dimension.

    A fixed leading size is a batch where an answer has it too. Else it is a size of the one thing that a run takes: a
    vector of 64 numbers, an image of three channels, eight steps of a sequence.
    """
    ranked = [spec for spec in signature.inputs if spec.shape]
    free = [spec for spec in ranked if isinstance(spec.shape[0], str)]
    if free:
        leading = {spec.shape[0] for spec in free} - {"?"}
        inner = {dim for spec in ranked for dim in spec.shape[1:]}
        return None if leading & inner else RowLayout(frozenset(spec.name for spec in free), 1)
    sizes = {spec.shape[0] for spec in ranked}
    size = sizes.pop() if len(sizes) == 1 else None
    if not isinstance(size, int) or size <= 0:
        return None
    names = frozenset(spec.name for spec in ranked)
    return RowLayout(names, size, size > 1 and not _answers_rows(signature, size))


def _answers_rows(signature: Signature, size: int) -> bool:
    """Whether an answer may have as many rows as the inputs have leading entries. One vector alone is no column."""
    if len(signature.inputs) == 1 and len(signature.inputs[0].shape) == 1:
        return False
    inner = {dim for spec in signature.inputs for dim in spec.shape[1:]} - {"?"}
    leading = [spec.shape[0] for spec in signature.outputs if spec.shape]
    if not signature.outputs:  # nothing is known of them
        return True
    return any(first == size or (isinstance(first, str) and first not in inner) for first in leading)
