"""Infer requests and responses of OIP v2 REST with Triton's extensions.

Sources: Open Inference Protocol, inference_rest.md; Triton, extension_binary_data.md, extension_parameters.md,
extension_classification.md. The wording of errors is Triton's where its own tests, and so its clients, look for it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import orjson

from studio.core.errors import InvalidInput
from studio.core.routing import Target
from studio.core.tensors import DATATYPES, TensorSpec
from studio.serving.http import OCTETS, Body, Response
from studio.serving.loaded import Array
from studio.serving.problems import ModelFailed, Unsupported
from studio.serving.protocols import numbers, oip_heads
from studio.serving.protocols import oip_tensors as tensors
from studio.serving.protocols.json_text import load_json

HEADER_LENGTH = b"inference-header-content-length"
MOST_SHAPES = 256
"""Shapes of a target that are remembered as right."""
MAX_BATCH = 65536
"""Rows of a batch; what `max_batch_size` in a model's configuration says of targets that take batches."""
_TRITON = frozenset(("triton_enable_empty_final_response",))
"""Keys of Triton's own that its clients send. Where each request has one answer, that is the final one anyway."""
DUMPS = orjson.OPT_SERIALIZE_NUMPY

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Wanted:
    """One output to answer with. `classes` 0 = the tensor itself."""

    spec: TensorSpec
    binary: bool
    classes: int = 0


# Not frozen, as `Response` is not.
@dataclass(slots=True)
class Call:
    """A parsed infer request. Nobody changes it. `timeout_us` 0 = none; a `priority` of 1 is the highest, 0 = none."""

    id: str
    inputs: dict[str, Array]
    wanted: tuple[Wanted, ...]
    timeout_us: int = 0
    priority: int = 0
    all: bool = True

    @property
    def outputs(self) -> tuple[str, ...] | None:
        """Names of the outputs to compute; None = all of the signature, in its order."""
        return None if self.all else tuple(wanted.spec.name for wanted in self.wanted)

    def of(self, inputs: dict[str, Array]) -> Call:
        """The same call with other inputs."""
        return Call(self.id, inputs, self.wanted, self.timeout_us, self.priority, self.all)


def parse(body: Body, headers: dict[bytes, bytes], target: Target) -> Call:
    """The call that a request body stands for, checked against the signature. Raises InvalidInput, Unsupported."""
    text = headers.get(HEADER_LENGTH)
    if text is None:
        return _parse_document(numbers.load(body, load_json, _holds_data), memoryview(b""), target)
    length = _header_length(text, len(body))
    if length == 0:
        return _raw_call(memoryview(body), target)
    head, binary = memoryview(body)[:length], memoryview(body)[length:]
    if length > oip_heads.LONGEST:
        return _parse_document(numbers.load(head, load_json, _holds_data), binary, target)
    key = bytes(head)
    call = oip_heads.known(key, binary, target)
    if call is None:
        document = load_json(key)
        call = _parse_document(document, binary, target)
        oip_heads.remember(key, document, call, target)
    return call


def _holds_data(path: numbers.Path) -> bool:
    return path == ("inputs", "", "data")


def _header_length(text: bytes, size: int) -> int:
    shown = text.decode("latin-1")[:40]
    digits = text.strip()
    if not digits.removeprefix(b"-").isdigit():
        raise InvalidInput(f"Unable to parse Inference-Header-Content-Length, got: {shown}")
    # Long strings of digits are out of range whatever they say, and slow to convert.
    length = int(digits) if len(digits) < 20 else -1
    if not 0 <= length <= size:
        raise InvalidInput(f"inference header size should be in range (0, {size}), got: {shown}")
    return length


def _parse_document(document: Any, binary: memoryview, target: Target) -> Call:
    if not isinstance(document, dict):
        raise InvalidInput("failed to parse the request JSON buffer: an object is expected.")
    request_id = document.get("id", "")
    if not isinstance(request_id, str):
        raise InvalidInput("Unable to parse 'id': a string is expected.")
    parameters = _parameters(document, "the request")
    timeout_us, priority = check_parameters(parameters)
    default_binary = _flag(parameters, "binary_data_output", "the request", False)
    return Call(
        id=request_id,
        inputs=_inputs(document, binary, target),
        wanted=wanted_outputs(document, default_binary, target),
        timeout_us=timeout_us,
        priority=priority,
        all=not document.get("outputs"),
    )


