"""Example inputs for a PyTorch model whose file does not tell what it takes. Imports torch.

Each input is known from the first of: the user's settings, what the file itself holds, the user's samples. Where there
is none of these, and one input, shapes that fit the first layer are tried. The rest only the user can say.
"""

from __future__ import annotations

import itertools
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from studio.core.errors import InvalidInput, NeedsSettings, StudioError
from studio.core.tensors import DATATYPES, TensorSpec
from studio.formats.base import Feed, Kit
from studio.formats.settings.file import InputSettings
from studio.formats.torch._layers import Layer, first_layer, guess
from studio.formats.torch._model import Free, Shape, resize

Tensors = dict[str, torch.Tensor]

_LABELS = "labels"
_ROWS, _LENGTH, _SIDE = 2, 8, 32


@dataclass(frozen=True)
class Asked:
    """Whose inputs are looked for: a file with its stem, and a module.

    `known`: all that `forward` takes, `needed`: what it can not do without. `call` runs it on tensors by name.
    """

    file: str
    stem: str
    module: Any
    known: tuple[str, ...]
    needed: tuple[str, ...]
    call: Callable[[Tensors], Any]

    def takes(self, tensors: Tensors) -> bool:
        """Whether it runs on them."""
        try:
            self.call(tensors)
        except StudioError:
            return False
        return True


@dataclass(frozen=True)
class Inputs:
    """`tensors` by name, which the model was seen to take. `shapes`: those whose free sizes have been said or found.

    `real`: whether the values are the user's. `note` tells what was found by trying. `renamed`: what the user calls
    inputs whose own names say nothing.
    """

    tensors: Tensors
    shapes: Mapping[str, Shape] = field(default_factory=dict)
    real: bool = False
    note: str = ""
    renamed: Mapping[str, str] = field(default_factory=dict)

    @property
    def free(self) -> Free | None:
        """Free sizes by input, None where they have to be looked for."""
        if not self.shapes:
            return None
        return tuple(
            {axis: size for axis, size in enumerate(self.shapes.get(name, ())) if isinstance(size, str)}
            for name in self.tensors
        )


def find_inputs(
    asked: Asked, kit: Kit, samples: Path | None, given: Mapping[str, torch.Tensor], real: bool = True
) -> Inputs:
    """`given`: what the file itself tells, `real`: with values, and not only sizes and types.

    Raises NeedsSettings naming inputs of which nothing is known, InvalidInput for what the model does not take.
    """
    settings, renamed = _by_name(asked, kit.settings.inputs)
    known = {**_read_samples(samples, asked), **given}
    said = {name for name, one in settings.items() if one.shape is not None}
    names = [name for name in asked.known if name in asked.needed or name in said or name in known]
    missing = tuple(name for name in names if name not in said and name not in known)
    if missing:
        return _guessed(asked, names, missing)
    layer = first_layer(asked.module)
    failures: dict[str, StudioError] = {}
    for rows, word, wide in itertools.product((_ROWS, 1), ("FP32", "INT64", "mixed", "FP64"), (False, True)):
        shapes = _shapes(names, settings, known)
        sizes = _sizes(shapes, rows)
        tensors = {
            name: _made(name, shapes[name], settings[name], sizes, word, known.get(name))
            if name in said
            else _taken(known[name], settings.get(name), sizes, shapes.get(name), rows, name in given, wide, word)
            for name in names
        }
        try:
            asked.call(tensors)
        except StudioError as error:
            failures.setdefault(word, error)
            continue
        return Inputs(tensors, shapes if said else {}, real=not said and (real or not given), renamed=renamed)
    # Of all types that were tried, the one that its first layer takes says what is wrong with the shapes.
    failure = failures.get(layer.datatype if layer else "") or next(iter(failures.values()))
    source = f"the shapes in {asked.stem}.toml" if said else "the example inputs that it was given"
    raise InvalidInput(f"The model does not take {source}.", failure.why or failure.what, _SHAPES_FIX) from failure


