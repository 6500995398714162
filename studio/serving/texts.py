"""From texts to a model's inputs and from its outputs to vectors, as a version's settings say it.

Source of the poolings: Sentence-Transformers, models/Pooling.py; padding takes no part in any of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from studio.core.errors import NeedsExtra, Refused, StudioError, Unavailable
from studio.core.preprocessing import Preprocessing
from studio.core.routing import Target
from studio.core.tensors import TensorSpec
from studio.serving.loaded import Array, dtype_of

MAX_TEXTS = 2048
"""Texts of one request, as OpenAI limits them."""


@dataclass(frozen=True)
class Tokens:
    """A model's inputs for some texts, and what pooling needs: which places are no padding, and how many there are."""

    inputs: dict[str, Array]
    mask: Array
    count: int


def is_text(target: Target, spec: TensorSpec) -> bool:
    """Whether the settings say that the input is made of texts."""
    how = target.preprocessing.get(spec.name)
    return how is not None and how.kind == "text"


def given(target: Target) -> list[TensorSpec]:
    """The inputs that a caller gives: not those that a text fills besides its own."""
    filled = {name for how in target.preprocessing.values() for name in (how.attention_mask, how.token_types)}
    return [spec for spec in target.signature.inputs if spec.name not in filled]


def takes_text(target: Target) -> bool:
    """Whether a body may be the text that the only input takes."""
    specs = given(target)
    if len(specs) != 1:
        return False
    (spec,) = specs
    one = len(spec.shape) <= 2 and all(isinstance(size, str) or size == 1 for size in spec.shape)
    return (spec.datatype == "BYTES" and one) or is_text(target, spec)


def text_input(target: Target) -> tuple[str, Preprocessing]:
    """The input that takes text, and how. Raises Refused when the settings name none."""
    for name, how in target.preprocessing.items():
        if how.kind == "text":
            return name, how
    raise Refused(
        f"'{target.model}' is not set up for text.",
        "Its settings say nothing of how text becomes its inputs.",
        'Describe it in NAME.toml beside the model ([preprocessing.INPUT], kind = "text"), and drop it again.',
    )


@lru_cache(maxsize=16)
def _tokenizer(path: str, max_length: int) -> Any:
    try:
        from tokenizers import Tokenizer
    except ModuleNotFoundError as error:
        raise NeedsExtra("This model needs a tokenizer.", "text") from error
    try:
        tokenizer = Tokenizer.from_file(path)
    except Exception as error:  # it raises plain Exception
        raise Unavailable("The model's tokenizer can not be read.", f"{str(error)[:200]}.") from error
    if max_length:
        tokenizer.enable_truncation(max_length)
    padding = tokenizer.padding or {}
    tokenizer.enable_padding(
        pad_id=padding.get("pad_id", 0), pad_token=padding.get("pad_token", "[PAD]"), direction="right"
    )
    return tokenizer


def tokenise(target: Target, texts: list[str], truncate: bool = True) -> Tokens:
    """The inputs for some texts, padded to the longest. May take long: not for the event loop.

    Raises Refused where the settings or the model do not fit, or a text is too long and not to be cut; NeedsExtra.
    """
    name, how = text_input(target)
    if not how.tokenizer:
        spec = target.input_specs[name]
        column = np.array(texts, dtype=object)
        shaped = column.reshape(len(texts), 1) if len(spec.shape) == 2 else column
        return Tokens({name: shaped}, np.ones((len(texts), 1), bool), sum(len(text.split()) for text in texts))
    path = target.assets.get(how.tokenizer)
    if path is None:
        raise Refused(
            f"The tokenizer '{how.tokenizer}' of '{target.model}' is not among its files.",
            "",
            "Drop it beside the model, under the name that the settings give.",
        )
    tokenizer = _tokenizer(path, how.max_length)
    encoded = tokenizer.encode_batch(texts)
    if not truncate and any(each.overflowing for each in encoded):
        raise Refused("A text is longer than the model takes.", f"It takes {how.max_length} tokens.")
    mask = np.array([each.attention_mask for each in encoded], dtype=bool)
    inputs = {name: _fitting(np.array([each.ids for each in encoded]), target, name)}
    if how.attention_mask:
        inputs[how.attention_mask] = _fitting(mask, target, how.attention_mask)
    if how.token_types:
        types = np.array([each.type_ids for each in encoded])
        inputs[how.token_types] = _fitting(types, target, how.token_types)
    missing = [spec.name for spec in target.signature.inputs if spec.name not in inputs]
    if missing:
        raise Refused(
            f"'{target.model}' also takes '{missing[0]}', which the text does not give.",
            "",
            "Name it under attention_mask or token_types in its settings.",
        )
    return Tokens(inputs, mask, int(mask.sum()))