def check_parameters(parameters: Json) -> tuple[int, int]:
    """Time-out in microseconds and priority, of a request's parameters; 0 = none. Raises InvalidInput."""
    if not parameters:
        return 0, 0
    for key in parameters:
        if key.startswith("triton_") and key not in _TRITON:
            raise InvalidInput(
                f"parameter keys starting with 'triton_' are reserved for Triton usage, got: '{key[:60]}'"
            )
    return _count(parameters, "timeout", "the request", 0), _count(parameters, "priority", "the request", 0)


def _parameters(owner: Json, what: str) -> Json:
    parameters = owner.get("parameters")
    if parameters is None:
        return {}
    if not isinstance(parameters, dict):
        raise InvalidInput(f"Unable to parse 'parameters' of {what}: an object is expected.")
    return parameters


def _flag(parameters: Json, key: str, what: str, default: bool) -> bool:
    value = parameters.get(key, default)
    if not isinstance(value, bool):
        raise InvalidInput(f"Unable to parse '{key}' of {what}: true or false is expected.")
    return value


def _count(parameters: Json, key: str, what: str, default: int) -> int:
    value = parameters.get(key, default)
    if type(value) is not int or not 0 <= value < 2**63:
        raise InvalidInput(f"Unable to parse '{key}' of {what}: a whole number is expected.")
    return value


def _entries(document: Json, key: str) -> list[Json]:
    entries = document.get(key)
    if not isinstance(entries, list):
        raise InvalidInput(f"Unable to parse '{key}': a list of objects is expected.")
    for entry in entries:
        if type(entry) is not dict:
            raise InvalidInput(f"Unable to parse '{key}': a list of objects is expected.")
    for entry in entries:
        if type(entry.get("name")) is not str:
            raise InvalidInput(f"Unable to parse 'name' in '{key}': a string is expected.")
    return entries


def no_shared_memory(parameters: Iterable[str], what: str) -> None:
    if any(key.startswith("shared_memory_") for key in parameters):
        raise Unsupported(
            f"{what} asks for shared memory, which this server does not offer.", "", "Send it as binary data."
        )


def _inputs(document: Json, binary: memoryview, target: Target) -> dict[str, Array]:
    specs = target.input_specs
    arrays: dict[str, Array] = {}
    at = 0
    for entry in _entries(document, "inputs"):
        name: str = entry["name"]
        if name in arrays:
            raise InvalidInput(f"input '{name[:100]}' already exists in request")
        spec = specs.get(name)
        if spec is None:
            raise InvalidInput(f"unexpected inference input '{name[:100]}' for model '{target.model}'")
        shape = check_input(entry, spec, target)
        parameters = entry.get("parameters")
        if parameters:
            parameters = _parameters(entry, f"input '{name}'")
            no_shared_memory(parameters, f"input '{name}'")
        if parameters and "binary_data_size" in parameters:
            if "data" in entry:
                raise InvalidInput(f"input '{name}' has both 'data' and 'binary_data_size'.")
            size = _count(parameters, "binary_data_size", f"input '{name}'", 0)
            if size > len(binary) - at:
                missing = size - (len(binary) - at)
                raise InvalidInput(
                    f"unexpected size for input '{name}', expecting {missing} additional bytes"
                    f" for model '{target.model}'"
                )
            arrays[name] = tensors.from_binary(binary[at : at + size], spec.datatype, shape, name, target.model)
            at += size
        elif "data" in entry:
            arrays[name] = tensors.from_json(entry["data"], spec.datatype, shape, name)
        else:
            raise InvalidInput(f"Unable to parse 'data' of input '{name}': there is none.")
    check_complete(specs, arrays, target)
    if at != len(binary):
        raise InvalidInput(
            f"unexpected {len(binary) - at} additional bytes behind the last input for model '{target.model}'"
        )
    return arrays


