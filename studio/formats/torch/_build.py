"""A network and whatever says what it takes become a converted model. Imports torch."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch.utils import _pytree as pytree

from studio.core.errors import InvalidInput, Refused, StepFailed, StudioError
from studio.formats.base import ArrivalFiles, Converted, Kit
from studio.formats.torch._choice import Origin, convert
from studio.formats.torch._code import FACTORY, PythonFile, UserCode, telling
from studio.formats.torch._inputs import Asked, find_inputs
from studio.formats.torch._model import Free, TorchModel, answer_of, of_module, resize
from studio.formats.torch._sizes import find_free
from studio.formats.torch.common import said

_EXAMPLE, _SHAPES = "example_inputs", "dynamic_shapes"
_SMALL = (torch.float16, torch.bfloat16)


def make(code: UserCode) -> Any:
    """The network that the factory makes. Raises Refused when it fails, or gives none."""
    file = code.factory
    assert file is not None
    found = getattr(code.load(file), FACTORY, None)
    if not isinstance(found, torch.nn.Module) and callable(found):
        with telling(file):
            found = found()
    if not isinstance(found, torch.nn.Module):
        raise Refused(
            f"'{FACTORY}' of {file.path.name} gives {_article(found)}, and no network.",
            "It must return a torch.nn.Module.",
            f"For example: def {FACTORY}(): return Net().",
        )
    return found


def _article(value: Any) -> str:
    return "nothing" if value is None else f"a {type(value).__name__}"


def convert_network(
    module: Any,
    files: ArrivalFiles,
    code: UserCode,
    out_dir: Path,
    kit: Kit,
    sources: Sequence[Path],
    notes: Iterable[str] = (),
    tools: Iterable[str] = (),
) -> Converted:
    """`sources`: what was read, weights first.

    Raises NeedsSettings when nothing tells its inputs, and what studio.formats.base says of a conversion.
    """
    model, told, said = network_model(module, files, code, kit, sources[0].name)
    converted = convert(model, out_dir, kit, Origin(tuple(sources), files.samples is not None, told), *tools)
    return replace(converted, notes=(*notes, *said, *converted.notes))


def network_model(
    module: Any, files: ArrivalFiles, code: UserCode, kit: Kit, name: str
) -> tuple[TorchModel, bool, tuple[str, ...]]:
    """A network with an example of what it takes, whether the user said which sizes are free, and notes.

    `name` is its file's. Raises as convert_network does.
    """
    torch.set_num_threads(kit.threads)
    notes = _prepare(module)
    describing = _describing(code, files.stem)
    extra: tuple[str, ...] = ()
    if describing is not None and _EXAMPLE in describing.defines:
        model, told = _with_example(module, describing, code.load(describing), kit)
    else:
        model, told, extra = _with_found(module, name, files, kit)
        if describing is not None and _SHAPES in describing.defines:
            model.free, told = _said_free(module, model, code.load(describing), describing, (), {}), True
    return model, told, (*notes, *extra)


def _prepare(module: Any) -> list[str]:
    """Evaluation mode, on the processor, in 32 bits. Numbers of 16 bits are a variant's business."""
    with torch.no_grad():
        module.eval().requires_grad_(False)
        try:
            module.cpu()
            small = {tensor.dtype for tensor in (*module.parameters(), *module.buffers()) if tensor.dtype in _SMALL}
            if small:
                module.float()
        except StudioError:
            raise
        except Exception as error:
            raise StepFailed("The network can not be moved to the processor.", said(error)) from error
    words = " and ".join(sorted(str(kind).removeprefix("torch.") for kind in small))
    return [f"Its weights in {words} are computed with in 32 bits."] if small else []


def _describing(code: UserCode, stem: str) -> PythonFile | None:
    """The file that says what goes in: the factory, or else one named like the arrival."""
    if code.factory is not None:
        return code.factory
    return next((file for file in code.files if file.path.stem == stem), None)


def _with_example(module: Any, file: PythonFile, loaded: ModuleType, kit: Kit) -> tuple[TorchModel, bool]:
    """The model on its factory's example, and whether it was said what is free."""
    example = getattr(loaded, _EXAMPLE)
    if callable(example):
        with telling(file):
            example = example()
    args, kwargs = _arguments(module, example, file)
    model = of_module(module, args, kwargs, real=True)
    dynamic = getattr(loaded, _SHAPES, None)
    if dynamic is not None:
        model.free = _said_free(module, model, loaded, file, args, kwargs)
    elif any(one.shape is not None for one in kit.settings.inputs.values()):
        _apply_settings(model, kit)
    else:
        model.free = find_free(model)
        return model, False
    return model, True


