"""`/predict/{reference}`: for people without a protocol.

Send what you have: JSON by input name, a bare list, a number, rows of CSV, an image, a text. One sample may come
without its batch, and is then answered without one. Where the settings name the classes, the answer has labels.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import orjson

from studio.core.errors import StudioError
from studio.core.routing import Target
from studio.core.tensors import FLOATS
from studio.serving import openapi
from studio.serving.http import Request, Response, json_response, unpacked
from studio.serving.loaded import Array, LoadedModel
from studio.serving.problems import MethodNotAllowed, UnknownPath
from studio.serving.protocols.inputs import Sample
from studio.serving.protocols.oip_tensors import nested_json, widened
from studio.serving.protocols.samples import read_off_loop
from studio.serving.router import sticky_key
from studio.serving.service import Exchange, Service, answered, turned_away

PREFIX = "predict"
NAME = "predict"


class Predict(Exchange):
    """One prediction."""

    __slots__ = ("sample",)
    protocol = NAME

    def start(self, model: LoadedModel, sample: Sample) -> None:
        self.sample = sample
        try:
            self.submit(model, sample.inputs, None)
        except StudioError as error:
            self.fail(error)

    def format(self, arrays: list[Array]) -> Response:
        return Response(200, answer(self.target, arrays, self.sample.single))


async def handle(service: Service, request: Request) -> Response:
    """Answer POST /predict/{reference}, and GET with an example of a body. Raises StudioError."""
    match request.segments[1:]:
        case (reference,):
            version = ""
        case (reference, version):
            pass
        case _:
            raise UnknownPath
    if request.method == "GET":
        return json_response(openapi.example(service.router.resolve(reference, version)))
    if request.method != "POST":
        raise MethodNotAllowed("GET, POST")
    target: Target | None = None
    try:
        target, shadow = service.router.route(reference, version, lambda: sticky_key(request.headers))
        model = service.router.model(target) or await service.router.loaded_model(target)
        body = bytes(await unpacked(request.body, request.headers, service.settings.max_body_bytes))
        kind = request.headers.get(b"content-type", b"").decode("latin-1")
        parsing = time.perf_counter_ns()
        sample = await read_off_loop(body, kind, target)
        parsing = time.perf_counter_ns() - parsing
    except StudioError as error:
        turned_away(service, target, NAME, error, request.started_ns, request.headers)
        raise

    def begin(respond: Callable[[Response], None], gone: Callable[[], None]) -> None:
        exchange = Predict(service, target, request.connection, request.started_ns, respond, gone, shadow)
        exchange.headers, exchange.parsing_ns = request.headers, parsing
        exchange.start(model, sample)

    return await answered(target, begin)


def outputs(target: Target, arrays: list[Array], single: bool) -> dict[str, Any]:
    """The outputs by name, without their batch where the sample came without one."""
    shown: dict[str, Any] = {}
    for spec, array in zip(target.signature.outputs, arrays, strict=True):
        array = widened(array)
        if single and array.ndim and array.shape[0] == 1 and spec.shape and isinstance(spec.shape[0], str):
            array = array[0]
        shown[spec.name] = _strings(array) if spec.datatype == "BYTES" else nested_json(array)
    return shown


def answer(target: Target, arrays: list[Array], single: bool) -> bytes:
    """The body of an answer."""
    document: dict[str, Any] = {"model": target.model, "version": target.version, "variant": target.variant}
    rows = labelled(target, arrays)
    if rows is not None:
        document |= rows[0] if single and len(rows) == 1 else {"predictions": rows}
    document["outputs"] = outputs(target, arrays, single)
    return orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)


def _strings(array: Any) -> Any:
    return array.tolist() if isinstance(array, np.ndarray) else str(array)


def labelled(target: Target, arrays: list[Array]) -> list[dict[str, Any]] | None:
    """For each row its label and scores, where the settings name the classes and an output has one score for each.

    A row with a NaN among its scores has the label None.
    """
    labels = target.class_labels
    for spec, array in zip(target.signature.outputs, map(widened, arrays), strict=True):
        if labels and spec.datatype in FLOATS and array.ndim == 2 and array.shape[1] == len(labels):
            known: Array = np.logical_not(np.isnan(array).any(axis=1))
            rows = array[known]
            sure = bool(known.any() and (rows >= 0).all()) and bool(np.allclose(rows.sum(axis=1), 1, atol=1e-3))
            word = "probabilities" if sure else "scores"
            return [
                {
                    "label": labels[int(row.argmax())] if certain else None,
                    word: {label: float(score) for label, score in zip(labels, row, strict=True)},
                }
                for certain, row in zip(known, array, strict=True)
            ]
    return None
