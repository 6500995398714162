"""A Keras model on PyTorch: loading it, running it on arrays, turning it into ONNX. Imports keras and torch."""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ["KERAS_BACKEND"] = "torch"  # read when keras is imported
import keras
import numpy as np
import torch
from keras import tree
from keras.src.models.functional import Functional

from studio.core.errors import Refused, StepFailed, StudioError
from studio.formats.base import Array, Feed
from studio.formats.clock import running
from studio.formats.keras._operators import as_operators
from studio.formats.onnx.files import INLINE_LIMIT
from studio.formats.torch._exported import BATCH, declare, free_names, leave_out_traces, rename

OPSET = 20
Shape = tuple[int | None, ...]

# Where the names of a configuration may come from. The rest of Keras (files, downloads, callbacks …) is no part of a
# model.
_NAMESPACES = (
    *("activations", "constraints", "dtype_policies", "initializers", "layers", "losses", "metrics", "models"),
    *("optimizers", "optimizers.schedules", "quantizers", "random", "regularizers"),
)
_FUNCTIONS = ("activations", "constraints", "initializers", "losses", "metrics", "regularizers")
# Sizes to trace with. None is a size that graphs are then compared on, so that one which was frozen is seen.
_TRACE_ROWS = 3
_TRACE_LENGTHS = (12, 72, 232)
_TRACE_SIDES = (40, 72, 232)
_IMAGE_SCALE = 0.02  # a Rescaling to this or less takes bytes


def is_known(module: str, name: str, is_function: bool) -> bool:
    """Whether a name in a configuration stands for a building block of Keras. Implements keras_screen.Known."""
    if is_function:
        inside = module in ("", "builtins") or module.removeprefix("keras.") in _FUNCTIONS
        return inside and any(callable(_public(space, name)) for space in _FUNCTIONS)
    if not module:
        return name == "Functional" or any(_is_block(_public(space, name)) for space in _NAMESPACES)
    if module == "keras" or module.removeprefix("keras.") in _NAMESPACES:
        return _is_block(_public(module.removeprefix("keras").removeprefix("."), name))
    if not module.startswith("keras.src.") and not module.startswith("keras.ops"):
        return False
    try:
        return _is_block(vars(importlib.import_module(module)).get(name))
    except ImportError:
        return False


def _public(space: str, name: str) -> Any:
    home: Any = keras
    for part in space.split(".") if space else ():
        home = getattr(home, part, None)
    return None if name.startswith("_") else getattr(home, name, None)


def _is_block(found: Any) -> bool:
    blocks = (
        *(keras.Operation, keras.Initializer, keras.Regularizer, keras.constraints.Constraint, keras.Loss),
        *(keras.Metric, keras.Optimizer, keras.optimizers.schedules.LearningRateSchedule, keras.DTypePolicy),
        *(keras.dtype_policies.DTypePolicyMap, keras.Quantizer, keras.random.SeedGenerator),
        *(one for name in ("QuantizationConfig",) if (one := getattr(keras.quantizers, name, None)) is not None),
    )
    return isinstance(found, type) and issubclass(found, blocks)


@dataclass(frozen=True)
class Input:
    """One tensor that the model takes. `shape` with the batch first; None = free."""

    name: str
    shape: Shape
    dtype: str


