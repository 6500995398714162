"""A TensorFlow Lite model: running it on arrays, turning it into ONNX, and how coarsely it rounds.

Imports tensorflow and tf2onnx.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tf2onnx.convert import _convert_common

from studio.core.errors import Refused, StepFailed
from studio.formats.base import Array, Case, Feed
from studio.formats.tensorflow._tf_program import Input, Shape, finish, first_line, not_converted
from studio.formats.tensorflow._tflite_weights import compute_in_floats, custom_operations, with_plain_weights
from studio.formats.torch._exported import agree

_STEPS = 2.0  # how many steps of its own rounding a quantised answer may be off: kernels round halves differently
_USUAL = 1e-3  # of an output's scale: the usual gate, on top of how far a model's own rounding moves its answers
# Operations beyond the standard ones that run inside the interpreter and stay inside the graph.
_HARMLESS = frozenset({"TFLite_Detection_PostProcess"})
_WHOLE = (np.int8, np.uint8, np.int16)


@dataclass
class TfLiteProgram:
    """The interpreter with the names that people see. `places`, `outputs`: where its tensors are. `rounding`: the steps
    that outputs are multiples of; `unrounded`: the same model with plain weights, where weights alone are quantised.
    """

    interpreter: Any
    unrounded: Any
    inputs: tuple[Input, ...]
    places: tuple[int, ...]
    outputs: dict[str, int]
    sent: dict[str, str]
    answered: dict[str, tuple[str, Shape | None]]
    quantised: bool
    rounding: dict[str, float] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path, threads: int) -> TfLiteProgram:
        """Raises Refused for operations of one's own, and whatever TensorFlow raises."""
        content = path.read_bytes()
        foreign = sorted(set(custom_operations(content)) - _HARMLESS)
        if foreign:
            raise Refused(
                f"'{path.name}' has operations that are no part of TensorFlow Lite: {', '.join(foreign)[:300]}.",
                "Only the program that it was made for can run them (Flex… are those of the whole of TensorFlow).",
                "Convert it again with TFLITE_BUILTINS alone, or drop the SavedModel that it was made from.",
            )
        interpreter = tf.lite.Interpreter(model_content=content, num_threads=threads)
        plain = with_plain_weights(content)
        sent, answered = interpreter.get_input_details(), interpreter.get_output_details()
        seen_in, seen_out = _seen_names(interpreter, sent, answered)
        shapes = [_shape(one) for one in answered]
        types = {one["dtype"] for one in interpreter.get_tensor_details()}
        return cls(
            interpreter=interpreter,
            unrounded=tf.lite.Interpreter(model_content=plain, num_threads=threads) if plain else None,
            inputs=tuple(
                Input(name, _shape(one), np.dtype(one["dtype"]).name) for name, one in zip(seen_in, sent, strict=True)
            ),
            places=tuple(one["index"] for one in sent),
            outputs={name: one["index"] for name, one in zip(seen_out, answered, strict=True)},
            sent={name: one["name"] for name, one in zip(seen_in, sent, strict=True)},
            answered={name: (one["name"], shape) for name, one, shape in zip(seen_out, answered, shapes, strict=True)},
            quantised=bool(types & set(_WHOLE)),
            rounding=_rounding(interpreter, dict(zip(seen_out, answered, strict=True))),
        )

    @property
    def freedoms(self) -> tuple[bool, ...]:
        """Whether to try the batch free: where it was fixed to one row, first free and then as it is."""
        one = all(spec.shape is not None and spec.shape[:1] == (1,) for spec in self.inputs)
        return (True, False) if one else (False,)

    def run(self, feed: Feed) -> Feed:
        """What the interpreter answers, by output name. Raises StepFailed when it does not."""
        return self._run(self.interpreter, feed)

    def _run(self, interpreter: Any, feed: Feed) -> Feed:
        try:
            for spec, place in zip(self.inputs, self.places, strict=True):
                interpreter.resize_tensor_input(place, feed[spec.name].shape)
            interpreter.allocate_tensors()
            for spec, place in zip(self.inputs, self.places, strict=True):
                interpreter.set_tensor(place, np.ascontiguousarray(feed[spec.name]))
            interpreter.invoke()
            return {name: np.array(interpreter.get_tensor(place)) for name, place in self.outputs.items()}
        except (ValueError, RuntimeError, TypeError) as error:
            shapes = ", ".join(f"{name} {list(np.shape(array))}" for name, array in feed.items())
            raise StepFailed(
                f"The original model failed on inputs of shape {shapes}.",
                f"{first_line(error)}.",
                "Drop sample inputs with it: an .npz of the same stem with one array per input.",
            ) from error

    def to_onnx(self, path: Path, opset: int, free: bool) -> Any:
        """An onnx.ModelProto; `free` declares a batch of one row as free, which has to be tried. Raises Refused."""
        try:
            model, _ = _convert_common(None, tflite_path=str(path), name="model", opset=opset, continue_on_error=False)
        except MemoryError:
            raise
        except Exception as error:  # tf2onnx raises anything
            raise not_converted(error) from error
        inputs = [Input(one.name, _freed(one.shape) if free else one.shape, one.dtype) for one in self.inputs]
        answered = {
            name: (own, _freed(shape) if free and shape is not None else shape)
            for name, (own, shape) in self.answered.items()
        }
        compute_in_floats(model)
        finish(model, inputs, self.sent, answered)
        return model

    def tolerances(self, cases: Sequence[Case]) -> dict[str, float]:
        """By output, how far off an answer may be because of how the model rounds. Empty for models of floats.

        An answer that is rounded to steps may be two of them off. Where weights alone are whole numbers, TensorFlow
        Lite also rounds what flows between the layers: an answer may be as far off as that moves it, and by the usual
        gate more.
        """
        found = {name: _STEPS * step for name, step in self.rounding.items() if step}
        for name, moved in self._moved(cases).items():
            scale = max(float(np.abs(case.outputs[name].astype(np.float64)).max(initial=0.0)) for case in cases)
            found[name] = moved + _USUAL * scale
        return found

    def _moved(self, cases: Sequence[Case]) -> dict[str, float]:
        """How far its own rounding moves the answers of a model whose weights alone are whole numbers."""
        names = [name for name, step in self.rounding.items() if not step] if self.unrounded is not None else []
        found = dict.fromkeys(names, 0.0)
        for case in cases if names else ():
            plain = self._run(self.unrounded, case.inputs)
            found |= {name: max(found[name], _apart(case.outputs[name], plain[name])) for name in names}
        return found

    def accepts(self, cases: Sequence[Case], outputs: Sequence[Feed]) -> bool:
        """Whether a graph answers as the model does, up to its rounding."""
        tolerances = self.tolerances(cases)
        coarse = all(
            case.outputs[name].shape == own[name].shape and _apart(case.outputs[name], own[name]) <= limit * (1 + 1e-6)
            for case, own in zip(cases, outputs, strict=True)
            for name, limit in tolerances.items()
        )
        names = [name for name in self.outputs if name not in tolerances]
        fine = [Case(inputs=case.inputs, outputs={name: case.outputs[name] for name in names}) for case in cases]
        return coarse and agree(fine, outputs)

    def notes(self, cases: Sequence[Case], freed: bool) -> tuple[str, ...]:
        """What a reader of the figures has to know."""
        found: list[str] = []
        if freed:
            found.append("It was made for one row at a time. The batch was made free, and larger ones were compared.")
        for name, step in self.rounding.items():
            if step:
                found.append(f"'{name}' is rounded to steps of {step:.3g}; the graph may be {_STEPS:g} of them off.")
        for name, moved in self._moved(cases).items():
            found.append(
                "Its weights are whole numbers, and TensorFlow Lite rounds what flows between the layers as it runs, "
                f"which moves '{name}' by up to {moved:.3g}. The graph computes in floats, and may be as far off."
            )
        return tuple(found)


