"""TensorFlow Serving's REST API: predict, classify, regress, metadata and status.

Source: TensorFlow Serving, g3doc/api_rest.md, util/json_tensor.cc, model_servers/http_rest_api_util.cc. Words of errors
are theirs where clients look for them. A label is an alias; where they want digits for a version, names like `3-int8`
are taken too. Classify and regress choose the output that fits: scores of two dimensions, or one number a row.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any

from studio.core.errors import InvalidInput, NotFound, StudioError
from studio.core.names import REFERENCE_VARIANT
from studio.core.routing import ModelRoutes, Target
from studio.serving.direct import Found, Pairs
from studio.serving.http import Body, Request, Response, unpacked
from studio.serving.loaded import Array, LoadedModel
from studio.serving.problems import MethodNotAllowed, Unsupported
from studio.serving.protocols import tfs_json
from studio.serving.router import Routed, sticky_key
from studio.serving.service import Exchange, Service, answered, turned_away

NAME = "tfs"
SIGNATURE = "serving_default"
_PREDICT = re.compile(
    rb"(?i)/v1/models/([A-Za-z0-9._-]+)(?:/versions/([A-Za-z0-9._-]+)|/labels/([A-Za-z0-9._-]+))?:predict"
)
_DTYPES = {
    "BOOL": "DT_BOOL",
    "UINT8": "DT_UINT8",
    "UINT16": "DT_UINT16",
    "UINT32": "DT_UINT32",
    "UINT64": "DT_UINT64",
    "INT8": "DT_INT8",
    "INT16": "DT_INT16",
    "INT32": "DT_INT32",
    "INT64": "DT_INT64",
    "FP16": "DT_HALF",
    "BF16": "DT_BFLOAT16",
    "FP32": "DT_FLOAT",
    "FP64": "DT_DOUBLE",
    "BYTES": "DT_STRING",
}


class Predict(Exchange):
    """`:predict`, in rows or columns."""

    __slots__ = ("row",)
    protocol = NAME

    def begin(self, model: LoadedModel, body: Body, headers: dict[bytes, bytes]) -> None:
        parsing = time.perf_counter_ns()
        try:
            self.row, inputs = self.parse(tfs_json.load(body))
            self.parsing_ns = time.perf_counter_ns() - parsing
            self.submit(model, inputs, None)
        except StudioError as error:
            self.fail(error)

    def parse(self, document: Any) -> tuple[bool, dict[str, Array]]:
        """Whether rows were sent, and the inputs. Raises InvalidInput."""
        return tfs_json.predict_inputs(document, self.target)

    def format(self, arrays: list[Array]) -> Response:
        return Response(200, tfs_json.predictions(arrays, self.target, self.row))


class Classify(Predict):
    """`:classify`: labels with their scores for each example."""

    def parse(self, document: Any) -> tuple[bool, dict[str, Array]]:
        tfs_json.scores_of(self.target)  # before anything runs
        return True, tfs_json.example_inputs(document, self.target)

    def format(self, arrays: list[Array]) -> Response:
        return Response(200, tfs_json.classifications(arrays, self.target))


class Regress(Predict):
    """`:regress`: one number for each example."""

    def parse(self, document: Any) -> tuple[bool, dict[str, Array]]:
        tfs_json.number_of(self.target)
        return True, tfs_json.example_inputs(document, self.target)

    def format(self, arrays: list[Array]) -> Response:
        return Response(200, tfs_json.regressions(arrays, self.target))


_VERBS: dict[str, type[Predict]] = {"predict": Predict, "classify": Classify, "regress": Regress}


def direct(service: Service, path: bytes, headers: Pairs) -> Found | None:
    """What answers a predict request to this path at once. None where it has to go the long way."""
    router = service.router
    routed = router.known(path, headers)
    if routed is None:
        found = _PREDICT.fullmatch(path)
        if found is None:
            return None
        try:
            routed = router.meet(path, found[1].decode(), (found[2] or found[3] or b"").decode(), headers)
        except StudioError:
            return None
    target, shadow = routed
    model = router.model(target)
    return (Predict, target, model, shadow) if model is not None else None


def is_verb(part: str) -> bool:
    """Whether the last part of a path asks for something to be run."""
    return part.rpartition(":")[2].lower() in (*_VERBS, "explain")


async def infer(service: Service, request: Request, parts: list[str]) -> Response:
    """POST /v1/models/M[/versions/V|/labels/L]:verb. Raises StudioError."""
    if request.method != "POST":
        raise MethodNotAllowed("POST")
    where, _, verb = parts[-1].rpartition(":")
    kind = _VERBS.get(verb.lower())
    if kind is None:
        if verb.lower() == "explain":
            raise Unsupported("This server does not explain predictions.", "", "Use :predict.")
        raise InvalidInput(f"Malformed request: POST /v1/models/{'/'.join(parts)}")
    target: Target | None = None
    try:
        target, shadow = _routed(service, _without_zero([*parts[:-1], where]), request)
        model = service.router.model(target) or await service.router.loaded_model(target)
        body = await unpacked(request.body, request.headers, service.settings.max_body_bytes)
    except StudioError as error:
        turned_away(service, target, NAME, error, request.started_ns, request.headers)
        raise

    def begin(respond: Callable[[Response], None], gone: Callable[[], None]) -> None:
        exchange = kind(service, target, request.connection, request.started_ns, respond, gone, shadow)
        exchange.headers = request.headers
        exchange.begin(model, body, request.headers)

    return await answered(target, begin)


def _routed(service: Service, parts: list[str], request: Request) -> Routed:
    """What answers `M`, `M/versions/V` or `M/labels/L` now. Raises NotFound in their words."""
    target = _target(service, parts)
    if len(parts) > 1:
        return target, None
    return service.router.route(parts[0], "", lambda: sticky_key(request.headers))


def _without_zero(parts: list[str]) -> list[str]:
    """`M` for `M/versions/0`: OpenVINO's client says so where no version is asked for, and versions begin at 1."""
    match parts:
        case [model, kind, "0"] if kind.lower() == "versions":
            return [model]
    return parts


