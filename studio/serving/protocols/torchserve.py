"""TorchServe's inference and management API, as far as it makes sense for ONNX models.

Source: TorchServe, docs/inference_api.md and management_api.md. A prediction takes what `/predict` takes, and is
answered as the default handlers do: classes with their probabilities where labels are known, else the output itself.
Models come in through the inbox and versions are chosen by aliases, so registering, scaling and deleting are refused
with words.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from math import isnan
from typing import Any

import orjson

from studio.core.errors import InvalidInput, StudioError
from studio.core.routing import ModelRoutes, Target
from studio.serving.http import Request, Response, error_headers, json_response, unpacked
from studio.serving.loaded import Array
from studio.serving.problems import MethodNotAllowed, UnknownPath, Unsupported
from studio.serving.protocols import predict
from studio.serving.protocols.json_text import load_json
from studio.serving.protocols.oip_documents import version_name
from studio.serving.protocols.samples import read_off_loop
from studio.serving.router import sticky_key
from studio.serving.service import Service, answered, turned_away

PREDICTIONS, MODELS, PING = "predictions", "models", "ping"
TOP = 5
"""Classes of an answer, as TorchServe's image classifier gives them."""
_PAGE = 100
_ENVELOPE = re.compile(rb'\s*\{\s*"(data|body)"\s*:')
_TYPES = {
    400: "BadRequestException",
    403: "IllegalArgumentException",
    404: "ModelNotFoundException",
    405: "MethodNotAllowedException",
    408: "RequestTimeoutException",
    500: "InternalServerException",
    501: "UnsupportedOperationException",
    503: "ServiceUnavailableException",
}


class Predict(predict.Predict):
    """One prediction, answered as a handler of TorchServe would."""

    __slots__ = ()
    protocol = "torchserve"

    def format(self, arrays: list[Array]) -> Response:
        return Response(200, answer(self.target, arrays, self.sample.single))

    def error(self, error: StudioError) -> Response:
        return failure(error)


async def handle(service: Service, request: Request) -> Response:
    """Answer /ping, /predictions and /models. Errors are answered in TorchServe's form."""
    try:
        match request.segments:
            case ("ping",):
                _only(request, "GET")
                return json_response(
                    {"status": "Healthy" if service.ready else "Unhealthy"}, 200 if service.ready else 500
                )
            case ("predictions", model):
                return await _predict(service, request, model, "")
            case ("predictions", model, version):
                return await _predict(service, request, model, version)
            case ("models", *rest):
                return _manage(service, request, rest)
        raise UnknownPath
    except StudioError as error:
        return failure(error)


def failure(error: StudioError) -> Response:
    """An error in TorchServe's form."""
    code = error.http_status
    document = {"code": code, "type": _TYPES.get(code, "ModelException"), "message": str(error)}
    return json_response(document, code, error_headers(error))


def _only(request: Request, *methods: str) -> None:
    if request.method not in methods:
        raise MethodNotAllowed(", ".join(methods))


async def _predict(service: Service, request: Request, reference: str, version: str) -> Response:
    _only(request, "POST", "PUT")
    target: Target | None = None
    try:
        wanted = version.removesuffix(".0")
        target, shadow = service.router.route(reference, wanted, lambda: sticky_key(request.headers))
        model = service.router.model(target) or await service.router.loaded_model(target)
        body = bytes(await unpacked(request.body, request.headers, service.settings.max_body_bytes))
        kind = request.headers.get(b"content-type", b"").decode("latin-1")
        parsing = time.perf_counter_ns()
        sample = await read_off_loop(*_unwrapped(body, kind), target)
        parsing = time.perf_counter_ns() - parsing
    except StudioError as error:
        turned_away(service, target, Predict.protocol, error, request.started_ns, request.headers)
        raise

    def begin(respond: Callable[[Response], None], gone: Callable[[], None]) -> None:
        exchange = Predict(service, target, request.connection, request.started_ns, respond, gone, shadow)
        exchange.headers, exchange.parsing_ns = request.headers, parsing
        exchange.start(model, sample)

    return await answered(target, begin)


