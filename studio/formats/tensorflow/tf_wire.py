"""TensorFlow's graph files read as bare protobuf: what they are, and which operations they hold. Without TensorFlow.

Layout: tensorflow/core/protobuf/saved_model.proto, meta_graph.proto; tensorflow/core/framework/graph.proto,
node_def.proto, function.proto.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from studio.core.errors import InvalidInput
from studio.formats.sniff import Broken, Field, fields, head

_NAME = re.compile(rb"[A-Za-z0-9.][A-Za-z0-9_.\\/>-]*")
_OPERATION = re.compile(rb"[A-Z_][A-Za-z0-9_>]*")
_LOOKED_AT = 40
_MOST = 5_000_000
_LONGEST_NAME = 4096

# Operations that reach outside of the graph: files, processes, Python, other machines.
_REACHING = re.compile(
    r"(ReadFile|WriteFile|AppendFile|MatchingFiles|FileSystemSetConfiguration|ImmutableConst|DebugIdentity\w*"
    r"|\w*PyFunc\w*|LoadLibrary\w*|Save|SaveSlices|SaveV2|Restore|RestoreSlice|RestoreV2|MergeV2Checkpoints"
    r"|InitializeTableFromTextFile\w*|GenerateVocabRemapping|LoadAndRemapMatrix|\w*Reader\w*|\w*FileDataset\w*"
    r"|\w*RecordDataset\w*|TextLineDataset\w*|SqlDataset\w*|\w*LMDB\w*|Snapshot\w*|SaveDataset\w*|LoadDataset\w*"
    r"|CreateSummary\w*|WriteSummary\w*|Write\w*Summary|ImportEvent|Print|PrintV2|DumpTensor\w*|RemoteCall|Rpc\w*"
    r"|\w*Gcs\w*|\w*BigQuery\w*|\w*Bigtable\w*|Send|Recv|_Send|_Recv|HostSend|HostRecv|ConnectTraceMeContext|Abort"
    r"|RemoteFused\w*|DataService\w*|RegisterDataset\w*)"
)
# Every SavedModel has these two functions, which keep and read its variables; TensorFlow 1 had nodes below save/.
_KEEPING = re.compile(r"__inference__traced_(save|restore)|save(_\d+)?/")
_KEEPERS = frozenset({"SaveV2", "RestoreV2", "MergeV2Checkpoints"})


@dataclass(frozen=True)
class Node:
    """One operation of a graph. `function`: the one that it belongs to, empty for the graph itself."""

    function: str
    name: str
    operation: str


def is_saved_model(path: Path) -> bool:
    """Whether a file is the `saved_model.pb` of a SavedModel."""
    if head(path, 1) != b"\x08":
        return False
    try:
        with path.open("rb") as file:
            top = list(_some(file, 0, _size(file)))
            graphs = [part for part in top if part.number == 2 and part.wire == 2]
            if not graphs or {part.number for part in top} - {1, 2} or top[0].wire != 0:
                return False
            inside = list(_some(file, graphs[0].start, graphs[0].start + graphs[0].length))
            return any(part.number == 2 and _is_graph(file, part) for part in inside if part.wire == 2)
    except (OSError, Broken):
        return False


def is_graph_def(path: Path) -> bool:
    """Whether a file is a GraphDef: nodes with a name and an operation, and nothing that a graph does not have."""
    if head(path, 1) != b"\x0a":
        return False
    try:
        with path.open("rb") as file:
            return _is_graph(file, Field(0, 2, 0, 0, _size(file)))
    except (OSError, Broken):
        return False


def operations(path: Path, saved_model: bool) -> Iterator[Node]:
    """Every operation in a file, those of its functions too. Raises InvalidInput when it is damaged."""
    try:
        with path.open("rb") as file:
            whole = Field(0, 2, 0, 0, _size(file))
            graphs = [whole]
            if saved_model:
                metas = [part for part in _all(file, whole) if part.number == 2 and part.wire == 2]
                graphs = [part for meta in metas for part in _all(file, meta) if part.number == 2 and part.wire == 2]
            for graph in graphs:
                yield from _nodes(file, graph)
    except Broken as error:
        raise InvalidInput(
            f"'{path.name}' is damaged or truncated.",
            "Its parts do not fit together.",
            "Copy it again, or save it again.",
        ) from error


def reaching(nodes: Iterator[Node]) -> tuple[str, ...]:
    """The operations among them that reach outside of the graph, sorted."""
    found: set[str] = set()
    for node in nodes:
        if _REACHING.fullmatch(node.operation):
            keeping = node.operation in _KEEPERS and _KEEPING.match(node.function or node.name)
            if not keeping:
                found.add(node.operation)
    return tuple(sorted(found))


def _nodes(file: BinaryIO, graph: Field) -> Iterator[Node]:
    for part in _all(file, graph):
        if part.wire != 2:
            continue
        if part.number == 1:
            yield _node(file, part, "")
        elif part.number == 2:
            for function in _all(file, part):
                if function.number == 1 and function.wire == 2:
                    yield from _function(file, function)


def _function(file: BinaryIO, function: Field) -> Iterator[Node]:
    name = ""
    for part in _all(file, function):
        if part.number == 1 and part.wire == 2:
            name = next((_text(file, one) for one in _all(file, part) if one.number == 1 and one.wire == 2), "")
        elif part.number == 3 and part.wire == 2:
            yield _node(file, part, name)


def _node(file: BinaryIO, node: Field, function: str) -> Node:
    name = operation = ""
    for part in _all(file, node):
        if part.number == 1 and part.wire == 2:
            name = _text(file, part)
        elif part.number == 2 and part.wire == 2:
            operation = _text(file, part)
    return Node(function, name, operation)


def _is_graph(file: BinaryIO, graph: Field) -> bool:
    seen = 0
    for part in _some(file, graph.start, graph.start + graph.length):
        if part.number not in (1, 2, 3, 4) or part.wire != (0 if part.number == 3 else 2):
            return False
        if part.number == 1:
            inside = {one.number: one for one in _some(file, part.start, part.start + part.length)}
            if not {1, 2} <= set(inside) or set(inside) - set(range(1, 8)):
                return False
            if not _NAME.fullmatch(_bytes(file, inside[1])) or not _OPERATION.fullmatch(_bytes(file, inside[2])):
                return False
            seen += 1
    return seen > 0


def _some(file: BinaryIO, start: int, end: int) -> Iterator[Field]:
    """The first fields; what is behind them is not looked at."""
    for count, part in enumerate(fields(file, start, end), 1):
        yield part
        if count == _LOOKED_AT:
            return


def _all(file: BinaryIO, part: Field) -> Iterator[Field]:
    return fields(file, part.start, part.start + part.length, _MOST)


def _bytes(file: BinaryIO, part: Field) -> bytes:
    if part.wire != 2 or part.length > _LONGEST_NAME:
        return b""
    file.seek(part.start)
    return file.read(part.length)


def _text(file: BinaryIO, part: Field) -> str:
    return _bytes(file, part).decode("utf-8", "replace")


def _size(file: BinaryIO) -> int:
    return file.seek(0, 2)
