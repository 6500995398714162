"""Which sizes of a PyTorch model's inputs a caller may choose, found by running it. Imports torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch

from studio.core.errors import InvalidInput, StudioError
from studio.formats.torch._model import Free, TorchModel

_DRAWN, _DRAWN_SIDE = 8, 32
"""Sizes that made-up inputs have first (studio.verify.inputs): a size is only free if the model runs at these."""

_DRAFT = "?"
_OTHERS = (_DRAWN, _DRAWN_SIDE, 64, 224, 16, 1)


def find_free(model: TorchModel) -> Free:
    """Free sizes of a model with an example: the batch, and the lengths of sequences.

    Sequences are the second size of whole numbers in two dimensions (tokens), and any but the first of three. Images
    keep their size: a network that averages over them runs on any, and was trained for one.
    """
    free = _leading(model)
    for axes in _lengths(model):
        if any(set(free[place]) - {0} for place in axes):
            continue  # one length an input: scripted LSTMs run on any number of features, and answer nonsense
        place, axis = next(iter(axes.items()))
        size = int(model.example[place].shape[axis])
        tried = _with(free, axes, _DRAFT)
        if _runs(model, tried, {_DRAFT: _DRAWN}) and _runs(model, tried, {_DRAFT: size + 3}):
            batched = any("batch" in one.values() for one in free)
            leads = not batched and _leads(model, tried, _DRAFT, size + 3)  # [length, batch, …], as nn.LSTM has it
            free = _with(free, axes, "batch" if leads else _unused(free, "sequence" if axis == 1 else "length"))
    return free


def _leading(model: TorchModel) -> Free:
    """The first size of every input that has the same one, or else of the first input alone."""
    ranked = [place for place, tensor in enumerate(model.example) if tensor.ndim]
    nothing: Free = tuple({} for _ in model.names)
    if not ranked:
        return nothing
    first = model.example[ranked[0]].shape[0]
    alike = [place for place in ranked if model.example[place].shape[0] == first]
    for group in [alike, ranked[:1]] if len(alike) > 1 else [alike]:
        axes = dict.fromkeys(group, 0)
        tried = _with(nothing, axes, _DRAFT)
        if _runs(model, tried, {_DRAFT: 1}) and _runs(model, tried, {_DRAFT: 3}):
            return _with(nothing, axes, "batch" if _leads(model, tried, _DRAFT, 3) else "sequence")
    return nothing


def _lengths(model: TorchModel) -> Iterator[dict[int, int]]:
    """Axes by input that could be the same length, likeliest first: those of equal size together, then each alone."""
    places = [
        (place, tensor)
        for place, tensor in enumerate(model.example)
        if tensor.ndim == 3 or (tensor.ndim == 2 and not tensor.is_floating_point())
    ]
    for axis in (1, 2):
        having = [(place, int(tensor.shape[axis])) for place, tensor in places if tensor.ndim > axis]
        for size in dict.fromkeys(size for _, size in having):
            yield {place: axis for place, own in having if own == size}
        for place, _ in having:
            yield {place: axis}


def _with(free: Free, axes: Mapping[int, int], name: str) -> Free:
    return tuple({**one, axes[place]: name} if place in axes else one for place, one in enumerate(free))


def _unused(free: Free, word: str) -> str:
    taken = {name for one in free for name in one.values()}
    return next(name for name in (word, *(f"{word}_{number}" for number in range(2, 100))) if name not in taken)


def _leads(model: TorchModel, free: Free, name: str, size: int) -> bool:
    """Whether every output that has sizes begins with this one."""
    tried = TorchModel(model.flat, model.names, model.outputs, model.example, free=free)
    shapes = [tensor.shape for tensor in model.call(tried.resized({name: size})) if tensor.ndim]
    return bool(shapes) and all(shape[0] == size for shape in shapes)


def other_sizes(model: TorchModel) -> list[dict[str, int]]:
    """Sets of free sizes, other than the example's, that the model takes: one for small and one for odd ones.

    Raises InvalidInput naming a size that was said to be free, at whose other values the model fails.
    """
    found: dict[str, list[int]] = {}
    for name, own in model.sizes.items():
        tried = (1, 3, 4) if name == "batch" else (own + 3, *_OTHERS, own * 2, own + 5)
        found[name] = [size for size in tried if size != own and _runs(model, model.free, {name: size})]
        if not found[name]:
            raise InvalidInput(
                f"The size '{name}' was said to be free, but the model does not run with other ones.",
                _reason(model, {name: own + 1}),
                f"Write the number {own} in its place.",
            )
    sets = [_different(found, turn) for turn in (0, 1)] if found else []
    return [sizes for sizes in sets if _runs(model, model.free, sizes)]


def _different(found: Mapping[str, list[int]], turn: int) -> dict[str, int]:
    """One size for each name, where possible no two the same: which of them an output follows is then plain."""
    chosen: dict[str, int] = {}
    for name, sizes in found.items():
        ranked = [*sizes[turn:], *sizes]
        chosen[name] = next((size for size in ranked if size not in chosen.values()), ranked[0])
    return chosen


def exporting_sizes(model: TorchModel) -> tuple[torch.Tensor, ...]:
    """The example as the exporters should see it: no free size is 1, which both take for a constant."""
    return model.resized({name: max(2, size) for name, size in model.sizes.items()})


def _runs(model: TorchModel, free: Free, sizes: dict[str, int]) -> bool:
    tried = TorchModel(model.flat, model.names, model.outputs, model.example, free=free)
    try:
        return len(model.call(tried.resized(sizes))) == len(model.outputs)
    except StudioError:
        return False


def _reason(model: TorchModel, sizes: dict[str, int]) -> str:
    try:
        model.call(model.resized(sizes))
    except StudioError as error:
        return error.why
    return ""
