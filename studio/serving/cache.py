"""Answers kept for requests that come again: an option, for models that are asked the same often.

Keyed by the graph's content, the wanted outputs and the inputs' bytes, so an answer never outlives its model and no two
requests share one unless they are equal to the bit. What was used longest ago goes first.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from studio.serving.loaded import Array

Key = bytes


def key_of(sha256: str, inputs: Mapping[str, Array], outputs: tuple[str, ...] | None) -> Key:
    """What a request is known by."""
    digest = hashlib.blake2b(sha256.encode(), digest_size=20)
    digest.update(repr(outputs).encode())
    for name in sorted(inputs):
        array = inputs[name]
        digest.update(f"{name}\0{array.dtype.str}\0{array.shape}\0".encode())
        if array.dtype.kind == "O":
            for element in array.flat:
                text = str(element).encode("utf-8", "surrogatepass")
                digest.update(b"%d\0%s" % (len(text), text))
        else:
            digest.update(array.tobytes())
    return digest.digest()


class Cache:
    """At most `most` bytes of outputs. Belongs to the event loop."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._held = 0
        self._answers: OrderedDict[Key, tuple[list[Array], int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._answers)

    def get(self, key: Key) -> list[Array] | None:
        found = self._answers.get(key)
        if found is None:
            return None
        self._answers.move_to_end(key)
        return found[0]

    def put(self, key: Key, arrays: list[Array]) -> None:
        """Keep an answer. Rows of a batch are copied, or one of them would keep the whole batch."""
        size = sum(_bytes(array) for array in arrays) + len(key)
        if size > self._most or key in self._answers:
            return
        self._answers[key] = ([array if array.base is None else array.copy() for array in arrays], size)
        self._held += size
        while self._held > self._most:
            _, (_, freed) = self._answers.popitem(last=False)
            self._held -= freed


def _bytes(array: Array) -> int:
    if array.dtype.kind != "O":
        return int(array.nbytes)
    return sum(len(str(element)) + 64 for element in array.flat)