def check_input(entry: Json, spec: TensorSpec, target: Target) -> tuple[int, ...]:
    datatype = entry.get("datatype")
    if datatype != spec.datatype:
        if not isinstance(datatype, str) or datatype not in DATATYPES:
            raise InvalidInput(f"invalid datatype '{str(datatype)[:40]}' for input '{spec.name}'")
        raise InvalidInput(
            f"inference input '{spec.name}' data-type is '{datatype}',"
            f" but model '{target.model}' expects '{spec.datatype}'"
        )
    shape = tensors.checked_shape(entry.get("shape"), spec.name)
    seen = _seen_shapes(target)
    if (spec.name, shape) in seen:
        return shape
    tensors.checked_byte_size(shape, spec.datatype, spec.name)
    if len(shape) != len(spec.shape) or any(
        isinstance(want, int) and want != got for want, got in zip(spec.shape, shape, strict=True)
    ):
        expected = ",".join(map(str, spec.wire_shape))
        raise InvalidInput(
            f"unexpected shape for input '{spec.name}' for model '{target.model}'."
            f" Expected [{expected}], got [{','.join(map(str, shape))}]."
        )
    if target.signature.batchable and shape and shape[0] > MAX_BATCH:
        raise InvalidInput(f"inference request batch-size must be <= {MAX_BATCH} for '{target.model}'")
    if len(seen) < MOST_SHAPES:
        seen.add((spec.name, shape))
    return shape


def _seen_shapes(target: Target) -> set[tuple[str, tuple[int, ...]]]:
    """Shapes that were found right for an input of the target: most requests repeat them."""
    seen: set[tuple[str, tuple[int, ...]]] | None = target.kept.get("oip shapes")
    if seen is None:
        seen = target.kept["oip shapes"] = set()
    return seen


def check_complete(specs: dict[str, TensorSpec], arrays: dict[str, Array], target: Target) -> None:
    if len(arrays) == len(specs):
        return
    missing = [name for name in specs if name not in arrays]
    raise InvalidInput(
        f"expected {len(specs)} inputs but got {len(arrays)} inputs for model '{target.model}'."
        f" Got input(s) {list(arrays)}, but missing required input(s) {missing}."
        " Please provide all required input(s)."
    )


def wanted_outputs(document: Json, default_binary: bool, target: Target) -> tuple[Wanted, ...]:
    outputs = target.signature.outputs
    if not document.get("outputs"):
        return _all_wanted(target, default_binary)
    specs = {spec.name: spec for spec in outputs}
    wanted: dict[str, Wanted] = {}
    for entry in _entries(document, "outputs"):
        name: str = entry["name"]
        what = f"output '{name[:100]}'"
        if name in wanted:
            raise InvalidInput(f"{what} already exists in request")
        if name not in specs:
            raise InvalidInput(f"unexpected inference {what} for model '{target.model}'")
        parameters = _parameters(entry, what)
        no_shared_memory(parameters, what)
        classes = _count(parameters, "classification", what, 0)
        if "classification" in parameters and classes < 1:
            raise InvalidInput(f"Unable to parse 'classification' of {what}: at least 1 is expected.")
        binary = _flag(parameters, "binary_data", what, default_binary)
        wanted[name] = Wanted(specs[name], binary, classes)
    return tuple(wanted.values())


