"""A loaded torch.export program: running it on arrays, freeing its batch, turning it into ONNX. Imports torch."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils import _pytree as pytree

from studio.core.errors import Refused, StepFailed, StudioError
from studio.formats.base import Array, Feed

_BATCH = "batch"


class TorchProgram:
    """An exported program with the example inputs that it carries."""

    def __init__(self, program: Any, example: tuple[Any, dict[str, Any]]) -> None:
        self._program = program
        self._leaves, self._spec = pytree.tree_flatten(example)
        self._module = program.module(check_guards=False)
        self._tensors = [place for place, leaf in enumerate(self._leaves) if isinstance(leaf, torch.Tensor)]
        if not self._tensors:
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
        return cls(program, (args, kwargs))

    @property
    def static_rows(self) -> int:
        """The first size of every input where that is one number; 0 where it is free, or differs."""
        if self._program.range_constraints:
            return 0
        sizes = {tuple(self._leaves[place].shape[:1]) for place in self._tensors}
        return int(next(iter(sizes))[0]) if len(sizes) == 1 and sizes != {()} else 0

    def relaxed(self) -> TorchProgram | None:
        """The same program with the first size of every input made free. None where that is not possible."""
        args, kwargs = pytree.tree_unflatten(self._leaves, self._spec)
        if not self.static_rows or kwargs:
            return None
        if self.static_rows == 1:  # torch.export takes a size of 1 for a constant
            args = pytree.tree_map(
                lambda leaf: torch.cat([leaf, leaf]) if isinstance(leaf, torch.Tensor) else leaf, args
            )
        free = pytree.tree_map(
            lambda leaf: {0: torch.export.Dim.DYNAMIC} if isinstance(leaf, torch.Tensor) else None, args
        )
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                program = torch.export.export(self._module, args, dynamic_shapes=tuple(free))
        except Exception:  # it says why in a dozen ways; a graph for the fixed batch still can be made
            return None
        if not program.range_constraints:
            return None
        return TorchProgram(program, pytree.tree_unflatten(self._leaves, self._spec))

    def to_onnx(self, opset: int) -> Any:
        """An onnx.ModelProto with the program's own names. Raises Refused naming what has no ONNX form."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                exported = torch.onnx.export(self._program, dynamo=True, verbose=False, opset_version=opset)
        except MemoryError:
            raise
        except Exception as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            raise Refused(
                "PyTorch can not convert this program to ONNX.",
                f"{(lines or [type(error).__name__])[0][:400]}.",
                "The job's log has PyTorch's whole report. Replace the operator it names, and export again.",
            ) from error
        if exported is None:
            raise Refused("PyTorch's converter gave no ONNX model.")
        model = exported.model_proto
        _tidy(model)
        return model

    def run(self, feed: Feed, inputs: list[str], outputs: list[str]) -> Feed:
        """What the original answers, by output name. A fixed batch runs in pieces, the last one filled up with rows.

        Raises StepFailed when PyTorch does, Refused when the outputs are not those of the graph.
        """
        arrays = [feed[name] for name in inputs]
        rows = self.static_rows
        if not rows or any(array.ndim == 0 for array in arrays) or len(arrays[0]) == rows:
            return dict(zip(outputs, self._run(arrays, len(outputs)), strict=True))
        count = len(arrays[0])
        filled = [array[np.arange(-(-count // rows) * rows) % count] for array in arrays]
        parts = [
            self._run([array[start : start + rows] for array in filled], len(outputs))
            for start in range(0, len(filled[0]), rows)
        ]
        whole = [np.concatenate(pieces)[:count] for pieces in zip(*parts, strict=True)]
        return dict(zip(outputs, whole, strict=True))

    def _run(self, arrays: list[Array], count: int) -> list[Array]:
        if len(arrays) != len(self._tensors):
            raise Refused(
                f"The graph takes {len(arrays)} inputs; the program takes {len(self._tensors)} tensors.",
                "An input that the program never reads is dropped by the converter.",
                "Export it again without unused inputs.",
            )
        leaves = list(self._leaves)
        for place, array in zip(self._tensors, arrays, strict=True):
            leaves[place] = _tensor(array, self._leaves[place].dtype)
        args, kwargs = pytree.tree_unflatten(leaves, self._spec)
        try:
            with torch.no_grad():
                answer = self._module(*args, **kwargs)
        except StudioError:
            raise
        except Exception as error:
            shapes = ", ".join(str(list(array.shape)) for array in arrays)
            raise StepFailed(
                f"The original program failed on inputs of shape {shapes}.",
                f"{(str(error).strip() or type(error).__name__).splitlines()[0][:400]}.",
                "Drop sample inputs with it: an .npz of the same stem with one array per input.",
            ) from error
        found = [_array(leaf) for leaf in pytree.tree_leaves(answer) if isinstance(leaf, torch.Tensor)]
        if len(found) != count:
            raise Refused(f"The program gives {len(found)} tensors, and its ONNX graph {count}.")
        return found

    def ranges(self, inputs: list[str]) -> dict[str, tuple[float, float]]:
        """Smallest and largest value of each example input: made-up inputs between them are such as it was made for."""
        found: dict[str, tuple[float, float]] = {}
        for name, place in zip(inputs, self._tensors, strict=False):
            example = self._leaves[place]
            if not example.numel() or example.dtype == torch.bool or example.is_complex():
                continue
            low, high = float(example.min()), float(example.max())
            if np.isfinite([low, high]).all() and (low < high or not example.is_floating_point()):
                found[name] = (low, high)
        return found


def _tensor(array: Array, dtype: torch.dtype) -> torch.Tensor:
    if dtype == torch.bfloat16:
        return torch.from_numpy(array.astype(np.float32)).to(dtype)
    return torch.from_numpy(np.ascontiguousarray(array)).to(dtype)


def _array(tensor: torch.Tensor) -> Array:
    whole = tensor.detach().cpu()
    if whole.dtype == torch.bfloat16:
        import ml_dtypes

        return np.asarray(whole.to(torch.float32).numpy().astype(ml_dtypes.bfloat16))
    return np.asarray(whole.numpy())


def _tidy(model: Any) -> None:
    """Name the batch, and leave out stack traces: they show folders of whoever made the model."""
    graph = model.graph
    firsts = {
        value.type.tensor_type.shape.dim[0].dim_param
        for value in graph.input
        if value.type.tensor_type.shape.dim and value.type.tensor_type.shape.dim[0].dim_param
    }
    dims = [
        dim
        for value in (*graph.input, *graph.output, *graph.value_info)
        for dim in value.type.tensor_type.shape.dim
        if dim.dim_param
    ]
    if len(firsts) == 1 and _BATCH not in {dim.dim_param for dim in dims}:
        symbol = firsts.pop()
        for dim in dims:
            if dim.dim_param == symbol:
                dim.dim_param = _BATCH
    for nodes in (graph.node, *(function.node for function in model.functions)):
        for node in nodes:
            kept = [(prop.key, prop.value) for prop in node.metadata_props if not prop.key.endswith("stack_trace")]
            del node.metadata_props[:]
            for key, value in kept:
                prop = node.metadata_props.add()
                prop.key, prop.value = key, value
