"""Embeddings, as OpenAI and Ollama serve them: a text in, a vector out.

Sources: OpenAI, API reference "Embeddings" (the official client asks for base64); Ollama, docs/api.md.
"""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from studio.core.errors import InvalidInput, Refused, StudioError
from studio.core.routing import Target
from studio.serving.http import Request, Response, unpacked
from studio.serving.loaded import Array, LoadedModel
from studio.serving.problems import MethodNotAllowed
from studio.serving.protocols.json_text import load_json
from studio.serving.router import sticky_key
from studio.serving.service import Exchange, Service, answered, named, turned_away
from studio.serving.texts import MAX_TEXTS, Tokens, pooled, text_input, tokenise, vectors_output

OFF_LOOP_FROM = 2048
"""Characters from which texts are tokenised off the event loop."""


@dataclass(frozen=True)
class Embedded:
    """Vectors [texts, size], float32, by `target`; the tokens that were read; nanoseconds: loading it, and in all."""

    target: Target
    vectors: Array
    tokens: int
    load_ns: int
    total_ns: int


class Embed(Exchange):
    """Tokens through the model. `vectors` are there when it was answered, `failed` when it was not."""

    __slots__ = ("failed", "mask", "output", "vectors")

    def start(self, model: LoadedModel, tokens: Tokens) -> None:
        self.failed: StudioError | None = None
        self.vectors: Array | None = None
        self.mask = tokens.mask
        self.output = vectors_output(self.target)
        try:
            self.submit(model, tokens.inputs, (self.output,))
        except StudioError as error:
            self.fail(error)

    def format(self, arrays: list[Array]) -> Response:
        self.vectors = pooled(arrays[0], self.mask, text_input(self.target)[1])
        return Response(200, b"")

    def error(self, error: StudioError) -> Response:
        self.failed = error
        return Response(error.http_status, b"")


class OpenAIEmbed(Embed):
    __slots__ = ()
    protocol = "openai"


class OllamaEmbed(Embed):
    __slots__ = ()
    protocol = "ollama"


async def document_of(service: Service, request: Request) -> dict[str, Any]:
    """The body of a POST: a JSON object. Raises InvalidInput, MethodNotAllowed."""
    if request.method != "POST":
        raise MethodNotAllowed("POST")
    value = load_json(await unpacked(request.body, request.headers, service.settings.max_body_bytes))
    if not isinstance(value, dict):
        raise InvalidInput("The request is no JSON object.")
    return value


async def embedded(
    service: Service,
    request: Request,
    kind: type[Embed],
    reference: str,
    texts: list[str] | list[list[int]],
    cut: bool,
    user: Any = None,
) -> Embedded:
    """The vectors of texts, or of tokens where those were sent. `user` keeps requests with one version where no header
    does. Raises StudioError, Disconnected."""

    def key() -> bytes:
        return request.headers.get(b"x-studio-key") or str(user or "").encode() or sticky_key(request.headers)

    target: Target | None = None
    try:
        target, shadow = service.router.route(reference, "", key)
        text_input(target)
        loading = time.perf_counter_ns()
        model = service.router.model(target) or await service.router.loaded_model(target)
        loading = time.perf_counter_ns() - loading
        parsing = time.perf_counter_ns()
        tokens = await _tokens(target, texts, cut)
        parsing = time.perf_counter_ns() - parsing
    except StudioError as error:
        turned_away(service, target, kind.protocol, error, request.started_ns, request.headers)
        raise
    begun: list[Embed] = []

    def begin(respond: Callable[[Response], None], gone: Callable[[], None]) -> None:
        exchange = kind(service, target, request.connection, request.started_ns, respond, gone, shadow)
        exchange.headers, exchange.parsing_ns = request.headers, parsing
        begun.append(exchange)
        exchange.start(model, tokens)

    await answered(target, begin)
    (exchange,) = begun
    if exchange.failed is not None:
        raise exchange.failed
    assert exchange.vectors is not None
    return Embedded(target, exchange.vectors, tokens.count, loading, time.perf_counter_ns() - request.started_ns)


async def _tokens(target: Target, texts: list[str] | list[list[int]], cut: bool) -> Tokens:
    if texts and isinstance(texts[0], list):
        raise Refused(
            "Tokens instead of text are not taken here.",
            "Which tokenizer made them is not known, and another's numbers would give nonsense.",
            "Send the text itself.",
        )
    plain = [str(text) for text in texts]
    if sum(map(len, plain)) < OFF_LOOP_FROM:
        tokens = tokenise(target, plain, cut)
    else:
        tokens = await asyncio.to_thread(tokenise, target, plain, cut)
    empty = np.flatnonzero(~tokens.mask.any(axis=1))
    if empty.size:
        raise InvalidInput(f"Text {empty[0] + 1} has no tokens, so there is no vector for it.", "", "Leave it out.")
    return tokens


def inputs_of(value: Any, what: str) -> list[str] | list[list[int]]:
    """One text, several, or tokens, as both APIs take them. Raises InvalidInput."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and value and len(value) <= MAX_TEXTS:
        if all(isinstance(item, str) for item in value):
            return value
        if all(type(item) is int for item in value):
            return [value]
        if all(isinstance(item, list) and item and all(type(each) is int for each in item) for item in value):
            return value
    raise InvalidInput(f"'{what}' must be a text, or a list of 1 to {MAX_TEXTS} of them.")


def shortened(vectors: Array, dimensions: Any) -> Array:
    """The first so many dimensions, brought to length 1 again, as OpenAI does it. Raises InvalidInput."""
    if dimensions is None:
        return vectors
    if type(dimensions) is not int or not 1 <= dimensions <= vectors.shape[1]:
        raise InvalidInput(f"'dimensions' must be a whole number from 1 to {vectors.shape[1]}.")
    cut = vectors[:, :dimensions]
    shortened_: Array = cut / np.maximum(np.linalg.norm(cut, axis=1, keepdims=True), 1e-12)
    return shortened_


def dumped(value: Any, target: Target) -> Response:
    return named(Response(200, orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)), target)


def base64_of(vector: Array) -> str:
    """A vector as OpenAI's clients unpack it: base64 of little-endian 32-bit floats."""
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()
