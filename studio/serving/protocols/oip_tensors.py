"""Tensors of OIP v2 REST: JSON and binary, in and out.

Sources: Open Inference Protocol, inference_rest.md ("Tensor Data"); Triton, extension_binary_data.md.

JSON has no NaN and no infinities. Going out, they become `null` and the output carries the parameter `non_finite` with
their count; coming in, `null` is refused: use binary tensors where such values are meant.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from contextlib import suppress
from math import isfinite, prod
from typing import Any

import numpy as np

from studio.core.errors import InvalidInput
from studio.core.fitting import fitted, whole
from studio.core.tensors import DATATYPES, FLOATS
from studio.serving.loaded import Array, dtype_of
from studio.serving.protocols.numbers import Numbers

MAX_ELEMENTS = 2**63 - 1
MAX_RANK = 64
"""numpy's own limit."""

FEW = 256
"""Numbers up to which looking at each one's type is cheaper than a look at their values first."""
_DOUBLE = np.dtype(np.float64)
_LENGTH = struct.Struct("<I")


def checked_shape(shape: object, name: str) -> tuple[int, ...]:
    """The shape as a tuple of sizes of at least 1, whose product fits a signed 64-bit number. Raises InvalidInput."""
    if not isinstance(shape, list):
        raise InvalidInput(f"Unable to parse 'shape' of input '{name}': a list of whole numbers is expected.")
    total = 1
    for dim in shape:
        # bool is an int to Python, but `true` is not a size.
        if type(dim) is not int or dim < 1:
            raise InvalidInput(
                f"Unable to parse 'shape' of input '{name}': {str(dim)[:40]} is not a size.",
                "Every size is a whole number of at least 1.",
            )
        total *= dim
        if total > MAX_ELEMENTS:
            raise InvalidInput(
                f"shape for input '{name}' causes total element count to exceed maximum size of {MAX_ELEMENTS}"
            )
    if len(shape) > MAX_RANK:
        raise InvalidInput(f"Unable to parse 'shape' of input '{name}': it has more than {MAX_RANK} dimensions.")
    return tuple(shape)


def checked_byte_size(shape: Sequence[int], datatype: str, name: str) -> int:
    """Bytes of the tensor; for BYTES the least that it can take. Raises InvalidInput when that overflows 63 bits."""
    size = prod(shape) * (DATATYPES[datatype][1] or _LENGTH.size)
    if size > MAX_ELEMENTS:
        raise InvalidInput(f"byte size overflow for input '{name}'")
    return size


def from_json(data: object, datatype: str, shape: tuple[int, ...], name: str) -> Array:
    """The tensor that `data` stands for, flat in row-major order or nested exactly like `shape`.

    Raises InvalidInput: wrong count or nesting, values of the wrong kind or out of the datatype's range.
    """
    if not isinstance(data, list | Numbers):
        raise InvalidInput(f"Unable to parse 'data' of input '{name}': a list is expected.")
    array = nested(data, datatype, name)
    if array.shape == shape:
        return array
    if array.size != prod(shape):
        raise InvalidInput(
            f"Unable to parse 'data' of input '{name}': shape {_text(shape)} needs {prod(shape)} elements,"
            f" and there are {array.size}."
        )
    if array.ndim != 1:
        raise InvalidInput(
            f"Unable to parse 'data' of input '{name}': it is nested as {_text(array.shape)},"
            f" and the shape is {_text(shape)}.",
            "",
            "Nest the data like the shape, or give it flat.",
        )
    return array.reshape(shape)


def nested(data: list[Any] | Numbers, datatype: str, name: str) -> Array:
    """The tensor of a nested list, shaped as it is nested. Raises InvalidInput."""
    if isinstance(data, Numbers):
        array = data.as_array(datatype)
        if array is not None:
            return array
        data = data.as_list()
    return _strings(data, name) if datatype == "BYTES" else _numbers(data, datatype, name)


def _text(shape: Sequence[int]) -> str:
    return "[" + ",".join(map(str, shape)) + "]"


_REAL = {float, int}
_KINDS = {"FP16": "fiu", "BF16": "fiu", "FP32": "fiu", "FP64": "fiu", "BOOL": "b"}


