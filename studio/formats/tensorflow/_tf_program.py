"""TensorFlow functions, of a SavedModel or of a frozen graph: running them on arrays, turning them into ONNX.

Imports tensorflow and tf2onnx.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # read when TensorFlow is imported
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
import numpy as np
import onnx
import tensorflow as tf
from tf2onnx import tf_loader
from tf2onnx.convert import _convert_common

from studio.core.errors import InvalidInput, Refused, StepFailed
from studio.formats.base import Array, Feed
from studio.formats.torch._exported import BATCH, declare, free_names, leave_out_traces, rename

Shape = tuple[int | None, ...]
OPSETS = (18, 15, 13)
SERVING = "serving_default"
# Nodes whose answer nobody wants: they check, print, or only order others.
_NO_ANSWER = frozenset({"NoOp", "Const", "Assert", "Placeholder", "PlaceholderWithDefault", "Print", "PrintV2"})


@dataclass(frozen=True)
class Input:
    """One tensor that is sent. `shape` None: nothing is known of it; sizes of None are free."""

    name: str
    shape: Shape | None
    dtype: str


class TfProgram:
    """One function of TensorFlow with named inputs and outputs."""

    def __init__(
        self,
        function: Any,
        inputs: Mapping[str, Any],
        outputs: Mapping[str, Any],
        keeper: Any = None,
        by_name: bool = False,
    ) -> None:
        """`inputs`, `outputs`: the graph's own tensors by the names that people see. `keeper`: what owns its variables.

        `by_name`: whether the function is called with names and answers a dict.
        """
        self._function, self._keeper, self._by_name = function, keeper, by_name
        self._tensors = dict(inputs), dict(outputs)
        self.inputs = tuple(Input(name, shape_of(one.shape), one.dtype.name) for name, one in inputs.items())
        self.outputs = tuple(outputs)
        for name, one in (*inputs.items(), *outputs.items()):
            if one.dtype.name in ("variant", "resource"):
                raise Refused(f"'{name}' is a {one.dtype.name}, which can not be sent or answered.")

    @classmethod
    def of_saved_model(cls, folder: Path, wanted: str = "") -> TfProgram:
        """The serving function of a folder that was screened: `wanted`, else the usual one, else the only one.

        Raises whatever TensorFlow raises, and Refused.
        """
        loaded = tf.saved_model.load(str(folder))
        names = [name for name in loaded.signatures if not name.startswith("_")]
        usual = SERVING if SERVING in names else names[0] if len(names) == 1 else ""
        chosen = (wanted if wanted in names else "") if wanted else usual
        if not chosen:
            found = f"It has {', '.join(names)}." if names else "It has none."
            raise Refused(
                f"The SavedModel has no signature '{wanted or SERVING}'.",
                f"{found} A signature says which tensors are sent and answered.",
                f'Name one in the settings file: signature = "{names[0] if names else SERVING}". Or save it with '
                f"signatures={{'{SERVING}': …}}, or with model.export('NAME') for a Keras model.",
            )
        function = loaded.signatures[chosen]
        sent = list(function.inputs[: len(function.inputs) - len(function.captured_inputs)])
        inputs = dict(zip(sorted(function.structured_input_signature[1]), sent, strict=True))
        answers = [one for one in function.outputs if one.dtype != tf.resource]
        outputs = dict(zip(sorted(function.structured_outputs), answers, strict=True))
        return cls(function, inputs, _unlike(outputs, inputs), loaded, by_name=True)

    @classmethod
    def of_graph(
        cls, path: Path, taken: Sequence[str], answered: Sequence[str], shapes: Mapping[str, Shape]
    ) -> TfProgram:
        """A frozen graph that was screened. `taken`: nodes to send instead of its placeholders; `answered`: nodes to
        answer, empty = those that no other node takes.

        `shapes`: of inputs, where the graph does not tell them. Raises whatever TensorFlow raises, and Refused.
        """
        definition = tf.compat.v1.GraphDef()
        definition.ParseFromString(path.read_bytes())
        nodes = {node.name: node for node in definition.node}
        variables = sorted({node.op for node in definition.node} & {"Variable", "VariableV2", "VarHandleOp"})
        if variables:
            raise Refused(
                f"'{path.name}' is a graph whose variables are elsewhere.",
                "Only its operations are in it; a frozen graph has the values as constants.",
                "Save it as a SavedModel, or freeze it, and drop that.",
            )
        placeholders = [node.name for node in definition.node if node.op == "Placeholder"]
        sent = placeholders if set(taken) <= set(placeholders) else list(taken)
        wanted = list(answered) or _sinks(definition)
        _check_nodes(path, nodes, sent, wanted)
        for name in sent:
            if name in shapes:
                nodes[name].attr["shape"].shape.CopyFrom(tf.TensorShape(shapes[name]).as_proto())
        wrapped = tf.compat.v1.wrap_function(lambda: tf.import_graph_def(definition, name=""), [])
        inputs = {name: wrapped.graph.get_tensor_by_name(f"{name}:0") for name in sent}
        outputs = {
            (name if place == 0 else f"{name}_{place}"): one
            for name in wanted
            for place, one in enumerate(wrapped.graph.get_operation_by_name(name).outputs)
        }
        if not outputs:
            raise Refused(f"'{path.name}' answers nothing: no node of it has an output that no other takes.")
        function = wrapped.prune(list(inputs.values()), list(outputs.values()))
        return cls(function, inputs, _unlike(outputs, inputs))

    def run(self, feed: Feed) -> Feed:
        """What TensorFlow answers, by output name. Raises StepFailed when it does not."""
        tensors = {one.name: _tensor(feed[one.name], one.dtype) for one in self.inputs}
        try:
            if self._by_name:
                answer = self._function(**tensors)
                found = [answer[name] for name in sorted(answer)]
            else:
                found = tf.nest.flatten(self._function(*tensors.values()))
        except Exception as error:
            shapes = ", ".join(f"{name} {list(np.shape(array))}" for name, array in feed.items())
            raise StepFailed(
                f"The original model failed on inputs of shape {shapes}.",
                f"{first_line(error)}.",
                "Drop sample inputs with it: an .npz of the same stem with one array per input.",
            ) from error
        return {name: _array(one) for name, one in zip(self.outputs, found, strict=True)}

    def to_onnx(self, opset: int) -> Any:
        """An onnx.ModelProto with the names and sizes that people see. Raises Refused naming what has no ONNX form."""
        sent, answered = ({name: one.name for name, one in part.items()} for part in self._tensors)
        places, tables = list(sent.values()), None
        try:
            if self._keeper is not None:
                frozen, tables = tf_loader.from_trackable(
                    self._keeper, self._function, places, list(answered.values()), False
                )
            else:
                frozen = tf_loader.from_function(self._function, places, list(answered.values()))
            model, _ = _convert_common(
                frozen,
                name="model",
                input_names=places,
                output_names=list(answered.values()),
                opset=opset,
                initialized_tables=tables,
                continue_on_error=False,
            )
        except MemoryError:
            raise
        except Exception as error:  # tf2onnx raises anything
            raise not_converted(error) from error
        shapes = {name: (answered[name], shape_of(one.shape)) for name, one in self._tensors[1].items()}
        finish(model, self.inputs, sent, shapes)
        return model


def quiet(threads: int) -> None:
    """Before anything runs: as many threads as given, and no warnings about the processor."""
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    for name in ("tensorflow", "tf2onnx", "absl"):
        logging.getLogger(name).setLevel(logging.ERROR)


def finish(
    model: Any, inputs: Sequence[Input], sent: Mapping[str, str], answered: Mapping[str, tuple[str, Shape | None]]
) -> None:
    """Give a graph the names that people see, its sizes theirs, and nothing of where it came from.

    `sent`: the graph's own name of each input; `answered`: that of each output, with its shape.
    """
    kept = {value.name for value in model.graph.input}
    lost = [name for name, own in sent.items() if own not in kept]
    if lost:
        raise Refused(
            f"The model never reads {', '.join(map(repr, lost))}, and the converter dropped it.",
            fix="Save it again with a function that takes only what it reads.",
        )
    foreign = sorted({node.op_type for node in model.graph.node if not node.domain and not onnx.defs.has(node.op_type)})
    if foreign:
        raise Refused(
            f"The model has operations that ONNX has no form for: {', '.join(foreign)[:300]}.",
            "tf2onnx left them as they were.",
            "Leave that part out of the model (text is best split before it), and save it again.",
        )
    rename(model, {**{own: name for name, own in sent.items()}, **{own: name for name, (own, _) in answered.items()}})
    known = [one for one in inputs if one.shape is not None]
    shapes = [one.shape for one in known if one.shape is not None]
    free = any(shape[:1] == (None,) for shape in shapes)
    declare(
        model,
        dict(zip([one.name for one in known], free_names([one.name for one in known], shapes), strict=True)),
        {name: answer_sizes(shape, free) for name, (_, shape) in answered.items() if shape is not None},
    )
    leave_out_traces(model)


def answer_sizes(shape: Shape, free: bool) -> list[int | str]:
    return [size if size is not None else BATCH if place == 0 and free else "?" for place, size in enumerate(shape)]


def not_converted(error: Exception) -> Refused:
    return Refused(
        "tf2onnx can not convert this model to ONNX.",
        f"{first_line(error)}.",
        "The job's log has its whole report. Leave the operation that it names out of the model, and save it again.",
    )


def first_line(error: BaseException) -> str:
    """What an error says, in one line that people can read."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[0][:400].rstrip(".")


