"""From values by input name to a model's tensors: numbers as they are nested, texts, images, columns of a table."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from studio.core.errors import InvalidInput, Refused
from studio.core.routing import Target
from studio.core.tensors import FLOATS, TensorSpec
from studio.serving.images import SEND, decoded
from studio.serving.loaded import Array
from studio.serving.protocols.oip_infer import MAX_BATCH
from studio.serving.protocols.oip_tensors import nested
from studio.serving.texts import given, is_text, tokenise

MANY = 40
"""Names that a message lists."""


@dataclass
class Sample:
    """Inputs by name. `single`: the batch was left out."""

    inputs: dict[str, Array] = field(default_factory=dict)
    single: bool = False


def names_of(target: Target) -> str:
    """The inputs that a caller gives, in words."""
    return ", ".join(f"'{spec.name}'" for spec in given(target))


def by_name(value: dict[str, Any], target: Target) -> dict[str, Any]:
    """Values by input name; the columns of a table may come by their own names. Raises InvalidInput for other names."""
    specs = given(target)
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


def from_values(values: dict[str, Any], target: Target, rows: int = 0) -> Sample:
    """Tensors of values by input name; `rows` where each value is a list of so many samples.

    Raises InvalidInput; Refused where the settings do not say how an image or a text becomes an input.
    """
    sample = Sample()
    alone: set[bool] = set()
    for spec in given(target):
        if spec.name not in values:
            raise InvalidInput(f"There is nothing for the input '{spec.name}'.", "", f"Send: {names_of(target)}.")
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
        raise InvalidInput(f"There is nothing for the input '{missing[0]}'.", "", f"Send: {names_of(target)}.")
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


def joined(samples: list[Sample], target: Target) -> Sample:
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
