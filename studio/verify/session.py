"""ONNX Runtime sessions as every worker opens them, and the signature they report."""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from studio.core.errors import Refused, StepFailed
from studio.core.ort_format import HEAD, is_ort
from studio.core.tensors import ORT_TYPES, Dim, Signature, TensorSpec

# Read by onnxruntime when it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime as ort

Array = npt.NDArray[Any]
Feed = dict[str, Array]
Session = Any
"""onnxruntime.InferenceSession, which comes without types."""

_ONNX_BFLOAT16 = 16  # onnx.TensorProto.BFLOAT16

_LOCALE = re.compile(r"Failed to construct locale with name:\s*([\w.@-]+?):")  # string_normalizer.cc

# The smallest graph there is: one Identity, opset 13, IR 8. Running it sets ONNX Runtime up.
_IDENTITY = bytes.fromhex(
    "080812003a370a100a017812017922084964656e746974791201675a0f0a0178120a0a08080112040a020801620f0a0179120a0a08080112040a"
    "02080142040a00100d"
)


def initialise() -> None:
    """Load and run a trivial graph: what the first session of a process costs, whatever it loads, is then paid."""
    ort.InferenceSession(_IDENTITY, providers=["CPUExecutionProvider"]).run(None, {"x": np.zeros(1, np.float32)})


def open_session(path: str | Path, threads: int = 1, optimised: bool = True) -> Session:
    """A CPU session on an ONNX or `.ort` file, whatever it is called. `optimised=False` runs the graph as written,
    without any rewriting.

    Raises Refused when ONNX Runtime does not accept the file.
    """
    options = _options(threads, optimised)
    if _is_ort(Path(path)):
        # It goes by the file name's ending otherwise, and blobs have none.
        options.add_session_config_entry("session.load_model_format", "ORT")
    return _opened(str(path), options)


def open_model(model: bytes, folder: Path, threads: int = 1) -> Session:
    """A CPU session on a serialised model, run as written, whose external data lies in `folder`. Raises Refused."""
    options = _options(threads, optimised=False)
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
    return _opened(model, options)


def _options(threads: int, optimised: bool) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Spinning threads burn a core between runs and disturb whatever is measured beside them.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if not optimised:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return options


def _opened(model: str | bytes, options: Any) -> Session:
    try:
        return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions share no base class
        missing = _LOCALE.search(str(error))
        if missing:
            raise _no_locale(missing[1]) from error
        raise Refused(
            f"ONNX Runtime {ort.__version__} can not load this graph.",
            first_line(error),
            "Correct that where the model is made, then export it again. In Python, "
            "onnx.checker.check_model('model.onnx', full_check=True) may say more.",
        ) from error


def _no_locale(name: str) -> Refused:
    language, _, charset = name.partition(".")
    return Refused(
        f"The model needs the locale '{name}', which this machine does not have.",
        "Its operator StringNormalizer changes and compares letters by the rules of that language.",
        f"Add it (sudo localedef -i {language} -f {charset or 'UTF-8'} {name}; the package 'locales' has localedef's "
        "sources), then retry. Or export the model with StringNormalizer's locale set to 'C.UTF-8'.",
    )


