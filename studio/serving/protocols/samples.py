"""From a body to a model's inputs, for the calls that take whatever people have: JSON by input name, a bare list, a
number, rows of CSV, an image, a text, a form."""

from __future__ import annotations

import asyncio
import base64
import binascii
from codecs import BOM_UTF8
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from studio.core.errors import InvalidInput, Refused
from studio.core.routing import Target
from studio.core.tensors import FLOATS, TensorSpec
from studio.serving import openapi
from studio.serving.http import OFF_LOOP_FROM
from studio.serving.images import SEND, decoded, is_image
from studio.serving.loaded import Array
from studio.serving.protocols import forms, tables
from studio.serving.protocols.forms import Part
from studio.serving.protocols.json_text import NoJson, load_json, why_no_utf8
from studio.serving.protocols.oip_infer import MAX_BATCH
from studio.serving.protocols.oip_tensors import nested
from studio.serving.texts import is_text, tokenise

MANY = 40
"""Names that a message lists."""


@dataclass
class Sample:
    """Inputs by name. `single`: the batch was left out."""

    inputs: dict[str, Array] = field(default_factory=dict)
    single: bool = False


async def read_off_loop(body: bytes, content_type: str, target: Target) -> Sample:
    """Images, texts and whatever is long take their time, so they are read off the event loop."""
    if (target.preprocessing and body) or len(body) >= OFF_LOOP_FROM:
        return await asyncio.to_thread(read, body, content_type, target)
    return read(body, content_type, target)


def read(body: bytes, content_type: str, target: Target) -> Sample:
    """The inputs that a body stands for; what it looks like decides where `Content-Type` does not. Raises StudioError.

    text/plain is the text itself, to the letter, for a model that takes one; for others it says nothing.
    """
    kind = content_type.partition(";")[0].strip().lower()
    body = body.removeprefix(BOM_UTF8)  # Excel's CSV begins with one
    if not body:
        raise InvalidInput("The request is empty.", "", _what_to_send(target))
    if kind == "multipart/form-data":
        return _from_form(forms.parts(body, content_type), target)
    if kind == "text/plain" and _takes_text(target):
        return _from_text(_utf8(body), target)
    if kind.startswith("image/") or is_image(body):
        return _from_values({_only(target, "an image").name: body}, target)
    if kind == "text/csv":
        return _from_table(body, target)
    # What browsers call text/plain, and curl a form, is as often JSON as anything else.
    try:
        value = load_json(body)
    except NoJson:
        # A text may begin with a bracket; a table of numbers does not.
        if kind == "application/json" or (body.lstrip()[:1] in (b"{", b"[") and not _takes_text(target)):
            raise
        return _from_words(body, target)
    if kind != "application/json" and _takes_text(target) and not isinstance(value, str | list | dict):
        return _from_text(_utf8(body), target)  # 42, or true, is a text too
    return _from_json(value, target)


def _what_to_send(target: Target) -> str:
    return f"Send the inputs of '{target.model}': {_names(target)}. See /docs."


def _takes_text(target: Target) -> bool:
    """Whether what is no JSON may be the text that the only input takes."""
    specs = openapi.given(target)
    if len(specs) != 1:
        return False
    (spec,) = specs
    one = len(spec.shape) <= 2 and all(isinstance(size, str) or size == 1 for size in spec.shape)
    return (spec.datatype == "BYTES" and one) or is_text(target, spec)


def _utf8(body: bytes) -> str:
    try:
        return body.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InvalidInput(
            "The request is neither an image that is known, nor text.",
            why_no_utf8(body),
            f"Send JSON, CSV or text as UTF-8. {SEND}",
        ) from None


def _names(target: Target) -> str:
    return ", ".join(f"'{spec.name}'" for spec in openapi.given(target))


def _only(target: Target, what: str) -> TensorSpec:
    specs = openapi.given(target)
    if len(specs) != 1:
        raise InvalidInput(
            f"'{target.model}' takes {len(specs)} inputs, so {what} alone does not say which it is for.",
            "",
            f"Send a JSON object or a form with: {_names(target)}.",
        )
    return specs[0]


