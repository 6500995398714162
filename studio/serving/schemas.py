"""JSON Schemas of what `/predict` takes and answers, made from a version's signature and settings.

Source: JSON Schema 2020-12, Validation. They say what a schema can: not that the inputs of a batch have as many rows
each, nor that base64 is an image, nor that whole numbers are written without a point.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from studio.core.preprocessing import Preprocessing
from studio.core.routing import Target
from studio.core.tensors import DATATYPES, FLOATS, Dim, TensorSpec
from studio.serving.protocols.oip_infer import MAX_BATCH
from studio.serving.texts import given, takes_text

Json = dict[str, Any]
_BEYOND = {
    "FP16": 65520.0,
    "BF16": float.fromhex("0x1.ffp127"),
    "FP32": float.fromhex("0x1.ffffffp127"),
}
"""The least magnitudes that round to infinity (IEEE 754: the largest value and half of its last place)."""
_IMAGES = ("png", "jpeg", "webp", "gif", "bmp", "tiff")
_BASE64: Json = {
    "type": "string",
    "contentEncoding": "base64",
    "minLength": 1,
    "description": "An image in base64, or as a data URL",
}
_FILE: Json = {"type": "string", "contentMediaType": "application/octet-stream", "minLength": 1}


def scalar(datatype: str, missing: bool = False) -> Json:
    """One value; `missing`: null stands for a float that is not known."""
    if datatype == "BYTES":
        return {"type": "string"}
    if datatype == "BOOL":
        return {"anyOf": [{"type": "boolean"}, {"type": "integer", "minimum": 0, "maximum": 1}]}
    if datatype in FLOATS:
        beyond = _BEYOND.get(datatype)
        limits = {} if beyond is None else {"exclusiveMinimum": -beyond, "exclusiveMaximum": beyond}
        number: Json = {"type": "number", **limits}
        return _or_null(number) if missing else number
    info = np.iinfo(DATATYPES[datatype][0])
    return {"type": "integer", "minimum": int(info.min), "maximum": int(info.max)}


def _or_null(schema: Json) -> Json:
    """No list of types: tools that read OpenAPI 3.1 stumble over those."""
    return {"anyOf": [schema, {"type": "null"}]}


def nested(shape: tuple[Dim, ...], item: Json) -> Json:
    """Lists as deep as the shape, as long as it says, of items."""
    schema = item
    for size in reversed(shape):
        schema = {"type": "array", "items": schema, "minItems": 1}
        if isinstance(size, int):
            schema |= {"minItems": size, "maxItems": size}
    return schema


def contents(target: Target) -> Json:
    """What POST /predict takes, by media type."""
    specs = given(target)
    kinds: Json = {"application/json": {"schema": body(target)}}
    hows = [target.preprocessing.get(spec.name) for spec in specs]
    if len(specs) == 1 and _is(hows[0], "image"):
        kinds |= {f"image/{kind}": {"schema": _FILE} for kind in _IMAGES}
    if takes_text(target):
        kinds["text/plain"] = {"schema": {"type": "string", "minLength": 1}}
    if all(len(spec.shape) in (1, 2) for spec in specs) and not (len(specs) == 1 and _is(hows[0], "text")):
        words = "Rows of CSV, one a sample; a first row of words names the columns"
        kinds["text/csv"] = {"schema": {"type": "string", "minLength": 1, "description": words}}
    kinds["multipart/form-data"] = {"schema": _form(target, specs)}
    return kinds


def body(target: Target) -> Json:
    """The JSON that POST /predict takes: inputs by name as a batch or one sample, rows, or the only input alone."""
    specs = given(target)
    batch = {spec.name: _batch(spec, target) for spec in specs}
    one = {spec.name: _sample(spec, target) for spec in specs if _takes_one(spec, target)}
    forms = [_object(batch, "A batch")]
    if len(one) == len(specs):
        forms.append(_object(one, "One sample"))
    if all(spec.shape for spec in specs):
        row = _object({spec.name: _sample(spec, target) for spec in specs})
        forms.append({"title": "Rows", **_list(row, specs, target)})
    columns = _columns(target, specs)
    if columns:
        cell = scalar(specs[0].datatype, missing=True)
        row = _object(dict.fromkeys(columns, cell), "One sample by column")
        lists = _object(dict.fromkeys(columns, _list(cell, specs, target)), "A batch by column")
        forms += [row, lists, {"title": "Rows by column", **_list(row, specs, target)}]
    if len(specs) == 1:
        (name,) = batch
        forms.append({"title": f"A batch of '{name}' alone", **_known(batch[name])})
        if name in one:
            forms.append({"title": f"One '{name}' alone", **_known(one[name])})
    return {"anyOf": forms}


def _is(how: Preprocessing | None, kind: str) -> bool:
    return how is not None and how.kind == kind


def _object(properties: Json, title: str = "") -> Json:
    schema = {"type": "object", "required": list(properties), "properties": properties, "additionalProperties": False}
    return {"title": title, **schema} if title else schema


def _known(schema: Json) -> Json:
    """Alone, null is nothing; within a list or an object it is a number that is not known."""
    if "anyOf" not in schema:
        return schema
    return {**schema, "anyOf": [_known(each) for each in schema["anyOf"] if each != {"type": "null"}]}


def _list(item: Json, specs: list[TensorSpec], target: Target) -> Json:
    """As many samples as the model takes at once."""
    schema: Json = {"type": "array", "items": item, "minItems": 1}
    fixed = [spec.shape[0] for spec in specs if spec.shape and isinstance(spec.shape[0], int)]
    if fixed:
        return schema | {"minItems": fixed[0], "maxItems": fixed[0]}
    return schema | ({"maxItems": MAX_BATCH} if target.signature.batchable else {})


def _takes_one(spec: TensorSpec, target: Target) -> bool:
    """Whether the batch may be left out."""
    if _is(target.preprocessing.get(spec.name), "text"):
        return True
    return bool(spec.shape) and (isinstance(spec.shape[0], str) or spec.shape[0] == 1)


def _batch(spec: TensorSpec, target: Target) -> Json:
    how = target.preprocessing.get(spec.name)
    if _is(how, "text"):
        return {"type": "array", "items": {"type": "string"}, "minItems": 1}
    cell = scalar(spec.datatype, missing=True)
    if not spec.shape:
        return cell
    numbers = _list(nested(spec.shape[1:], cell), [spec], target)
    return {"anyOf": [_list(_BASE64, [spec], target), numbers]} if _is(how, "image") else numbers


def _sample(spec: TensorSpec, target: Target) -> Json:
    how = target.preprocessing.get(spec.name)
    if _is(how, "text"):
        return {"type": "string"}
    cell = scalar(spec.datatype, missing=True)
    numbers = nested(spec.shape[1:], cell)
    if _is(how, "image"):
        return {"anyOf": [_BASE64, numbers]}
    return {"anyOf": [numbers, cell]} if _is_column(spec) else numbers


def _is_column(spec: TensorSpec) -> bool:
    """Whether a row may be one value, and so come without its list."""
    return len(spec.shape) == 2 and (isinstance(spec.shape[1], str) or spec.shape[1] == 1)


def _columns(target: Target, specs: list[TensorSpec]) -> tuple[str, ...]:
    how = target.preprocessing.get(specs[0].name) if len(specs) == 1 else None
    return how.columns if how is not None else ()


def _form(target: Target, specs: list[TensorSpec]) -> Json:
    """Parts by input; several of one name are as many samples. A lone input's part may have any name."""
    part = {"anyOf": [_FILE, {"type": "array", "items": _FILE, "minItems": 1}]}
    if len(specs) > 1:
        return _object({spec.name: part for spec in specs})
    lone: Json = {"type": "object", "minProperties": 1, "maxProperties": 1, "additionalProperties": part}
    columns = _columns(target, specs)
    return {"anyOf": [lone, _object(dict.fromkeys(columns, part), "By column")]} if columns else lone


