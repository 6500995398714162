"""JSON of TensorFlow Serving's REST API, in and out.

Source: TensorFlow Serving, g3doc/api_rest.md ("JSON mapping", "Encoding binary values") and util/json_tensor.cc. NaN,
Infinity and -Infinity are tokens both ways; `{"b64": …}` stands for bytes; outputs of strings whose name ends in
`_bytes` are sent so.
"""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any

import numpy as np
import orjson

from studio.core.errors import InvalidInput
from studio.core.routing import Target
from studio.core.tensors import TensorSpec
from studio.serving.http import Body
from studio.serving.loaded import Array
from studio.serving.problems import ModelFailed
from studio.serving.protocols import numbers
from studio.serving.protocols.json_text import load_json
from studio.serving.protocols.numbers import Numbers
from studio.serving.protocols.oip_infer import MAX_BATCH
from studio.serving.protocols.oip_tensors import nested, nested_json, widened

Json = dict[str, Any]
_TOKENS = (b"NaN", b"Infinity")
_DUMPS = orjson.OPT_SERIALIZE_NUMPY


def load(body: Body) -> Any:
    """The document. Raises InvalidInput in the words of their parser."""
    try:
        return numbers.load(body, load_json, _holds_tensor)
    except InvalidInput as error:
        if any(token in body for token in _TOKENS) and body.count(b"[") + body.count(b"{") <= 100_000:
            try:
                return json.loads(body)
            except (ValueError, RecursionError):
                pass
        words = error.what.removeprefix("failed to parse the request JSON buffer: ")
        raise InvalidInput(f"JSON Parse error: {words}") from None


def _holds_tensor(path: numbers.Path) -> bool:
    return path in (("instances",), ("inputs",)) or (len(path) == 2 and path[0] == "inputs" and path[1] != "")


def _document(value: Any) -> Json:
    if not isinstance(value, dict):
        raise InvalidInput("JSON Value: not an object. Expecting an object as the request.")
    name = value.get("signature_name", "")
    if not isinstance(name, str):
        raise InvalidInput("'signature_name' key must be a string value.")
    if name not in ("", "serving_default"):
        raise InvalidInput(f"Serving signature name: '{name[:60]}' not found in signature def")
    return value


def predict_inputs(value: Any, target: Target) -> tuple[bool, dict[str, Array]]:
    """Whether rows were sent, and the tensors by name. Raises InvalidInput."""
    document = _document(value)
    rows, columns = document.get("instances"), document.get("inputs")
    if rows is None and columns is None:
        raise InvalidInput("Missing 'inputs' or 'instances' key")
    if rows is not None and columns is not None:
        raise InvalidInput("Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist")
    specs = target.signature.inputs
    if rows is not None:
        return True, _arrays(_by_row(rows, specs), target)
    return False, _arrays(_by_column(columns, specs), target)


def _by_column(columns: Any, specs: tuple[TensorSpec, ...]) -> Json:
    names = {spec.name for spec in specs}
    if isinstance(columns, dict) and not _is_b64(columns):
        _same_names(set(columns), names, "request")
        return columns
    if len(specs) != 1:
        raise InvalidInput(f"inputs must be an object with the model's {len(specs)} inputs: {_listed(names)}.")
    return {specs[0].name: columns}


def _by_row(rows: Any, specs: tuple[TensorSpec, ...]) -> Json:
    if isinstance(rows, Numbers):
        if len(specs) != 1:
            kind = "list" if len(rows.shape) > 1 else "number"
            raise InvalidInput(f"Expecting object but got {kind} at item 0 of input list")
        return {specs[0].name: rows}
    if not isinstance(rows, list) or not rows:
        raise InvalidInput("Expecting 'instances' value to be an array with at least one element.")
    names = {spec.name for spec in specs}
    first = rows[0]
    if isinstance(first, dict) and not _is_b64(first):
        for number, row in enumerate(rows):
            if not isinstance(row, dict):
                raise InvalidInput(f"Expecting object but got {_kind(row)} at item {number} of input list")
            _same_names(set(row), names, f"item {number} of input list")
        return {name: [row[name] for row in rows] for name in names}
    if len(specs) != 1:
        raise InvalidInput(f"Expecting object but got {_kind(first)} at item 0 of input list")
    return {specs[0].name: rows}


