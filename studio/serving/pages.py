"""The pages for people and tools: `/docs`, offline and without anything from elsewhere, and `/openapi.json`."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import orjson

from studio.serving import openapi
from studio.serving.http import Request, Response
from studio.serving.problems import MethodNotAllowed, UnknownPath
from studio.serving.service import Service

DOCS, OPENAPI = "docs", "openapi.json"
_FOLDER = Path(__file__).parent / "web"
_FILES = {
    (): ("docs.html", b"text/html; charset=utf-8"),
    ("docs.css",): ("docs.css", b"text/css; charset=utf-8"),
    ("docs.js",): ("docs.js", b"text/javascript; charset=utf-8"),
}
# Names of models come from users: whatever they hold, no script but ours runs.
_HEADERS = (
    (b"content-security-policy", b"default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
)


async def handle(service: Service, request: Request) -> Response:
    """GET /docs, its files, and /openapi.json. Raises UnknownPath, MethodNotAllowed."""
    if request.method not in ("GET", "HEAD"):
        raise MethodNotAllowed("GET")
    if request.segments == (OPENAPI,):
        return Response(200, orjson.dumps(openapi.document(service)))
    found = _FILES.get(request.segments[1:])
    if request.segments[0].lower() != DOCS or found is None:
        raise UnknownPath
    return Response(200, _read(found[0]), found[1], _HEADERS)


@cache
def _read(name: str) -> bytes:
    return (_FOLDER / name).read_bytes()
