"""Engine events reduced to state."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from studio.core import codec
from studio.core.comparison import Plan
from studio.core.events import Event
from studio.core.histogram import Histogram
from studio.core.journal import AliasMove
from studio.core.metrics import RequestLine, Sample, Tick
from studio.core.views import LogLine, ServerStatus
from studio.tui import messages, state
from studio.tui.state import State, merged_lines, reduce, with_jobs, with_lines, with_points
from tests.tui.stub import StubClient
from tests.tui.values import START, comparison, job


def event(seq: int, kind: str, value: Any) -> Event:
    return Event(seq=seq, at=START, kind=kind, data=codec.builtins(value))


def tick(at: float, **requests: int) -> Tick:
    samples = []
    for target, count in requests.items():
        histogram = Histogram()
        histogram.add(1000, count)
        samples.append(Sample(target=target, at=at, requests=count, errors=1, histogram=histogram))
    return Tick(at=at, samples=tuple(samples), loaded=3, memory=10)


def online() -> State:
    return State(phase="online", status=StubClient().status())


def test_a_job_event_adds_then_replaces_newest_first() -> None:
    now, changed = reduce(State(), event(1, "job", job(1, "running", 3)))
    assert changed == {messages.JobsChanged}
    now, _ = reduce(now, event(2, "job", job(2)))
    assert list(now.jobs) == ["j0002", "j0001"]
    now, _ = reduce(now, event(3, "job", job(1, "done")))
    assert now.jobs["j0001"].state == "done" and len(now.jobs) == 2


def test_an_older_copy_of_a_job_never_replaces_a_newer() -> None:
    newer, older = job(1, "done"), replace(job(1, "running", 3), updated=START)
    assert with_jobs(State(jobs={newer.id: newer}), [older]).jobs[newer.id].state == "done"
    again = replace(older, attempt=2)
    assert with_jobs(State(jobs={newer.id: newer}), [again]).jobs[newer.id].attempt == 2


def test_old_jobs_are_let_go() -> None:
    many = with_jobs(State(), [job(n) for n in range(state.KEEP_JOBS + 5)])
    assert len(many.jobs) == state.KEEP_JOBS and "j0000" not in many.jobs
    old = replace(job(0), state="waiting")
    many = with_jobs(State(), [old, *(job(n) for n in range(1, state.KEEP_JOBS + 5))])
    assert len(many.jobs) == state.KEEP_JOBS and list(many.jobs)[-1] == old.id


def test_a_tick_becomes_points_for_each_target_and_for_all_together() -> None:
    now, changed = reduce(online(), event(1, "metrics", tick(START, a=10, b=30)))
    assert {messages.TrafficChanged, messages.StatusChanged} == changed
    assert now.points["a"][0].requests == 10
    total = now.points[""][0]
    assert (total.requests, total.errors) == (40, 2)
    assert total.p50 is not None and 0.96 < total.p50 < 1.05
    assert now.server is not None and (now.server.loaded, now.server.memory) == (3, 10)


def test_the_rate_is_zero_when_the_last_second_is_old() -> None:
    now, _ = reduce(online(), event(1, "metrics", tick(START, a=10)))
    assert now.rate(START + 1) == 10
    assert now.rate(START + 10) == 0
    assert now.busy(START + 10) and not now.busy(START + 100)


def test_points_merge_by_time_and_stay_bounded() -> None:
    def point(at: float) -> Any:
        return reduce(online(), event(1, "metrics", tick(at, a=1)))[0].points["a"][0]

    now = with_points(State(), {"a": [point(START + 5)]})
    now = with_points(now, {"a": [point(START + 3), point(START + 5)]})
    assert [one.at - START for one in now.points["a"]] == [3, 5]
    now = with_points(now, {"a": [point(START + 10 + n) for n in range(state.KEEP_SECONDS)]})
    assert len(now.points["a"]) == state.KEEP_SECONDS
    now = with_points(now, {"": [point(START)]} | {f"t{n}": [point(START)] for n in range(100)})
    assert len(now.points) == state.KEEP_TARGETS and "" in now.points


def test_requests_fill_the_tail_and_the_log_but_never_push_out_other_lines() -> None:
    engine = LogLine(at=START, source="engine", level="info", text="up")
    good = RequestLine(at=START + 1, target="digits:1-fp32", protocol="oip-v2", status=200, latency_us=400)
    bad = RequestLine(at=START + 2, target="digits:9", protocol="oip-v2", status=404, latency_us=40, error="no such")
    now = with_lines(State(), [engine])
    for seq in range(1, 700):
        now, changed = reduce(now, event(seq, "requests", {"lines": [good, bad]}))
    assert {messages.RequestsChanged, messages.LogChanged} == changed
    assert len(now.requests) == state.KEEP_REQUESTS
    lines = merged_lines(now)
    assert lines[0] == engine
    assert all("404" not in line.text for line in lines)  # the engine logs failures itself


def test_log_lines_are_kept_once_and_in_order() -> None:
    first, second = (LogLine(at=START + n, source="engine", level="info", text=str(n)) for n in range(2))
    now, changed = reduce(State(), event(1, "log", second))
    assert changed == {messages.LogChanged}
    assert with_lines(now, [first, second]).lines == (first, second)


def test_registry_changes_are_counted() -> None:
    now, changed = reduce(State(), event(1, "version", {"model": "digits", "version": 1, "change": "added"}))
    assert changed == {messages.RegistryChanged} and now.registry == 1
    move = AliasMove(model="digits", alias="production", before="", after="1-fp32", why="", actor="cli", at="")
    now, changed = reduce(now, event(2, "alias", move))
    assert changed == {messages.RegistryChanged} and now.registry == 2


def test_server_status_and_comparison_events_replace_what_was_known() -> None:
    now, _ = reduce(
        online(), event(1, "server", ServerStatus(state="starting", url="http://127.0.0.1:8080", restarts=1))
    )
    assert now.server is not None and now.server.state == "starting"
    plan = Plan(references=("digits:1-fp32", "digits:1-int8"))
    now, changed = reduce(now, event(2, "comparison", comparison(plan, "running")))
    assert changed == {messages.ComparisonChanged} and now.busy(START)
    now, _ = reduce(now, event(3, "comparison", comparison(plan)))
    assert not now.busy(START) and len(now.comparisons) == 1


def test_missed_events_are_noticed() -> None:
    move = {"model": "digits", "version": 1, "change": "added"}
    now, _ = reduce(State(), event(41, "version", move))
    assert not now.gap  # the first one seen
    now, _ = reduce(now, event(42, "version", move))
    assert not now.gap
    now, _ = reduce(now, event(45, "version", move))
    assert now.gap and now.seq == 45


def test_an_event_that_is_not_understood_becomes_a_log_line() -> None:
    broken = Event(seq=1, at=START, kind="job", data={"id": 3})
    now, changed = reduce(State(), broken)
    assert not now.jobs and changed == {messages.LogChanged}
    assert now.lines[0].level == "warning" and "job event" in now.lines[0].text
    unknown = Event(seq=2, at=START, kind="weather", data={})  # type: ignore[arg-type]
    assert reduce(now, unknown)[1] == frozenset()
