"""`config.pbtxt` of Triton Inference Server: what it says of a model, and where the graph says otherwise.

Source: triton-inference-server/common, protobuf/model_config.proto; server/docs/user_guide/model_configuration.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from studio.core.errors import InvalidInput
from studio.core.tensors import Signature, TensorSpec
from studio.formats.onnx.text_proto import LARGEST, Message, NotText, Value, read_text

CONFIG = "config.pbtxt"

_TYPES = {
    f"TYPE_{name}": name for name in ("BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64")
} | {"TYPE_FP16": "FP16", "TYPE_FP32": "FP32", "TYPE_FP64": "FP64", "TYPE_STRING": "BYTES", "TYPE_BF16": "BF16"}
# DataType's numbers, which text format allows as well as the names.
_NUMBERS = dict(enumerate(("", *(f"TYPE_{name}" for name in (
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64", "STRING",
    "BF16",
)))))  # fmt: skip

# Settings of how Triton runs a model, which an endpoint of Studio decides by itself.
_NOT_TAKEN = (
    "dynamic_batching",
    "sequence_batching",
    "instance_group",
    "optimization",
    "model_warmup",
    "response_cache",
    "model_transaction_policy",
    "model_operations",
)


@dataclass(frozen=True, kw_only=True)
class Declared:
    """One input or output as the model sees it: its batch first, if any; -1 for free sizes. `labels`: a file name."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    labels: str = ""


@dataclass(frozen=True, kw_only=True)
class TritonConfig:
    """`backend` is '' where nothing names one; `versions`: those that are to be served, empty for any."""

    name: str = ""
    backend: str = ""
    file: str = ""
    max_batch: int = 0
    inputs: tuple[Declared, ...] = ()
    outputs: tuple[Declared, ...] = ()
    versions: tuple[int, ...] = ()
    not_taken: tuple[str, ...] = ()


_PLATFORMS = {
    "onnxruntime_onnx": "onnxruntime",
    "tensorrt_plan": "tensorrt",
    "pytorch_libtorch": "pytorch",
    "tensorflow_savedmodel": "tensorflow",
    "tensorflow_graphdef": "tensorflow",
    "ensemble": "ensemble",
}


def read_config(path: Path) -> TritonConfig:
    """Parse a config. Raises InvalidInput naming the file and the line or the field."""
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST + 1)
        message = read_text(data.decode("utf-8"))
    except OSError as error:
        raise InvalidInput(f"'{path.name}' can not be read.", f"{error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise InvalidInput(f"'{path.name}' is not UTF-8 text.", f"{error.reason}.") from error
    except NotText as error:
        raise InvalidInput(
            f"'{path.name}' is no readable Triton configuration.",
            f"Line {error.line}: {error.why}.",
            "Correct that line, or drop the model without its configuration.",
        ) from error
    max_batch = _whole(message, "max_batch_size")
    platform = _text(message, "platform")
    return TritonConfig(
        name=_text(message, "name"),
        backend=_text(message, "backend") or _PLATFORMS.get(platform, platform),
        file=_text(message, "default_model_filename"),
        max_batch=max_batch,
        inputs=tuple(_declared(message, "input", max_batch)),
        outputs=tuple(_declared(message, "output", max_batch)),
        versions=tuple(_versions(message)),
        not_taken=tuple(name for name in _NOT_TAKEN if name in message),
    )


def _text(message: Message, name: str) -> str:
    value = message.get(name, [""])[-1]
    if not isinstance(value, str):
        raise _wrong(name, "a text", value)
    return value


def _whole(message: Message, name: str) -> int:
    value = message.get(name, [0])[-1]
    if not isinstance(value, int):
        raise _wrong(name, "a whole number", value)
    return value


def _messages(message: Message, name: str) -> Iterator[Message]:
    for value in message.get(name, ()):
        if not isinstance(value, dict):
            raise _wrong(name, "a message in braces", value)
        yield value


def _sizes(message: Message, name: str) -> tuple[int, ...]:
    found = []
    for value in message.get(name, ()):
        if not isinstance(value, int) or value < -1:
            raise _wrong(name, "a list of sizes, -1 for free ones", value)
        found.append(value)
    return tuple(found)


def _wrong(name: str, wanted: str, value: Value) -> InvalidInput:
    return InvalidInput(
        f"'{CONFIG}' has something wrong under '{name}'.",
        f"It should be {wanted}, and is {str(value)[:60]!r}.",
        "Correct it, or drop the model without its configuration.",
    )


def _declared(message: Message, field: str, max_batch: int) -> Iterator[Declared]:
    for one in _messages(message, field):
        dims = _sizes(one, "dims")
        for reshape in _messages(one, "reshape"):
            dims = _sizes(reshape, "shape")
        kind = one.get("data_type", [""])[-1]
        number = _NUMBERS.get(kind, "") if isinstance(kind, int) else kind
        yield Declared(
            name=_text(one, "name"),
            datatype=_TYPES.get(str(number), ""),
            shape=(-1, *dims) if max_batch > 0 else dims,
            labels=_text(one, "label_filename"),
        )


def _versions(message: Message) -> Iterator[int]:
    for policy in _messages(message, "version_policy"):
        for specific in _messages(policy, "specific"):
            yield from _sizes(specific, "versions")


def differences(config: TritonConfig, signature: Signature) -> list[str]:
    """Where the configuration and the graph say different things, each the end of a sentence."""
    found = []
    sides = (("input", config.inputs, signature.inputs), ("output", config.outputs, signature.outputs))
    for word, said, real in sides:
        specs = {spec.name: spec for spec in real}
        for one in said:
            spec = specs.get(one.name)
            if spec is None:
                found.append(f"the graph has no {word} '{one.name}'")
            else:
                found += _differs(one, spec)
        named = {one.name for one in said}
        if word == "input" and said:
            found += [f"the input '{name}' is not in it" for name in specs if name not in named]
    return found


def _differs(said: Declared, spec: TensorSpec) -> Iterator[str]:
    if said.datatype and said.datatype != spec.datatype:
        yield f"'{said.name}' is {said.datatype} there, and {spec.datatype} in the graph"
    if not said.shape and not spec.shape:
        return
    same = len(said.shape) == len(spec.shape) and all(
        isinstance(real, str) or size in (-1, real) for size, real in zip(said.shape, spec.shape, strict=True)
    )
    fixed = same and said.shape[0] == -1 and isinstance(spec.shape[0], int)
    if not same or fixed:
        real = [dim if isinstance(dim, int) else -1 for dim in spec.shape]
        yield f"'{said.name}' is {list(said.shape)} there, and {real} in the graph"
