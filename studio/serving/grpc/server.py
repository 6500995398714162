"""The gRPC server of the endpoint: methods, errors as status codes, limits, draining. Imports grpc."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from typing import Any

import grpc
import grpc.aio

from studio.core.errors import StudioError
from studio.serving.grpc import oip, tfs, tfs_examples
from studio.serving.grpc.calls import Caller
from studio.serving.grpc.oip_messages import health, inference
from studio.serving.grpc.tfs_messages import messages
from studio.serving.problems import Unsupported, unforeseen
from studio.serving.protocols.oip import not_offered
from studio.serving.service import Service

_CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    409: grpc.StatusCode.ALREADY_EXISTS,
    413: grpc.StatusCode.INVALID_ARGUMENT,
    422: grpc.StatusCode.FAILED_PRECONDITION,
    501: grpc.StatusCode.UNIMPLEMENTED,
    503: grpc.StatusCode.UNAVAILABLE,
}
_PREDICTION: dict[str, tuple[str, oip.Unary]] = {
    "Predict": ("PredictRequest", tfs.predict),
    "Classify": ("ClassificationRequest", tfs_examples.classify),
    "Regress": ("RegressionRequest", tfs_examples.regress),
    "MultiInference": ("MultiInferenceRequest", tfs_examples.multi),
    "GetModelMetadata": ("GetModelMetadataRequest", tfs.metadata),
}
_MODEL: dict[str, tuple[str, oip.Unary]] = {"GetModelStatus": ("GetModelStatusRequest", tfs.status)}
_WATCHED = ("", oip.SERVICE, tfs.PREDICTION, tfs.MODEL)
"""Services whose health can be asked for."""
_UNREADY_SECONDS = 0.1


class GrpcServer:
    """Listens on `host` and each of the ports."""

    def __init__(self, service: Service, host: str, ports: Sequence[int]) -> None:
        limit = service.settings.max_body_bytes
        self._service = service
        self._host = f"[{host}]" if ":" in host else host
        self._ports = ports
        self._draining = asyncio.Event()
        self._server = grpc.aio.server(
            options=(
                ("grpc.max_receive_message_length", limit),
                ("grpc.max_send_message_length", -1),
                # The processes of one server share its port.
                ("grpc.so_reuseport", int(service.settings.workers > 1)),
            ),
            maximum_concurrent_rpcs=service.settings.queue,
        )
        self._server.add_generic_rpc_handlers(
            (
                grpc.method_handlers_generic_handler(oip.SERVICE, self._inference()),
                grpc.method_handlers_generic_handler(tfs.PREDICTION, self._tensorflow(_PREDICTION)),
                grpc.method_handlers_generic_handler(tfs.MODEL, self._model()),
                grpc.method_handlers_generic_handler("grpc.health.v1.Health", self._health()),
            )
        )

    async def start(self) -> dict[int, str]:
        """Begin to serve, where there is a port. All of them, with the reason why one could not be had, else ''."""
        found: dict[int, str] = {}
        for port in self._ports:
            try:
                found[self._server.add_insecure_port(f"{self._host}:{port}")] = ""
            except RuntimeError as error:
                found[port] = f"{error}"
        if "" in found.values():
            await self._server.start()
        return found

    async def drain(self, seconds: float) -> None:
        """Take no new calls, and let those under way finish for so long."""
        self._draining.set()
        await self._server.stop(seconds)

    def _inference(self) -> dict[str, Any]:
        handlers = {
            method: grpc.unary_unary_rpc_method_handler(self._unary(answer), _reader(inference()[message]), _serialised)
            for method, (message, answer) in oip.UNARY.items()
        }
        request = _reader(inference()["ModelInferRequest"])
        for method, extension in oip.NOT_OFFERED.items():
            handlers[method] = self._refused(partial(not_offered, extension))
        handlers["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(self._stream, request, _serialised)
        return handlers

    def _model(self) -> dict[str, Any]:
        return {**self._tensorflow(_MODEL), "HandleReloadConfigRequest": self._refused(_no_reload)}

    def _tensorflow(self, methods: dict[str, tuple[str, oip.Unary]]) -> dict[str, Any]:
        return {
            method: grpc.unary_unary_rpc_method_handler(self._unary(answer), _reader(messages()[message]), _serialised)
            for method, (message, answer) in methods.items()
        }

    def _refused(self, error: Callable[[], StudioError]) -> Any:
        """A method that is there to say what stands for it. Whatever its message is, it is not read."""

        async def refuse(_service: Service, _request: Any, _caller: Caller) -> Any:
            raise error()

        return grpc.unary_unary_rpc_method_handler(self._unary(refuse))

    def _unary(self, answer: oip.Unary) -> Any:
        async def handle(request: Any, context: Any) -> Any:
            caller = Caller.of(context)
            await _check(request, context)
            try:
                return await answer(self._service, request, caller)
            except StudioError as error:
                await _abort(context, error)
            except grpc.aio.AbortError:
                raise
            except Exception:
                await _abort(context, unforeseen())

        return handle

    async def _stream(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[bytes]:
        try:
            async for response in oip.stream(self._service, _checked(requests, context), Caller.of(context)):
                yield response
        except grpc.aio.AbortError:
            raise
        except Exception:
            await _abort(context, unforeseen())

    def _health(self) -> dict[str, Any]:
        messages = health()

        def status(name: str = "") -> Any:
            return messages["HealthCheckResponse"](status=name or ("SERVING" if self._service.ready else "NOT_SERVING"))

        async def check(request: Any, context: Any) -> Any:
            Caller.of(context)
            await _check(request, context)
            if request.service not in _WATCHED:
                await context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
            return status()

        async def watch(request: Any, context: Any) -> AsyncIterator[Any]:
            """Now, and whenever it changes: it becomes ready once, and stops being so once, when draining begins."""
            Caller.of(context)
            await _check(request, context)
            if request.service not in _WATCHED:
                yield status("SERVICE_UNKNOWN")
                await self._draining.wait()
                return
            told = status()
            yield told
            # It takes a moment, once.
            while not (self._service.ready or self._draining.is_set()):  # noqa: ASYNC110
                await asyncio.sleep(_UNREADY_SECONDS)
            if status() != told:
                yield (told := status())
            await self._draining.wait()
            if status() != told:
                yield status()

        read = _reader(messages["HealthCheckRequest"])
        return {
            "Check": grpc.unary_unary_rpc_method_handler(check, read, _serialised),
            "Watch": grpc.unary_stream_rpc_method_handler(watch, read, _serialised),
        }


def _no_reload() -> StudioError:
    return Unsupported(
        "This server takes no models over this call.", "", "Drop the model into the inbox, or use: studio add FILE."
    )


def _reader(message: Any) -> Callable[[bytes], Any]:
    """Parses such messages; None for bytes that are none. What a parser raises, gRPC answers as a fault of the
    server's, with a traceback in the log."""
    from google.protobuf.message import DecodeError

    def read(data: bytes) -> Any:
        try:
            return message.FromString(data)
        except DecodeError:
            return None

    return read


async def _check(request: Any, context: Any) -> None:
    if request is None:
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "The request is no message of this method's type.")


async def _checked(requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
    async for request in requests:
        await _check(request, context)
        yield request


def _serialised(message: Any) -> bytes:
    return message if isinstance(message, bytes) else bytes(message.SerializeToString())


async def _abort(context: Any, error: StudioError) -> None:
    await context.abort(_CODES.get(error.http_status, grpc.StatusCode.INTERNAL), str(error))
