"""The keys of `NAME.toml`, as a table: what each takes, what it means, and how a value is judged.

The reader, the page of documentation and the file that `studio init` writes all follow this one table.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, get_args

from studio.core.preprocessing import Channels, Interpolation, Layout, Pooling, Resize
from studio.core.settings import GATE_RANGES, GateSettings
from studio.core.tensors import DATATYPES
from studio.formats.settings.values import (
    alias,
    choice,
    file_name,
    height_width,
    number,
    ratio,
    several,
    shape,
    span,
    spreads,
    text,
    whole,
    yes_no,
)

MOST_INPUTS = 1000


@dataclass(frozen=True, kw_only=True)
class Key:
    """One key. `takes` and `meaning` are for people; `example` is a value as TOML; `read` gives the value or Wrong."""

    name: str
    takes: str
    meaning: str
    example: str
    read: Callable[[Any], Any]


_NUMPY_NAMES = {numpy_name: name for name, (numpy_name, _) in DATATYPES.items()}
_NUMPY_NAMES |= {"float": "FP32", "double": "FP64", "int": "INT64", "string": "BYTES", "str": "BYTES"}

TOP = (
    Key(
        name="title",
        takes="text",
        meaning="a name for people",
        example='"Handwritten digits"',
        read=text(200),
    ),
    Key(
        name="description",
        takes="text",
        meaning="what it does, for the screens",
        example='"Which digit an 8 × 8 grey image shows."',
        read=text(20_000, lines=True),
    ),
    Key(
        name="tags",
        takes="list of texts",
        meaning="found by the filter",
        example='["vision", "classification"]',
        read=several(text(100, empty=False), 100),
    ),
    Key(
        name="outputs",
        takes="list of texts",
        meaning="names for all outputs, in the model's order; requests and answers use them",
        example='["scores"]',
        read=several(text(200, empty=False), 1000),
    ),
    Key(
        name="class_labels",
        takes="list of texts",
        meaning="names of the classes, in the order of the scores; without it, those that the model itself carries",
        example='["cat", "dog"]',
        read=several(text(500), 200_000, unique=False),
    ),
    Key(
        name="signature",
        takes="text",
        meaning="which signature of a TensorFlow SavedModel to take; without it `serving_default`, or the only one",
        example='"serving_default"',
        read=text(200, empty=False),
    ),
    Key(
        name="recipes",
        takes="list of recipe names",
        meaning="variants to make of this model, in place of `workers.recipes` of studio.toml; `[]` makes none",
        example='["fp16", "int8"]',
        read=several(text(100, empty=False), 100),
    ),
    Key(
        name="alias",
        takes="text",
        meaning="alias that moves to the new version once it serves",
        example='"candidate"',
        read=alias,
    ),
)

INPUT = (
    Key(
        name="shape",
        takes="list of whole numbers and names",
        meaning="the whole shape, batch first; a name is a free size. Needed where the file does not tell it; where it "
        "does, a number in place of a free size is the size of made-up inputs",
        example='["batch", 3, 224, 224]',
        read=shape,
    ),
    Key(
        name="datatype",
        takes=f"one of {', '.join(DATATYPES)}",
        meaning="type of the values",
        example='"FP32"',
        read=choice(tuple(DATATYPES), _NUMPY_NAMES),
    ),
    Key(
        name="range",
        takes="[lowest, highest]",
        meaning="made-up values lie between these two",
        example="[0, 1]",
        read=span,
    ),
)

_GATE_MEANINGS = {
    "min_cosine": "least cosine with the reference, worst output",
    "min_top1_agreement": "least share of samples on which the first choice is the reference's",
    "max_accuracy_drop": "most accuracy lost against the reference, where samples have labels",
    "parity_max_rel": "conversion: largest relative difference from the source framework's own answers",
    "min_correlation": "least correlation with the reference, each column's mean taken off",
    "min_rank_correlation": "embeddings: least rank correlation of the similarities between rows",
    "max_f1_drop": "most macro-F1 lost against the reference, where samples have labels",
    "max_auc_drop": "most area under the ROC curve lost against the reference, where samples have labels",
    "max_rmse_rise": "regression: largest rise of the root mean square error, as a share of the reference's",
    "min_gain": "a variant must be this much smaller or faster to be worth keeping",
    "min_gain_bytes": "bytes that a variant must save to count as smaller, however large a share that is",
    "max_slowdown": "one that is smaller may be slower by at most this factor",
}


def _number_words(low: float, high: float | None) -> str:
    return f"number of at least {low:g}" if high is None else f"number from {low:g} to {high:g}"


GATES = tuple(
    Key(
        name=field.name,
        takes=_number_words(*GATE_RANGES[field.name]),
        meaning=_GATE_MEANINGS.get(field.name, "see the settings of the workspace"),
        example=f"{field.default}",
        read=number(*GATE_RANGES[field.name]),
    )
    for field in dataclasses.fields(GateSettings)
)

EVALUATION = (
    Key(
        name="folds",
        takes="whole number from 2 to 20",
        meaning="scikit-learn models with labelled samples: fit a fresh copy on all folds but one, and score it on "
        "that one, once for each fold; without it, none are fitted",
        example="5",
        read=whole(2, 20),
    ),
    Key(
        name="seconds",
        takes="number from 1 to 300",
        meaning="how long that may take; the folds that are done by then count",
        example="60",
        read=number(1, 300),
    ),
)

KIND = Key(
    name="kind",
    takes="one of image, text, tabular",
    meaning="what people send for this input; the other keys depend on it",
    example='"image"',
    read=choice(("image", "text", "tabular")),
)


def _one_of(options: Any) -> str:
    return f"one of {', '.join(get_args(options))}"


PREPROCESSING: dict[str, tuple[Key, ...]] = {
    "image": (
        Key(
            name="size",
            takes="[height, width]",
            meaning="size in pixels that images are brought to; without it, that of the input's shape",
            example="[224, 224]",
            read=height_width,
        ),
        Key(
            name="resize",
            takes=_one_of(Resize),
            meaning="`stretch` to the size; or keep the proportions and `crop` what stands over, or `pad` what lacks",
            example='"stretch"',
            read=choice(get_args(Resize)),
        ),
        Key(
            name="interpolation",
            takes=_one_of(Interpolation),
            meaning="how pixels are computed when the size changes",
            example='"bilinear"',
            read=choice(get_args(Interpolation)),
        ),
        Key(
            name="channels",
            takes=_one_of(Channels),
            meaning="colours, and their order",
            example='"RGB"',
            read=choice(get_args(Channels), {"gray": "grey", "grayscale": "grey", "l": "grey", "rgb": "RGB"}),
        ),
        Key(
            name="layout",
            takes=_one_of(Layout),
            meaning="order of the input's dimensions: N batch, C channels, H height, W width",
            example='"NCHW"',
            read=choice(get_args(Layout)),
        ),
        Key(
            name="scale",
            takes='number or fraction ("1/255")',
            meaning="each pixel, 0 to 255, becomes (pixel × scale − mean) / std",
            example='"1/255"',
            read=ratio,
        ),
        Key(
            name="mean",
            takes="list of numbers",
            meaning="taken off after scaling: one for each channel, or one for all",
            example="[0.485, 0.456, 0.406]",
            read=several(number(), 4, unique=False),
        ),
        Key(
            name="std",
            takes="list of numbers",
            meaning="divided by after that: one for each channel, or one for all",
            example="[0.229, 0.224, 0.225]",
            read=spreads,
        ),
    ),
    "text": (
        Key(
            name="tokenizer",
            takes="file name",
            meaning="a Hugging Face tokenizer.json that was dropped with the model (`NAME.tokenizer.json` beside it, "
            "or in its folder or archive); without it the input takes the text itself (BYTES)",
            example='"tokenizer.json"',
            read=file_name,
        ),
        Key(
            name="max_length",
            takes="whole number",
            meaning="longest text in tokens; what is longer is cut",
            example="256",
            read=whole(1, 1_000_000),
        ),
        Key(
            name="attention_mask",
            takes="input name",
            meaning="the input that tells tokens from padding; without it, the one of that name",
            example='"attention_mask"',
            read=text(200, empty=False),
        ),
        Key(
            name="token_types",
            takes="input name",
            meaning="the input for segment numbers; without it, the one named token_type_ids",
            example='"token_type_ids"',
            read=text(200, empty=False),
        ),
        Key(
            name="output",
            takes="output name",
            meaning="the output that embeddings are made of; without it, the first",
            example='"last_hidden_state"',
            read=text(200, empty=False),
        ),
        Key(
            name="pooling",
            takes=_one_of(Pooling),
            meaning="one vector a text, from one a token: their mean, the first (cls), the largest, the last; `none` "
            "where the model does it",
            example='"mean"',
            read=choice(get_args(Pooling)),
        ),
        Key(
            name="normalise",
            takes="true or false",
            meaning="bring each vector to length 1",
            example="true",
            read=yes_no,
        ),
    ),
    "tabular": (
        Key(
            name="columns",
            takes="list of texts",
            meaning="names of the columns, in the order of the input's places",
            example='["length", "width"]',
            read=several(text(200, empty=False), 100_000),
        ),
    ),
}