def _numbers(data: list[Any], datatype: str, name: str) -> Array:
    # A flat list of what it should be, as most are. Packing is twice as fast as numpy, and tells of what is too large.
    if datatype == "FP32" and float in (kinds := set(map(type, data))) and kinds <= _REAL:
        with suppress(OverflowError, struct.error):
            return np.frombuffer(struct.pack(f"<{len(data)}f", *data), np.float32)
    try:
        found = np.array(data)
    except (ValueError, OverflowError):
        raise _ragged(name) from None
    dtype = dtype_of(datatype)
    if datatype != "BOOL" and found.dtype.kind in "fiu" and _has_bool(data, found):
        raise InvalidInput(
            f"Unable to parse 'data' of input '{name}': booleans are among the numbers, where {datatype} is expected."
        )
    if found.dtype is _DOUBLE and datatype == "FP32":
        array = found.astype(dtype)
        # A sum is cheaper to look at than every value, and finite only if all of them are.
        if isfinite(np.add.reduce(array, axis=None)):
            return array
    if not found.size:
        return found.astype(dtype)
    # BF16 is narrow enough for the rounding to a double to show.
    if found.dtype.kind == "f" and (dtype.kind in "iu" or datatype == "BF16") and (exact := whole(data)) is not None:
        found = exact
    kind = found.dtype.kind
    if kind not in _KINDS.get(datatype, "iu"):
        if datatype == "BOOL" and kind == "i" and bool(((found == 0) | (found == 1)).all()):
            return found.astype(dtype)
        raise InvalidInput(
            f"Unable to parse 'data' of input '{name}': {_complaint(found, datatype)}",
            "JSON carries no NaN: send binary tensors where NaN is meant."
            if datatype in FLOATS and kind == "O"
            else "",
        )
    fitting = fitted(found, dtype)
    if fitting is None:
        raise InvalidInput(f"Unable to parse 'data' of input '{name}': a value is out of the range of {datatype}.")
    return fitting


def _has_bool(data: list[Any], found: Array) -> bool:
    """Whether a boolean is among numbers: numpy takes it for 1 or 0, and `found` is what it made of the list."""
    if found.size > FEW:
        places = np.argwhere((found == 0) | (found == 1))
        if len(places) * FEW < found.size:
            return any(type(_at(data, place)) is bool for place in places.tolist())
    return _has_type(data, bool)


def _at(data: Any, place: list[int]) -> Any:
    for index in place:
        data = data[index]
    return data


def _has_type(data: list[Any], kind: type) -> bool:
    if data and type(data[0]) is list:
        return any(_has_type(row, kind) for row in data)
    return kind in set(map(type, data))


def _complaint(found: Array, datatype: str) -> str:
    if found.dtype.kind == "O":
        return f"null, or something else that is no {datatype}, is among the values."
    what = {
        "U": "strings",
        "b": "booleans",
        "f": "numbers with a fraction, or beyond 64 bits,",
        "i": "numbers",
        "u": "numbers",
    }
    return f"{what.get(found.dtype.kind, 'other values')} are given where {datatype} is expected."


def _strings(data: list[Any], name: str) -> Array:
    try:
        array = np.array(data, dtype=object)
    except ValueError:
        raise _ragged(name) from None
    if not all(type(element) is str for element in array.flat):
        if any(isinstance(element, list) for element in array.flat):
            raise _ragged(name)
        raise InvalidInput(f"Unable to parse 'data' of input '{name}': every element of BYTES is a string in JSON.")
    return array


def _ragged(name: str) -> InvalidInput:
    return InvalidInput(f"Unable to parse 'data' of input '{name}': its rows differ in length or depth.")


def from_binary(raw: memoryview, datatype: str, shape: tuple[int, ...], name: str, model: str) -> Array:
    """The tensor whose little-endian bytes are `raw`. Shares memory with it. Raises InvalidInput."""
    if datatype == "BYTES":
        return _unpack_strings(raw, prod(shape), name, model).reshape(shape)
    expected = checked_byte_size(shape, datatype, name)
    if len(raw) != expected:
        raise InvalidInput(
            f"input byte size mismatch for input '{name}' for model '{model}'. Expected {expected}, got {len(raw)}"
        )
    if datatype == "BOOL":
        array = np.frombuffer(raw, np.uint8)
        if bool((array > 1).any()):
            raise InvalidInput(f"input '{name}' holds a byte other than 0 and 1, and its datatype is BOOL.")
        return array.view(np.bool_).reshape(shape)
    array = np.frombuffer(raw, dtype_of(datatype))
    # Kernels may use aligned loads, and a tensor can start anywhere in a body.
    if not array.flags.aligned:
        array = array.copy()
    return array.reshape(shape)


