"""Ollama's API as far as embedding models go: /api/embed, /api/embeddings, /api/tags, /api/ps, /api/show, /api/version.

Sources: Ollama, docs/api.md, api/types.go (Duration). A model is told with its alias or version behind a colon, as
Ollama tells tags.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import studio
from studio.core.errors import InvalidInput, StudioError
from studio.core.routing import Target
from studio.serving.http import Request, Response, json_response
from studio.serving.problems import MethodNotAllowed, UnknownPath, Unsupported
from studio.serving.protocols.embeddings import OllamaEmbed, document_of, dumped, embedded, inputs_of, shortened
from studio.serving.protocols.oip import unload
from studio.serving.service import Service
from studio.serving.texts import text_input, vectors_output

PREFIX = "api"
_LONG_AGO = "1970-01-01T00:00:00Z"
"""When a model was made is not kept where it is served."""
_DURATION = re.compile(r"[-+]?(0|((\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h))+)", re.ASCII)
"""Go's time.ParseDuration."""
_NEVER = "9999-12-31T23:59:59Z"


async def handle(service: Service, request: Request) -> Response:
    """Answer any path under /api. Raises StudioError."""
    match request.segments[1:]:
        case ("embed",):
            return await _embed(service, request)
        case ("embeddings",):
            return await _embeddings(service, request)
        case ("tags",):
            _only_get(request)
            return json_response({"models": [_row(target) for target in _texts(service)]})
        case ("ps",):
            _only_get(request)
            return json_response({"models": [_running(service, target) for target in _texts(service, loaded=True)]})
        case ("version",):
            _only_get(request)
            return json_response({"version": studio.__version__})
        case ("show",):
            return await _show(service, request)
        case ("generate",) | ("chat",) | ("pull",) | ("push",) | ("create",) | ("copy",) | ("delete",):
            raise Unsupported(
                "This server embeds text; it does not generate it, and models come in through the inbox.",
                "",
                "Use /api/embed.",
            )
    raise UnknownPath


def _only_get(request: Request) -> None:
    if request.method not in ("GET", "HEAD"):
        raise MethodNotAllowed("GET")


async def _embed(service: Service, request: Request) -> Response:
    document = await document_of(service, request)
    async with _kept(service, document):
        cut = document.get("truncate", True)
        if document.get("input") in (None, "", []):
            target = await _loaded(service, document)
            return dumped({"model": _name(document), "embeddings": []}, target)
        texts = inputs_of(document["input"], "input")
        result = await embedded(service, request, OllamaEmbed, _name(document), texts, cut is not False)
        return dumped(
            {
                "model": _name(document),
                "embeddings": shortened(result.vectors, document.get("dimensions")),
                "total_duration": result.total_ns,
                "load_duration": result.load_ns,
                "prompt_eval_count": result.tokens,
            },
            result.target,
        )


async def _embeddings(service: Service, request: Request) -> Response:
    """The older call: one text, one vector."""
    document = await document_of(service, request)
    async with _kept(service, document):
        prompt = document.get("prompt")
        if prompt in (None, ""):
            return dumped({"embedding": []}, await _loaded(service, document))
        if not isinstance(prompt, str):
            raise InvalidInput("'prompt' must be a text.")
        result = await embedded(service, request, OllamaEmbed, _name(document), [prompt], True)
        return dumped({"embedding": result.vectors[0]}, result.target)


@asynccontextmanager
async def _kept(service: Service, document: dict[str, Any]) -> AsyncIterator[None]:
    """Unload the model behind its request where `keep_alive` is 0, however that ends. Raises InvalidInput."""
    leaves = not _keeps(document.get("keep_alive"))
    try:
        yield
    finally:
        if leaves:
            # The answer is there; a model that another process keeps is no reason to lose it.
            with suppress(StudioError):
                await unload(service, _name(document))


def _keeps(value: Any) -> bool:
    """Whether a model stays loaded behind a request with this `keep_alive`: seconds, or a duration as Go writes it.

    Raises InvalidInput for what is neither.
    """
    if value is None:
        return True
    if type(value) in (int, float):
        return int(value) != 0
    if isinstance(value, str) and _DURATION.fullmatch(value):
        return any(digit in "123456789" for digit in value)
    raise InvalidInput(
        f"'keep_alive' {str(value)[:40]!r} is no time.", "", "Give seconds, or a text with a unit: 0, 300, '5m'."
    )


async def _loaded(service: Service, document: dict[str, Any]) -> Target:
    """What answers the name, loaded: that is what Ollama does with a request without a text. One that is to be unloaded
    at once is not loaded first. Raises StudioError."""
    target = service.router.resolve(_name(document))
    text_input(target)
    if _keeps(document.get("keep_alive")):
        await service.router.loaded_model(target)
    return target


def _name(document: dict[str, Any]) -> str:
    name = document.get("model") or document.get("name")
    if not isinstance(name, str):
        raise InvalidInput("model is required")
    return name


def _texts(service: Service, loaded: bool = False) -> list[Target]:
    """What embeds text: the primary target of each model that is set up for it."""
    found = [routes.resolve("") for routes in service.router.table.models.values()]
    return [
        target
        for target in found
        if target is not None
        and any(how.kind == "text" for how in target.preprocessing.values())
        and (not loaded or service.router.is_loaded(target))
    ]


def _row(target: Target) -> dict[str, Any]:
    return {
        "name": target.model,
        "model": target.model,
        "modified_at": _LONG_AGO,
        "size": _size(target),
        "digest": target.sha256,
        "details": _details(target),
    }


def _running(service: Service, target: Target) -> dict[str, Any]:
    """As /api/ps tells it: what it takes in memory, none of it a graphics card's, and no end that is known."""
    model = service.router.model(target)
    size = model.memory_bytes if model is not None else _size(target)
    return _row(target) | {"size": size, "size_vram": 0, "expires_at": _NEVER}


def _size(target: Target) -> int:
    """Bytes of the graph and of the files that serving needs beside it; weights that lie outside the graph are not
    among them."""
    return sum(path.stat().st_size for path in map(Path, (target.path, *target.assets.values())) if path.exists())


def _details(target: Target) -> dict[str, Any]:
    return {
        "parent_model": "",
        "format": "onnx",
        "family": target.model,
        "families": None,
        "parameter_size": "",
        "quantization_level": target.variant,
    }


async def _show(service: Service, request: Request) -> Response:
    document = await document_of(service, request)
    target = service.router.resolve(_name(document))
    texts = any(how.kind == "text" for how in target.preprocessing.values())
    return json_response(
        {
            "modelfile": "",
            "parameters": "",
            "template": "",
            "details": _details(target),
            "model_info": _info(target),
            "capabilities": ["embedding"] if texts else [],
            "modified_at": _LONG_AGO,
        }
    )


def _info(target: Target) -> dict[str, Any]:
    """What is known of what their tools look for, under the keys that GGUF has for it."""
    known: dict[str, Any] = {"general.architecture": target.model, "general.basename": target.model}
    try:
        _, how = text_input(target)
        output = vectors_output(target)
    except StudioError:
        return known
    if how.max_length:
        known[f"{target.model}.context_length"] = how.max_length
    for size in next(spec for spec in target.signature.outputs if spec.name == output).shape[-1:]:
        if isinstance(size, int):
            known[f"{target.model}.embedding_length"] = size
    return known
