"""Asking the endpoint: the Open Inference Protocol v2 over HTTP, tensors as binary.

Format: Open Inference Protocol, inference_rest.md, and Triton's binary tensor data extension: JSON whose length the
header `Inference-Header-Content-Length` gives, followed by the tensors, little-endian, in the order of the JSON.
Imports numpy, so import this module only where predictions are made.
"""

from __future__ import annotations

import http.client
import json
import struct
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlsplit

import numpy as np

from studio.core.errors import Denied, InvalidInput, NotFound, Problem, StudioError, Unavailable, from_problem
from studio.core.fitting import fitted, whole
from studio.core.names import Reference
from studio.core.tensors import DATATYPES, FLOATS

Array = np.ndarray[Any, Any]
TIMEOUT_SECONDS = 120.0
HEADER = "Inference-Header-Content-Length"
KEY = "X-Studio-Key"
# What Python's own numbers and lists become: the caller did not choose them, so the model's declaration does.
_CASUAL = frozenset({"float64", "int64", "object"})


def model_path(reference: str) -> str:
    """`/v2/models/digits/versions/3-int8`: what stands behind the colon takes the version's place."""
    parsed = Reference.parse(reference)
    tail = str(parsed).partition(":")[2]
    return f"/v2/models/{quote(parsed.model)}" + (f"/versions/{quote(tail)}" if tail else "")


def declared_inputs(serving_url: str, reference: str) -> dict[str, str]:
    """Input names of a model and their datatypes, in order. Raises NotFound, Unavailable."""
    body, _ = _exchange(serving_url, "GET", model_path(reference), None, {})
    try:
        return {entry["name"]: entry["datatype"] for entry in json.loads(body)["inputs"]}
    except (ValueError, KeyError, TypeError) as error:
        raise _unreadable(f"{type(error).__name__}: {error}.") from error


def predict(serving_url: str, reference: str, inputs: Mapping[str, Any], key: str = "") -> dict[str, Array]:
    """Ask for a prediction. `inputs` maps input names to arrays or nested lists, rows first; so does the answer. A
    split keeps requests of the same `key` with one version.

    Arrays of a chosen dtype are sent as they are; lists, and numpy's default int64 and float64, take the declared
    datatype where all values are in its range and none is cut (never a float to an int). Raises InvalidInput, NotFound,
    Refused, Unavailable.
    """
    arrays = {name: _array(name, value) for name, value in inputs.items()}
    casual = [name for name, array in arrays.items() if _is_casual(array, inputs[name])]
    if casual:
        declared = declared_inputs(serving_url, reference)
        for name in casual:
            if declared.get(name) in DATATYPES:
                arrays[name] = as_datatype(name, inputs[name], declared[name])
    head, parts = _request(arrays)
    headers = {HEADER: str(len(head)), "Content-Type": "application/octet-stream"}
    if key:
        if not (key.isascii() and key.isprintable()):
            raise InvalidInput(f"The key {key[:40]!r} can not be sent.", "It travels in a header: printable ASCII.")
        headers[KEY] = key
    path = model_path(reference) + "/infer"
    body, length = _exchange(serving_url, "POST", path, b"".join([head, *parts]), headers)
    try:
        return _outputs(body, length)
    except (ValueError, KeyError, TypeError, struct.error) as error:
        raise _unreadable(f"{type(error).__name__}: {error}.") from error


def _array(name: str, value: Any) -> Array:
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise InvalidInput(f"The input {name!r} is not an array.", f"{error}.", "Give rows of equal length.") from error
    return array.astype(object) if array.dtype.kind in "US" else array


def _is_casual(array: Array, value: Any) -> bool:
    """Whether numpy chose the dtype, and not the caller. Lists of large numbers become uint64."""
    return array.dtype.name in _CASUAL or (array.dtype.name == "uint64" and not isinstance(value, np.ndarray))


def as_datatype(name: str, value: Any, datatype: str) -> Array:
    """An array or a nested list as the datatype: whole numbers as any kind of number (0 and 1 as booleans too),
    fractions as fractions. Raises InvalidInput for other kinds, and for values out of its range."""
    array, wanted = _array(name, value), numpy_type(datatype)
    if array.dtype == wanted:
        return array
    if array.dtype.kind == "f" and wanted.kind in "iu" and not isinstance(value, np.ndarray):
        exact = whole(value)
        array = array if exact is None else exact
    if wanted.kind != "O" and (array.dtype.kind in "iu" or (array.dtype.kind == "f" and datatype in FLOATS)):
        result = fitted(array, wanted)
        if result is None:
            raise InvalidInput(f"The input {name!r} has a value out of the range of {datatype}.")
        return result
    raise InvalidInput(
        f"The input {name!r} has the wrong datatype.", f"The model takes {datatype}, this is {array.dtype.name}."
    )


