"""The OpenAPI 3.1 document of the endpoint, made from the signatures of what is served now, and examples of requests.

Source: OpenAPI Specification 3.1.0; schemas are JSON Schema 2020-12.
"""

from __future__ import annotations

from typing import Any

import numpy as np

import studio
from studio.core.routing import ModelRoutes, Target
from studio.core.tensors import FLOATS, TensorSpec
from studio.serving import schemas
from studio.serving.service import Service
from studio.serving.texts import given

Json = dict[str, Any]
_ERRORS = {
    "400": "The request is not what the model takes; the answer says what is wrong",
    "403": "The request comes from another site, or names another host",
    "404": "There is no such model or version",
    "408": "The request came in too slowly",
    "413": "The request is larger than the server takes",
    "422": "The model is not set up for this kind of input",
    "500": "The model failed on these inputs",
    "501": "The server does not offer this",
    "503": "The server is busy, or the model can not be loaded; see Retry-After",
}


def document(service: Service) -> Json:
    """The whole document."""
    paths: Json = {**_common()}
    for routes in service.router.table.models.values():
        target = routes.resolve("")
        if target is not None:
            paths |= _paths(routes, target)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Studio", "version": studio.__version__, "description": "Models served by Studio."},
        "paths": paths,
        "components": {
            "schemas": {
                "Error": {
                    "type": "object",
                    "required": ["error"],
                    "properties": {"error": {"description": "What happened, why, and what to do"}},
                }
            }
        },
    }


def _errors() -> Json:
    schema = {"schema": {"$ref": "#/components/schemas/Error"}}
    return {code: {"description": words, "content": {"application/json": schema}} for code, words in _ERRORS.items()}


def _answered(words: str, schema: Json, kind: str = "application/json") -> Json:
    return {"200": {"description": words, "content": {kind: {"schema": schema}}}, **_errors()}


def _get(summary: str, tag: str, schema: Json | None = None, kind: str = "application/json") -> Json:
    return {
        "get": {"summary": summary, "tags": [tag], "responses": _answered("OK", schema or {"type": "object"}, kind)}
    }


def _key() -> Json:
    """The header that a split looks at."""
    return {
        "name": "X-Studio-Key",
        "in": "header",
        "description": "Who asks. Where requests are shared out among versions, those with one key stay with one",
        "schema": {"type": "string", "pattern": "^[!-~]{1,200}$"},
    }


def _common() -> Json:
    return {
        "/": _get("What answers here", "server"),
        "/metrics": _get("Figures for Prometheus", "server", {"type": "string"}, "text/plain; version=0.0.4"),
        "/openapi.json": _get("This document", "server"),
        "/v2": _get("The server, for clients of the Open Inference Protocol", "v2"),
        "/v2/health/live": _get("Whether it is alive", "v2"),
        "/v2/health/ready": _get("Whether it takes requests", "v2"),
        "/v2/models": _get("Names of all models", "v2"),
        "/v2/models/stats": _get("Statistics of all models", "v2"),
        "/v1/models": _get("All models, as KServe and OpenAI list them", "v1"),
    }