def _target(service: Service, parts: list[str]) -> Target:
    """The target of `M`, `M/versions/V` or `M/labels/L`. Raises NotFound in their words."""
    match parts:
        case [model]:
            version, asked = "", f"Latest({model[:120]})"
        case [model, kind, version] if kind.lower() == "versions":
            asked = f"Specific({model[:120]}, {version[:60]})"
        case [model, kind, version] if kind.lower() == "labels":
            asked = f"Specific({model[:120]}, {version[:60]})"
        case _:
            raise InvalidInput(f"Malformed request: POST /v1/models/{'/'.join(parts)[:300]}")
    try:
        return service.router.resolve(model, version)
    except NotFound:
        raise NotFound(f"Servable not found for request: {asked}") from None


def about(service: Service, request: Request, parts: list[str]) -> tuple[ModelRoutes, Target, dict[str, Any]]:
    """GET …[/metadata]: the model, its target, and the document. Raises NotFound."""
    wants_metadata = len(parts) > 1 and parts[-1].lower() == "metadata"
    named = _without_zero(parts[:-1] if wants_metadata else parts)
    model = named[0]
    try:
        target = _target(service, named)
    except NotFound as error:
        if wants_metadata or len(named) > 1:
            raise
        raise NotFound(f"Could not find any versions of model {model[:120]}") from error
    routes = service.router.routes(target.model)
    return routes, target, _metadata(target) if wants_metadata else _status(routes, target, len(named) > 1)


def _status(routes: ModelRoutes, target: Target, one: bool) -> dict[str, Any]:
    versions = [target.version] if one else sorted({each.version for each in routes.targets.values()}, reverse=True)
    return {
        "model_version_status": [
            {"version": str(version), "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
            for version in versions
        ]
    }


def _metadata(target: Target) -> dict[str, Any]:
    def tensor(name: str, datatype: str, shape: list[int]) -> dict[str, Any]:
        dims = [{"size": str(size), "name": ""} for size in shape]
        return {"dtype": _DTYPES[datatype], "tensor_shape": {"dim": dims, "unknown_rank": False}, "name": name}

    def tensors(specs: tuple[Any, ...]) -> dict[str, Any]:
        return {spec.name: tensor(spec.name, spec.datatype, spec.wire_shape) for spec in specs}

    definition = {
        "inputs": tensors(target.signature.inputs),
        "outputs": tensors(target.signature.outputs),
        "method_name": "tensorflow/serving/predict",
    }
    version = str(target.version) if target.variant == REFERENCE_VARIANT else target.key
    return {
        "model_spec": {"name": target.model, "signature_name": "", "version": version},
        "metadata": {"signature_def": {"signature_def": {SIGNATURE: definition}}},
    }
