"""From a body to a model's inputs, for the calls that take whatever people have: JSON by input name, a bare list, a
number, rows of CSV, an image, a text, a form."""

from __future__ import annotations

import asyncio
from codecs import BOM_UTF8
from collections import Counter
from typing import Any

from studio.core.errors import InvalidInput
from studio.core.routing import Target
from studio.core.tensors import TensorSpec
from studio.serving.http import OFF_LOOP_FROM
from studio.serving.images import SEND, is_image
from studio.serving.protocols import forms, tables
from studio.serving.protocols.forms import Part
from studio.serving.protocols.inputs import Sample, by_name, from_values, joined, names_of
from studio.serving.protocols.json_text import NoJson, load_json, why_no_utf8
from studio.serving.texts import given, is_text, takes_text


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
    if kind == "text/plain" and takes_text(target):
        return _from_text(_utf8(body), target)
    if kind.startswith("image/") or is_image(body):
        return from_values({_only(target, "an image").name: body}, target)
    if kind == "text/csv":
        return _from_table(body, target)
    # What browsers call text/plain, and curl a form, is as often JSON as anything else.
    try:
        value = load_json(body)
    except NoJson:
        # A text may begin with a bracket; a table of numbers does not.
        if kind == "application/json" or (body.lstrip()[:1] in (b"{", b"[") and not takes_text(target)):
            raise
        return _from_words(body, target)
    if kind != "application/json" and takes_text(target) and not isinstance(value, str | list | dict):
        return _from_text(_utf8(body), target)  # 42, or true, is a text too
    return _from_json(value, target)


def _what_to_send(target: Target) -> str:
    return f"Send the inputs of '{target.model}': {names_of(target)}. See /docs."


def _utf8(body: bytes) -> str:
    try:
        return body.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InvalidInput(
            "The request is neither an image that is known, nor text.",
            why_no_utf8(body),
            f"Send JSON, CSV or text as UTF-8. {SEND}",
        ) from None


def _only(target: Target, what: str) -> TensorSpec:
    specs = given(target)
    if len(specs) != 1:
        raise InvalidInput(
            f"'{target.model}' takes {len(specs)} inputs, so {what} alone does not say which it is for.",
            "",
            f"Send a JSON object or a form with: {names_of(target)}.",
        )
    return specs[0]


def _from_json(value: Any, target: Target) -> Sample:
    if value is None:
        raise InvalidInput("The request is null.", "", _what_to_send(target))
    if isinstance(value, dict):
        return from_values(by_name(value, target), target)
    if isinstance(value, list) and value and all(isinstance(row, dict) for row in value):
        rows = [by_name(row, target) for row in value]
        if any(row.keys() != rows[0].keys() for row in rows):
            raise InvalidInput("The rows have different names.", "", f"Give each of them {names_of(target)}.")
        columns = {name: [row[name] for row in rows] for name in rows[0]}
        return from_values(columns, target, rows=len(rows))
    return from_values({_only(target, "a bare value").name: value}, target)


def _from_text(text: str, target: Target) -> Sample:
    return from_values({_only(target, "a text").name: text}, target)


def _from_words(body: bytes, target: Target) -> Sample:
    """What is no JSON: the text that the model takes, else rows of CSV."""
    if takes_text(target):
        return _from_text(_utf8(body), target)
    specs = given(target)
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
    specs = given(target)
    for spec in specs:
        if len(spec.shape) > 2 or (len(specs) == 1 and is_text(target, spec)):
            what = _kind(spec, target)
            raise InvalidInput(
                f"'{target.model}' takes {what} for '{spec.name}', and rows of CSV give none.",
                "",
                SEND if what == "an image" else _what_to_send(target),
            )
    values, rows = tables.read(_utf8(body), target, specs)
    sample = from_values(values, target, rows=rows if len(values) > 1 else 0)
    sample.single = rows == 1
    return sample


def _kind(spec: TensorSpec, target: Target) -> str:
    how = target.preprocessing.get(spec.name)
    if how is not None and how.kind != "tabular":
        return f"{'an' if how.kind == 'image' else 'a'} {how.kind}"
    return spec.describe().partition(" ")[2]


def _from_form(parts: list[Part], target: Target) -> Sample:
    """A form: one part is a body of its own; several of one name are as many samples; else each is an input."""
    specs = given(target)
    only = specs[0] if len(specs) == 1 else None
    counts = Counter(part.name for part in parts)
    if len(parts) == 1 and (only is not None or parts[0].name not in {spec.name for spec in specs}):
        return read(parts[0].content, parts[0].kind, target)
    if only is not None and len(counts) == 1:
        if is_text(target, only):  # texts are padded together
            texts = [_field(part, only, target) for part in parts]
            flat = [text for each in texts for text in (each if isinstance(each, list) else [each])]
            return from_values({only.name: flat}, target)
        return joined([read(part.content, part.kind, target) for part in parts], target)
    (name, most), (other, least) = counts.most_common()[0], counts.most_common()[-1]
    if most != least:
        raise InvalidInput(
            f"The form has {most} parts '{name[:60]}' and {least} '{other[:60]}'.", "", "Send as many of each."
        )
    columns = {name: [part for part in parts if part.name == name] for name in counts}
    samples = []
    for row in range(most):
        named = by_name({name: column[row] for name, column in columns.items()}, target)
        values = {spec.name: _fields(named[spec.name], spec, target) for spec in specs}
        samples.append(from_values(values, target))
    return samples[0] if most == 1 else joined(samples, target)


def _fields(parts: Part | list[Part], spec: TensorSpec, target: Target) -> Any:
    if isinstance(parts, list):  # the columns of a row
        return [_field(part, spec, target) for part in parts]
    return _field(parts, spec, target)


def _field(part: Part, spec: TensorSpec, target: Target) -> Any:
    """What a part of a form says of an input: an image stays bytes, JSON is read, a text is itself."""
    if part.kind.startswith("image/") or is_image(part.content):
        return part.content
    text = _utf8(part.content)
    words = spec.datatype == "BYTES" or is_text(target, spec)
    if words and part.kind.startswith("text/plain"):
        return text
    try:
        value = load_json(part.content.removeprefix(BOM_UTF8))
    except NoJson:
        how = target.preprocessing.get(spec.name)
        if words or (how is not None and how.kind == "image"):
            return text
        return tables.read(text, target, [spec])[0][spec.name]
    return text if words and not isinstance(value, str | list) else value