def numpy_type(datatype: str) -> np.dtype[Any]:
    if datatype == "BF16":
        import ml_dtypes

        wide: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
        return wide
    return np.dtype(DATATYPES[datatype][0])


def _datatype(name: str, dtype: np.dtype[Any]) -> str:
    for datatype, (numpy_name, _) in DATATYPES.items():
        if dtype.name == numpy_name:
            return datatype
    raise InvalidInput(f"The input {name!r} has a datatype that no model takes.", f"numpy calls it {dtype.name}.")


def _request(arrays: Mapping[str, Array]) -> tuple[bytes, list[bytes]]:
    entries: list[dict[str, Any]] = []
    parts: list[bytes] = []
    for name, array in arrays.items():
        datatype = _datatype(name, array.dtype)
        data = _pack_bytes(array) if datatype == "BYTES" else _little(array).tobytes()
        size = {"binary_data_size": len(data)}
        entries.append({"name": name, "shape": list(array.shape), "datatype": datatype, "parameters": size})
        parts.append(data)
    return json.dumps({"inputs": entries, "parameters": {"binary_data_output": True}}).encode(), parts


def _little(array: Array) -> Array:
    return array.astype(array.dtype.newbyteorder("<")) if array.dtype.byteorder == ">" else array


def _pack_bytes(array: Array) -> bytes:
    parts = []
    for item in array.ravel():
        data = item if isinstance(item, bytes) else str(item).encode()
        parts.append(struct.pack("<I", len(data)) + data)
    return b"".join(parts)


def _unpack_bytes(data: bytes) -> list[bytes]:
    items = []
    at = 0
    while at < len(data):
        (size,) = struct.unpack_from("<I", data, at)
        items.append(data[at + 4 : at + 4 + size])
        at += 4 + size
    return items


def _outputs(body: bytes, length: int | None) -> dict[str, Array]:
    cut = len(body) if length is None else length
    at = cut
    answer: dict[str, Array] = {}
    for entry in json.loads(body[:cut])["outputs"]:
        shape, datatype = entry["shape"], entry["datatype"]
        size = entry.get("parameters", {}).get("binary_data_size")
        if size is None:
            array = np.array(entry["data"], dtype=numpy_type(datatype))
        elif datatype == "BYTES":
            array = np.array(_unpack_bytes(body[at : at + size]), dtype=object)
        else:
            array = np.frombuffer(
                body, numpy_type(datatype), offset=at, count=int(np.prod(shape, dtype=np.int64))
            ).copy()
        at += size or 0
        answer[entry["name"]] = array.reshape(shape)
    return answer


def _unreadable(why: str) -> Unavailable:
    return Unavailable("The endpoint's answer is unreadable.", why, "Is another program on the endpoint's port?")


def _exchange(
    serving_url: str, method: str, path: str, body: bytes | None, headers: Mapping[str, str]
) -> tuple[bytes, int | None]:
    """Body, and the length of the JSON part where the answer has a binary one."""
    parts = urlsplit(serving_url)
    connection = http.client.HTTPConnection(parts.hostname or "127.0.0.1", parts.port, timeout=TIMEOUT_SECONDS)
    try:
        connection.request(method, path, body, dict(headers))
        answer = connection.getresponse()
        data = answer.read()
    except (OSError, http.client.HTTPException) as error:
        raise Unavailable(
            f"The endpoint {serving_url} does not answer.", f"{error}.", "Look with: studio status"
        ) from error
    finally:
        connection.close()
    if answer.status != 200:
        raise _refusal(answer.status, data)
    length = answer.headers.get(HEADER, "")
    return data, int(length) if length.isdigit() else None


def _refusal(status: int, body: bytes) -> StudioError:
    """The error of an answer: the protocol says it as {"error": words}."""
    try:
        said = json.loads(body)["error"]
    except (ValueError, KeyError, TypeError):
        said = f"It answered HTTP {status}."
    words = said if isinstance(said, str) else json.dumps(said)
    kinds = {400: InvalidInput, 403: Denied, 404: NotFound, 413: InvalidInput, 429: Unavailable, 503: Unavailable}
    kind = kinds.get(status)
    if kind is not None:
        return kind("The endpoint refused the request.", words)
    return from_problem(Problem(code="step_failed", what="The endpoint failed on the request.", why=words))
