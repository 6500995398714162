"""TensorFlow's graph files written byte by byte, without TensorFlow. Layout: studio.formats.tensorflow.tf_wire."""

from __future__ import annotations


def number(value: int) -> bytes:
    out = bytearray()
    while True:
        out.append((value & 0x7F) | (0x80 if value > 0x7F else 0))
        value >>= 7
        if not value:
            return bytes(out)


def part(field: int, content: bytes) -> bytes:
    """A field that holds bytes, a text or a message."""
    return number(field << 3 | 2) + number(len(content)) + content


def node(name: str, operation: str, *inputs: str) -> bytes:
    """A NodeDef."""
    return part(1, name.encode()) + part(2, operation.encode()) + b"".join(part(3, one.encode()) for one in inputs)


def function(name: str, *nodes: bytes) -> bytes:
    """A FunctionDef."""
    return part(1, part(1, name.encode())) + b"".join(part(3, one) for one in nodes)


def graph(*nodes: bytes, functions: tuple[bytes, ...] = ()) -> bytes:
    """A GraphDef."""
    library = part(2, b"".join(part(1, one) for one in functions)) if functions else b""
    return b"".join(part(1, one) for one in nodes) + library + part(4, b"\x08\x1c")


def saved_model(content: bytes) -> bytes:
    """A SavedModel with one graph."""
    meta = part(1, part(4, b"serve")) + part(2, content)
    return b"\x08\x01" + part(2, meta)


PLAIN = graph(node("x", "Placeholder"), node("w", "Const"), node("y", "MatMul", "x", "w"))
KEEPS = function("__inference__traced_save_12", node("save", "SaveV2"), node("merge", "MergeV2Checkpoints"))
