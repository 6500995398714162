"""Loaded TorchScript modules: what they take, the inputs that tracing left in the file, and a plain face. Uses torch.

A TorchScript module can take numbers, optional tensors and the like, and give dictionaries, which neither exporter
knows. It is put into a small script of ours that takes tensors and gives a tuple of tensors.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch._weights_only_unpickler import Unpickler
from torch.utils import _pytree as pytree

from studio.core.errors import InvalidInput, Refused
from studio.formats.torch._inputs import made_up
from studio.formats.torch._model import TorchModel, answer_of, output_names
from studio.formats.torch.archive import open_reader, read_member
from studio.formats.torch.common import EXPORT_FIX, loading, said

_SMALL = (torch.float16, torch.bfloat16)
_LARGEST_TRACE = 256 * 1024 * 1024
_PYTHON = {"int": (int, torch.int64), "float": (float, torch.float32), "bool": (bool, torch.bool)}


@dataclass(frozen=True)
class Argument:
    """One argument of forward. `kind`: Tensor, int, float or bool. `needed`: it has no default."""

    name: str
    kind: str
    needed: bool


def load(path: Path) -> Any:
    """A module in evaluation mode, on the processor. Raises InvalidInput."""
    with loading(path.name, "Save it again with torch.jit.save, best on the processor: model.cpu()."):
        module = torch.jit.load(str(path), map_location="cpu")
        if not hasattr(module, "forward"):
            raise Refused(f"'{path.name}' has no method forward.", "Only forward becomes an endpoint.", EXPORT_FIX)
        for parameter in module.parameters():
            parameter.requires_grad_(False)
        return module.eval()


def widen(module: Any) -> tuple[str, ...]:
    """Compute in 32 bits, where the weights have 16. Says so."""
    small = {tensor.dtype for tensor in (*module.parameters(), *module.buffers()) if tensor.dtype in _SMALL}
    if not small:
        return ()
    module.float()
    words = " and ".join(sorted(str(kind).removeprefix("torch.") for kind in small))
    return (f"Its weights in {words} are computed with in 32 bits.",)


def arguments(module: Any) -> tuple[Argument, ...]:
    """What forward takes, as its schema says. Raises Refused for what no request can carry and has no default."""
    found: list[Argument] = []
    for one in module.forward.schema.arguments[1:]:
        kind = str(one.type).removeprefix("Optional[").removesuffix("]")
        needed = not one.has_default_value()
        if kind == "Tensor" or kind in _PYTHON:
            found.append(Argument(one.name, kind, needed))
        elif needed:
            raise Refused(
                f"The input '{one.name}' of this TorchScript module is a {str(one.type)[:100]}.",
                "An endpoint takes tensors and numbers.",
                "Wrap the model in a module whose forward takes tensors, and script that.",
            )
    if not found:
        raise Refused("This TorchScript module takes no tensors.", "An endpoint needs at least one tensor to send.")
    return tuple(found)


def traced_inputs(path: Path) -> tuple[list[torch.Tensor], bool]:
    """The example that torch.jit.trace left in the file, and whether it has values. Nothing where there is none.

    PyTorch does not read it back, and PyTorch 2 writes sizes and types without the values. Only tensors are read, by
    the unpickler that makes nothing else.
    """
    reader = open_reader(path)
    if not reader.has_record("traced_inputs.pkl"):
        return [], False
    filled: list[bool] = []

    def storage(pid: Any) -> Any:
        _, kind, key, _, count = pid
        size = int(count) * torch.empty(0, dtype=kind.dtype).element_size()
        name = f"traced_inputs/{key}"
        if not 0 <= size <= _LARGEST_TRACE:
            raise ValueError("it is too large for an example")
        data = reader.get_record(name) if reader.has_record(name) else b""
        filled.append(len(data) == size)
        raw = torch.frombuffer(bytearray(data if filled[-1] else bytes(size)) or bytearray(1), dtype=torch.uint8)
        return torch.storage.TypedStorage(wrap_storage=raw.untyped_storage(), dtype=kind.dtype, _internal=True)

    unpickler = Unpickler(io.BytesIO(read_member(path, reader, "traced_inputs.pkl")), encoding="utf-8")
    unpickler.persistent_load = storage
    try:
        with torch.serialization.safe_globals([(_untagged, "torch.jit._pickle.restore_type_tag")]):
            found = list(unpickler.load()["forward"])
    except MemoryError:
        raise
    except Exception:  # an example is a help, and no reason to refuse a module
        return [], False
    if not all(isinstance(one, torch.Tensor) for one in found):
        return [], False
    if all(filled):
        return found, True
    return [made_up(tuple(one.shape), one.dtype) for one in found], False


def _untagged(value: Any, _tag: Any) -> Any:
    return value


def model_of(module: Any, kinds: Mapping[str, str], tensors: Mapping[str, torch.Tensor], real: bool) -> TorchModel:
    """A module with these inputs as a model. Raises StepFailed when it does not run, Refused for odd outputs."""
    answer = call(module, kinds, tensors)
    outputs = output_names(answer, tuple(tensors))
    paths = [path for path, leaf in pytree.tree_flatten_with_path(answer)[0] if isinstance(leaf, torch.Tensor)]
    try:
        flat = _scripted(module, _source(kinds, tuple(tensors), paths))
    except (RuntimeError, AttributeError, ImportError) as error:
        raise Refused(
            "The inputs and outputs of this TorchScript module can not be taken apart.", said(error), EXPORT_FIX
        ) from error
    return TorchModel(flat, tuple(tensors), outputs, tuple(tensors.values()), real, scripted=True)


def call(module: Any, kinds: Mapping[str, str], tensors: Mapping[str, torch.Tensor]) -> Any:
    """What a module gives for inputs by name. Raises StepFailed."""
    values = {
        name: tensor if kinds[name] == "Tensor" else _PYTHON[kinds[name]][0](tensor.item())
        for name, tensor in tensors.items()
        if kinds[name] == "Tensor" or tensor.numel() == 1
    }
    if len(values) != len(tensors):
        name = next(name for name in tensors if name not in values)
        raise InvalidInput(
            f"The input '{name}' is one {kinds[name]}.", "Its shape is that of a single value.", "shape = []"
        )
    return answer_of(module, (), values)


def example(kind: str) -> torch.Tensor | None:
    """A value for a number that forward takes; None for tensors."""
    return None if kind == "Tensor" else torch.tensor(2 if kind != "bool" else True).to(_PYTHON[kind][1])


def _source(kinds: Mapping[str, str], names: tuple[str, ...], paths: list[Any]) -> str:
    """The script: `names` come from the module's own schema, where they are identifiers already."""
    values = ", ".join(f"{name}={name if kinds[name] == 'Tensor' else f'{kinds[name]}({name})'}" for name in names)
    parts = ", ".join("answer" + "".join(f"[{_index(key)}]" for key in path) for path in paths)
    return (
        f"def forward(self, {', '.join(f'{name}: Tensor' for name in names)}):\n"
        f"    answer = self.inner({values})\n"
        f"    return ({parts},)\n"
    )


def _index(key: Any) -> str:
    own = getattr(key, "key", getattr(key, "idx", getattr(key, "name", None)))
    return repr(own) if isinstance(own, str | int) else "0"


def _scripted(inner: Any, source: str) -> Any:
    """A script module around another. The parser and the maker are private to PyTorch, and as old as scripts are."""
    from torch.jit._recursive import ScriptMethodStub, create_script_module

    class Around(torch.nn.Module):  # type: ignore[misc]  # PyTorch is read without its types
        def __init__(self) -> None:
            super().__init__()
            self.inner = inner

    stub = ScriptMethodStub({"Tensor": torch.Tensor}.get, torch._C._parse_source_def(source), None)
    return create_script_module(Around().eval(), lambda _module: [stub], share_types=False).eval()