def _same_names(given: set[str], wanted: set[str], where: str) -> None:
    if given != wanted:
        raise InvalidInput(
            f"Failed to process {where}: it has the inputs {_listed(given)}, and the model takes {_listed(wanted)}."
        )


def _listed(names: set[str]) -> str:
    return ", ".join(f"'{name[:60]}'" for name in sorted(names)) or "none"


def _kind(value: Any) -> str:
    kinds = {list: "list", dict: "object", str: "string", bool: "boolean", type(None): "null"}
    return kinds.get(type(value), "number")


def _arrays(given: Json, target: Target) -> dict[str, Array]:
    return {spec.name: _array(given[spec.name], spec, target) for spec in target.signature.inputs}


def _array(data: Any, spec: TensorSpec, target: Target) -> Array:
    if spec.datatype == "BYTES":
        data = _decoded(data.as_list() if isinstance(data, Numbers) else data, spec.name)
    scalar = not isinstance(data, list | Numbers)
    array = nested([data] if scalar else data, spec.datatype, spec.name)
    if scalar:
        array = array.reshape(())
    if len(array.shape) != len(spec.shape) or any(
        isinstance(want, int) and want != got for want, got in zip(spec.shape, array.shape, strict=True)
    ):
        raise InvalidInput(
            f"input '{spec.name}' of model '{target.model}' has the shape {list(array.shape)},"
            f" and {spec.wire_shape} is expected."
        )
    if 0 in array.shape:
        raise InvalidInput(f"input '{spec.name}' of model '{target.model}' is empty.")
    if target.signature.batchable and array.shape and array.shape[0] > MAX_BATCH:
        raise InvalidInput(f"A batch of more than {MAX_BATCH} rows for '{target.model}'.", "", "Send less at once.")
    return array


