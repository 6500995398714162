"""The paths under /v1, which three protocols share: TensorFlow Serving, KServe's first one, and OpenAI.

What they answer has no key in common but where they mean the same, so one document serves them all; an error is an
object where only OpenAI's clients ask (`openai`), and a string elsewhere.
"""

from __future__ import annotations

from studio.core.errors import StudioError
from studio.serving.http import Request, Response, json_response
from studio.serving.problems import MethodNotAllowed, UnknownPath
from studio.serving.protocols import openai, tfs
from studio.serving.service import Service, unready

PREFIX = "v1"


async def handle(service: Service, request: Request) -> Response:
    """Answer any path under /v1. Raises StudioError; to OpenAI's clients its words go in their form."""
    try:
        return await _answer(service, request)
    except StudioError as error:
        if openai.asks(request):
            return openai.failure(error)
        raise


async def _answer(service: Service, request: Request) -> Response:
    match request.segments[1:]:
        case ("embeddings",):
            return await openai.embeddings(service, request)
        case (models,) if models.lower() == "models":
            _only_get(request)
            return json_response(listing(service))
        case (models, *parts) if models.lower() == "models":
            if ":" in parts[-1] and (request.method == "POST" or tfs.is_verb(parts[-1])):
                return await tfs.infer(service, request, parts)
            _only_get(request)
            routes, target, document = tfs.about(service, request, parts)
            if len(parts) == 1:
                document |= {"name": routes.model, "ready": not unready(service, target)} | openai.card(routes.model)
            return json_response(document)
        case parts if openai.generates(parts):
            return openai.failure(openai.no_generation())
    raise UnknownPath


def _only_get(request: Request) -> None:
    if request.method != "GET":
        raise MethodNotAllowed("GET")


def listing(service: Service) -> dict[str, object]:
    """All models, as KServe (`models`) and as OpenAI (`data`) list them."""
    names = list(service.router.table.models)
    return {"object": "list", "data": [openai.card(name) for name in names], "models": names}
