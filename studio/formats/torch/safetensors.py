"""`.safetensors` files: weights without code, with the network in a Python file beside them.

Layout: eight bytes with the length of a header, little end first; the header as JSON, which gives type, shape and place
of each tensor; the numbers. Everything that the header says is checked against the file before anything is read.
Source: github.com/huggingface/safetensors, "Format".
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from studio.core.errors import InvalidInput, Refused
from studio.formats.base import ArrivalFiles, Converted, Kit, Network, Recognition
from studio.formats.pickles.screen import shown
from studio.formats.sniff import head
from studio.formats.torch.common import import_torch, loading
from studio.formats.torch.factory import LoadedNetwork, hugging_face, no_factory

_LARGEST_HEADER = 100_000_000  # the library's own limit
_MOST_SIZE = 2**63
_BITS = {
    **{"BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F4": 4},
    **{"I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32},
    **{"I64": 64, "U64": 64, "F64": 64, "C64": 64},
}
_FIX = "Copy it again, or save it again with safetensors.torch.save_file."


@dataclass(frozen=True)
class Entry:
    """A tensor as the header describes it; `begin` and `end` are bytes behind the header."""

    kind: str
    shape: tuple[int, ...]
    begin: int
    end: int


class SafetensorsFormat:
    """Recognised by a first number that is the length of a header inside the file, and a header that begins as JSON."""

    name = "safetensors"
    title = "safetensors weights (.safetensors)"
    extra: str | None = "torch"

    def recognise(self, files: ArrivalFiles) -> Recognition | None:
        found = [file for file in files.content if _is_safetensors(file)]
        if not found:
            return None
        parts = f", {len(found)} parts" if len(found) > 1 else ""
        return Recognition(model=found[0], detail=f"safetensors weights{parts}")

    def convert(self, files: ArrivalFiles, recognition: Recognition, out_dir: Path, kit: Kit) -> Converted:
        loaded = self._load(files, recognition, kit)
        from studio.formats.torch._build import convert_network

        parts = [file for file in files.content if _is_safetensors(file)]
        sources = (*parts, *(file.path for file in loaded.code.files))
        return convert_network(loaded.module, files, loaded.code, out_dir, kit, sources, loaded.notes, ("safetensors",))

    def network(self, files: ArrivalFiles, recognition: Recognition, graph: Path, kit: Kit) -> Network:
        loaded = self._load(files, recognition, kit)
        from studio.formats.torch._build import network_model
        from studio.formats.torch._network import trainable

        return trainable(network_model(loaded.module, files, loaded.code, kit, recognition.model.name)[0], graph, kit)

    def _load(self, files: ArrivalFiles, recognition: Recognition, kit: Kit) -> LoadedNetwork:
        """The network with its weights. Raises what convert does."""
        path = recognition.model
        parts = [file for file in files.content if _is_safetensors(file)]
        kit.report(0.0, "looking at the weights")
        entries = _all_entries(parts)
        from studio.formats.torch._code import user_code

        code = user_code(files.content, files.stem)
        if code.factory is None:
            kind = hugging_face(files.content)
            if kind:
                raise Refused(
                    f"'{path.name}' holds the weights of a {shown(kind)} of the transformers library.",
                    "Its network is in that library, not in these files.",
                    "Export it to ONNX, for example: optimum-cli export onnx --model FOLDER OUT; then drop OUT.",
                )
            raise no_factory(path, files.stem, {"": entries}, code.files)
        kit.trust(code.as_code(), "The network is made by running the Python beside the weights.")
        kit.report(0.1, "loading PyTorch")
        import_torch(f"'{path.name}' holds weights of a PyTorch network.")
        from studio.formats.torch._build import make
        from studio.formats.torch._state import put

        network = make(code)
        kit.report(0.3, "loading the weights")
        state = _load(parts)
        return LoadedNetwork(network, code, put(network, {"": state}, path.name, code.factory.path.name))


def _is_safetensors(path: Path) -> bool:
    start = head(path, 16)
    if len(start) < 10 or start[8:9] != b"{":
        return False
    length = struct.unpack("<Q", start[:8])[0]
    named = path.suffix.lower() == ".safetensors"
    return named or (
        8 < length <= _LARGEST_HEADER and length <= path.stat().st_size - 8 and start[9:10] in b'" \t\r\n}'
    )


def _all_entries(parts: list[Path]) -> dict[str, Entry]:
    found: dict[str, Entry] = {}
    for part in parts:
        for name, entry in entries(part).items():
            if name in found:
                raise InvalidInput(
                    f"Two of the files hold the weight '{shown(name)}'.", fix="Drop the parts of one model."
                )
            found[name] = entry
    return found


def _load(parts: list[Path]) -> dict[str, Any]:
    from safetensors.torch import load_file

    state: dict[str, Any] = {}
    for part in parts:
        with loading(part.name, _FIX):
            state.update(load_file(part, device="cpu"))
    return state


def entries(path: Path) -> dict[str, Entry]:
    """The tensors of a file, by name. Raises InvalidInput for a header that is no such or that lies about the file."""
    size = path.stat().st_size
    with path.open("rb") as file:
        first = file.read(8)
        length = struct.unpack("<Q", first)[0] if len(first) == 8 else size
        if not 2 <= length <= min(_LARGEST_HEADER, size - 8):
            raise _damaged(path, f"Its header claims to have {length} bytes, and the file has {size}")
        text = file.read(length)
    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"Its header is no valid JSON ({str(error)[:200]})") from error
    if not isinstance(header, dict):
        raise _damaged(path, "Its header is no table")
    header.pop("__metadata__", None)
    found = {name: _entry(path, name, value) for name, value in header.items()}
    at = 0
    for name, entry in sorted(found.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin != at:
            raise _damaged(
                path, f"The numbers of '{shown(name)}' begin at {entry.begin}, and those before it end at {at}"
            )
        at = entry.end
    if at != size - 8 - length:
        raise _damaged(path, f"Its header describes {at} bytes of numbers, and there are {size - 8 - length}")
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a name is there twice")
    return table


def _entry(path: Path, name: str, value: Any) -> Entry:
    if not isinstance(value, dict):
        raise _damaged(path, f"'{shown(name)}' is not described")
    kind, shape, place = value.get("dtype"), _numbers(value.get("shape")), _numbers(value.get("data_offsets"))
    if kind not in _BITS:
        raise _damaged(path, f"'{shown(name)}' is of the type {shown(str(kind))}, which there is not")
    if shape is None or place is None or len(place) != 2 or prod(shape) >= _MOST_SIZE:
        raise _damaged(path, f"'{shown(name)}' has an impossible shape or place")
    begin, end = place
    if prod(shape) * _BITS[kind] != (end - begin) * 8:
        raise _damaged(path, f"'{shown(name)}' has another size than its shape {shape[:8]} of {kind} takes")
    return Entry(kind, tuple(shape), begin, end)


def _numbers(value: Any) -> list[int] | None:
    """A short list of sizes; None when it is none."""
    if not isinstance(value, list) or len(value) > 64:
        return None
    sizes = [one for one in value if isinstance(one, int) and not isinstance(one, bool) and 0 <= one < _MOST_SIZE]
    return sizes if len(sizes) == len(value) else None


def _damaged(path: Path, why: str) -> InvalidInput:
    return InvalidInput(f"'{path.name}' is a damaged safetensors file.", f"{why}.", _FIX)


FORMAT = SafetensorsFormat()