def _paths(routes: ModelRoutes, target: Target) -> Json:
    name, signature = target.model, target.signature
    aliases = ", ".join(f"{name}:{alias}" for alias in routes.aliases)
    about = f"Also as {aliases}." if aliases else ""
    inputs = list(signature.inputs)
    paths: Json = {
        f"/predict/{name}": {
            "get": {
                "summary": f"An example of what {name} takes",
                "tags": [name],
                "responses": _answered("A body for POST", schemas.body(target)),
            },
            "post": {
                "summary": f"Ask {name}",
                "description": about,
                "tags": [name],
                "parameters": [_key()],
                "requestBody": {"required": True, "content": schemas.contents(target)},
                "responses": _answered("The answer, by output name", schemas.answer(target)),
            },
        },
        f"/v2/models/{name}": _get(f"What {name} takes and gives", "v2"),
        f"/v2/models/{name}/ready": _get(f"Whether {name} can be asked", "v2"),
        f"/v2/models/{name}/config": _get(f"Configuration of {name}, as Triton tells it", "v2"),
        f"/v2/models/{name}/stats": _get(f"Statistics of {name}", "v2"),
        f"/v2/models/{name}/infer": {
            "post": {
                "summary": f"Ask {name}, Open Inference Protocol",
                "description": about,
                "tags": ["v2"],
                "parameters": [_key()],
                "requestBody": {"required": True, "content": {"application/json": {"schema": _oip(inputs)}}},
                "responses": _answered("The outputs", {"type": "object", "required": ["outputs"]}),
            }
        },
        f"/v1/models/{name}": _get(f"Versions of {name}, as TensorFlow Serving tells them", "v1"),
        f"/v1/models/{name}/metadata": _get(f"Signature of {name}, as TensorFlow Serving tells it", "v1"),
        f"/v1/models/{name}:predict": {
            "post": {
                "summary": f"Ask {name}, TensorFlow Serving",
                "tags": ["v1"],
                "parameters": [_key()],
                "requestBody": {"required": True, "content": {"application/json": {"schema": _tfs(inputs)}}},
                "responses": _answered("Predictions by row, or outputs by column", {"type": "object"}),
            }
        },
    }
    if any(how.kind == "text" for how in target.preprocessing.values()):
        paths["/openai/v1/embeddings"] = _embeddings()
    return paths


def _embeddings() -> Json:
    text = {"type": "string", "minLength": 1}
    texts = {"oneOf": [text, {"type": "array", "items": text, "minItems": 1}]}
    schema = {
        "type": "object",
        "required": ["model", "input"],
        "properties": {"model": {"type": "string"}, "input": texts},
    }
    return {
        "post": {
            "summary": "Embed text, as OpenAI does",
            "tags": ["openai"],
            "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}},
            "responses": _answered("A vector for each text", {"type": "object", "required": ["data"]}),
        }
    }


def _oip(specs: list[TensorSpec]) -> Json:
    tensor = {
        "type": "object",
        "required": ["name", "shape", "datatype", "data"],
        "properties": {
            "name": {"enum": [spec.name for spec in specs]},
            "shape": {"type": "array", "items": {"type": "integer", "minimum": 1}},
            "datatype": {"enum": sorted({spec.datatype for spec in specs})},
            "data": {"type": "array"},
        },
    }
    inputs = {"type": "array", "items": tensor, "minItems": len(specs)}
    return {"type": "object", "required": ["inputs"], "properties": {"inputs": inputs}}


def _tfs(specs: list[TensorSpec]) -> Json:
    return {
        "type": "object",
        "required": ["instances"],
        "properties": {"instances": {"type": "array", "minItems": 1, "items": _row(specs)}},
    }


def _row(specs: list[TensorSpec]) -> Json:
    if len(specs) == 1:
        return _item(specs[0])
    names = [spec.name for spec in specs]
    values = {spec.name: _item(spec) for spec in specs}
    return {"type": "object", "required": names, "properties": values, "additionalProperties": False}


def _item(spec: TensorSpec) -> Json:
    return schemas.nested(spec.shape[1:], schemas.scalar(spec.datatype))


def example(target: Target) -> Json:
    """A body for POST /predict: one row of every input, zeros where nothing better is known."""
    specs = given(target)
    return {spec.name: _example(spec, target, len(specs) == 1) for spec in specs}


def _example(spec: TensorSpec, target: Target, alone: bool) -> Any:
    how = target.preprocessing.get(spec.name)
    if how is not None and how.kind == "text":
        text = "The cat sat on the mat."
        return text if alone else [text]  # beside inputs that come as a batch
    shape = [size if isinstance(size, int) else 1 for size in spec.shape]
    if spec.datatype == "BYTES":
        return np.full(shape, "text", dtype=object).tolist()
    if spec.datatype == "BOOL":
        return np.zeros(shape, bool).tolist()
    return np.zeros(shape, float if spec.datatype in FLOATS else int).tolist()