def _from_json(value: Any, target: Target) -> Sample:
    if value is None:
        raise InvalidInput("The request is null.", "", _what_to_send(target))
    if isinstance(value, dict):
        return _from_values(_by_name(value, target), target)
    if isinstance(value, list) and value and all(isinstance(row, dict) for row in value):
        rows = [_by_name(row, target) for row in value]
        if any(row.keys() != rows[0].keys() for row in rows):
            raise InvalidInput("The rows have different names.", "", f"Give each of them {_names(target)}.")
        columns = {name: [row[name] for row in rows] for name in rows[0]}
        return _from_values(columns, target, rows=len(rows))
    return _from_values({_only(target, "a bare value").name: value}, target)


def _by_name(value: dict[str, Any], target: Target) -> dict[str, Any]:
    """Values by input name; the columns of a table may come by their own names."""
    specs = openapi.given(target)
    names = [spec.name for spec in specs]
    if value.keys() == set(names):
        return value
    also = ""
    how = target.preprocessing.get(names[0]) if len(names) == 1 else None
    if how is not None and how.columns:
        if value.keys() == set(how.columns):
            return {names[0]: _row(value, how.columns)}
        if names[0] not in value:
            names, also = list(how.columns), f"; or all of them in this order as '{names[0]}'"
    missing = [name for name in names if name not in value]
    extra = [name for name in value if name not in names]
    words = [f"It lacks '{missing[0]}'." if missing else "", f"It has '{extra[0][:60]}'." if extra else ""]
    raise InvalidInput(
        f"What was sent is not what '{target.model}' takes.",
        " ".join(word for word in words if word),
        f"Give a value for each of: {_listed(names)}{also}.",
    )


def _row(value: dict[str, Any], columns: tuple[str, ...]) -> list[Any]:
    """A row of values by column, or as many rows as each column's list is long."""
    lengths = {len(cells) if isinstance(cells, list) else None for cells in value.values()}
    if lengths == {None}:
        return [value[column] for column in columns]
    if len(lengths) > 1:
        raise InvalidInput("The columns differ in length.", "", "Give each of them a list of as many values.")
    return [list(row) for row in zip(*(value[column] for column in columns), strict=True)]


def _listed(names: list[str]) -> str:
    return ", ".join(names[:MANY]) + (f" and {len(names) - MANY} more" if len(names) > MANY else "")


def _from_values(values: dict[str, Any], target: Target, rows: int = 0) -> Sample:
    """Tensors of values by input name; `rows` where each value is a list of so many samples."""
    sample = Sample()
    alone: set[bool] = set()
    for spec in openapi.given(target):
        if spec.name not in values:
            raise InvalidInput(f"There is nothing for the input '{spec.name}'.", "", f"Send: {_names(target)}.")
        arrays, single = _tensors(values[spec.name], spec, target, rows)
        sample.inputs |= arrays
        alone.add(single)
    if len(alone) > 1:
        raise InvalidInput(
            "Some inputs come as a batch and others as one sample.", "", "Give all of them with a batch, or none."
        )
    sample.single = alone == {True}
    missing = [spec.name for spec in target.signature.inputs if spec.name not in sample.inputs]
    if missing:
        raise InvalidInput(f"There is nothing for the input '{missing[0]}'.", "", f"Send: {_names(target)}.")
    return sample


def _tensors(value: Any, spec: TensorSpec, target: Target, rows: int) -> tuple[dict[str, Array], bool]:
    how = target.preprocessing.get(spec.name)
    if is_text(target, spec):
        texts = [value] if isinstance(value, str) else value
        if not (isinstance(texts, list) and texts and all(isinstance(text, str) for text in texts)):
            raise InvalidInput(
                f"The input '{spec.name}' takes a text, or a list of texts.",
                "",
                "With Content-Type: text/plain, a body is the text itself, brackets and all.",
            )
        return tokenise(target, texts).inputs, isinstance(value, str)
    if isinstance(value, bytes) or (how is not None and how.kind == "image" and _has_images(value)):
        return _image(value, spec, target)
    array, single = _shaped(value, spec, target, rows)
    return {spec.name: array}, single


