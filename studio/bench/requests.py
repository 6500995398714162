"""Open Inference Protocol v2 requests with binary tensors, built once and sent many times.

Format: Triton's binary tensor data extension (extension_binary_data.md): JSON, then the tensors in its order; the
header `Inference-Header-Content-Length` says where the JSON ends. Little-endian; BYTES as 4-byte length and content.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

from studio.core.errors import InvalidInput
from studio.core.manifest import InputsKind
from studio.core.recording import NOT_RECORDED
from studio.core.tensors import Signature
from studio.verify.inputs import draw_inputs, load_samples, split_runs
from studio.verify.session import Array, Feed

MAX_REQUESTS = 64
MAX_BYTES = 64 * 1024 * 1024  # of all requests of an arm together


@dataclass(frozen=True)
class Body:
    """One request body. The first `json_bytes` of `data` are JSON."""

    data: bytes
    json_bytes: int


@dataclass(frozen=True)
class Bodies:
    """Requests of one row each (or the model's fixed batch), and where their values came from."""

    bodies: tuple[Body, ...]
    kind: InputsKind


def bodies_for(signature: Signature, samples: tuple[str, ...], seed: int = 0) -> Bodies:
    """Requests from the first of the `.npz` files that fits the signature, else drawn from the signature.

    The same file, or the same seed, gives equal requests for equal inputs: so arms are compared on the same values.
    """
    for path in samples:
        try:
            loaded = load_samples(Path(path), signature)
        except InvalidInput:
            continue
        return Bodies(_bodies(signature, loaded.inputs), loaded.kind)
    return Bodies(_bodies(signature, draw_inputs(signature, MAX_REQUESTS, seed)), "synthetic")


def _bodies(signature: Signature, inputs: Feed) -> tuple[Body, ...]:
    made: list[Body] = []
    size = 0
    for feed in split_runs(signature, inputs)[:MAX_REQUESTS]:
        made.append(infer_body(signature, feed))
        size += len(made[-1].data)
        if size > MAX_BYTES:
            break
    return tuple(made)


def infer_body(signature: Signature, feed: Feed) -> Body:
    """One request; `feed` has an array for every input. Answers are asked for in binary."""
    tensors = []
    parts = []
    for spec in signature.inputs:
        array = feed[spec.name]
        raw = _raw(array, spec.datatype)
        parts.append(raw)
        tensors.append(
            {
                "name": spec.name,
                "shape": list(array.shape),
                "datatype": spec.datatype,
                "parameters": {"binary_data_size": len(raw)},
            }
        )
    head = json.dumps({"inputs": tensors, "parameters": {"binary_data_output": True}}, separators=(",", ":")).encode()
    return Body(b"".join([head, *parts]), len(head))


def _raw(array: Array, datatype: str) -> bytes:
    if datatype != "BYTES":
        little = array.astype(array.dtype.newbyteorder("<"), copy=False) if array.dtype.kind in "iuf" else array
        return np.ascontiguousarray(little).tobytes()
    items = (item if isinstance(item, bytes) else str(item).encode() for item in array.ravel())
    return b"".join(struct.pack("<I", len(item)) + item for item in items)


def http_request(url: str, path: str, body: Body) -> bytes:
    """The bytes of a whole keep-alive POST to `path` at the endpoint `url`."""
    head = (
        f"POST {urlsplit(url).path.rstrip('/')}{path} HTTP/1.1\r\nHost: {urlsplit(url).netloc}\r\n"
        f"Content-Type: application/octet-stream\r\nInference-Header-Content-Length: {body.json_bytes}\r\n"
        f"{NOT_RECORDED.decode()}: 1\r\nContent-Length: {len(body.data)}\r\n\r\n"
    )
    return head.encode("ascii") + body.data
