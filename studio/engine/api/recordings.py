"""Recordings of requests, in the control API."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from studio.core.recording import Recording
from studio.core.views import ApiError
from studio.engine.api.bodies import ModelBody, RecordBody
from studio.engine.api.queries import answer, engine_of

router = APIRouter(responses={"default": {"model": ApiError, "description": "What happened, why, what to do now."}})


@router.get("/recordings", response_model=list[Recording])
async def recordings(request: Request) -> Response:
    """What is kept of requests, by model, and whether more is being kept."""
    return answer(await engine_of(request).recordings.all())


@router.post("/recordings", response_model=Recording)
async def record(request: Request, body: RecordBody) -> Response:
    """Keep the inputs of requests for a model from now on. Off unless asked for."""
    return answer(await engine_of(request).recordings.start(body.model, body.rows, body.seconds, body.actor))


@router.post("/recordings/stop", response_model=Recording)
async def stop_recording(request: Request, body: ModelBody) -> Response:
    """Keep no more; what there is stays."""
    return answer(await engine_of(request).recordings.stop(body.model, body.actor))


@router.post("/recordings/delete")
async def delete_recording(request: Request, body: ModelBody) -> Response:
    """Keep no more, and delete what there is: {"rows"} that were deleted."""
    return answer({"rows": await engine_of(request).recordings.delete(body.model, body.actor)})