class KerasProgram:
    """A loaded model. Its inputs and outputs are flat here, in the order of `keras.tree`, whatever their structure."""

    def __init__(self, model: Any) -> None:
        if not isinstance(model, keras.Sequential | Functional):
            raise Refused(
                f"The model is a {type(model).__name__}, which does not tell what it takes.",
                "Only functional and sequential models carry their inputs.",
                "Export it where it was made: model.export('model.onnx', format='onnx').",
            )
        try:
            sequence = isinstance(model, keras.Sequential)
            self._structure = model.inputs[0] if sequence else model.input
            answers = model.outputs[0] if sequence else model.output
        except (AttributeError, TypeError, ValueError) as error:
            raise Refused(
                "The model was never built: it does not know its input shape.",
                f"{str(error).splitlines()[0]}.",
                "Call it once on data, or give its first layer an input shape; then save it again.",
            ) from error
        self._model = model
        taken = _names(self._structure)
        self.inputs = tuple(
            Input(name, tuple(one.shape), str(one.dtype))
            for name, one in zip(taken, tree.flatten(self._structure), strict=True)
        )
        self.outputs = _unlike(_names(answers), taken)
        self._shapes: list[Shape] = [tuple(one.shape) for one in tree.flatten(answers)]
        for one in self.inputs:
            if one.dtype == "string":
                raise Refused(
                    f"The input '{one.name}' takes text.",
                    "Keras needs TensorFlow for that.",
                    "Save the model as a TensorFlow SavedModel (model.export('NAME')), or start it behind the text.",
                )

    @classmethod
    def load(cls, path: Path, safe: bool, custom: dict[str, Any], threads: int, keras2: bool) -> KerasProgram:
        """Load a file that was screened. `keras2`: written by Keras 2. Raises whatever Keras raises."""
        torch.set_num_threads(threads)
        for name in ("torch.onnx", "torch.export", "torch._export", "absl"):
            logging.getLogger(name).setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = keras.models.load_model(str(path), custom_objects=custom, compile=False, safe_mode=safe)
            program = cls(model)
        if keras2:
            program._as_keras_2()
        return program

    def _as_keras_2(self) -> None:
        """The one function that means something else since Keras 3; old recurrent layers have it by default."""
        for layer in self.layers:
            for place in ("activation", "recurrent_activation"):
                if vars(layer).get(place) is keras.activations.hard_sigmoid:
                    setattr(layer, place, _hard_sigmoid)

    @property
    def _neutral(self) -> list[str]:
        """Names of outputs while exporting: exporters call values inside by the names of layers, too."""
        return [f"studio.output.{place}" for place in range(len(self.outputs))]

    @property
    def layers(self) -> list[Any]:
        """All layers, those of inner models too."""
        return list(self._model._flatten_layers(include_self=False, recursive=True))

    @property
    def large(self) -> bool:
        """Whether its weights are beyond what the older exporter can write."""
        return int(sum(weight.value.nbytes for weight in self._model.weights)) > INLINE_LIMIT

    @property
    def steps(self) -> bool:
        """Whether it has layers that Keras computes step by step, which the newer exporter can only unroll."""
        return any(isinstance(layer, keras.layers.RNN) for layer in self.layers)

    @property
    def keeps_state(self) -> bool:
        """Whether an answer depends on the requests before it."""
        return any(bool(getattr(layer, "stateful", False)) and hasattr(layer, "reset_state") for layer in self.layers)

    def ranges(self) -> dict[str, tuple[float, float]]:
        """Bounds for made-up values: entries that the smallest table has, bytes where they are scaled down first."""
        found: dict[str, tuple[float, float]] = {}
        tables = [size for layer in self.layers if (size := _table_size(layer)) is not None]
        scales = [layer.scale for layer in self.layers if isinstance(layer, keras.layers.Rescaling)]
        for one in self.inputs:
            if "int" in one.dtype and tables:
                found[one.name] = (0.0, float(min(tables) - 1))
            elif len(one.shape) == 4 and any(np.max(scale) <= _IMAGE_SCALE for scale in scales):
                found[one.name] = (0.0, 255.0)
        return found

    def run(self, feed: Feed) -> Feed:
        """What the model answers, by output name. Raises StepFailed when Keras does."""
        tensors = [torch.from_numpy(np.ascontiguousarray(feed[one.name])) for one in self.inputs]
        try:
            with torch.no_grad():
                answer = tree.flatten(self._call(tensors))
        except Exception as error:
            shapes = ", ".join(str(list(tensor.shape)) for tensor in tensors)
            raise StepFailed(
                f"The original model failed on inputs of shape {shapes}.",
                f"{first_line(error)}.",
                "Drop sample inputs with it: an .npz of the same stem with one array per input.",
            ) from error
        return {name: _array(one) for name, one in zip(self.outputs, answer, strict=True)}

    def _call(self, tensors: Sequence[Any]) -> Any:
        with running():
            return self._model(tree.pack_sequence_as(self._structure, list(tensors)), training=False)

    def to_onnx(self, shapes: Sequence[Shape], dynamo: bool, scratch: Path) -> Any:
        """An onnx.ModelProto that takes inputs of these shapes, None = free. Raises Refused where it can not.

        `dynamo` chooses PyTorch's newer exporter. The older one is many times faster, and keeps what ONNX Runtime can
        fuse; the newer one knows more operators.
        """
        example = self._example(shapes)
        names = [one.name for one in self.inputs]
        named = free_names(names, shapes)
        try:
            with as_operators(), torch.no_grad(), _quiet():
                model = self._dynamo(example, named) if dynamo else self._traced(example, named, scratch)
        except MemoryError:
            raise
        except Exception as error:  # the exporters raise anything
            raise Refused(
                "PyTorch can not convert this Keras model to ONNX.",
                f"{first_line(error)}.",
                "Replace the layer that it names, or save the model as a TensorFlow SavedModel (model.export('NAME')).",
            ) from error
        free = any(shape[0] is None for shape in shapes if shape)
        freed = free and all(one.shape[:1] != (None,) for one in self.inputs)
        rename(model, dict(zip(self._neutral, self.outputs, strict=True)))
        answers = {
            name: self._answer_sizes((None, *shape[1:]) if freed else shape, free)
            for name, shape in zip(self.outputs, self._shapes, strict=True)
        }
        declare(model, dict(zip(names, named, strict=True)), answers)
        leave_out_traces(model)
        return model

    @staticmethod
    def _answer_sizes(shape: Shape, free: bool) -> list[int | str]:
        return [size if size is not None else BATCH if place == 0 and free else "?" for place, size in enumerate(shape)]

    def _example(self, shapes: Sequence[Shape]) -> tuple[Any, ...]:
        """Zeros to trace with, of the first sizes that the model takes. Raises StepFailed when it takes none."""
        failure: StudioError | None = None
        for length, side in zip(_TRACE_LENGTHS, _TRACE_SIDES, strict=True):
            feed = {
                one.name: np.zeros(_sized(shape, side if len(shape) == 4 else length), _numpy(one.dtype))
                for one, shape in zip(self.inputs, shapes, strict=True)
            }
            try:
                self.run(feed)
            except StepFailed as error:
                failure = error
                continue
            return tuple(torch.from_numpy(feed[one.name]) for one in self.inputs)
        assert failure is not None
        raise failure

    def _traced(self, example: tuple[Any, ...], named: list[list[int | str]], scratch: Path) -> Any:
        import onnx
        from onnxscript import optimizer

        graph = scratch / "traced.onnx"
        names = [one.name for one in self.inputs]
        axes = {
            name: {place: size for place, size in enumerate(sizes) if isinstance(size, str)}
            for name, sizes in zip(names, named, strict=True)
        }
        torch.onnx.export(
            _Flat(self).eval(),
            example,
            str(graph),
            dynamo=False,
            opset_version=OPSET,
            input_names=names,
            output_names=self._neutral,
            dynamic_axes={name: sizes for name, sizes in axes.items() if sizes},
        )
        model = onnx.load(graph)
        graph.unlink()
        return optimizer.optimize(model)

    def _dynamo(self, example: tuple[Any, ...], named: list[list[int | str]]) -> Any:
        free = tuple(
            {place: torch.export.Dim.DYNAMIC for place, size in enumerate(sizes) if isinstance(size, str)}
            for sizes in named
        )
        # Given a module, the exporter tries one way to capture it after the other, each as slow as this.
        program = torch.export.export(_Flat(self).eval(), example, dynamic_shapes=(free,), strict=False)
        exported = torch.onnx.export(
            program,
            dynamo=True,
            verbose=False,
            opset_version=OPSET,
            input_names=[one.name for one in self.inputs],
            output_names=self._neutral,
        )
        return exported.model_proto


