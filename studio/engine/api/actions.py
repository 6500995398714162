"""The changing half of the control API."""

from __future__ import annotations

import asyncio
from pathlib import Path

from fastapi import APIRouter, Request, Response

from studio.core.comparison import Comparison, Plan
from studio.core.errors import Cancelled, InvalidInput
from studio.core.jobs import Job
from studio.core.journal import AliasMove, RouteChange, TrustedCode
from studio.core.tensors import TensorSpec
from studio.core.views import ApiError, EnvironmentRow, SettingsTemplate, TrustAnswer, VersionRow
from studio.engine.api.bodies import (
    ActorBody,
    AddBody,
    AliasBody,
    DistrustBody,
    InputsBody,
    LoadBody,
    ModelBody,
    PlanBody,
    PurgeBody,
    ReferenceBody,
    RollbackBody,
    RouteBody,
    TemplateBody,
    TrustBody,
)
from studio.engine.api.queries import answer, engine_of

router = APIRouter(responses={"default": {"model": ApiError, "description": "What happened, why, what to do now."}})
LOOK_SECONDS = 0.5


@router.post("/add")
async def add(request: Request, body: AddBody) -> Response:
    """Copy a file or folder, and what belongs to it, into the inbox: {"files"}."""
    return answer({"files": await engine_of(request).add(absolute(body.path), body.name)})


def absolute(path: str) -> Path:
    """A path of a request. Raises InvalidInput when it is not absolute."""
    if not Path(path).is_absolute():
        raise InvalidInput(f"{path!r} is not an absolute path.", "The engine may run in another folder than you.")
    return Path(path)


@router.post("/template", response_model=SettingsTemplate)
async def template(request: Request, body: TemplateBody) -> Response:
    """A settings file for a model of this machine, from what it was seen to be. Nothing is written or registered.

    It takes as long as converting the model; the work ends with the connection.
    """
    model, target = absolute(body.path), absolute(body.target) if body.target else None
    making = asyncio.create_task(engine_of(request).templates.make(model, target, body.force))
    try:
        while not making.done():
            await asyncio.wait({making}, timeout=LOOK_SECONDS)
            if not making.done() and await request.is_disconnected():
                raise Cancelled("Nobody waits for the settings file any more.")
        return answer(making.result())
    finally:
        making.cancel()


@router.post("/jobs/{job}/cancel", response_model=Job)
async def cancel_job(request: Request, job: str) -> Response:
    return answer(await engine_of(request).jobs.cancel(job))


@router.post("/jobs/{job}/retry", response_model=Job)
async def retry_job(request: Request, job: str) -> Response:
    return answer(await engine_of(request).jobs.retry(job))


@router.post("/jobs/{job}/inputs")
async def describe_inputs(request: Request, job: str, body: InputsBody) -> Response:
    """Say what the inputs of a job that needs settings are: {"file"} now says so, and a new job takes its place."""
    inputs = [TensorSpec(one.name, one.datatype, tuple(one.shape)) for one in body.inputs]
    return answer({"file": str(await engine_of(request).answers.describe(job, inputs))})


@router.post("/trust", response_model=TrustAnswer)
async def trust(request: Request, body: TrustBody) -> Response:
    """Say yes to running code that waiting jobs show, for this content and for good; those jobs go on."""
    return answer(await engine_of(request).answers.trust(body.sha256, body.actor))


@router.post("/distrust", response_model=TrustedCode)
async def distrust(request: Request, body: DistrustBody) -> Response:
    """Take a yes back: the next file of that content asks again."""
    return answer(await engine_of(request).answers.distrust(body.sha256, body.actor))


@router.post("/aliases", response_model=AliasMove)
async def move_alias(request: Request, body: AliasBody) -> Response:
    """Move or remove an alias. The target is loaded and warm before any request sees it."""
    return answer(await engine_of(request).move_alias(body.model, body.alias, body.target, body.why, body.actor))


@router.post("/rollback", response_model=AliasMove)
async def rollback(request: Request, body: RollbackBody) -> Response:
    return answer(await engine_of(request).rollback(body.model, body.alias, body.why, body.actor))


@router.post("/routes", response_model=RouteChange)
async def change_route(request: Request, body: RouteBody) -> Response:
    """Split the requests for a model's bare name, or give a shadow a copy of them. What it names is warm before."""
    change = engine_of(request).change_route(body.model, body.split, body.shadow, body.share, body.why, body.actor)
    return answer(await change)


@router.post("/routes/rollback", response_model=RouteChange)
async def rollback_route(request: Request, body: ModelBody) -> Response:
    """Give a model the route again that it had before its newest change."""
    return answer(await engine_of(request).rollback_route(body.model, body.why, body.actor))


@router.post("/undo", response_model=AliasMove | RouteChange)
async def undo(request: Request, body: ActorBody) -> Response:
    """Take back the newest move of any alias, or change of any route, whichever was last."""
    return answer(await engine_of(request).undo(body.actor))


@router.post("/archive", response_model=VersionRow)
async def archive(request: Request, body: ReferenceBody) -> Response:
    """Take a version out of service and out of sight; `restore` brings it back."""
    return answer(await engine_of(request).archive(body.reference, body.actor))


@router.post("/restore", response_model=VersionRow)
async def restore(request: Request, body: ReferenceBody) -> Response:
    return answer(await engine_of(request).restore(body.reference, body.actor))


@router.post("/purge")
async def purge(request: Request, body: PurgeBody) -> Response:
    """Delete an archived version for good: {"freed"} in bytes."""
    return answer({"freed": await engine_of(request).purge(body.reference, body.confirm, body.actor)})


@router.post("/comparisons", response_model=Comparison)
async def compare(request: Request, body: PlanBody) -> Response:
    """Start a comparison; follow it through events or by its id."""
    plan = Plan(
        references=tuple(body.references),
        seconds=body.seconds,
        clients=body.clients,
        slice_seconds=body.slice_seconds,
    )
    return answer(await engine_of(request).comparisons.start(plan))


@router.post("/load", response_model=Comparison)
async def load(request: Request, body: LoadBody) -> Response:
    """Start a load test of one variant: a comparison with a single arm."""
    plan = Plan(references=(body.reference,), seconds=body.seconds, clients=body.clients)
    return answer(await engine_of(request).comparisons.start(plan))


@router.post("/comparisons/{comparison}/cancel", response_model=Comparison)
async def cancel_comparison(request: Request, comparison: str) -> Response:
    return answer(await engine_of(request).comparisons.cancel(comparison))


@router.post("/environments/{environment}/make", response_model=EnvironmentRow)
async def make_environment(request: Request, environment: str) -> Response:
    """Begin to make a converter environment; look at it to see how far it is."""
    return answer(engine_of(request).environments.begin(environment))


@router.post("/environments/{environment}/remove")
async def remove_environment(request: Request, environment: str) -> Response:
    """Delete a converter environment, those of earlier versions too: {"freed"} in bytes."""
    return answer({"freed": await engine_of(request).environments.remove(environment)})


@router.post("/netron")
async def netron(request: Request, body: ReferenceBody) -> Response:
    """Serve a variant's graph to the browser with Netron, on loopback: {"url"}."""
    return answer({"url": await engine_of(request).netron(body.reference)})


@router.post("/shutdown")
async def shutdown(request: Request) -> Response:
    """Drain and stop."""
    engine_of(request).request_stop("asked through the API")
    return answer({})