def _arguments(module: Any, example: Any, file: PythonFile) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What example_inputs gives as arguments: a tensor or a tuple by position, a dictionary by name."""
    example = pytree.tree_map(_as_tensor, example)
    if isinstance(example, torch.Tensor):
        return (example,), {}
    if isinstance(example, tuple | list):
        return tuple(example), {}
    if isinstance(example, Mapping):
        try:
            names = set(inspect.signature(module.forward).parameters)
        except (TypeError, ValueError):
            names = set()
        return ((), dict(example)) if set(example) <= names else ((dict(example),), {})
    raise Refused(
        f"'{_EXAMPLE}' of {file.path.name} gives {_article(example)}.",
        "It must give a tensor, a tuple of them, or a dictionary by the names of forward's arguments.",
    )


def _as_tensor(leaf: Any) -> Any:
    if isinstance(leaf, np.ndarray):
        leaf = torch.from_numpy(np.ascontiguousarray(leaf))
        return leaf.to(torch.float32) if leaf.dtype == torch.float64 else leaf
    if isinstance(leaf, torch.Tensor):
        return leaf.detach().cpu().to(torch.float32) if leaf.dtype in _SMALL else leaf.detach().cpu()
    return leaf


def _said_free(
    module: Any, model: TorchModel, loaded: ModuleType, file: PythonFile, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Free:
    """`dynamic_shapes` as torch.export takes it, for each tensor of the example."""
    dynamic = getattr(loaded, _SHAPES)
    parameters = list(inspect.signature(module.forward).parameters)
    paths = [path for path, leaf in pytree.tree_flatten_with_path((args, kwargs))[0] if isinstance(leaf, torch.Tensor)]
    found: list[dict[int, str]] = []
    for place, name in enumerate(model.names):
        keys = [_key(key) for key in paths[place]] if paths else [1, name]
        if isinstance(dynamic, Mapping) and keys[0] == 0 and isinstance(keys[1], int):
            keys[1] = parameters[keys[1]] if keys[1] < len(parameters) else keys[1]
        if not isinstance(dynamic, Mapping) and isinstance(keys[1], str):
            keys[1] = parameters.index(keys[1]) if keys[1] in parameters else keys[1]
        spec: Any = dynamic
        try:
            for key in keys[1:]:
                spec = spec.get(key) if isinstance(spec, Mapping) else spec[key] if spec is not None else None
            found.append(_axes(spec, model.example[place].ndim, name))
        except (IndexError, KeyError, TypeError, AttributeError) as error:
            raise InvalidInput(
                f"'{_SHAPES}' of {file.path.name} does not fit its inputs, at '{name}'.",
                said(error),
                'Write one entry an input, for example {"x": {0: "batch"}}; see torch.export.',
            ) from error
    return tuple(found)


def _key(key: Any) -> Any:
    return getattr(key, "key", getattr(key, "idx", getattr(key, "name", None)))


def _axes(spec: Any, rank: int, name: str) -> dict[int, str]:
    if spec is None:
        return {}
    pairs = spec.items() if isinstance(spec, Mapping) else enumerate(spec)
    found: dict[int, str] = {}
    for axis, size in pairs:
        if not isinstance(axis, int) or not -rank <= axis < rank:
            raise IndexError(f"there is no dimension {axis}")
        if size is None or isinstance(size, int) or str(size).endswith("STATIC"):
            continue
        own = size if isinstance(size, str) else getattr(size, "__name__", "")
        found[axis % rank] = own if own.isidentifier() else "batch" if axis == 0 else f"{name}_{axis % rank}"
    return found


def _apply_settings(model: TorchModel, kit: Kit) -> None:
    """Free sizes, and other sizes than the example's, as the user's settings say them."""
    free: list[dict[int, str]] = []
    example = list(model.example)
    for place, name in enumerate(model.names):
        settings = kit.settings.inputs.get(name)
        shape = settings.shape if settings is not None else None
        if shape is None:
            free.append({})
            continue
        if len(shape) != example[place].ndim:
            raise InvalidInput(
                f"The settings give the shape {list(shape)} for '{name}'.",
                f"'{_EXAMPLE}' gives one of {example[place].ndim} dimensions.",
                "Let both say the same.",
            )
        sized = {axis: size for axis, size in enumerate(shape) if isinstance(size, int)}
        example[place] = resize(example[place], sized)
        free.append({axis: size for axis, size in enumerate(shape) if isinstance(size, str)})
    model.example, model.free = tuple(example), tuple(free)
    model.call(model.example)


def _with_found(module: Any, file: str, files: ArrivalFiles, kit: Kit) -> tuple[TorchModel, bool, tuple[str, ...]]:
    known, needed, positional = _parameters(module, kit)

    def arguments(tensors: dict[str, torch.Tensor]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if positional:
            return tuple(tensors.values()), {}
        return (), tensors

    def call(tensors: dict[str, torch.Tensor]) -> None:
        args, kwargs = arguments(tensors)
        answer_of(module, args, kwargs)

    asked = Asked(file, files.stem, module, known, needed, call)
    found = find_inputs(asked, kit, files.samples, {})
    args, kwargs = arguments(found.tensors)
    model = of_module(module, args, kwargs, real=found.real)
    model.names = tuple(found.renamed.get(name, name) for name in found.tensors)
    model.free = found.free if found.free is not None else find_free(model)
    return model, bool(found.shapes and not found.note), ((found.note,) if found.note else ())


def _parameters(module: Any, kit: Kit) -> tuple[tuple[str, ...], tuple[str, ...], bool]:
    """Names that forward takes, those that it needs, and whether it takes them by position alone."""
    try:
        parameters = list(inspect.signature(module.forward).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    named = [one for one in parameters if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)]
    if not named:
        names = tuple(kit.settings.inputs) or ("input",)
        return names, names, True
    needed = tuple(one.name for one in named if one.default is one.empty)
    return tuple(one.name for one in named), needed or (named[0].name,), False
