"""What the first layer of a PyTorch model tells of its input. Imports torch."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from studio.formats.torch._model import Shape

Takes = Callable[[torch.Tensor], bool]
MakeUp = Callable[..., torch.Tensor]

_SQUARES = (224, 8, 16, 20, 24, 28, 32, 40, 48, 64, 80, 96, 112, 128, 160, 192, 227, 256, 299, 320, 384, 416, 448, 512)
_PATIENCE = 10.0  # seconds of trying sizes; the likeliest come first, and then the quickest
_LENGTHS = (64, 100, 128, 256, 1000, 1024, 8000, 16000)


@dataclass(frozen=True)
class Layer:
    """A first layer in words; `likely`: the shape to suggest; `size`: channels, features, or entries of a table.

    `dtype`: of its weights, and so of what goes in, if that is no whole number.
    """

    kind: str
    size: int
    words: str
    likely: Shape
    datatype: str = "FP32"
    dtype: torch.dtype = torch.float32


@dataclass(frozen=True)
class Guess:
    """A shape that the model takes, free sizes by name, and an example of it."""

    shape: Shape
    tensor: torch.Tensor


def first_layer(module: Any) -> Layer | None:
    """The first layer with weights, in the order in which the model names them. None where it is not a known one."""
    for part in module.modules():
        kind = str(getattr(part, "original_name", type(part).__name__))
        weight = getattr(part, "weight", None) if kind in _KINDS else getattr(part, "weight_ih_l0", None)
        if kind in _KINDS and isinstance(weight, torch.Tensor) and weight.ndim == _KINDS[kind]:
            return _described(kind, part, weight)
        if kind in ("LSTM", "GRU", "RNN") and isinstance(weight, torch.Tensor):
            features = int(weight.shape[1])
            first = bool(getattr(part, "batch_first", True))  # traced modules do not say
            likely: Shape = ("batch", "sequence", features) if first else ("sequence", "batch", features)
            known = kind if hasattr(part, "batch_first") else "traced"
            return Layer(known, features, f"a recurrent layer ({kind}) of {features} features", likely, *_types(weight))
    return None


_KINDS = {"Linear": 2, "Conv1d": 3, "Conv2d": 4, "Conv3d": 5, "Embedding": 2}


def _described(kind: str, part: Any, weight: torch.Tensor) -> Layer:
    if kind == "Linear":
        features = int(weight.shape[1])
        return Layer(kind, features, f"a linear layer of {features} features", ("batch", features), *_types(weight))
    if kind == "Embedding":
        entries = int(weight.shape[0])
        return Layer(kind, entries, f"a table of {entries} entries (Embedding)", ("batch", "sequence"), "INT64")
    channels = int(weight.shape[1]) * int(getattr(part, "groups", 1))
    sides: dict[str, Shape] = {"Conv1d": ("length",), "Conv2d": (224, 224), "Conv3d": (16, 112, 112)}
    words = f"a convolution of {channels} channels ({kind})"
    return Layer(kind, channels, words, ("batch", channels, *sides[kind]), *_types(weight))


def _types(weight: torch.Tensor) -> tuple[str, torch.dtype]:
    return "FP64" if weight.dtype == torch.float64 else "FP32", weight.dtype


def guess(layer: Layer, takes: Takes, made_up: MakeUp) -> Guess | None:
    """A shape that fits the layer, and that the model takes. None for none, and where several could be meant."""
    if layer.kind == "Conv2d":
        return _image(layer, takes, made_up)
    if layer.kind == "Conv1d":
        runs = [length for length in _LENGTHS if takes(made_up((2, layer.size, length), layer.dtype))]
        if len(runs) < 2:
            return None
        return Guess(layer.likely, made_up((2, layer.size, runs[0]), layer.dtype))
    if layer.kind in ("Conv3d", "traced"):
        return None
    sizes = {"batch": 2, "sequence": 8}
    shape = tuple(size if isinstance(size, int) else sizes[size] for size in layer.likely)
    bounds = (0, layer.size - 1) if layer.datatype == "INT64" else None
    tensor = made_up(shape, torch.int64 if bounds else layer.dtype, bounds)
    return Guess(layer.likely, tensor) if takes(tensor) else None


def _image(layer: Layer, takes: Takes, made_up: MakeUp) -> Guess | None:
    """Images of any size, where the model takes any; else of the one square that it takes."""

    def runs(height: int, width: int) -> bool:
        return takes(made_up((1, layer.size, height, width), layer.dtype))

    if runs(32, 32) and runs(64, 96) and runs(75, 50):
        return Guess(("batch", layer.size, "height", "width"), made_up((2, layer.size, 32, 32), layer.dtype))
    found: list[int] = []
    end = time.monotonic() + _PATIENCE
    for side in _SQUARES:
        if runs(side, side):
            found.append(side)
        if len(found) > 1 or time.monotonic() > end:
            break
    if len(found) != 1:
        return None
    return Guess(("batch", layer.size, found[0], found[0]), made_up((2, layer.size, *found, *found), layer.dtype))
