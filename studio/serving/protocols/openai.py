"""OpenAI's API as far as embedding models go, under /openai/v1 and, where nothing else is meant, under /v1.

Source: OpenAI, API reference "Embeddings", "Models". Errors are objects here.
"""

from __future__ import annotations

from collections.abc import Sequence

from studio.core.errors import InvalidInput, NotFound, StudioError
from studio.serving.http import Request, Response, error_headers, json_response
from studio.serving.problems import MethodNotAllowed, UnknownPath
from studio.serving.protocols.embeddings import (
    OpenAIEmbed,
    base64_of,
    document_of,
    dumped,
    embedded,
    inputs_of,
    shortened,
)
from studio.serving.service import Service

PREFIX = "openai"
_GENERATING = frozenset(("chat", "completions", "responses", "images", "audio", "videos", "realtime", "assistants"))
_TYPES = {404: "not_found_error", 403: "permission_error", 429: "rate_limit_error"}


async def handle(service: Service, request: Request) -> Response:
    """Answer any path under /openai. Errors are answered in OpenAI's form."""
    try:
        match request.segments[1:]:
            case ("v1", "embeddings"):
                return await embeddings(service, request)
            case ("v1", "models"):
                _only_get(request)
                return json_response({"object": "list", "data": [card(name) for name in service.router.table.models]})
            case ("v1", "models", model):
                _only_get(request)
                return json_response(card(service.router.resolve(model).model))
            case ("v1", *rest) if generates(rest):
                raise no_generation()
        raise UnknownPath
    except StudioError as error:
        return failure(error)


def generates(parts: Sequence[str]) -> bool:
    """Whether a path behind /v1 is one of OpenAI's that make text, sound or images."""
    return bool(parts) and parts[0] in _GENERATING


def no_generation() -> StudioError:
    """404, as for a path that is not there: their clients repeat what fails with 501."""
    return NotFound("This server embeds text; it does not generate anything.", "", "Use /v1/embeddings.")


def asks(request: Request) -> bool:
    """Whether one of OpenAI's own clients sent the request: all of them name themselves so."""
    return b"OpenAI/" in request.headers.get(b"user-agent", b"")


def _only_get(request: Request) -> None:
    if request.method != "GET":
        raise MethodNotAllowed("GET")


def card(name: str) -> dict[str, object]:
    """A model as OpenAI describes it. When it was made is not kept where it is served, so `created` is 0."""
    return {"id": name, "object": "model", "created": 0, "owned_by": "studio"}


def failure(error: StudioError) -> Response:
    """An error in OpenAI's form."""
    kind = _TYPES.get(error.http_status, "invalid_request_error" if error.http_status < 500 else "server_error")
    document = {"error": {"message": str(error), "type": kind, "param": None, "code": error.code}}
    return json_response(document, error.http_status, error_headers(error))


async def embeddings(service: Service, request: Request) -> Response:
    """POST …/embeddings. Errors are answered in OpenAI's form."""
    try:
        document = await document_of(service, request)
        name = document.get("model")
        if not isinstance(name, str):
            raise InvalidInput("you must provide a model parameter")
        # null is what its clients send for what was not chosen.
        wanted = "float" if document.get("encoding_format") is None else document["encoding_format"]
        if wanted not in ("float", "base64"):
            raise InvalidInput("'encoding_format' must be 'float' or 'base64'.")
        texts, user = inputs_of(document.get("input"), "input"), document.get("user")
        if "" in texts:
            raise InvalidInput("'input' must not hold an empty text.", "", "Leave it out.")
        result = await embedded(service, request, OpenAIEmbed, name, texts, True, user)
        vectors = shortened(result.vectors, document.get("dimensions"))
    except StudioError as error:
        return failure(error)
    data = [
        {"object": "embedding", "index": place, "embedding": vector if wanted == "float" else base64_of(vector)}
        for place, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": result.tokens, "total_tokens": result.tokens}
    return dumped({"object": "list", "data": data, "model": name, "usage": usage}, result.target)