def _is_ort(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return is_ort(file.read(HEAD))
    except OSError:
        return False


def run(session: Session, feed: Feed) -> Feed:
    """All outputs by name. Raises StepFailed when the run fails."""
    names = [out.name for out in session.get_outputs()]
    try:
        return dict(zip(names, runner(session)(feed), strict=True))
    except Exception as error:
        shapes = ", ".join(f"{name} {list(np.shape(value))}" for name, value in feed.items())
        raise StepFailed(
            f"The model failed on inputs of shape {shapes}.",
            first_line(error),
            "Drop sample inputs with it (an .npz of the same stem, one array per input), or export it again.",
        ) from error


def runner(session: Session) -> Callable[[Feed], list[Any]]:
    """What runs a session: all outputs for a feed, whatever it raises. To be got once where runs are timed."""
    if not any("bfloat16" in arg.type for arg in (*session.get_inputs(), *session.get_outputs())):
        return lambda feed: session.run(None, feed)
    names = [out.name for out in session.get_outputs()]
    return lambda feed: [_array(value) for value in session.run_with_ort_values(names, _values(feed))]


def _values(feed: Feed) -> dict[str, Any]:
    """numpy has no bfloat16 that the runtime knows: such tensors travel as raw 16-bit words."""
    return {
        name: ort.OrtValue.ortvalue_from_numpy_with_onnx_type(
            np.ascontiguousarray(array).view(np.uint16), _ONNX_BFLOAT16
        )
        if array.dtype == ml_dtypes.bfloat16
        else ort.OrtValue.ortvalue_from_numpy(array)
        for name, array in feed.items()
    }


def _array(value: Any) -> Array:
    if value.data_type() != "tensor(bfloat16)":
        array: Array = value.numpy()
        return array
    shape = tuple(value.shape())
    raw = ctypes.string_at(value.data_ptr(), 2 * int(np.prod(shape, dtype=np.int64)))
    return np.frombuffer(raw, ml_dtypes.bfloat16).reshape(shape)


def signature_of(session: Session) -> Signature:
    """Inputs and outputs as the graph declares them. Sizes that a caller chooses keep their name, `?` without one.

    Raises Refused for sequences, maps, optionals and element types that the protocols can not carry, and for graphs
    that take or give nothing.
    """
    for word, verb, args in (("input", "takes", session.get_inputs()), ("output", "gives", session.get_outputs())):
        if not args:
            raise Refused(
                f"The model {verb} nothing: its graph has no {word}.",
                "An endpoint answers requests that carry tensors, with tensors.",
                f"Export it again with at least one {word}.",
            )
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
            "Export it with tensors only (for scikit-learn: zipmap=False)."
            if not arg.type.startswith("tensor(")
            else f"Export it with a cast of '{arg.name}' to 32-bit floats or integers.",
        )
    return TensorSpec(arg.name, datatype, tuple(_dim(dim) for dim in arg.shape))


def _dim(dim: Any) -> Dim:
    if isinstance(dim, int) and dim >= 0:
        return dim
    return dim if isinstance(dim, str) and dim else "?"


# "[ONNXRuntimeError] : 1 : FAIL : Load model from PATH failed:/onnxruntime_src/…/model.cc:256
# onnxruntime::Model::Model(…, const onnxruntime::ModelOptions&) Unknown model file format version."
_CODE = re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : (Load model from \S+ failed:\s*)?(Fatal error: )?")
_NODE = re.compile(r"Non-zero status code returned while running (\w+) node\. Name:'([^']*)' Status Message: ")
_SHORT_PLACE = re.compile(r"\b\w+\.(?:cc|h|cpp):\d+ [\w:~]+(?:\(\))? ")
_PLACE = re.compile(
    r"/onnxruntime_src/\S+?:\d+ (\S+ )?[\w:~<>]+ ?\((?:[^()]|\([^()]*\))*\)( const)?( \[with [^\]]*\])? ?"
)


def first_line(error: BaseException) -> str:
    """The first line of an error's message, without the code location that ONNX Runtime prints in front of it."""
    lines = (str(error).strip() or type(error).__name__).splitlines()
    # "Got invalid dimensions for input: x for the following indices", and then those.
    text = " ".join(line.strip() for line in lines[: 3 if lines[0].endswith("indices") else 1])
    for pattern in (_CODE, _PLACE, _SHORT_PLACE):
        text = pattern.sub("", text) or text
    return _NODE.sub(_node_words, text).strip()[:400]


def _node_words(found: re.Match[str]) -> str:
    name = f" '{found[2]}'" if found[2] else ""
    return f"In the operator {found[1]}{name}: "