def answer(target: Target) -> Json:
    """The answer of POST /predict."""
    outputs = {spec.name: {"description": spec.describe(), **_output(spec)} for spec in target.signature.outputs}
    properties: Json = {
        "model": {"type": "string"},
        "version": {"type": "integer"},
        "variant": {"type": "string"},
        "outputs": {"type": "object", "required": list(outputs), "properties": outputs, "additionalProperties": False},
    }
    required = list(properties)
    if target.class_labels:
        scores = {"type": "object", "additionalProperties": _or_null({"type": "number"})}
        label = {"description": "The class of the highest score; null where one is NaN", **_or_null({"type": "string"})}
        row: Json = {"label": label, "probabilities": scores, "scores": scores}
        rows = {"type": "object", "required": ["label"], "properties": row, "additionalProperties": False}
        properties |= {**row, "predictions": {"type": "array", "items": rows}}
    return {"type": "object", "required": required, "properties": properties, "additionalProperties": False}


def _output(spec: TensorSpec) -> Json:
    """An output with its batch or without; NaN and infinities are null. Anything where its shape is not known."""
    if not spec.shape:
        return {}
    cell: Json = {"type": {"BYTES": "string", "BOOL": "boolean"}.get(spec.datatype, "integer")}
    if spec.datatype in FLOATS:
        cell = _or_null({"type": "number"})
    for _ in spec.shape[1:]:
        cell = {"type": "array", "items": cell}
    return {"anyOf": [{"type": "array", "items": cell}, cell]}
