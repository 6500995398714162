"""The JSON in front of binary tensors. Clients repeat theirs to the letter, and what was read once needs no reading.

Kept are heads whose inputs are all binary and of fixed sizes, and that carry no id: only the tensors' bytes differ.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from studio.core.routing import Target
from studio.serving.protocols import oip_tensors as tensors

if TYPE_CHECKING:
    from studio.serving.protocols.oip_infer import Call

LONGEST = 2048
"""Bytes of a head that is looked for; copying and hashing longer ones would cost more than it saves."""
MOST = 256
"""Heads of a target that are kept."""


@dataclass(frozen=True, slots=True)
class Head:
    """What a head was found to say. `inputs`: name, datatype, shape and bytes of each; `size` of all together."""

    call: Call
    inputs: tuple[tuple[str, str, tuple[int, ...], int], ...]
    size: int


def known(text: bytes, binary: memoryview, target: Target) -> Call | None:
    """The call that a head and its tensors stand for, if it was met before. Raises InvalidInput for their values."""
    head = _kept(target).get(text)
    if head is None or head.size != len(binary):
        return None
    arrays = {}
    at = 0
    for name, datatype, shape, size in head.inputs:
        arrays[name] = tensors.from_binary(binary[at : at + size], datatype, shape, name, target.model)
        at += size
    return head.call.of(arrays)


def remember(text: bytes, document: dict[str, Any], call: Call, target: Target) -> None:
    """Keep the head of a request that was found right."""
    if call.id:
        return
    inputs = []
    for entry in document["inputs"]:
        spec = target.input_specs[entry["name"]]
        if "data" in entry or spec.datatype == "BYTES":
            return
        inputs.append((spec.name, spec.datatype, call.inputs[spec.name].shape, entry["parameters"]["binary_data_size"]))
    heads = _kept(target)
    if len(heads) >= MOST:
        heads.clear()
    heads[text] = Head(call.of({}), tuple(inputs), sum(size for *_, size in inputs))


def _kept(target: Target) -> dict[bytes, Head]:
    heads: dict[bytes, Head] | None = target.kept.get("oip heads")
    if heads is None:
        heads = target.kept["oip heads"] = {}
    return heads
