"""A loaded torch.export program: running it on arrays, freeing its batch, turning it into ONNX. Imports torch."""

from __future__ import annotations

import logging
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils import _pytree as pytree

from studio.core.errors import InvalidInput, Refused
from studio.core.tensors import Signature
from studio.formats.base import Feed
from studio.formats.torch._model import Flat, Free, TorchModel
from studio.formats.torch._sizes import other_sizes
from studio.formats.torch.common import said

_SYMBOL = re.compile(r"s\d+")
_SIDES = {2: "height", 3: "width"}


class TorchProgram:
    """An exported program with the example inputs that it carries."""

    def __init__(self, program: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._program, self._args, self._kwargs = program, args, kwargs
        self._module = program.module(check_guards=False)
        self._flat = Flat(self._module, args, kwargs)
        leaves = pytree.tree_leaves((args, kwargs))
        self.example = tuple(leaf for leaf in leaves if isinstance(leaf, torch.Tensor))
        if not self.example:
            raise Refused("This program takes no tensors.", "An endpoint needs at least one tensor to send.")

    @classmethod
    def load(cls, path: Path, threads: int) -> TorchProgram:
        """Load an archive that was screened. Raises whatever PyTorch raises."""
        from torch.export.pt2_archive._package import load_pt2

        torch.set_num_threads(threads)
        for name in ("torch.onnx", "torch.export", "torch._export"):
            logging.getLogger(name).setLevel(logging.ERROR)
        # Not torch.export.load, which reads older, pickled layouts when this one fails.
        programs = load_pt2(str(path)).exported_programs
        if len(programs) != 1:
            raise Refused(
                f"'{path.name}' holds {len(programs)} programs.",
                "Studio serves archives with exactly one.",
                "Save each with torch.export.save.",
            )
        program = next(iter(programs.values()))
        # Guards are source text that module() would run; they only check inputs, which ONNX Runtime does itself.
        program._guards_code = []
        if program.example_inputs is None:
            raise Refused(
                f"'{path.name}' carries no example inputs.",
                "The inputs' structure is read from them.",
                "Save it again.",
            )
        args, kwargs = program.example_inputs
        return cls(program, args, kwargs)

    @property
    def static_rows(self) -> int:
        """The first size of every input where that is one number; 0 where it is free, or differs."""
        if self._program.range_constraints:
            return 0
        sizes = {tuple(tensor.shape[:1]) for tensor in self.example}
        return int(next(iter(sizes))[0]) if len(sizes) == 1 and sizes != {()} else 0

    def relaxed(self) -> TorchProgram | None:
        """The same program with the first size of every input made free. None where that is not possible.

        Other sizes stay: what the program took from them stands in it as numbers, and nothing tells where it is wrong.
        """
        if not self.static_rows:
            return None
        args, kwargs = self._args, self._kwargs
        if self.static_rows == 1:  # torch.export takes a size of 1 for a constant
            args, kwargs = pytree.tree_map(
                lambda leaf: torch.cat([leaf, leaf]) if isinstance(leaf, torch.Tensor) else leaf, (args, kwargs)
            )
        free = pytree.tree_map(
            lambda leaf: {0: torch.export.Dim.DYNAMIC} if isinstance(leaf, torch.Tensor) else None, (args, kwargs)
        )
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                program = torch.export.export(
                    self._module, args, kwargs, dynamic_shapes=(*free[0], *free[1].values()) if free[1] else free[0]
                )
        except Exception:  # it says why in a dozen ways; a graph for the fixed batch still can be made
            return None
        return TorchProgram(program, self._args, self._kwargs) if program.range_constraints else None

    def others(self, model: TorchModel) -> list[Feed]:
        """Inputs of other batches and lengths than its example has, where it takes any."""
        try:
            return [model.feed(model.resized(sizes)) for sizes in other_sizes(model)] if not self.static_rows else []
        except InvalidInput:  # multiples of some number, or within bounds
            return []

    def to_onnx(self, opset: int) -> Any:
        """An onnx.ModelProto with the program's own names. Raises Refused naming what has no ONNX form."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                exported = torch.onnx.export(self._program, dynamo=True, verbose=False, opset_version=opset)
        except MemoryError:
            raise
        except Exception as error:
            raise Refused(
                "PyTorch can not convert this program to ONNX.",
                said(error),
                "The job's log has PyTorch's whole report. Replace the operator it names, and export again.",
            ) from error
        if exported is None:
            raise Refused("PyTorch's converter gave no ONNX model.")
        model = exported.model_proto
        _name_sizes(model)
        return model

    def model(self, signature: Signature) -> TorchModel:
        """The program as a model with the names and free sizes of its graph. Raises Refused when they differ."""
        if len(signature.inputs) != len(self.example):
            raise Refused(
                f"The graph takes {len(signature.inputs)} inputs; the program takes {len(self.example)} tensors.",
                "An input that the program never reads is dropped by the converter.",
                "Export it again without unused inputs.",
            )
        free: Free = tuple(
            {axis: size for axis, size in enumerate(spec.shape) if isinstance(size, str) and size != "?"}
            for spec in signature.inputs
        )
        names = tuple(spec.name for spec in signature.inputs)
        outputs = tuple(spec.name for spec in signature.outputs)
        return _Program(self._flat, names, outputs, self.example, real=True, free=free, rows=self.static_rows)


class _Program(TorchModel):
    """A model that takes `rows` at a time, where that is fixed: other numbers of rows are put together from these."""

    def __init__(self, *args: Any, rows: int, **more: Any) -> None:
        super().__init__(*args, **more)
        self._rows = rows

    def run(self, feed: Feed) -> Feed:
        """Where rows are not independent of each other, what is put together is not what the graph gives."""
        rows = self._rows
        if not rows or any(array.ndim == 0 for array in feed.values()) or len(feed[self.names[0]]) == rows:
            return super().run(feed)
        count = len(feed[self.names[0]])
        filled = {name: array[np.arange(-(-count // rows) * rows) % count] for name, array in feed.items()}
        total = len(filled[self.names[0]])
        parts = [
            super(_Program, self).run({name: array[start : start + rows] for name, array in filled.items()})
            for start in range(0, total, rows)
        ]
        return {name: np.concatenate([part[name] for part in parts])[:count] for name in self.outputs}


def _name_sizes(model: Any) -> None:
    """Give the inputs' free sizes names that say what they are, in place of symbols (s77); those of the user stay."""
    names: dict[str, str] = {}
    dims = {value.name: value.type.tensor_type.shape.dim for value in model.graph.input}
    taken = {dim.dim_param for sizes in dims.values() for dim in sizes if dim.dim_param}
    for sizes in dims.values():
        for axis, dim in enumerate(sizes):
            if dim.dim_param and _SYMBOL.fullmatch(dim.dim_param) and dim.dim_param not in names:
                word = _word(axis, len(sizes))
                numbered = (word, *(f"{word}_{number}" for number in range(2, 1000)))
                names[dim.dim_param] = next(one for one in numbered if one not in taken)
                taken.add(names[dim.dim_param])
    for value in (*model.graph.input, *model.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in names:
                dim.dim_param = names[dim.dim_param]
            elif dim.dim_param and not dim.dim_param.isidentifier():
                dim.Clear()  # arithmetic on symbols


def _word(axis: int, rank: int) -> str:
    if axis == 0:
        return "batch"
    return _SIDES.get(axis, f"size_{axis}") if rank == 4 else "sequence" if axis == 1 else "length"