def _is_b64(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() == {"b64"}


def _decoded(value: Any, name: str) -> Any:
    if isinstance(value, list):
        return [_decoded(item, name) for item in value]
    if not _is_b64(value):
        return value
    try:
        return base64.b64decode(value["b64"], validate=True).decode()
    except (binascii.Error, TypeError, ValueError):
        raise InvalidInput(
            f"input '{name}' holds a b64 value that is no base64 of UTF-8 text.", "The runtime's strings are UTF-8."
        ) from None


def predictions(arrays: list[Array], target: Target, row: bool) -> bytes:
    """The body of an answer: `predictions` by row, or `outputs` by column. Raises InvalidInput."""
    specs = target.signature.outputs
    arrays = [widened(array) for array in arrays]
    values = [_value(array, spec) for array, spec in zip(arrays, specs, strict=True)]
    if not row:
        return _dump({"outputs": values[0] if len(specs) == 1 else _named(values, specs)}, arrays)
    counts = {array.shape[0] if array.ndim else None for array in arrays}
    if len(counts) != 1 or None in counts:
        raise InvalidInput(
            "Tensors in output have inconsistent batch sizes: the outputs can not be told by row.",
            "",
            "Send the request in columns ('inputs' instead of 'instances').",
        )
    if len(specs) == 1:
        return _dump({"predictions": values[0]}, arrays)
    return _dump({"predictions": [_named(list(each), specs) for each in zip(*values, strict=True)]}, arrays)


def _named(values: list[Any], specs: tuple[TensorSpec, ...]) -> Json:
    return {spec.name: value for spec, value in zip(specs, values, strict=True)}


def _value(array: Array, spec: TensorSpec) -> Any:
    if spec.datatype == "BYTES":
        return _strings(array.tolist(), spec.name.endswith("_bytes"))
    return nested_json(array)


def _strings(value: Any, binary: bool) -> Any:
    if isinstance(value, list):
        return [_strings(item, binary) for item in value]
    raw = value if isinstance(value, bytes) else str(value).encode()
    return {"b64": base64.b64encode(raw).decode()} if binary else raw.decode("utf-8", "replace")


def _dump(document: Json, arrays: list[Array]) -> bytes:
    try:
        body = orjson.dumps(document, option=_DUMPS)
    except orjson.JSONEncodeError as error:
        raise ModelFailed("An output can not be written as JSON.", f"{error}.") from None
    if b"null" in body and any(array.dtype.kind == "f" and not np.isfinite(array).all() for array in arrays):
        return json.dumps(document, default=_plain, ensure_ascii=False).encode()
    return body


def _plain(value: Any) -> Any:
    """Shortest digits of a 32-bit float, which a float64 of the same value would not print."""
    if value.dtype.itemsize < 8 and value.dtype.kind == "f":
        flat = [float(str(number)) for number in value.ravel()]
        return np.array(flat, dtype=np.float64).reshape(value.shape).tolist()
    return value.tolist()


def example_inputs(value: Any, target: Target) -> dict[str, Array]:
    """Inputs of a classify or regress request: `examples` with features named like the inputs, `context` for all."""
    document = _document(value)
    examples, context = document.get("examples"), document.get("context", {})
    if not isinstance(examples, list) or not examples:
        raise InvalidInput("When method is classify, key 'examples' is expected and was not found, or is empty.")
    if not isinstance(context, dict):
        raise InvalidInput("Key 'context' must be an object.")
    rows = []
    for number, example in enumerate(examples):
        if not isinstance(example, dict):
            raise InvalidInput(f"Example: {_kind(example)} at item {number} is no object of features.")
        rows.append({**context, **example})
    specs = target.signature.inputs
    columns = _by_row(rows, specs)
    return _arrays({spec.name: [_feature(item, spec) for item in columns[spec.name]] for spec in specs}, target)


def _feature(value: Any, spec: TensorSpec) -> Any:
    """A lone value may stand for a list of one."""
    return [value] if len(spec.shape) == 2 and not isinstance(value, list) else value


def _floats(target: Target, ranks: tuple[int, ...]) -> list[int]:
    return [
        place
        for place, spec in enumerate(target.signature.outputs)
        if spec.datatype in ("FP16", "FP32", "FP64") and len(spec.shape) in ranks
    ]


def scores_of(target: Target) -> int:
    """Which output holds scores: of two dimensions, as wide as there are labels where those are known."""
    places = _floats(target, (2,))
    fitting = [place for place in places if target.signature.outputs[place].shape[1] == len(target.class_labels)]
    if not places:
        raise InvalidInput(f"'{target.model}' has no output of class scores.", "", "Use :predict.")
    return (fitting or places)[0]


def number_of(target: Target) -> int:
    """Which output holds one number a row."""
    for place in _floats(target, (1, 2)):
        shape = target.signature.outputs[place].shape
        if len(shape) == 1 or shape[1] == 1:
            return place
    raise InvalidInput(f"'{target.model}' has no output of one number a row.", "", "Use :predict.")


def classifications(arrays: list[Array], target: Target) -> bytes:
    scores = arrays[scores_of(target)]
    labels = target.class_labels if len(target.class_labels) == scores.shape[1] else ()
    names = list(labels) or [str(place) for place in range(scores.shape[1])]
    results = [[[name, score] for name, score in zip(names, row, strict=True)] for row in _plain(scores)]
    return json.dumps({"results": results}, ensure_ascii=False).encode()


def regressions(arrays: list[Array], target: Target) -> bytes:
    return json.dumps({"results": _plain(arrays[number_of(target)].reshape(-1))}).encode()