def _has_images(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and bool(value) and isinstance(value[0], str))


def _image(value: Any, spec: TensorSpec, target: Target) -> tuple[dict[str, Array], bool]:
    how = target.preprocessing.get(spec.name)
    if how is None or how.kind != "image":
        raise Refused(
            f"How an image becomes the input '{spec.name}' is not known.",
            f"'{target.model}' takes {spec.describe()}.",
            f'Describe it in NAME.toml beside the model ([preprocessing.{spec.name}], kind = "image"), and drop it '
            "again; or send the numbers.",
        )
    many = value if isinstance(value, list) else [value]
    images = [decoded(each if isinstance(each, bytes) else _from_base64(each, spec), spec, how) for each in many]
    return {spec.name: _fitting(np.concatenate(images), spec, target)}, not isinstance(value, list)


def _from_base64(text: Any, spec: TensorSpec) -> bytes:
    try:
        # Browsers give a data URL: data:image/png;base64,….
        return base64.b64decode(text.partition(",")[2] if text.startswith("data:") else text, validate=True)
    except (binascii.Error, ValueError, AttributeError):
        raise InvalidInput(
            f"The input '{spec.name}' is no image.", "In JSON, base64 of one is expected.", SEND
        ) from None


def _shaped(value: Any, spec: TensorSpec, target: Target, rows: int) -> tuple[Array, bool]:
    """The tensor, and whether its batch was left out."""
    if spec.datatype in FLOATS:
        value = _with_nan(value)
    scalar = not isinstance(value, list)
    array = nested([value] if scalar else value, spec.datatype, spec.name)
    if scalar:
        array = array.reshape(())
    rank = len(spec.shape)
    single = False
    if rows and array.ndim == 1 and rank == 2:
        array = array[:, None]  # a column of a table: one value a row
    if array.ndim == rank - 1 and not rows:
        array, single = array[None], True
    elif array.ndim == 0 and rank == 2:
        array, single = array.reshape(1, 1), True
    return _fitting(array, spec, target), single


def _fitting(array: Array, spec: TensorSpec, target: Target) -> Array:
    """The tensor, where it is one that the input takes. Raises InvalidInput."""
    if array.ndim != len(spec.shape) or any(
        isinstance(want, int) and want != got for want, got in zip(spec.shape, array.shape, strict=True)
    ):
        raise InvalidInput(
            f"The input '{spec.name}' of '{target.model}' is {spec.describe().partition(' ')[2]}.",
            f"What was sent is {list(array.shape)}.",
        )
    if not array.size:
        raise InvalidInput(f"The input '{spec.name}' is empty.")
    if target.signature.batchable and array.shape[0] > MAX_BATCH:
        raise InvalidInput(f"A batch of more than {MAX_BATCH} rows.", "", "Send less at once.")
    return array


def _with_nan(value: Any) -> Any:
    """A value that is missing is null in JSON, and NaN to a model."""
    if isinstance(value, list):
        return [_with_nan(item) for item in value]
    return float("nan") if value is None else value


def _from_text(text: str, target: Target) -> Sample:
    return _from_values({_only(target, "a text").name: text}, target)


def _from_words(body: bytes, target: Target) -> Sample:
    """What is no JSON: the text that the model takes, else rows of CSV."""
    if _takes_text(target):
        return _from_text(_utf8(body), target)
    specs = openapi.given(target)
    if len(specs) == 1 and _kind(specs[0], target) == "an image":
        raise InvalidInput(
            "What was sent is no image of a kind that is known, and no JSON.", f"'{target.model}' takes an image.", SEND
        )
    try:
        return _from_table(body, target)
    except InvalidInput as error:
        why = error.why or "What was sent is no JSON and no image that is known, so it was read as rows of CSV."
        raise InvalidInput(error.what, why, error.fix or _what_to_send(target)) from None


