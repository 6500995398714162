"""ONNX Runtime sessions as every worker opens them, and the signature they report."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from studio.core.errors import Refused, StepFailed
from studio.core.tensors import ORT_TYPES, Dim, Signature, TensorSpec

# Read by onnxruntime when it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime as ort

Array = npt.NDArray[Any]
Feed = dict[str, Array]
Session = Any
"""onnxruntime.InferenceSession, which comes without types."""


# The smallest graph there is: one Identity, opset 13, IR 8. Running it sets ONNX Runtime up.
_IDENTITY = bytes.fromhex(
    "080812003a370a100a017812017922084964656e746974791201675a0f0a0178120a0a08080112040a020801620f0a0179120a0a08080112040a"
    "02080142040a00100d"
)


def initialise() -> None:
    """Load and run a trivial graph: what the first session of a process costs, whatever it loads, is then paid."""
    ort.InferenceSession(_IDENTITY, providers=["CPUExecutionProvider"]).run(None, {"x": np.zeros(1, np.float32)})


def open_session(path: str | Path, threads: int = 1, optimised: bool = True) -> Session:
    """A CPU session on an ONNX file. `optimised=False` runs the graph as written, without any rewriting.

    Raises Refused when ONNX Runtime does not accept the file.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Spinning threads burn a core between runs and disturb whatever is measured beside them.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if not optimised:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions share no base class
        raise Refused(
            f"ONNX Runtime {ort.__version__} can not load this graph.",
            first_line(error),
            "Export it again with an opset of at most 21 and operators that ONNX Runtime has on the CPU.",
        ) from error


def run(session: Session, feed: Feed) -> Feed:
    """All outputs by name. Raises StepFailed when the run fails."""
    names = [out.name for out in session.get_outputs()]
    try:
        return dict(zip(names, session.run(names, feed), strict=True))
    except Exception as error:
        shapes = ", ".join(f"{name} {list(np.shape(value))}" for name, value in feed.items())
        raise StepFailed(
            f"The model failed on inputs of shape {shapes}.",
            first_line(error),
            "Drop sample inputs with it (an .npz of the same stem, one array per input), or export it again.",
        ) from error


def signature_of(session: Session) -> Signature:
    """Inputs and outputs as the graph declares them. Sizes that a caller chooses keep their name, `?` without one.

    Raises Refused for sequences, maps, optionals and element types that the protocols can not carry.
    """
    return Signature(
        inputs=tuple(_spec(arg, "input") for arg in session.get_inputs()),
        outputs=tuple(_spec(arg, "output") for arg in session.get_outputs()),
    )


def _spec(arg: Any, word: str) -> TensorSpec:
    datatype = ORT_TYPES.get(arg.type)
    if datatype is None:
        raise Refused(
            f"The {word} '{arg.name}' is a {arg.type}, which can not be served.",
            "Requests and answers carry plain tensors of numbers, booleans or strings.",
            "Export it with tensors only (for scikit-learn: zipmap=False).",
        )
    return TensorSpec(arg.name, datatype, tuple(_dim(dim) for dim in arg.shape))


def _dim(dim: Any) -> Dim:
    if isinstance(dim, int) and dim >= 0:
        return dim
    return dim if isinstance(dim, str) and dim else "?"


def first_line(error: BaseException) -> str:
    """The first line of an error's message, without the code location that ONNX Runtime prints in front of it."""
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    return text[:400]