_SHAPES_FIX = "Give shapes and types for all of its inputs in the .toml beside it, or drop an .npz with typical inputs."


def _by_name(asked: Asked, settings: Mapping[str, InputSettings]) -> tuple[dict[str, InputSettings], dict[str, str]]:
    """The user's settings by the model's own names; in its order, where none of them is one of the model's."""
    unknown = [name for name in settings if name not in asked.known]
    if unknown and len(unknown) == len(settings) == len(asked.needed):
        renamed = dict(zip(asked.needed, settings, strict=True))
        return {own: settings[name] for own, name in renamed.items()}, renamed
    if unknown:
        raise InvalidInput(
            f"The settings describe an input '{unknown[0]}', which the model does not have.",
            f"Its inputs: {', '.join(asked.known)}.",
            "Correct the name in the .toml beside it.",
        )
    return dict(settings), {}


def _shapes(
    names: list[str], settings: Mapping[str, InputSettings], known: Mapping[str, torch.Tensor]
) -> dict[str, Shape]:
    """The shapes that were said; inputs that were not have the same free batch as those, if they have any."""
    found = {name: tuple(settings[name].shape or ()) for name in names if name in settings and settings[name].shape}
    for name in names:
        if name in settings and settings[name].shape == ():
            found[name] = ()
    leading = {shape[0] for shape in found.values() if shape and isinstance(shape[0], str)}
    if len(leading) == 1:
        batch = leading.pop()
        for name in names:
            if name not in found and known[name].ndim:
                found[name] = (batch, *(int(size) for size in known[name].shape[1:]))
    return found


def _sizes(shapes: Mapping[str, Shape], rows: int) -> dict[str, int]:
    """A number for each free size: rows in front, and lengths or sides of images elsewhere."""
    found: dict[str, int] = {}
    for shape in shapes.values():
        for place, size in enumerate(shape):
            if isinstance(size, str) and place:
                found.setdefault(size, _SIDE if len(shape) == 4 else _LENGTH)
    for shape in shapes.values():
        if shape and isinstance(shape[0], str):
            found[shape[0]] = rows
    return found


def _made(
    name: str, shape: Shape, settings: InputSettings, sizes: Mapping[str, int], word: str, known: torch.Tensor | None
) -> torch.Tensor:
    """Made-up values of a shape that was said. `word`: the type where nothing tells it; mixed = tokens are whole."""
    concrete = tuple(size if isinstance(size, int) else sizes[size] for size in shape)
    if settings.datatype:
        kind = getattr(torch, DATATYPES[settings.datatype][0])
    elif known is not None:
        kind = known.dtype
    else:
        whole = word == "INT64" or (word == "mixed" and len(shape) <= 2)
        kind = torch.int64 if whole else torch.float64 if word == "FP64" else torch.float32
    return made_up(concrete, kind, settings.range, name)


def made_up(
    shape: tuple[int, ...], kind: torch.dtype, bounds: tuple[float, float] | None = None, name: str = ""
) -> torch.Tensor:
    """Values of a type: within bounds, else standard normal, or zeros and ones; ones where the name says mask."""
    if bounds is None and "mask" in name.lower():
        return torch.ones(shape).to(kind)
    generator = torch.Generator().manual_seed(20)
    if kind.is_floating_point:
        if bounds is None:
            return torch.randn(shape, generator=generator).to(kind)
        return (torch.rand(shape, generator=generator) * (bounds[1] - bounds[0]) + bounds[0]).to(kind)
    low, high = (int(bounds[0]), int(bounds[1])) if bounds else (0, 1)
    return torch.randint(low, high + 1, shape, generator=generator).to(kind)