def _fitting(array: Array, target: Target, name: str) -> Array:
    """The input's own datatype and, where its length is fixed, that length: filled up with zeros."""
    spec = target.input_specs.get(name)
    if spec is None:
        raise Refused(f"The settings of '{target.model}' name an input '{name}', which it does not have.")
    array = array.astype(dtype_of(spec.datatype))
    length = spec.shape[1] if len(spec.shape) == 2 else None
    if isinstance(length, int) and array.shape[1] != length:
        if array.shape[1] > length:
            raise Refused(
                f"A text has {array.shape[1]} tokens, and '{target.model}' takes {length}.",
                "",
                f"Send less, or set max_length = {length} in the model's settings.",
            )
        array = np.pad(array, ((0, 0), (0, length - array.shape[1])))
    return array


def vectors_output(target: Target) -> str:
    """The output that becomes a vector a text. Raises Refused when there is none that could."""
    _, how = text_input(target)
    named = {spec.name: spec for spec in target.signature.outputs}
    if how.output:
        if how.output not in named:
            raise Refused(f"The settings of '{target.model}' name an output '{how.output}', which it does not have.")
        return how.output
    rank = 2 if how.pooling == "none" else 3
    for name, spec in named.items():
        if spec.datatype in ("FP32", "FP16", "FP64") and len(spec.shape) in (rank, 2):
            return name
    raise Refused(
        f"'{target.model}' has no output that could be an embedding.", "", "Name it: output, in its settings."
    )


def pooled(array: Array, mask: Array, how: Preprocessing) -> Array:
    """One float32 vector a text: [texts, tokens, size] pooled, [texts, size] as it is. Raises StudioError."""
    array = array.astype(np.float32)
    if array.ndim == 3:
        if mask.shape[1] < array.shape[1]:
            mask = np.pad(mask, ((0, 0), (0, array.shape[1] - mask.shape[1])))
        array = _pool(array, mask, how.pooling)
    if array.ndim != 2 or len(array) != len(mask):
        raise StudioError(
            "The model's output is no vector a text.",
            f"It has the shape {list(array.shape)}.",
            "Set output and pooling.",
        )
    if how.normalise:
        lengths = np.linalg.norm(array, axis=1, keepdims=True)
        array = array / np.maximum(lengths, 1e-12)
    return array


def _pool(array: Array, mask: Array, pooling: str) -> Array:
    weights = mask[:, :, None].astype(np.float32)
    match pooling:
        case "mean":
            summed: Array = (array * weights).sum(axis=1) / np.maximum(weights.sum(axis=1), 1e-9)
            return summed
        case "max":
            highest: Array = np.where(weights > 0, array, -np.inf).max(axis=1)
            return highest
        case "cls":
            return array[:, 0]
        case "last":
            last = np.maximum(mask.sum(axis=1) - 1, 0)
            ends: Array = array[np.arange(len(array)), last]
            return ends
    raise Refused(
        "The model gives a vector for each token, and its settings do not say how they become one.",
        "",
        'Set pooling under [preprocessing.INPUT]: "mean", "cls", "max" or "last".',
    )
