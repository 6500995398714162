"""Open Inference Protocol v2 over REST, with Triton's extensions.

Sources: Open Inference Protocol, inference_rest.md and open_inference_rest.yaml; Triton, docs/protocol. Deviations, all
towards saying more: health answers carry JSON, versions may be `3`, `3-int8` or an alias, sizes below 1 answer 400.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any

import studio
from studio.core.errors import InvalidInput, StudioError, Unavailable
from studio.core.routing import Target
from studio.serving.direct import Found, Pairs
from studio.serving.http import Body, Request, Response, json_response, unpacked
from studio.serving.loaded import Array, LoadedModel
from studio.serving.peers import Figures, everywhere, figures_of
from studio.serving.problems import MethodNotAllowed, UnknownPath, Unsupported
from studio.serving.protocols import oip_documents as documents
from studio.serving.protocols import oip_infer
from studio.serving.protocols.json_text import load_json
from studio.serving.router import sticky_key
from studio.serving.service import Exchange, Service, answered, turned_away, unready

PREFIX = "v2"
NAME = "v2"
EXTENSIONS = (
    "classification",
    "model_repository",
    "model_configuration",
    "binary_tensor_data",
    "parameters",
    "statistics",
)
_SHARED_MEMORY = ("shared memory", "Send the tensors as binary data.")
NOT_OFFERED = {
    "systemsharedmemory": _SHARED_MEMORY,
    "cudasharedmemory": _SHARED_MEMORY,
    "trace": (
        "trace settings",
        "Send traceparent or X-Request-Id: they come back, and serving.access_log in studio.toml notes them.",
    ),
    "logging": ("log settings", "Set serving.access_log in studio.toml to note each request, or read: studio logs."),
    "generate": ("generation of text", "Send tensors, to …/infer."),
}
"""Extension of Triton's, by the word in its path -> what it is, and what to do instead."""
_INFER = re.compile(rb"/v2/models/([A-Za-z0-9._:-]+)(?:/versions/([A-Za-z0-9._-]+))?/infer")


async def handle(service: Service, request: Request) -> Response:
    """Answer any path under /v2. Raises StudioError."""
    match request.segments[1:]:
        case ("models", model, "infer"):
            _only(request, "POST")
            return await _infer(service, request, model, "")
        case ("models", model, "versions", version, "infer"):
            _only(request, "POST")
            return await _infer(service, request, model, version)
        case ():
            _only(request, "GET")
            return json_response({"name": "studio", "version": studio.__version__, "extensions": EXTENSIONS})
        case ("health", "live"):
            _only(request, "GET")
            return json_response({"live": True})
        case ("health", "ready"):
            _only(request, "GET")
            return json_response({"ready": service.ready, "live": True}, 200 if service.ready else 503)
        case ("models",):
            _only(request, "GET")
            return json_response({"models": list(service.router.table.models)})
        case ("models", "stats"):
            _only(request, "GET")
            return json_response(await statistics_of(service, "", ""))
        case ("models", model):
            return await _about(service, request, model, "", "")
        case ("models", model, "versions", version):
            return await _about(service, request, model, version, "")
        case ("models", model, "versions", version, action):
            return await _about(service, request, model, version, action)
        case ("models", _, "trace", "setting"):
            raise not_offered("trace")
        case ("models", model, action):
            return await _about(service, request, model, "", action)
        case ("repository", *rest):
            return await _repository(service, request, rest)
        case ("systemsharedmemory" | "cudasharedmemory" | "trace" | "logging" as extension, *_):
            raise not_offered(extension)
    raise UnknownPath


def _only(request: Request, method: str) -> None:
    if request.method != method:
        raise MethodNotAllowed(method)


def not_offered(extension: str) -> Unsupported:
    """The error for an extension of Triton's that is not offered: what stands for it here."""
    what, instead = NOT_OFFERED[extension]
    return Unsupported(f"This server does not offer {what}.", "", instead)


async def statistics_of(service: Service, model: str, version: str) -> dict[str, Any]:
    """Statistics of a version, of all of a model, or of everything where no model is named. Raises NotFound."""
    figures = await figures_of(service)
    if not model:
        return _statistics(service, figures, list(service.router.targets()))
    target = service.router.resolve(model, version)
    named = version or ":" in model
    routes = service.router.routes(target.model)
    return _statistics(service, figures, [target] if named else list(routes.targets.values()), target)


async def _about(service: Service, request: Request, model: str, version: str, action: str) -> Response:
    router = service.router
    if action in ("generate", "generate_stream"):
        raise not_offered("generate")
    if action not in ("", "ready", "config", "stats"):
        raise UnknownPath
    _only(request, "GET")
    target = router.resolve(model, version)
    routes = router.routes(target.model)
    if action == "":
        return json_response(documents.metadata(routes, target))
    if action == "config":
        return json_response(documents.config(target, service.cache is not None))
    if action == "stats":
        return json_response(await statistics_of(service, model, version))
    if reason := unready(service, target):
        raise Unavailable("Model version not ready", reason)
    return json_response({"name": target.model, "ready": True})


