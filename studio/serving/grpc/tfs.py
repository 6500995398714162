"""TensorFlow Serving's PredictionService and ModelService over gRPC.

Sources: TensorFlow Serving, apis/prediction_service.proto, model_service.proto, model.proto, predict.proto,
get_model_metadata.proto, get_model_status.proto; TensorFlow, framework/tensor.proto. A TensorProto is read from its
`tensor_content` or from the list of its type, where one value stands for all.
"""

from __future__ import annotations

import time
from math import prod
from typing import Any

import numpy as np

from studio.core.errors import InvalidInput, NotFound, StudioError
from studio.core.fitting import fitted
from studio.core.routing import Target
from studio.core.tensors import TensorSpec
from studio.serving.grpc.calls import Call, Caller, run_call
from studio.serving.grpc.tfs_messages import DTYPES, messages
from studio.serving.grpc.values import flat, numbers
from studio.serving.http import Response
from studio.serving.loaded import Array, LoadedModel, dtype_of
from studio.serving.protocols.oip_infer import check_complete, check_input
from studio.serving.protocols.oip_tensors import from_binary
from studio.serving.router import Routed
from studio.serving.service import Service, turned_away

PREDICTION, MODEL = "tensorflow.serving.PredictionService", "tensorflow.serving.ModelService"
NAME = "tfs grpc"
SIGNATURE = "serving_default"
_SIGNATURES = "type.googleapis.com/tensorflow.serving.SignatureDefMap"

_AVAILABLE = 30
"""ModelVersionStatus.State.AVAILABLE."""
_DATATYPES = {
    "DT_FLOAT": ("FP32", "float_val"),
    "DT_DOUBLE": ("FP64", "double_val"),
    "DT_INT32": ("INT32", "int_val"),
    "DT_UINT8": ("UINT8", "int_val"),
    "DT_INT16": ("INT16", "int_val"),
    "DT_INT8": ("INT8", "int_val"),
    "DT_UINT16": ("UINT16", "int_val"),
    "DT_STRING": ("BYTES", "string_val"),
    "DT_INT64": ("INT64", "int64_val"),
    "DT_BOOL": ("BOOL", "bool_val"),
    "DT_BFLOAT16": ("BF16", "half_val"),
    "DT_HALF": ("FP16", "half_val"),
    "DT_UINT32": ("UINT32", "uint32_val"),
    "DT_UINT64": ("UINT64", "uint64_val"),
}
_NUMBERS = {datatype: DTYPES.index(name) for name, (datatype, _) in _DATATYPES.items()}


class Predict(Call):
    """One Predict."""

    __slots__ = ("wanted",)
    protocol = NAME

    def begin_call(self, model: LoadedModel, request: Any) -> None:
        parsing = time.perf_counter_ns()
        inputs = _inputs(request, self.target)
        self.wanted = _wanted(request, self.target)
        self.parsing_ns = time.perf_counter_ns() - parsing
        names = tuple(spec.name for spec in self.wanted)
        self.submit(model, inputs, None if names == _all(self.target) else names)

    def format(self, arrays: list[Array]) -> Response:
        response = messages()["PredictResponse"]()
        fill_spec(response.model_spec, self.target)
        for spec, array in zip(self.wanted, arrays, strict=True):
            _fill(response.outputs[spec.name], array, spec.datatype)
        return Response(200, response.SerializeToString())


def _all(target: Target) -> tuple[str, ...]:
    return tuple(spec.name for spec in target.signature.outputs)


def _wanted(request: Any, target: Target) -> tuple[TensorSpec, ...]:
    if not request.output_filter:
        return target.signature.outputs
    specs = {spec.name: spec for spec in target.signature.outputs}
    for name in request.output_filter:
        if name not in specs:
            raise InvalidInput(f"output tensor alias not found in signature: {name[:100]}")
    return tuple(specs[name] for name in dict.fromkeys(request.output_filter))


def _inputs(request: Any, target: Target) -> dict[str, Array]:
    specs = target.input_specs
    arrays: dict[str, Array] = {}
    for name, tensor in request.inputs.items():
        spec = specs.get(name)
        if spec is None:
            raise InvalidInput(
                f"input tensor alias not found in signature: {name[:100]}. Inputs expected to be in the set"
                f" {{{','.join(specs)}}}."
            )
        arrays[name] = read_tensor(tensor, spec, target)
    check_complete(specs, arrays, target)
    return arrays