def _apart(left: Array, right: Array) -> float:
    return float(np.abs(left.astype(np.float64) - right.astype(np.float64)).max(initial=0.0))


def _freed(shape: Shape | None) -> Shape | None:
    return (None, *shape[1:]) if shape else shape


def _shape(detail: dict[str, Any]) -> Shape:
    declared = detail["shape_signature"] if len(detail["shape_signature"]) else detail["shape"]
    return tuple(int(size) if size >= 0 else None for size in declared)


def _seen_names(
    interpreter: Any, sent: list[dict[str, Any]], answered: list[dict[str, Any]]
) -> tuple[list[str], list[str]]:
    """Names of inputs and outputs: those of the only signature, else those of the tensors, tidied."""
    inputs, outputs = {}, {}
    signatures = interpreter.get_signature_list()
    if len(signatures) == 1:
        runner = interpreter.get_signature_runner(next(iter(signatures)))
        inputs = {detail["name"]: name for name, detail in runner.get_input_details().items()}
        outputs = {detail["name"]: name for name, detail in runner.get_output_details().items()}
    taken: list[str] = []
    for one, names in (*((one, inputs) for one in sent), *((one, outputs) for one in answered)):
        name = names.get(one["name"]) or one["name"].partition(":")[0].removeprefix("serving_default_") or "tensor"
        free, count = name, 1
        while free in taken:
            free, count = f"{name}_{count}", count + 1
        taken.append(free)
    return taken[: len(sent)], taken[len(sent) :]


def _rounding(interpreter: Any, answered: dict[str, dict[str, Any]]) -> dict[str, float]:
    """The step that each output is a multiple of; 0 where it is not rounded. Whole numbers have steps of one."""
    details = {one["index"]: one for one in interpreter.get_tensor_details()}
    made_by = {place: one for one in interpreter._get_ops_details() for place in one["outputs"]}
    found: dict[str, float] = {}
    for name, one in answered.items():
        if one["dtype"] in _WHOLE:
            found[name] = 1.0 if one["quantization"][0] else 0.0
            continue
        maker = made_by.get(one["index"])
        last = maker is not None and maker["op_name"] == "DEQUANTIZE"
        found[name] = float(details[maker["inputs"][0]]["quantization"][0]) if last and maker is not None else 0.0
    return found