def _statistics(
    service: Service, figures: Figures, targets: list[Target], always: Target | None = None
) -> dict[str, Any]:
    """Of the targets that are loaded or were used, and of `always` in any case."""
    totals = figures.totals
    shown = [
        target for target in targets if target is always or target.name in totals or service.router.is_loaded(target)
    ]
    return documents.statistics(shown, totals, figures.shadows)


async def _repository(service: Service, request: Request, rest: list[str]) -> Response:
    match rest:
        case ["index"]:
            _only(request, "POST")
            body = await unpacked(request.body, request.headers, service.settings.max_body_bytes)
            asked = load_json(body) if body.strip() else {}
            if not isinstance(asked, dict):
                raise InvalidInput("failed to parse the request JSON buffer: an object is expected.")
            ready = asked.get("ready", False)
            if not isinstance(ready, bool):
                raise InvalidInput("Invalid value for 'ready': expected a boolean")
            return json_response(documents.index(service.router, ready))
        case ["models", model, ("load" | "unload") as action]:
            _only(request, "POST")
            body = await unpacked(request.body, request.headers, service.settings.max_body_bytes)
            check_repository_request(load_json(body) if body.strip() else {})
            name = await (load(service, model) if action == "load" else unload(service, model))
            return json_response({"name": name, action: True})
        case [_, "index"] | [_, "models", _, "load" | "unload"]:
            raise Unsupported("'repository_name' specification is not supported")
    raise UnknownPath


def check_repository_request(asked: Any) -> None:
    """Refuse a load that brings a model or its configuration along: models come in through the inbox."""
    parameters = asked.get("parameters", {}) if isinstance(asked, dict) else None
    if not isinstance(parameters, dict):
        raise InvalidInput("failed to parse the request JSON buffer: an object is expected.")
    if any(key == "config" or key.startswith("file:") for key in parameters):
        raise Unsupported(
            "Models and their configuration are not taken over this call.",
            "",
            "Drop the model into the inbox, or use: studio add FILE.",
        )


async def load(service: Service, model: str) -> str:
    """Load what answers the name, and keep it until it is idle. The model's name. Raises NotFound, Unavailable."""
    target = service.router.resolve(model)
    try:
        await service.router.loaded_model(target)
        await everywhere(service, "load", model)
    except StudioError as error:
        raise Unavailable(f"failed to load '{target.model}', {error}") from error
    return target.model


async def unload(service: Service, model: str) -> str:
    """Free the memory of all versions of a model; the next request for one loads it again. Raises NotFound."""
    name = service.router.routes(model.partition(":")[0]).model
    service.router.unload(name)
    await everywhere(service, "unload", name)
    return name


class Infer(Exchange):
    """One infer request."""

    __slots__ = ("call",)
    protocol = NAME

    def begin(self, model: LoadedModel, body: Body, headers: dict[bytes, bytes]) -> None:
        """Parse and run. Never raises: what is wrong is answered."""
        parsing = time.perf_counter_ns()
        try:
            self.call = call = oip_infer.parse(body, headers, self.target)
            self.parsing_ns = time.perf_counter_ns() - parsing
            self.submit(model, call.inputs, call.outputs, call.timeout_us, call.priority)
        except StudioError as error:
            self.fail(error)

    def format(self, arrays: list[Array]) -> Response:
        return oip_infer.answer(self.call, self.target, documents.version_name(self.target), arrays)


async def _infer(service: Service, request: Request, model_segment: str, version: str) -> Response:
    target: Target | None = None
    try:
        target, shadow = service.router.route(model_segment, version, lambda: sticky_key(request.headers))
        model = service.router.model(target) or await service.router.loaded_model(target)
        body = await unpacked(request.body, request.headers, service.settings.max_body_bytes)
    except StudioError as error:
        turned_away(service, target, NAME, error, request.started_ns, request.headers)
        raise

    def begin(respond: Callable[[Response], None], gone: Callable[[], None]) -> None:
        exchange = Infer(service, target, request.connection, request.started_ns, respond, gone, shadow)
        exchange.headers = request.headers
        exchange.begin(model, body, request.headers)

    return await answered(target, begin)


def direct(service: Service, path: bytes, headers: Pairs) -> Found | None:
    """What answers an infer request to this path at once: a plain reference whose model is loaded. None otherwise."""
    router = service.router
    routed = router.known(path, headers)
    if routed is None:
        found = _INFER.fullmatch(path)
        if found is None:
            return None
        try:
            routed = router.meet(path, found[1].decode(), (found[2] or b"").decode(), headers)
        except StudioError:
            return None
    target, shadow = routed
    model = router.model(target)
    return (Infer, target, model, shadow) if model is not None else None
