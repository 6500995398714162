"""Shapes as people write them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from studio.core.errors import InvalidInput
from studio.core.tensors import Dim

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_BETWEEN = re.compile(r"[\s,×]+")


def parse_shape(text: str) -> tuple[Dim, ...]:
    """`batch, 3, 224, 224`, `batch × 3`, `["batch", 3]`: numbers, and words for free sizes; `scalar` for no sizes.

    Raises InvalidInput naming what is no size.
    """
    inner = text.strip().strip("[]()").strip()
    words = [word for word in (part.strip("\"'") for part in _BETWEEN.split(inner)) if word]
    if words == ["scalar"]:
        return ()
    if not words:
        raise InvalidInput("The shape is missing.", fix="For example: batch, 3, 224, 224.")
    if inner.endswith((",", "×")):
        raise InvalidInput(f"Something is missing behind '{inner}'.", fix="For example: batch, 3, 224, 224.")
    return tuple(map(_size, words))


def _size(word: str) -> Dim:
    if word.isascii() and word.isdigit() and 0 < int(word) < 2**31:
        return int(word)
    if _NAME.fullmatch(word):
        return word
    raise InvalidInput(f"'{word}' is no size.", fix="A size is a whole number from 1, or a word for a free one.")


def shape_text(shape: Sequence[Dim]) -> str:
    """`batch, 3, 224, 224`: what `parse_shape` reads back."""
    return ", ".join(map(str, shape)) or "scalar"