def read_tensor(tensor: Any, spec: TensorSpec, target: Target) -> Array:
    """The array of a TensorProto. Raises InvalidInput."""
    known = _DATATYPES.get(DTYPES[tensor.dtype] if 0 <= tensor.dtype < len(DTYPES) else "")
    if known is None:
        raise InvalidInput(f"input '{spec.name}' has a datatype that is not served here.")
    datatype, field = known
    shape = check_input({"datatype": datatype, "shape": [dim.size for dim in tensor.tensor_shape.dim]}, spec, target)
    if tensor.tensor_content and datatype != "BYTES":
        return from_binary(memoryview(tensor.tensor_content), datatype, shape, spec.name, target.model)
    given, count = len(getattr(tensor, field)), prod(shape)
    if not 1 <= given <= count:
        raise InvalidInput(f"input '{spec.name}' has {given} values, and its shape {list(shape)} needs {count}.")
    if field == "half_val":
        words = fitted(numbers(tensor, field), np.dtype(np.uint16))
        if words is None:
            raise InvalidInput(f"a value of input '{spec.name}' is no 16-bit float.")
        array = words.view(dtype_of(datatype))
    else:
        array = flat(tensor, field, datatype, f"input '{spec.name}'")
    if given < count:  # the last value stands for all that are left out
        array = np.concatenate([array, np.full(count - given, array[-1], dtype=array.dtype)])
    return array.reshape(shape)


def _fill(tensor: Any, array: Array, datatype: str) -> None:
    tensor.dtype = _NUMBERS[datatype]
    for size in array.shape:
        tensor.tensor_shape.dim.add(size=size)
    if datatype == "BYTES":
        texts = (value if isinstance(value, bytes) else str(value).encode() for value in array.flat)
        tensor.string_val.extend(texts)
    else:
        tensor.tensor_content = array.tobytes()


def fill_spec(spec: Any, target: Target) -> None:
    """Say who answered, in a ModelSpec."""
    spec.name = target.model
    spec.version.value = target.version
    spec.signature_name = SIGNATURE


def _version(spec: Any) -> str:
    """The version or label that is asked for, '' for none. Clients send a version of 0 for the latest."""
    if spec.WhichOneof("version_choice") == "version":
        return str(spec.version.value) if spec.version.value else ""
    label: str = spec.version_label
    return label


def resolve(service: Service, spec: Any) -> Target:
    """The target of a ModelSpec. Raises NotFound in their words, InvalidInput."""
    if spec.signature_name not in ("", SIGNATURE):
        raise InvalidInput(f"Serving signature name: '{spec.signature_name[:60]}' not found in signature def")
    version = _version(spec)
    try:
        return service.router.resolve(spec.name, version)
    except NotFound:
        asked = f"Specific({spec.name[:120]}, {version[:60]})" if version else f"Latest({spec.name[:120]})"
        raise NotFound(f"Servable not found for request: {asked}") from None


def routed(service: Service, spec: Any, caller: Caller) -> Routed:
    """What answers a ModelSpec now. Raises as `resolve` does."""
    target = resolve(service, spec)
    answering = (target, None) if _version(spec) else service.router.route(spec.name, "", caller.key)
    caller.tell(answering[0])
    return answering


async def predict(service: Service, request: Any, caller: Caller) -> bytes:
    """PredictionService.Predict: the serialised answer. Raises StudioError."""
    started_ns = time.perf_counter_ns()
    target: Target | None = None
    try:
        target, shadow = routed(service, request.model_spec, caller)
        model = service.router.model(target) or await service.router.loaded_model(target)
    except StudioError as error:
        turned_away(service, target, NAME, error, started_ns, caller.headers)
        raise
    return await run_call(service, Predict, target, model, request, caller, started_ns, shadow)


async def metadata(service: Service, request: Any, _caller: Caller) -> Any:
    """PredictionService.GetModelMetadata. Raises StudioError."""
    if list(request.metadata_field) != ["signature_def"]:
        raise InvalidInput("Metadata field not supported, or none: only 'signature_def' is.")
    target = resolve(service, request.model_spec)
    signatures = messages()["SignatureDefMap"]()
    definition = signatures.signature_def[SIGNATURE]
    definition.method_name = "tensorflow/serving/predict"
    for side, specs in ((definition.inputs, target.signature.inputs), (definition.outputs, target.signature.outputs)):
        for spec in specs:
            info = side[spec.name]
            info.name = spec.name
            info.dtype = _NUMBERS[spec.datatype]
            for size in spec.wire_shape:
                info.tensor_shape.dim.add(size=size)
    response = messages()["GetModelMetadataResponse"]()
    response.model_spec.name = target.model
    response.model_spec.version.value = target.version
    response.metadata["signature_def"].type_url = _SIGNATURES
    response.metadata["signature_def"].value = signatures.SerializeToString()
    return response


async def status(service: Service, request: Any, _caller: Caller) -> Any:
    """ModelService.GetModelStatus. Raises StudioError."""
    spec = request.model_spec
    named = bool(_version(spec))
    try:
        target = resolve(service, spec)
    except NotFound as error:
        if named:
            raise
        raise NotFound(f"Could not find any versions of model {spec.name[:120]}") from error
    routes = service.router.routes(target.model)
    versions = [target.version] if named else sorted({each.version for each in routes.targets.values()}, reverse=True)
    response = messages()["GetModelStatusResponse"]()
    for version in versions:
        row = response.model_version_status.add(version=version, state=_AVAILABLE)
        row.status.error_code = 0
    return response