def _raw_call(raw: memoryview, target: Target) -> Call:
    """A body that is the only input's bytes and nothing else; every free dimension but one is 1 (a batch of one)."""
    where = f"model '{target.model}'"
    specs = target.signature.inputs
    if len(specs) != 1:
        raise InvalidInput(
            f"Raw request must only have 1 input (found 1) to be deduced but got {len(specs)} inputs in {where}"
        )
    spec = specs[0]
    dims = list(spec.wire_shape)
    if target.signature.batchable and dims and dims[0] == -1:
        dims[0] = 1
    if spec.datatype == "BYTES":
        if prod(dims) not in (1, -1):
            raise InvalidInput(f"For BYTE datatype raw input '{spec.name}', the model must have input shape [1]")
        array = np.empty(1, dtype=object)
        try:
            array[0] = str(raw, "utf-8")
        except UnicodeDecodeError:
            raise InvalidInput(f"raw input '{spec.name}' is not valid UTF-8.") from None
        return Call("", {spec.name: array.reshape([1] * len(dims))}, _all_wanted(target, True))
    if dims.count(-1) > 1:
        raise InvalidInput(
            f"The shape of the raw input '{spec.name}' can not be deduced because there are more than one"
            " variable-sized dimension"
        )
    if -1 in dims:
        one = -prod(dims) * DATATYPES[spec.datatype][1]
        if not raw or len(raw) % one:
            raise InvalidInput(
                f"input byte size mismatch for input '{spec.name}' for {where}."
                f" Expected a multiple of {one}, got {len(raw)}"
            )
        dims[dims.index(-1)] = len(raw) // one
    array = tensors.from_binary(raw, spec.datatype, tuple(dims), spec.name, target.model)
    return Call("", {spec.name: array}, _all_wanted(target, True))


def _all_wanted(target: Target, binary: bool) -> tuple[Wanted, ...]:
    key = "oip binary" if binary else "oip json"
    wanted: tuple[Wanted, ...] | None = target.kept.get(key)
    if wanted is None:
        wanted = target.kept[key] = tuple(Wanted(spec, binary) for spec in target.signature.outputs)
    return wanted


def results(call: Call, target: Target, arrays: list[Array]) -> list[tuple[Wanted, str, Array]]:
    """Each wanted output with the datatype and the tensor that it is answered with. Raises InvalidInput."""
    return [
        (wanted, "BYTES", _classified(wanted, target, array))
        if wanted.classes
        else (wanted, wanted.spec.datatype, array)
        for wanted, array in zip(call.wanted, arrays, strict=True)
    ]


def _classified(wanted: Wanted, target: Target, array: Array) -> Array:
    spec = wanted.spec
    per_row = bool(spec.shape) and not isinstance(spec.shape[0], int)
    return tensors.classify(array, spec.datatype, wanted.classes, target.class_labels, per_row)


def answer(call: Call, target: Target, version: str, arrays: list[Array]) -> Response:
    """The response. `arrays` are those of `call.wanted`. Raises InvalidInput for what can not be put as asked."""
    outputs: list[Json] = []
    buffers: list[bytes] = []
    for wanted, datatype, array in results(call, target, arrays):
        name = wanted.spec.name
        output: Json = {"name": name, "datatype": datatype, "shape": array.shape}
        if wanted.binary:
            buffers.append(tensors.to_binary(array, datatype))
            output["parameters"] = {"binary_data_size": len(buffers[-1])}
        else:
            output["data"] = tensors.to_json(array, datatype)
        outputs.append(output)
    document: Json = {"model_name": target.model, "model_version": version, "outputs": outputs}
    if call.id:
        document["id"] = call.id
    head = _dump(document)
    if b"null" in head and _mark_non_finite(outputs):
        head = _dump(document)
    if not buffers:
        return Response(200, head)
    headers = ((HEADER_LENGTH, str(len(head)).encode()),)
    return Response(200, b"".join((head, *buffers)), OCTETS, headers)


def _dump(document: Json) -> bytes:
    try:
        return orjson.dumps(document, option=DUMPS)
    except orjson.JSONEncodeError as error:
        raise ModelFailed(
            "An output can not be written as JSON.", f"{error}.", "Ask for it as a binary tensor (binary_data)."
        ) from None


def _mark_non_finite(outputs: list[Json]) -> bool:
    """NaN and infinities have become null: say so, and how many, on the outputs that have them."""
    found = False
    for output in outputs:
        data = output.get("data")
        count = tensors.non_finite(data) if isinstance(data, np.ndarray) else 0
        if count:
            output["parameters"] = {"non_finite": count}
            found = True
    return found
