"""Writing an ONNX model so that it stands alone, or beside weights named by their own hash."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from studio.core.errors import InvalidInput
from studio.formats.onnx.external_data import Folder, Slice, external, slice_of

INLINE_LIMIT = 1_900_000_000
"""Bytes up to which all weights go into the graph's file; protobuf ends at 2³¹ − 1."""

_CHUNK = 8 * 1024 * 1024


@dataclass(frozen=True)
class Brought:
    """`weights` lie in the output folder; `sources` are the external-data files that were read."""

    weights: tuple[Path, ...]
    sources: tuple[Path, ...]


@dataclass(frozen=True)
class Written:
    """`weights` lie beside the graph; `sources` are the external-data files that were read."""

    graph: Path
    weights: tuple[Path, ...]
    sources: tuple[Path, ...]


def write_whole(model: Any, folder: Path, graph: Path, limit: int = INLINE_LIMIT) -> Written:
    """Write a model read from `folder` to `graph`, its external data inside while that stays below `limit` bytes.

    Beyond it, each weights file is copied beside the graph under the SHA-256 of its content, so that graph and weights
    load from one flat folder of blobs. Changes the model in place. Raises Refused or InvalidInput for external data
    that is unsafe, missing or short, before anything is written.
    """
    brought = bring_in(model, folder, graph.parent, limit)
    write(model, graph)
    return Written(graph, brought.weights, brought.sources)


def bring_in(model: Any, folder: Path, out: Path, limit: int = INLINE_LIMIT) -> Brought:
    """The weights part of `write_whole`: afterwards no tensor of the model names a file outside `out`."""
    outside = [(tensor, slice_of(tensor)) for tensor in external(model)]
    with Folder(folder) as files:
        for _, part in outside:
            files.open(part)
        size = model.ByteSize() + sum(part.length for _, part in outside)
        if size <= limit:
            for tensor, part in outside:
                tensor.raw_data = files.read(part)
                tensor.ClearField("external_data")
                tensor.ClearField("data_location")
            weights: tuple[Path, ...] = ()
        else:
            weights = _beside(outside, files, out)
        return Brought(weights, files.paths)


def write(model: Any, graph: Path) -> None:
    """Write a model whose external data, if any, lies beside `graph` under its hash."""
    graph.write_bytes(model.SerializeToString())


def _beside(outside: list[tuple[Any, Slice]], files: Folder, out: Path) -> tuple[Path, ...]:
    names: dict[str, str] = {}
    for _, part in outside:
        if part.location not in names:
            names[part.location] = _copy(files, part, out)
    for tensor, part in outside:
        tensor.ClearField("external_data")
        for key, value in (("location", names[part.location]), ("offset", part.offset), ("length", part.length)):
            entry = tensor.external_data.add()
            entry.key, entry.value = key, str(value)
    return tuple(out / name for name in sorted(set(names.values())))


def _copy(files: Folder, part: Slice, out: Path) -> str:
    source = files.open(part)
    source.seek(0)
    digest = hashlib.sha256()
    draft = out / f"weights-{len(list(out.iterdir()))}.part"
    with draft.open("wb") as copy:
        while chunk := source.read(_CHUNK):
            digest.update(chunk)
            copy.write(chunk)
    draft.rename(out / digest.hexdigest())
    return digest.hexdigest()


def parse(path: Path) -> Any:
    """The onnx.ModelProto in a file, external data not loaded. Raises InvalidInput when it does not parse."""
    import onnx
    from google.protobuf.message import DecodeError

    if path.stat().st_size >= 2**31:
        raise InvalidInput(
            f"'{path.name}' is larger than 2 GB.",
            "An ONNX file of that size can not be parsed.",
            "Save it with onnx.save(model, path, save_as_external_data=True) and drop the folder.",
        )
    try:
        return onnx.ModelProto.FromString(path.read_bytes())
    except DecodeError as error:
        raise InvalidInput(
            f"'{path.name}' is no readable ONNX file.",
            f"It is damaged, truncated, or nested too deeply ({error}).",
            "Copy it again, or export it again.",
        ) from error
