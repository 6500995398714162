"""A PyTorch model as exporters and checks see it: named tensors in, named tensors out. Imports torch."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.utils import _pytree as pytree

from studio.core.errors import Refused, StepFailed, StudioError
from studio.core.tensors import DATATYPES, Dim, Signature, TensorSpec
from studio.formats.base import Array, Feed
from studio.formats.clock import running
from studio.formats.torch.common import said

# Transformers on their plain path: the fast one has no form in ONNX, and answers padded positions differently.
torch.backends.mha.set_fastpath_enabled(False)

Shape = tuple[int | str, ...]
"""Sizes of an input: numbers, and names of those that a caller may choose."""

Free = tuple[dict[int, str], ...]
"""For each input the names of its free sizes, by axis."""

_TYPES = {getattr(torch, name): datatype for datatype, (name, _) in DATATYPES.items() if hasattr(torch, name)}
_ODD = re.compile(r"[^A-Za-z0-9_.]+")


@dataclass
class TorchModel:
    """`flat` takes the inputs as tensors, in the order of `names`, and gives the outputs as a tuple of tensors.

    `example`: one tensor for each input, which `flat` was seen to take. `real`: whether its values are the user's, and
    not made up. `free`: which of its sizes a caller may choose.
    """

    flat: Any
    names: tuple[str, ...]
    outputs: tuple[str, ...]
    example: tuple[torch.Tensor, ...]
    real: bool = False
    free: Free = field(default=())
    scripted: bool = False

    def __post_init__(self) -> None:
        if not self.free:
            self.free = tuple({} for _ in self.names)

    @property
    def sizes(self) -> dict[str, int]:
        """The free sizes of the example, by name."""
        return {
            name: int(tensor.shape[axis])
            for tensor, free in zip(self.example, self.free, strict=True)
            for axis, name in free.items()
        }

    def signature(self) -> Signature:
        """The inputs as the graph should declare them. Raises Refused for types that no request can carry."""
        return Signature(
            inputs=tuple(
                TensorSpec(name, datatype_of(name, tensor), _shape(tensor, free))
                for name, tensor, free in zip(self.names, self.example, self.free, strict=True)
            ),
            outputs=(),
        )

    def resized(self, sizes: Mapping[str, int]) -> tuple[torch.Tensor, ...]:
        """The example with other free sizes: rows and steps repeated, or left out."""
        return tuple(
            resize(tensor, {axis: sizes[name] for axis, name in free.items() if name in sizes})
            for tensor, free in zip(self.example, self.free, strict=True)
        )

    def call(self, tensors: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """The outputs. Raises StepFailed with what PyTorch says."""
        return tuple(answer_of(self.flat, tuple(tensors), {}))

    def run(self, feed: Feed) -> Feed:
        """The same for arrays by name."""
        answer = self.call(
            [tensor_of(feed[name], like.dtype) for name, like in zip(self.names, self.example, strict=True)]
        )
        if len(answer) != len(self.outputs):
            raise Refused(
                f"The original model gave {len(answer)} tensors, and {len(self.outputs)} for other inputs.",
                "An endpoint always gives the same outputs.",
            )
        return {name: array_of(tensor) for name, tensor in zip(self.outputs, answer, strict=True)}

    def feed(self, tensors: Sequence[torch.Tensor]) -> Feed:
        """Tensors as arrays by name."""
        return {name: array_of(tensor) for name, tensor in zip(self.names, tensors, strict=True)}

    def ranges(self) -> dict[str, tuple[float, float]]:
        """Smallest and largest value of each input of a real example; masks are 1, since rows of 0 have no answer."""
        found: dict[str, tuple[float, float]] = {}
        for name, tensor in zip(self.names, self.example, strict=True):
            if not self.real or not tensor.numel() or tensor.dtype == torch.bool:
                continue
            if "mask" in name.lower() and not tensor.is_floating_point():
                found[name] = (1.0, 1.0)
                continue
            low, high = float(tensor.min()), float(tensor.max())
            if np.isfinite([low, high]).all() and (low < high or not tensor.is_floating_point()):
                found[name] = (low, high)
        return found


class Flat(torch.nn.Module):  # type: ignore[misc]  # PyTorch is read without its types
    """A module that takes the tensors of an example alone; everything else of the example stays as it was."""

    def __init__(self, inner: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        super().__init__()
        self.inner = inner
        self._leaves, self._spec = pytree.tree_flatten((args, kwargs))
        self._places = [place for place, leaf in enumerate(self._leaves) if isinstance(leaf, torch.Tensor)]
        for place in self._places:
            self._leaves[place] = None
        self.training = False

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        leaves = list(self._leaves)
        for place, tensor in zip(self._places, tensors, strict=True):
            leaves[place] = tensor
        args, kwargs = pytree.tree_unflatten(leaves, self._spec)
        return tuple(leaf for leaf in pytree.tree_leaves(self.inner(*args, **kwargs)) if isinstance(leaf, torch.Tensor))


def of_module(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], real: bool) -> TorchModel:
    """A model of an nn.Module in evaluation mode. Raises StepFailed when it does not run, Refused without tensors."""
    names, tensors = _named_inputs(module, args, kwargs)
    if not tensors:
        raise Refused("This model takes no tensors.", "An endpoint needs at least one tensor to send.")
    answer = answer_of(module, args, kwargs)
    return TorchModel(Flat(module, args, kwargs), names, output_names(answer, names), tensors, real)


def answer_of(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What a module gives. Raises StepFailed with what PyTorch, or the user's own code, says."""
    try:
        with running(), torch.no_grad():
            return module(*args, **kwargs)
    except (StudioError, MemoryError):
        raise
    except Exception as error:  # the user's own code raises anything
        leaves = pytree.tree_leaves((args, kwargs))
        shapes = ", ".join(str(list(leaf.shape)) for leaf in leaves if isinstance(leaf, torch.Tensor))
        raise StepFailed(
            f"The original model failed on inputs of shape {shapes}.",
            said(error),
            "Drop sample inputs with it: an .npz of the same stem with one array per input.",
        ) from error


