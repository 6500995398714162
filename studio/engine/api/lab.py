"""The lab, in the control API."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from studio.core.jobs import Job
from studio.core.views import ApiError, LabState
from studio.engine.api.bodies import LabBody
from studio.engine.api.queries import answer, engine_of

router = APIRouter(responses={"default": {"model": ApiError, "description": "What happened, why, what to do now."}})


@router.get("/lab", response_model=LabState)
async def lab(request: Request) -> Response:
    """Whether the lab is paused, what it does, and all recipes."""
    return answer(engine_of(request).lab_orders.state())


@router.post("/lab", response_model=list[Job])
async def order(request: Request, body: LabBody) -> Response:
    """Make variants of a version, or judge stale ones again. No job where nothing is left to do; where unfinished jobs
    do all of it already, those.
    """
    orders = engine_of(request).lab_orders
    if body.stale:
        return answer(await orders.order_stale(body.reference))
    own = [(one.file, one.text) for one in body.own]
    return answer(await orders.order(body.reference, body.recipes, own, body.again))


@router.post("/lab/pause", response_model=LabState)
async def pause(request: Request) -> Response:
    """Stop what the lab runs where it is, until it is resumed or the engine starts again."""
    return answer(await engine_of(request).hold_lab(True))


@router.post("/lab/resume", response_model=LabState)
async def resume(request: Request) -> Response:
    """Let the lab go on."""
    return answer(await engine_of(request).hold_lab(False))