def shape_of(shape: Any) -> Shape | None:
    """None where not even the number of dimensions is known."""
    return None if shape.rank is None else tuple(shape.as_list())


def _unlike(outputs: Mapping[str, Any], inputs: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{name}_out" if name in inputs else name: one for name, one in outputs.items()}


def _sinks(definition: Any) -> list[str]:
    """Nodes that no other node takes anything from."""
    taken = {entry.lstrip("^").partition(":")[0] for node in definition.node for entry in node.input}
    return [node.name for node in definition.node if node.name not in taken and node.op not in _NO_ANSWER]


def _check_nodes(path: Path, nodes: Mapping[str, Any], sent: Sequence[str], wanted: Sequence[str]) -> None:
    unknown = [name for name in (*sent, *wanted) if name not in nodes]
    if unknown:
        raise InvalidInput(
            f"'{path.name}' has no node '{unknown[0]}'.",
            f"Its inputs are {', '.join(name for name, node in nodes.items() if node.op == 'Placeholder') or 'none'}.",
            "Correct the names in the settings file.",
        )
    if not sent:
        raise Refused(f"'{path.name}' takes nothing: the graph has no placeholder.", "An endpoint needs an input.")


def _tensor(array: Array, dtype: str) -> Any:
    if array.dtype.kind in "OUS":
        return tf.constant([str(item) for item in array.ravel()], shape=array.shape)
    return tf.constant(array, dtype=dtype)


def _array(tensor: Any) -> Array:
    array = np.asarray(tensor.numpy())
    if array.dtype.kind in "OS":
        texts = [item.decode("utf-8", "replace") if isinstance(item, bytes) else str(item) for item in array.ravel()]
        return np.asarray(texts, dtype=object).reshape(array.shape)
    return array
