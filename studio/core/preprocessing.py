"""What the endpoint does before and after a model, as the user's settings say it: facts, never code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["image", "text", "tabular"]
Resize = Literal["stretch", "crop", "pad"]
Interpolation = Literal["bilinear", "bicubic", "nearest"]
Channels = Literal["RGB", "BGR", "grey"]
Layout = Literal["NCHW", "NHWC", "NHW"]
Pooling = Literal["none", "mean", "cls", "max", "last"]


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How one input of a model is made of what people send: an image, a text, or a row of a table.

    image: decoded into `channels`, brought to `size` (height, width; None = that of the input's shape) as `resize` says
    (`crop` and `pad` keep the proportions), then each pixel, 0 to 255, becomes (pixel × scale − mean) / std; one mean
    and one std for each channel, or one for all. `layout`: the order of the input's dimensions.

    text: `tokenizer` names a Hugging Face tokenizer.json among the version's assets; empty = the input takes the text
    itself. At most `max_length` tokens (0 = as many as the tokenizer says). `attention_mask` and `token_types` name the
    inputs that it fills besides its own. `pooling` over the tokens of `output` gives one vector a text; `normalise`
    brings that to length 1.

    tabular: `columns` names the places of a row, in order.
    """

    kind: Kind
    size: tuple[int, int] | None = None
    resize: Resize = "stretch"
    interpolation: Interpolation = "bilinear"
    channels: Channels = "RGB"
    layout: Layout = "NCHW"
    scale: float = 1.0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    tokenizer: str = ""
    max_length: int = 0
    attention_mask: str = ""
    token_types: str = ""
    pooling: Pooling = "none"
    normalise: bool = False
    output: str = ""
    columns: tuple[str, ...] = ()
