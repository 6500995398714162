"""The mark of ONNX Runtime's own file format, by which blobs without a name's ending are told apart."""

from __future__ import annotations

HEAD = 8
"""Bytes of a file that `is_ort` looks at."""


def is_ort(head: bytes) -> bool:
    """Whether a file that begins with these bytes is in the ORT format.

    Source: ONNX Runtime, core/flatbuffers/schema/ort.fbs (`file_identifier "ORTM"`); a FlatBuffers identifier takes
    bytes 4 to 7.
    """
    return head[4:HEAD] == b"ORTM"
