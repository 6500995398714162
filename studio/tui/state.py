"""The client-side store: engine events reduced to one plain value, and told to whoever subscribed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar

from textual.widget import Widget

from studio.core import codec
from studio.core.comparison import Comparison
from studio.core.errors import InvalidInput, Problem
from studio.core.events import Event
from studio.core.histogram import Histogram
from studio.core.jobs import Job
from studio.core.journal import AliasMove
from studio.core.metrics import Point, RequestLine, Sample, Tick, point_of
from studio.core.views import LogLine, ServerStatus, Status
from studio.tui import messages

KEEP_SECONDS = 300
KEEP_TARGETS = 64
KEEP_REQUESTS = 400
KEEP_LINES = 2000
KEEP_JOBS = 200
FRESH_SECONDS = 2.5
TRAFFIC_SECONDS = 60.0

Phase = Literal["starting", "online", "failed"]
Topic = type[messages.StateChanged]
V = TypeVar("V")


@dataclass(frozen=True, kw_only=True)
class State:
    """All that the terminal knows. `points` are by full reference, '' = all together; `registry` counts changes there.

    `seq` is the last event seen, `gap` is set when events were missed and lists must be asked for again.
    """

    phase: Phase = "starting"
    problem: Problem | None = None
    status: Status | None = None
    jobs: Mapping[str, Job] = field(default_factory=dict)
    comparisons: Mapping[str, Comparison] = field(default_factory=dict)
    points: Mapping[str, tuple[Point, ...]] = field(default_factory=dict)
    requests: tuple[RequestLine, ...] = ()
    lines: tuple[LogLine, ...] = ()
    marked: tuple[str, ...] = ()
    registry: int = 0
    seq: int = 0
    gap: bool = False

    @property
    def server(self) -> ServerStatus | None:
        return self.status.server if self.status else None

    def active_jobs(self) -> tuple[Job, ...]:
        return tuple(job for job in self.jobs.values() if not job.resting)

    def waiting_jobs(self) -> tuple[Job, ...]:
        """Jobs that wait for a word of the user, newest first."""
        return tuple(job for job in self.jobs.values() if job.state == "waiting")

    def rate(self, now: float, target: str = "") -> float:
        """Requests a second in the last second reported; 0 when that is stale."""
        series = self.points.get(target, ())
        return series[-1].requests if series and now - series[-1].at <= FRESH_SECONDS else 0.0

    def busy(self, now: float) -> bool:
        """Whether anything on screen moves by itself: jobs, a comparison, recent traffic."""
        if self.active_jobs():
            return True
        if any(one.state in ("queued", "running") for one in self.comparisons.values()):
            return True
        series = self.points.get("", ())
        return bool(series) and now - series[-1].at <= TRAFFIC_SECONDS


def reduce(state: State, event: Event) -> tuple[State, frozenset[Topic]]:
    """The state after an event, and what changed. Events this version does not understand change nothing but `seq`."""
    gap = state.gap or (state.seq > 0 and event.seq != state.seq + 1)
    state = replace(state, seq=event.seq, gap=gap)
    handler = _HANDLERS.get(event.kind)
    if handler is None:
        return state, frozenset()
    try:
        return handler(state, event)
    except InvalidInput as error:
        line = LogLine(at=event.at, source="engine", level="warning", text=f"Event not understood: {error}")
        return with_lines(state, [line]), frozenset({messages.LogChanged})


def _job(state: State, event: Event) -> tuple[State, frozenset[Topic]]:
    job = codec.convert(event.data, Job, "job event")
    return with_jobs(state, [job]), frozenset({messages.JobsChanged})


def _registry(state: State, event: Event) -> tuple[State, frozenset[Topic]]:
    return replace(state, registry=state.registry + 1), frozenset({messages.RegistryChanged})


def _alias(state: State, event: Event) -> tuple[State, frozenset[Topic]]:
    codec.convert(event.data, AliasMove, "alias event")
    return replace(state, registry=state.registry + 1), frozenset({messages.RegistryChanged})


def _server(state: State, event: Event) -> tuple[State, frozenset[Topic]]:
    server = codec.convert(event.data, ServerStatus, "server event")
    status = replace(state.status, server=server) if state.status else None
    return replace(state, status=status), frozenset({messages.StatusChanged})


def _status(state: State, event: Event) -> tuple[State, frozenset[Topic]]:
    status = codec.convert(event.data, Status, "status event")
    return replace(state, status=status, phase="online", problem=None), frozenset({messages.StatusChanged})


def _metrics(state: State, event: Event) -> tuple[State, frozenset[Topic]]:
    tick = codec.convert(event.data, Tick, "metrics event")
    topics: set[Topic] = {messages.TrafficChanged}
    fresh = {sample.target: (point_of(sample),) for sample in tick.samples if sample.target}
    if fresh:
        fresh[""] = (point_of(together(tick)),)
        state = with_points(state, fresh)
    server = state.server
    if state.status and server and (server.loaded, server.memory) != (tick.loaded, tick.memory):
        server = replace(server, loaded=tick.loaded, memory=tick.memory)
        state = replace(state, status=replace(state.status, server=server))
        topics.add(messages.StatusChanged)
    return state, frozenset(topics)


def _requests(state: State, event: Event) -> tuple[State, frozenset[Topic]]:
    lines = codec.convert(event.data.get("lines", []), tuple[RequestLine, ...], "requests event")
    state = replace(state, requests=(*state.requests, *lines)[-KEEP_REQUESTS:])
    return state, frozenset({messages.RequestsChanged, messages.LogChanged})


def _comparison(state: State, event: Event) -> tuple[State, frozenset[Topic]]:
    comparison = codec.convert(event.data, Comparison, "comparison event")
    kept = {key: value for key, value in state.comparisons.items() if key != comparison.id}
    return replace(state, comparisons=kept | {comparison.id: comparison}), frozenset({messages.ComparisonChanged})


def _log(state: State, event: Event) -> tuple[State, frozenset[Topic]]:
    return with_lines(state, [codec.convert(event.data, LogLine, "log event")]), frozenset({messages.LogChanged})


_HANDLERS: dict[str, Callable[[State, Event], tuple[State, frozenset[Topic]]]] = {
    "job": _job,
    "version": _registry,
    "variant": _registry,
    "alias": _alias,
    "route": _registry,
    "server": _server,
    "status": _status,
    "metrics": _metrics,
    "requests": _requests,
    "comparison": _comparison,
    "log": _log,
}


def together(tick: Tick) -> Sample:
    """All targets of a tick as one sample: counts add up, histograms merge."""
    samples = [sample for sample in tick.samples if sample.target]
    return Sample(
        target="",
        at=tick.at,
        seconds=max((sample.seconds for sample in samples), default=1.0),
        requests=sum(sample.requests for sample in samples),
        errors=sum(sample.errors for sample in samples),
        histogram=Histogram.merged(sample.histogram for sample in samples),
    )


def merged_lines(state: State) -> list[LogLine]:
    """The log with the newest requests in it, by time. Those that failed are lines already: the engine logs them.

    Requests have a ring of their own, so that traffic never pushes out what matters.
    """
    requests = [request_line(line) for line in state.requests if line.status < 400]
    return sorted((*state.lines, *requests), key=lambda line: line.at)


def request_line(line: RequestLine) -> LogLine:
    """A request as a line of the merged log."""
    text = f"{line.protocol} {line.status} {line.latency_us / 1000:.2f} ms"
    return LogLine(at=line.at, source="requests", level="info", text=text, subject=line.target)


def with_jobs(state: State, jobs: Iterable[Job]) -> State:
    """Jobs added or replaced, newest first; the oldest are let go, but those that wait for the user last of all. An
    older copy never replaces a newer.
    """
    known = dict(state.jobs)
    for job in jobs:
        old = known.get(job.id)
        if old is None or (job.attempt, job.updated) >= (old.attempt, old.updated):
            known[job.id] = job
    ordered = sorted(known.values(), key=lambda job: (job.created, job.id), reverse=True)
    kept = {job.id for job in sorted(ordered, key=lambda job: job.state != "waiting")[:KEEP_JOBS]}
    return replace(state, jobs={job.id: job for job in ordered if job.id in kept})


def with_points(state: State, series: Mapping[str, Sequence[Point]]) -> State:
    """Points merged in by time, one a second and target, the oldest let go."""
    merged = dict(state.points)
    for target, points in series.items():
        old = merged.pop(target, ())
        if not old or (points and points[0].at > old[-1].at):
            joined: Sequence[Point] = (*old, *points)
        else:
            by_time = {point.at: point for point in (*points, *old)}
            joined = [by_time[at] for at in sorted(by_time)]
        merged[target] = tuple(joined[-KEEP_SECONDS:])
    while len(merged) > KEEP_TARGETS:
        merged.pop(next(target for target in merged if target))
    return replace(state, points=merged)


def with_lines(state: State, lines: Sequence[LogLine]) -> State:
    """Log lines merged in by time, without those already there."""
    recent = set(state.lines[-len(lines) - 50 :]) if len(lines) < 50 else set(state.lines)
    fresh = [line for line in lines if line not in recent]
    joined = [*state.lines, *fresh]
    if fresh and len(joined) > 1:
        joined.sort(key=lambda line: line.at)
    return replace(state, lines=tuple(joined[-KEEP_LINES:]))


class Store:
    """Holds the state; tells subscribers which of their topics changed. Used from the UI thread only."""

    def __init__(self) -> None:
        self.state = State()
        self._subscribers: list[tuple[Widget, frozenset[Topic]]] = []

    def subscribe(self, widget: Widget, *topics: Topic) -> None:
        self._subscribers.append((widget, frozenset(topics)))

    def apply(self, events: Iterable[Event]) -> frozenset[Topic]:
        """Reduce a batch of events and publish each topic once."""
        changed: set[Topic] = set()
        for event in events:
            self.state, topics = reduce(self.state, event)
            changed |= topics
        self.publish(*changed)
        return frozenset(changed)

    def update(self, *topics: Topic, **changes: Any) -> None:
        """Replace fields of the state, then publish."""
        self.state = replace(self.state, **changes)
        self.publish(*topics)

    def publish(self, *topics: Topic) -> None:
        self._subscribers = [(widget, wanted) for widget, wanted in self._subscribers if widget.is_attached]
        for widget, wanted in self._subscribers:
            for topic in topics:
                if topic in wanted:
                    widget.post_message(topic())