def _unwrapped(body: bytes, kind: str) -> tuple[bytes, str]:
    """Handlers take `{"data": …}` and `{"body": …}` for the input itself. The body that is meant, and its type."""
    if not _ENVELOPE.match(body):
        return body, kind
    try:
        value = load_json(body)
    except InvalidInput:
        return body, kind
    if len(value) > 1:
        return body, kind
    (inner,) = value.values()
    return orjson.dumps(inner), "application/json"


def answer(target: Target, arrays: list[Array], single: bool) -> bytes:
    """The body of an answer."""
    rows = predict.labelled(target, arrays)
    value: Any
    if rows is not None:
        best = [
            dict(sorted(next(iter(scores)).items(), key=_rank)[:TOP])
            for row in rows
            if (scores := [part for part in row.values() if isinstance(part, dict)])
        ]
        value = best[0] if single else best
    else:
        shown = predict.outputs(target, arrays, single)
        value = next(iter(shown.values())) if len(shown) == 1 else shown
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)


def _rank(scored: tuple[str, float]) -> tuple[bool, float]:
    """The highest score first, NaN last."""
    return isnan(scored[1]), -scored[1]


def _manage(service: Service, request: Request, rest: list[str]) -> Response:
    match rest:
        case []:
            if request.method == "POST":
                raise Unsupported("Models are not registered over this call.", "", "Drop them into the inbox.")
            _only(request, "GET", "POST")
            return _list(service, request)
        case [_, _, "set-default"]:
            raise Unsupported("What answers a name is told by its alias.", "", "Use: studio promote MODEL:VERSION.")
        case [model] | [model, _]:
            if request.method == "PUT":
                raise Unsupported(
                    "Workers are not scaled for each model.",
                    "All models share the threads of the server.",
                    "Set run_threads under [serving] in studio.toml.",
                )
            if request.method == "DELETE":
                raise Unsupported("Models are not removed over this call.", "", "Use: studio rm MODEL:VERSION.")
            _only(request, "GET", "PUT", "DELETE")
            routes = service.router.routes(model)
            wanted = rest[1] if len(rest) > 1 else ""
            if wanted == "all":
                return json_response([_about(service, target) for target in routes.targets.values()])
            return json_response([_about(service, _one(service, routes, wanted))])
    raise UnknownPath


def _one(service: Service, routes: ModelRoutes, version: str) -> Target:
    return service.router.resolve(routes.model, version.removesuffix(".0"))


def _list(service: Service, request: Request) -> Response:
    names = list(service.router.table.models)
    limit = _number(request.query.get("limit", str(_PAGE)), "limit")
    start = _number(request.query.get("next_page_token", "0"), "next_page_token")
    shown = names[start : start + max(1, min(limit, _PAGE))]
    document: dict[str, Any] = {"models": [{"modelName": name, "modelUrl": name} for name in shown]}
    if start + len(shown) < len(names):
        document["nextPageToken"] = str(start + len(shown))
    return json_response(document)


def _number(text: str, name: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise InvalidInput(f"'{name}' must be a whole number.")
    return int(text)


def _about(service: Service, target: Target) -> dict[str, Any]:
    loaded = service.router.is_loaded(target)
    pending = service.executor.pending
    return {
        "modelName": target.model,
        "modelVersion": version_name(target),
        "modelUrl": target.model,
        "engine": "ONNX Runtime",
        "runtime": "python",
        "minWorkers": 1,
        "maxWorkers": 1,
        "batchSize": 1,
        "maxBatchDelay": 0,
        "loadedAtStartup": loaded,
        "workers": [{"id": "0", "startTime": "", "status": "READY" if loaded else "UNLOADED", "memoryUsage": 0}],
        "jobQueueStatus": {
            "remainingCapacity": max(0, service.settings.queue - pending),
            "pendingRequests": pending,
        },
    }