def _taken(
    tensor: torch.Tensor,
    settings: InputSettings | None,
    sizes: Mapping[str, int],
    shape: Shape | None,
    rows: int,
    given: bool,
    wide: bool,
    word: str,
) -> torch.Tensor:
    """An example that is there: as it is; a few of its rows, where it is the user's samples."""
    if shape and isinstance(shape[0], str):
        tensor = resize(tensor, {0: sizes[shape[0]]})
    elif not given and tensor.ndim:
        tensor = tensor[:rows]
    if settings is not None and settings.datatype:
        return tensor.to(getattr(torch, DATATYPES[settings.datatype][0]))
    if given or word == "FP64":
        return tensor
    return tensor.to(torch.float32) if wide or tensor.dtype == torch.float64 else tensor


def _read_samples(path: Path | None, asked: Asked) -> Tensors:
    """The user's samples by input. Raises InvalidInput when they can not be read, or are for other inputs."""
    if path is None:
        return {}
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays: Feed = {name: archive[name] for name in archive.files}
        arrays = {name: array for name, array in arrays.items() if name != _LABELS or name in asked.known}
        if len(arrays) == 1 and len(asked.needed) == 1:
            arrays = {asked.needed[0]: next(iter(arrays.values()))}
        tensors = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}
    except (
        ValueError,
        TypeError,
        OSError,
        EOFError,
        KeyError,
        AttributeError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise InvalidInput(
            f"The sample inputs '{path.name}' can not be read.",
            f"{error}.",
            "Save them with np.savez from arrays of numbers.",
        ) from error
    foreign = [name for name in tensors if name not in asked.known]
    if foreign:
        raise InvalidInput(
            "The sample inputs do not have the model's inputs.",
            f"The model takes {', '.join(asked.known)}; the file has {', '.join(tensors)}.",
            f"For example: np.savez('{asked.stem}.npz', {', '.join(f'{name}=…' for name in asked.needed)}, labels=…).",
        )
    return tensors


def _guessed(asked: Asked, names: list[str], missing: tuple[str, ...]) -> Inputs:
    layer = first_layer(asked.module)
    if layer is not None and names == list(missing) and len(names) == 1:
        name = names[0]
        found = guess(layer, lambda tensor: asked.takes({name: tensor}), made_up)
        if found is not None:
            return Inputs(
                {name: found.tensor},
                {name: found.shape},
                note=f"The file does not tell its input: {_described(found.shape)} was found by trying what fits "
                f"{layer.words}. If it should be another, say so in {asked.stem}.toml.",
            )
    raise _question(asked, missing, layer)


def _described(shape: Shape) -> str:
    return f"[{' × '.join(map(str, shape))}]"


def _question(asked: Asked, missing: tuple[str, ...], layer: Layer | None) -> NeedsSettings:
    first = "\n".join(
        f'[inputs.{name}]\nshape = {_toml(shape)}\ndatatype = "{kind}"\n'
        for name, shape, kind in _hints(missing, layer)
    )
    hint = f" Its first layer is {layer.words}." if layer is not None else ""
    return NeedsSettings(
        f"'{asked.file}' does not tell the shapes of its inputs.",
        missing,
        f"forward takes {', '.join(asked.known)}.{hint}",
        f"Drop {asked.stem}.toml beside it, with your own sizes (names are sizes that stay free):\n\n{first}\n"
        f"Or drop {asked.stem}.npz with typical inputs: np.savez('{asked.stem}.npz', "
        f"{', '.join(f'{name}=…' for name in missing)}).",
        tuple(
            TensorSpec(name, kind, shape)
            for name, shape, kind in _hints(missing, layer)
            if layer and shape == layer.likely
        ),
    )


def _hints(missing: tuple[str, ...], layer: Layer | None) -> Iterator[tuple[str, Shape, str]]:
    for place, name in enumerate(missing):
        if layer is not None and (place == 0 or layer.kind == "Embedding"):
            yield name, layer.likely, layer.datatype
        else:
            yield name, ("batch", "features"), "FP32"  # nothing is known of it, so no size is made up


def _toml(shape: Shape) -> str:
    return f"[{', '.join(str(size) if isinstance(size, int) else chr(34) + size + chr(34) for size in shape)}]"