def _unpack_strings(raw: memoryview, count: int, name: str, model: str) -> Array:
    """`count` elements of a 4-byte length and as many bytes of UTF-8, and nothing behind them."""
    # Checked before allocating: the count is the client's word.
    if count * _LENGTH.size > len(raw):
        raise _short(name, model, count * _LENGTH.size - len(raw))
    array = np.empty(count, dtype=object)
    at = 0
    for index in range(count):
        if at + _LENGTH.size > len(raw):
            raise _short(name, model, at + _LENGTH.size - len(raw))
        (length,) = _LENGTH.unpack_from(raw, at)
        at += _LENGTH.size
        if at + length > len(raw):
            raise _short(name, model, at + length - len(raw))
        try:
            array[index] = str(raw[at : at + length], "utf-8")
        except UnicodeDecodeError:
            raise InvalidInput(
                f"element {index} of input '{name}' is not valid UTF-8.", "The runtime's strings are UTF-8."
            ) from None
        at += length
    if at != len(raw):
        raise InvalidInput(
            f"unexpected number of string elements {count + 1} or more for inference input '{name}'"
            f" for model '{model}', expecting {count}"
        )
    return array


def _short(name: str, model: str, missing: int) -> InvalidInput:
    return InvalidInput(f"unexpected size for input '{name}', expecting {missing} additional bytes for model '{model}'")


def to_binary(array: Array, datatype: str) -> bytes:
    """Row-major little-endian bytes; BYTES as 4-byte length and UTF-8 an element."""
    if datatype == "BYTES":
        parts: list[bytes] = []
        for element in array.flat:
            text = element if isinstance(element, bytes) else str(element).encode("utf-8", "surrogateescape")
            parts += (_LENGTH.pack(len(text)), text)
        return b"".join(parts)
    return array.tobytes()


def to_json(array: Array, datatype: str) -> Array | list[str]:
    """What orjson (with OPT_SERIALIZE_NUMPY) writes as the flat `data` of the tensor."""
    if datatype == "BYTES":
        return [_text_of(element) for element in array.flat]
    return widened(array).ravel()


def widened(array: Array) -> Array:
    """BF16, whose kind is 'V' to numpy, as FP32, which holds all its values and can be written; others as they are."""
    return array.astype(np.float32) if array.dtype.kind == "V" else array


def nested_json(array: Array) -> Any:
    """What orjson (with OPT_SERIALIZE_NUMPY) writes of a `widened` tensor: nested lists, or a number where it has no
    dimensions."""
    array = np.asarray(array, order="C")
    if array.dtype.kind in "iu" and array.dtype.itemsize == 8:
        # The runtime's 64-bit integers are C's `long long`, whose single numbers orjson does not know.
        array = array.view(f"{array.dtype.kind}8")
    return array if array.ndim else array[()]


def _text_of(element: object) -> str:
    return element.decode("utf-8", "replace") if isinstance(element, bytes) else str(element)


def non_finite(array: Array) -> int:
    """How many values JSON can not carry."""
    if array.dtype.kind != "f":
        return 0
    return int(array.size - np.count_nonzero(np.isfinite(array)))


def classify(array: Array, datatype: str, count: int, labels: Sequence[str], per_row: bool) -> Array:
    """The `count` highest values as strings `<value>:<index>[:<label>]`, highest first.

    The form is that of Triton's extension_classification.md. Of each row of the first dimension where `per_row`, else
    of the whole tensor; `count` is clipped to what there is. Shape [rows, n] or [n]. Raises InvalidInput for BYTES
    and BOOL.
    """
    if datatype in ("BYTES", "BOOL"):
        raise InvalidInput(f"class result not available for output due to unsupported type '{datatype}'")
    values = array.astype(np.float64) if datatype in ("BF16", "FP16") else array
    rows = values.reshape(values.shape[0], -1) if per_row and values.ndim > 1 else values.reshape(1, -1)
    # Stable on the reversed order, so that among equals the lower index comes first.
    order = np.argsort(rows[:, ::-1], axis=1, kind="stable")[:, ::-1][:, :count]
    order = rows.shape[1] - 1 - order
    picked = [
        [_class_text(row[index], int(index), labels) for index in best] for row, best in zip(rows, order, strict=True)
    ]
    result = np.array(picked, dtype=object).reshape(len(picked), -1)
    return result if per_row and values.ndim > 1 else result[0]


def _class_text(value: Any, index: int, labels: Sequence[str]) -> str:
    number = f"{value:f}" if isinstance(value, np.floating) else str(value)
    return f"{number}:{index}:{labels[index]}" if index < len(labels) else f"{number}:{index}"