def _from_table(body: bytes, target: Target) -> Sample:
    specs = openapi.given(target)
    for spec in specs:
        if len(spec.shape) > 2 or (len(specs) == 1 and is_text(target, spec)):
            what = _kind(spec, target)
            raise InvalidInput(
                f"'{target.model}' takes {what} for '{spec.name}', and rows of CSV give none.",
                "",
                SEND if what == "an image" else _what_to_send(target),
            )
    values, rows = tables.read(_utf8(body), target, specs)
    sample = _from_values(values, target, rows=rows if len(values) > 1 else 0)
    sample.single = rows == 1
    return sample


def _kind(spec: TensorSpec, target: Target) -> str:
    how = target.preprocessing.get(spec.name)
    if how is not None and how.kind != "tabular":
        return f"{'an' if how.kind == 'image' else 'a'} {how.kind}"
    return spec.describe().partition(" ")[2]


def _from_form(parts: list[Part], target: Target) -> Sample:
    """A form: one part is a body of its own; several of one name are as many samples; else each is an input."""
    specs = openapi.given(target)
    only = specs[0] if len(specs) == 1 else None
    counts = Counter(part.name for part in parts)
    if len(parts) == 1 and (only is not None or parts[0].name not in {spec.name for spec in specs}):
        return read(parts[0].content, parts[0].kind, target)
    if only is not None and len(counts) == 1:
        if is_text(target, only):  # texts are padded together
            texts = [_field(part, only, target) for part in parts]
            flat = [text for each in texts for text in (each if isinstance(each, list) else [each])]
            return _from_values({only.name: flat}, target)
        return _joined([read(part.content, part.kind, target) for part in parts], target)
    (name, most), (other, least) = counts.most_common()[0], counts.most_common()[-1]
    if most != least:
        raise InvalidInput(
            f"The form has {most} parts '{name[:60]}' and {least} '{other[:60]}'.", "", "Send as many of each."
        )
    columns = {name: [part for part in parts if part.name == name] for name in counts}
    samples = []
    for row in range(most):
        named = _by_name({name: column[row] for name, column in columns.items()}, target)
        values = {spec.name: _fields(named[spec.name], spec, target) for spec in specs}
        samples.append(_from_values(values, target))
    return samples[0] if most == 1 else _joined(samples, target)


def _fields(parts: Part | list[Part], spec: TensorSpec, target: Target) -> Any:
    if isinstance(parts, list):  # the columns of a row
        return [_field(part, spec, target) for part in parts]
    return _field(parts, spec, target)


def _field(part: Part, spec: TensorSpec, target: Target) -> Any:
    """What a part of a form says of an input: an image stays bytes, JSON is read, a text is itself."""
    if part.kind.startswith("image/") or is_image(part.content):
        return part.content
    text = _utf8(part.content)
    takes_text = spec.datatype == "BYTES" or is_text(target, spec)
    if takes_text and part.kind.startswith("text/plain"):
        return text
    try:
        value = load_json(part.content.removeprefix(BOM_UTF8))
    except NoJson:
        how = target.preprocessing.get(spec.name)
        if takes_text or (how is not None and how.kind == "image"):
            return text
        return tables.read(text, target, [spec])[0][spec.name]
    return text if takes_text and not isinstance(value, str | list) else value


def _joined(samples: list[Sample], target: Target) -> Sample:
    """Samples as one batch. Raises InvalidInput where they make none."""
    if not target.signature.batchable and not all(sample.single for sample in samples):
        raise InvalidInput(
            f"Not every part is one sample of '{target.model}'.",
            "Parts of one name are joined to a batch.",
            "Send one sample a part, or a request for each part.",
        )
    whole = Sample()
    for name in samples[0].inputs:
        arrays = [sample.inputs[name] for sample in samples]
        if len({array.shape[1:] for array in arrays}) > 1:
            raise InvalidInput(
                f"The samples for the input '{name}' differ in shape.", "", "Send them one by one, or as JSON."
            )
        whole.inputs[name] = _fitting(np.concatenate(arrays), target.input_specs[name], target)
    return whole
