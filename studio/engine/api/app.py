"""The FastAPI application of the control API. Every answer is a value of `studio.core` as JSON."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from studio import __version__
from studio.core import codec
from studio.core.errors import InvalidInput, Problem, StudioError
from studio.core.views import ApiError
from studio.engine.api import actions, lab, queries, recordings
from studio.engine.api.security import Gate

if TYPE_CHECKING:
    from studio.engine.engine import Engine


def _reply(value: Any, status: int) -> Response:
    """JSON through our own codec: FastAPI's would validate, copy and encode ten thousand rows three times slower."""
    return Response(codec.encode(value), status, media_type="application/json")


def create_app(engine: Engine, token: str) -> ASGIApp:
    """The control API over an engine, behind its gate."""
    # No interactive docs page: FastAPI's loads scripts from the network, and nothing of ours does.
    app = FastAPI(title="Studio control API", version=__version__, docs_url=None, redoc_url=None)
    app.state.engine = engine
    app.include_router(queries.router, prefix="/api")
    app.include_router(actions.router, prefix="/api")
    app.include_router(recordings.router, prefix="/api")
    app.include_router(lab.router, prefix="/api")

    @app.exception_handler(StudioError)
    async def foreseen(_: Request, error: StudioError) -> Response:
        return _reply(ApiError(error=error.problem), error.http_status)

    @app.exception_handler(RequestValidationError)
    async def malformed(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        problem = InvalidInput("The request is not well formed.", f"{where}: {first['msg']}.").problem
        return _reply(ApiError(error=problem), 400)

    @app.exception_handler(HTTPException)
    async def unrouted(request: Request, error: HTTPException) -> Response:
        code = "not_found" if error.status_code == 404 else "invalid_input"
        what = f"{request.method} {request.url.path}: {error.detail}."
        return _reply(ApiError(error=Problem(code=code, what=what, fix="See /openapi.json.")), error.status_code)

    @app.exception_handler(Exception)
    async def unforeseen(request: Request, error: Exception) -> Response:
        mark = uuid.uuid4().hex[:8]
        engine.logs.failure(f"request {mark} {request.url.path} failed", error)
        what = f"The engine failed on this request (mark {mark})."
        fix = f"The engine goes on. Its log has the details: {engine.workspace.logs / 'engine.log'}."
        return _reply(ApiError(error=Problem(code="internal", what=what, fix=fix)), 500)

    return Gate(app, token)
