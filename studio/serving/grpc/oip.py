"""Open Inference Protocol v2 over gRPC, with Triton's streaming, configuration, statistics and repository calls.

Sources: Open Inference Protocol, open_inference_grpc.proto; Triton, docs/protocol. Outputs always travel as raw bytes,
as Triton sends them; FP16 and BF16 come in as raw bytes alone.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from math import prod
from typing import Any

from google.protobuf.json_format import ParseDict

import studio
from studio.core.errors import InvalidInput, NotFound, StudioError
from studio.core.routing import Target
from studio.serving.grpc.calls import Call, Caller, run_call
from studio.serving.grpc.oip_messages import inference
from studio.serving.grpc.values import flat
from studio.serving.http import Response
from studio.serving.loaded import Array, LoadedModel
from studio.serving.problems import Unsupported
from studio.serving.protocols import oip
from studio.serving.protocols import oip_documents as documents
from studio.serving.protocols import oip_tensors as tensors
from studio.serving.protocols.oip_infer import (
    Call as InferCall,
)
from studio.serving.protocols.oip_infer import (
    check_complete,
    check_input,
    check_parameters,
    no_shared_memory,
    results,
    wanted_outputs,
)
from studio.serving.service import Service, turned_away, unready

SERVICE = "inference.GRPCInferenceService"
NAME = "v2 grpc"

_CONTENTS = {
    "BOOL": "bool_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}

Unary = Callable[[Service, Any, Caller], Awaitable[Any]]


class Infer(Call):
    """One ModelInfer."""

    __slots__ = ("call",)
    protocol = NAME

    def begin_call(self, model: LoadedModel, request: Any) -> None:
        parsing = time.perf_counter_ns()
        self.call = call = parse(request, self.target)
        self.parsing_ns = time.perf_counter_ns() - parsing
        self.submit(model, call.inputs, call.outputs, call.timeout_us, call.priority)

    def format(self, arrays: list[Array]) -> Response:
        return Response(200, answer(self.call, self.target, arrays).SerializeToString())


def _value(parameter: Any) -> Any:
    choice = parameter.WhichOneof("parameter_choice")
    return getattr(parameter, choice) if choice else None


def _plain(parameters: Any) -> dict[str, Any]:
    return {key: _value(parameter) for key, parameter in parameters.items()}


def parse(request: Any, target: Target) -> InferCall:
    """The call that a ModelInferRequest stands for, checked against the signature. Raises InvalidInput, Unsupported."""
    outputs = [{"name": output.name, "parameters": _plain(output.parameters)} for output in request.outputs]
    timeout_us, priority = check_parameters(_plain(request.parameters))
    return InferCall(
        id=request.id,
        inputs=_inputs(request, target),
        wanted=wanted_outputs({"outputs": outputs}, True, target),
        timeout_us=timeout_us,
        priority=priority,
        all=not outputs,
    )


def _inputs(request: Any, target: Target) -> dict[str, Array]:
    specs = target.input_specs
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise InvalidInput(
            f"expected number of raw input contents to be {len(request.inputs)}, got {len(raw)}"
            f" for model '{target.model}'"
        )
    arrays: dict[str, Array] = {}
    for place, tensor in enumerate(request.inputs):
        name: str = tensor.name
        if name in arrays:
            raise InvalidInput(f"input '{name[:100]}' already exists in request")
        spec = specs.get(name)
        if spec is None:
            raise InvalidInput(f"unexpected inference input '{name[:100]}' for model '{target.model}'")
        no_shared_memory(tensor.parameters, f"input '{name}'")
        shape = check_input({"datatype": tensor.datatype, "shape": list(tensor.shape)}, spec, target)
        if raw:
            if tensor.HasField("contents"):
                raise InvalidInput(
                    "contents field must not be specified when using raw_input_contents"
                    f" for '{name}' for model '{target.model}'"
                )
            arrays[name] = tensors.from_binary(memoryview(raw[place]), spec.datatype, shape, name, target.model)
        else:
            arrays[name] = _from_contents(tensor.contents, spec.datatype, shape, name)
    check_complete(specs, arrays, target)
    return arrays


def _from_contents(contents: Any, datatype: str, shape: tuple[int, ...], name: str) -> Array:
    field = _CONTENTS.get(datatype)
    if field is None:
        raise InvalidInput(f"input '{name}' is {datatype}, which only raw_input_contents can carry.")
    used = [each.name for each, _ in contents.ListFields()]
    if used not in ([], [field]):
        raise InvalidInput(f"input '{name}' is {datatype}: it belongs into {field}, and {', '.join(used)} is set.")
    array = flat(contents, field, datatype, f"input '{name}'")
    if array.size != prod(shape):
        raise InvalidInput(
            f"unexpected number of elements for input '{name}': shape {list(shape)} needs {prod(shape)},"
            f" and there are {array.size}."
        )
    return array.reshape(shape)


def answer(call: InferCall, target: Target, arrays: list[Array]) -> Any:
    """The ModelInferResponse. Raises InvalidInput for what can not be put as asked."""
    response = inference()["ModelInferResponse"](
        model_name=target.model, model_version=documents.version_name(target), id=call.id
    )
    for wanted, datatype, array in results(call, target, arrays):
        response.outputs.add(name=wanted.spec.name, datatype=datatype, shape=array.shape)
        response.raw_output_contents.append(tensors.to_binary(array, datatype))
    return response


async def infer(service: Service, request: Any, caller: Caller, alone: bool = True) -> bytes:
    """ModelInfer: the serialised answer. Raises StudioError; a cancelled call cancels its run.

    `alone`: it is the one request of its call, not one of a stream's.
    """
    started_ns = time.perf_counter_ns()
    target: Target | None = None
    try:
        target, shadow = service.router.route(request.model_name, request.model_version, caller.key)
        if alone:
            caller.tell(target)
        model = service.router.model(target) or await service.router.loaded_model(target)
    except StudioError as error:
        turned_away(service, target, NAME, error, started_ns, caller.headers)
        raise
    return await run_call(service, Infer, target, model, request, caller, started_ns, shadow)


async def stream(service: Service, requests: AsyncIterator[Any], caller: Caller) -> AsyncIterator[bytes]:
    """ModelStreamInfer: an answer for each request, in their order; an error is an answer too, and ends nothing."""
    kind = inference()["ModelStreamInferResponse"]
    async for request in requests:
        response = kind()
        try:
            response.infer_response.MergeFromString(await infer(service, request, caller, alone=False))
            response.infer_response.parameters["triton_final_response"].bool_param = True
        except StudioError as error:
            response.error_message = str(error)
            response.infer_response.id = request.id
        yield response.SerializeToString()


async def _server_live(_service: Service, _request: Any, _caller: Caller) -> Any:
    return inference()["ServerLiveResponse"](live=True)


async def _server_ready(service: Service, _request: Any, _caller: Caller) -> Any:
    return inference()["ServerReadyResponse"](ready=service.ready)


async def _model_ready(service: Service, request: Any, _caller: Caller) -> Any:
    """What is not known is not ready, and no error: so Triton answers, and its clients ask."""
    try:
        target = service.router.resolve(request.name, request.version)
    except (NotFound, InvalidInput):
        return inference()["ModelReadyResponse"](ready=False)
    return inference()["ModelReadyResponse"](ready=not unready(service, target))


async def _server_metadata(_service: Service, _request: Any, _caller: Caller) -> Any:
    return inference()["ServerMetadataResponse"](name="studio", version=studio.__version__, extensions=oip.EXTENSIONS)


async def _model_metadata(service: Service, request: Any, _caller: Caller) -> Any:
    target = service.router.resolve(request.name, request.version)
    document = documents.metadata(service.router.routes(target.model), target)
    return ParseDict(document, inference()["ModelMetadataResponse"]())


async def _model_config(service: Service, request: Any, _caller: Caller) -> Any:
    target = service.router.resolve(request.name, request.version)
    document = {"config": documents.config(target, service.cache is not None)}
    return ParseDict(document, inference()["ModelConfigResponse"]())


async def _model_statistics(service: Service, request: Any, _caller: Caller) -> Any:
    document = await oip.statistics_of(service, request.name, request.version)
    return ParseDict(document, inference()["ModelStatisticsResponse"](), ignore_unknown_fields=True)


async def _repository_index(service: Service, request: Any, _caller: Caller) -> Any:
    if request.repository_name:
        raise Unsupported("'repository_name' specification is not supported")
    document = {"models": documents.index(service.router, request.ready)}
    return ParseDict(document, inference()["RepositoryIndexResponse"]())


async def _load(service: Service, request: Any, _caller: Caller) -> Any:
    oip.check_repository_request({"parameters": _plain(request.parameters)})
    await oip.load(service, request.model_name)
    return inference()["RepositoryModelLoadResponse"]()


async def _unload(service: Service, request: Any, _caller: Caller) -> Any:
    await oip.unload(service, request.model_name)
    return inference()["RepositoryModelUnloadResponse"]()


UNARY: dict[str, tuple[str, Unary]] = {
    "ServerLive": ("ServerLiveRequest", _server_live),
    "ServerReady": ("ServerReadyRequest", _server_ready),
    "ModelReady": ("ModelReadyRequest", _model_ready),
    "ServerMetadata": ("ServerMetadataRequest", _server_metadata),
    "ModelMetadata": ("ModelMetadataRequest", _model_metadata),
    "ModelConfig": ("ModelConfigRequest", _model_config),
    "ModelStatistics": ("ModelStatisticsRequest", _model_statistics),
    "RepositoryIndex": ("RepositoryIndexRequest", _repository_index),
    "RepositoryModelLoad": ("RepositoryModelLoadRequest", _load),
    "RepositoryModelUnload": ("RepositoryModelUnloadRequest", _unload),
    "ModelInfer": ("ModelInferRequest", infer),
}
"""Method -> the message it takes, and who answers."""
NOT_OFFERED = {
    **{f"SystemSharedMemory{verb}": "systemsharedmemory" for verb in ("Status", "Register", "Unregister")},
    **{f"CudaSharedMemory{verb}": "cudasharedmemory" for verb in ("Status", "Register", "Unregister")},
    "TraceSetting": "trace",
    "LogSettings": "logging",
}
"""Method -> the extension that it belongs to, of those that are not offered (`studio.serving.protocols.oip`)."""