class _Flat(torch.nn.Module):  # type: ignore[misc]
    """The model with tensors alone around it, as both exporters want it."""

    def __init__(self, program: KerasProgram) -> None:
        super().__init__()
        self.model = program._model
        self._program = program

    def forward(self, *tensors: Any) -> Any:
        return tuple(tree.flatten(self._program._call(tensors)))


def _names(structure: Any) -> list[str]:
    """A name for each tensor: the key of a plain dict, else that of the layer it comes from."""
    if isinstance(structure, dict) and not any(tree.is_nested(value) for value in structure.values()):
        return [str(name) for name in tree.flatten({key: key for key in structure})]
    return _unlike([one._keras_history.operation.name for one in tree.flatten(structure)], [])


def _hard_sigmoid(rows: Any) -> Any:
    return keras.ops.clip(rows * 0.2 + 0.5, 0.0, 1.0)


def _unlike(names: Sequence[str], taken: Sequence[str]) -> list[str]:
    """Names that differ from each other and from `taken`."""
    found: list[str] = []
    for name in names:
        free, count = name, 1
        while free in taken or free in found:
            free, count = f"{name}_{count}", count + 1
        found.append(free)
    return found


def _table_size(layer: Any) -> int | None:
    if isinstance(layer, keras.layers.Embedding):
        return int(layer.input_dim)
    return int(layer.num_tokens) if isinstance(layer, keras.layers.CategoryEncoding) and layer.num_tokens else None


def _sized(shape: Shape, size: int) -> list[int]:
    return [
        _TRACE_ROWS if place == 0 and one is None else size if one is None else one for place, one in enumerate(shape)
    ]


def _array(tensor: Any) -> Array:
    whole = tensor.detach().cpu()
    if whole.dtype == torch.bfloat16:
        import ml_dtypes

        return np.asarray(whole.to(torch.float32).numpy().astype(ml_dtypes.bfloat16))
    return np.asarray(whole.numpy())


def _numpy(dtype: str) -> np.dtype[Any]:
    return np.dtype(dtype if dtype != "bfloat16" else "float32")


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporters warn of every branch they follow, and print whole graphs where they fail."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def first_line(error: BaseException) -> str:
    """What an error says, in one line that people can read."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[0].replace("\x1b[96m", "").replace("\x1b[0m", "")[:400].rstrip(".")