def output_names(answer: Any, inputs: Sequence[str]) -> tuple[str, ...]:
    """A name for each tensor in what a model gives: its key, its field, or its place. Raises Refused for none."""
    found: list[str] = []
    for path, leaf in pytree.tree_flatten_with_path(answer)[0]:
        if isinstance(leaf, torch.Tensor):
            words = [_word(key) for key in path]
            name = "_".join(words) if words else "output"
            found.append(f"output_{name}" if name[0].isdigit() else name)
    if not found:
        raise Refused(
            f"The model gives a {type(answer).__name__}, in which there are no tensors.",
            "An endpoint gives tensors, alone or in tuples, lists and dictionaries.",
            "Wrap it in a module whose forward returns tensors.",
        )
    taken = set(inputs)  # one name can not stand for an input and an output of a graph
    unique: list[str] = []
    for name in found:
        while name in taken:
            name += "_out"
        taken.add(name)
        unique.append(name)
    return tuple(unique)


def _named_inputs(
    module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[str, ...], tuple[torch.Tensor, ...]]:
    try:
        parameters = inspect.signature(module.forward).parameters.values()
    except (TypeError, ValueError):
        parameters = ()  # type: ignore[assignment]
    positional = [one.name for one in parameters if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
    names: list[str] = []
    tensors: list[torch.Tensor] = []
    for path, leaf in pytree.tree_flatten_with_path((args, kwargs))[0]:
        if not isinstance(leaf, torch.Tensor):
            continue
        first = _word(path[1])
        if _word(path[0]) == "0":
            first = positional[int(first)] if int(first) < len(positional) else f"input_{first}"
        names.append("_".join([first, *(_word(key) for key in path[2:])]))
        tensors.append(leaf)
    return tuple(names), tuple(tensors)


def _word(key: Any) -> str:
    text = str(getattr(key, "key", getattr(key, "idx", getattr(key, "name", key))))
    return _ODD.sub("_", text).strip("_") or "x"


def resize(tensor: torch.Tensor, sizes: Mapping[int, int]) -> torch.Tensor:
    """A tensor with other sizes by axis: its entries from the first on, beginning again where they end."""
    for axis, size in sizes.items():
        if tensor.shape[axis] != size:
            tensor = tensor.index_select(axis, torch.arange(size) % tensor.shape[axis])
    return tensor


def datatype_of(name: str, tensor: torch.Tensor) -> str:
    """The OIP datatype of a tensor. Raises Refused when there is none."""
    found = _TYPES.get(tensor.dtype)
    if found is None:
        raise Refused(
            f"The input '{name}' is of type {str(tensor.dtype).removeprefix('torch.')}, which can not be served.",
            "Requests carry numbers and booleans.",
            "Wrap the model in a module that takes real numbers.",
        )
    return found


def tensor_of(array: Array, dtype: torch.dtype) -> torch.Tensor:
    """An array as a tensor of a type."""
    if dtype == torch.bfloat16:
        return torch.from_numpy(array.astype(np.float32)).to(dtype)
    return torch.from_numpy(np.array(array, order="C")).to(dtype)


def array_of(tensor: torch.Tensor) -> Array:
    """A tensor as an array; bfloat16 as that of ml_dtypes."""
    whole = tensor.detach().cpu().resolve_conj().contiguous()
    if whole.is_quantized or whole.layout != torch.strided:
        raise Refused("The model gives quantized or sparse tensors.", "Answers carry plain ones.", "Make them dense.")
    if whole.dtype == torch.bfloat16:
        import ml_dtypes

        return np.asarray(whole.to(torch.float32).numpy().astype(ml_dtypes.bfloat16))
    return np.asarray(whole.numpy())


def _shape(tensor: torch.Tensor, free: Mapping[int, str]) -> tuple[Dim, ...]:
    return tuple(free.get(axis, int(size)) for axis, size in enumerate(tensor.shape))
