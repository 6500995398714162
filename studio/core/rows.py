"""How the inputs of a model divide into rows."""

from __future__ import annotations

from dataclasses import dataclass

from studio.core.tensors import Signature


@dataclass(frozen=True)
class RowLayout:
    """Which inputs hold rows, and how many rows the smallest possible run takes (more than 1: a fixed batch)."""

    names: frozenset[str]
    unit: int


def row_layout(signature: Signature) -> RowLayout | None:
    """How inputs divide into runs. None when they do not: no rows, or a batch that is not the first dimension."""
    ranked = [spec for spec in signature.inputs if spec.shape]
    free = [spec for spec in ranked if isinstance(spec.shape[0], str)]
    if free:
        leading = {spec.shape[0] for spec in free} - {"?"}
        inner = {dim for spec in ranked for dim in spec.shape[1:]}
        return None if leading & inner else RowLayout(frozenset(spec.name for spec in free), 1)
    sizes = {spec.shape[0] for spec in ranked}
    size = sizes.pop() if len(sizes) == 1 else None
    return RowLayout(frozenset(spec.name for spec in ranked), size) if isinstance(size, int) and size > 0 else None
