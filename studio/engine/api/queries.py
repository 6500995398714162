"""The reading half of the control API."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse

from studio.core import codec
from studio.core.comparison import Comparison
from studio.core.jobs import Job
from studio.core.journal import Entry, TrustedCode
from studio.core.views import (
    ApiError,
    CallExample,
    EnvironmentRow,
    LogLine,
    ModelDetail,
    RouteDetail,
    Series,
    Status,
    VersionDetail,
    VersionPage,
)

if TYPE_CHECKING:
    from studio.engine.engine import Engine

router = APIRouter(responses={"default": {"model": ApiError, "description": "What happened, why, what to do now."}})
KEEPALIVE_SECONDS = 20.0


def engine_of(request: Request) -> Engine:
    return cast("Engine", request.app.state.engine)


def answer(value: Any) -> Response:
    return Response(codec.encode(value), media_type="application/json")


@router.get("/status", response_model=Status)
async def status(request: Request) -> Response:
    """The engine at a glance."""
    return answer(await engine_of(request).status())


@router.get("/versions", response_model=VersionPage)
async def versions(
    request: Request,
    filter: str = "",
    sort: Literal["model", "created", "size", "p50", "fidelity"] = "model",
    descending: bool = False,
    archived: bool = False,
    offset: Annotated[int, Query(ge=0)] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Response:
    """A page of versions; `filter` matches name, title, tags, aliases and format."""
    keep = engine_of(request).keep
    return answer(await keep.list_versions(filter, sort, descending, archived, offset, limit))


@router.get("/models/{model}", response_model=ModelDetail)
async def model(request: Request, model: str) -> Response:
    return answer(await engine_of(request).keep.model_detail(model))


@router.get("/versions/{model}/{version}", response_model=VersionDetail)
async def version(request: Request, model: str, version: int) -> Response:
    return answer(await engine_of(request).keep.version_detail(model, version))


@router.get("/resolve/{reference}")
async def resolve(request: Request, reference: str) -> Response:
    """What a reference stands for now."""
    target = engine_of(request).keep.resolve(reference)
    return answer({"model": target.model, "version": target.version, "variant": target.variant, "target": target.name})


@router.get("/routes", response_model=list[RouteDetail])
async def routes(request: Request) -> Response:
    """How requests are spread, of the models with a split or a shadow."""
    return answer(engine_of(request).routes())


@router.get("/routes/{model}", response_model=RouteDetail)
async def route(request: Request, model: str) -> Response:
    """How requests for a model's bare name are spread, and what was seen of its shadow."""
    return answer(engine_of(request).route(model))


@router.get("/jobs", response_model=list[Job])
async def jobs(request: Request, limit: Annotated[int, Query(ge=1, le=1000)] = 200) -> Response:
    """Jobs, newest first."""
    return answer(engine_of(request).jobs.newest(limit))


@router.get("/jobs/{job}", response_model=Job)
async def job(request: Request, job: str) -> Response:
    return answer(engine_of(request).jobs.get(job))


@router.get("/jobs/{job}/log")
async def job_log(request: Request, job: str) -> Response:
    """What the workers of a job wrote: {"text"}."""
    runner = engine_of(request).jobs
    return answer({"text": await asyncio.to_thread(runner.log_text, job)})


@router.get("/trust", response_model=list[TrustedCode])
async def trusted(request: Request) -> Response:
    """Code that the user said yes to, oldest first."""
    return answer(engine_of(request).keep.trusted())


@router.get("/environments", response_model=list[EnvironmentRow])
async def environments(request: Request) -> Response:
    """Converter environments, made or not."""
    return answer(await engine_of(request).environments.rows())


@router.get("/environments/{environment}", response_model=EnvironmentRow)
async def environment(request: Request, environment: str) -> Response:
    return answer(await asyncio.to_thread(engine_of(request).environments.row, environment))


@router.get("/comparisons", response_model=list[Comparison])
async def comparisons(request: Request) -> Response:
    """Comparisons, newest first."""
    return answer(await engine_of(request).comparisons.newest())


@router.get("/comparisons/{comparison}", response_model=Comparison)
async def comparison(request: Request, comparison: str) -> Response:
    return answer(await engine_of(request).comparisons.get(comparison))


@router.get("/metrics", response_model=Series)
async def metrics(
    request: Request,
    target: str = "",
    since: float = 0.0,
    until: float = 0.0,
    step: Annotated[int, Query(ge=1, le=86400)] = 1,
) -> Response:
    """Latency quantiles (ms) and rates of a target, or of all together; times in Unix seconds, 0 = now."""
    engine = engine_of(request)
    points = await engine.keep.points(target, since, until or time.time(), step)
    return answer(Series(target=target, points=tuple(points)))


@router.get("/call/{reference}", response_model=CallExample)
async def call(request: Request, reference: str) -> Response:
    """A request that runs as shown, for curl, Python and JavaScript."""
    return answer(await engine_of(request).call_example(reference))


@router.get("/logs", response_model=list[LogLine])
async def logs(
    request: Request, source: str = "", level: str = "", limit: Annotated[int, Query(ge=1, le=5000)] = 500
) -> Response:
    """Log lines of at least `level`, oldest first."""
    return answer(engine_of(request).logs.read(source, level, limit))


@router.get("/journal", response_model=list[Entry])
async def journal(request: Request, limit: Annotated[int, Query(ge=1, le=10000)] = 200) -> Response:
    """The audit log, newest first."""
    return answer(await engine_of(request).keep.journal_entries(limit))


@router.get("/events")
async def events(request: Request, since: int | None = None) -> StreamingResponse:
    """Server-sent events: `id` is the sequence number, `data` a studio.core.events.Event."""
    bus = engine_of(request).bus

    async def stream() -> AsyncIterator[bytes]:
        yield b": studio\n\n"
        source = bus.listen(since)
        pending = asyncio.ensure_future(anext(source))
        try:
            while True:
                done, _ = await asyncio.wait({pending}, timeout=KEEPALIVE_SECONDS)
                if not done:
                    yield b": alive\n\n"  # finds out about clients that went away without a word
                    continue
                try:
                    event = pending.result()
                except StopAsyncIteration:
                    return
                pending = asyncio.ensure_future(anext(source))
                yield b"id: %d\ndata: %s\n\n" % (event.seq, codec.encode(event))
        finally:
            pending.cancel()

    return StreamingResponse(stream(), media_type="text/event-stream", headers={"cache-control": "no-store"})
