"""Lists of a protobuf message as arrays, exactly: of the type that the list has, whatever values are in it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from google.protobuf.descriptor import FieldDescriptor as Field

from studio.core.errors import InvalidInput
from studio.core.fitting import fitted
from studio.serving.loaded import Array, dtype_of

_TYPES: dict[int, type[Any]] = {
    Field.CPPTYPE_INT32: np.int32,
    Field.CPPTYPE_INT64: np.int64,
    Field.CPPTYPE_UINT32: np.uint32,
    Field.CPPTYPE_UINT64: np.uint64,
    Field.CPPTYPE_FLOAT: np.float32,
    Field.CPPTYPE_DOUBLE: np.float64,
    Field.CPPTYPE_BOOL: np.bool_,
}


def numbers(message: Any, field: str) -> Array:
    """The repeated field as it is, one-dimensional."""
    # numpy would guess at the type: of 0 and 2**64 - 1 together it makes floats.
    return np.array(list(getattr(message, field)), _TYPES[message.DESCRIPTOR.fields_by_name[field].cpp_type])


def texts(values: Iterable[bytes], what: str) -> Array:
    """Strings of UTF-8, one-dimensional. Raises InvalidInput."""
    try:
        return np.array([value.decode() for value in values], dtype=object)
    except UnicodeDecodeError:
        raise InvalidInput(f"an element of {what} is not valid UTF-8.", "The runtime's strings are UTF-8.") from None


def flat(message: Any, field: str, datatype: str, what: str) -> Array:
    """The repeated field as the datatype, one-dimensional. Raises InvalidInput for values that are out of its range."""
    if datatype == "BYTES":
        return texts(getattr(message, field), what)
    array = fitted(numbers(message, field), dtype_of(datatype))
    if array is None:
        raise InvalidInput(f"a value of {what} is out of the range of {datatype}.")
    return array
