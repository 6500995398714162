from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from studio.client import Client
from studio.client.client import raise_failure
from studio.core.comparison import Plan
from studio.core.errors import (
    Cancelled,
    CodeFile,
    Conflict,
    Denied,
    InvalidInput,
    NeedsTrust,
    NotFound,
    Problem,
    Refused,
    StepFailed,
    StudioError,
    Unavailable,
)
from tests.client import values
from tests.client.fake_engine import TOKEN, FakeEngine


def test_reading_calls_give_the_typed_values(engine: FakeEngine, client: Client, tmp_path: Path) -> None:
    engine.on("GET", "/api/versions", values.page())
    engine.on("GET", "/api/models/digits", values.model_detail())
    engine.on("GET", "/api/versions/digits/1", values.version_detail())
    engine.on(
        "GET",
        "/api/resolve/digits:production",
        {"model": "digits", "version": 1, "variant": "fp32", "target": "digits:1-fp32"},
    )
    engine.on("GET", "/api/jobs", [values.job()])
    engine.on("GET", "/api/jobs/j1", values.job())
    engine.on("GET", "/api/jobs/j1/log", {"text": "hello\n"})
    engine.on("GET", "/api/comparisons", [values.comparison()])
    engine.on("GET", "/api/comparisons/c1", values.comparison())
    engine.on("GET", "/api/metrics", {"target": "", "points": values.comparison().arms[0].series})
    engine.on("GET", "/api/call/digits", values.call_example("http://x"))
    engine.on("GET", "/api/logs", [values.log_line()])
    engine.on("GET", "/api/journal", values.version_detail().history)

    assert client.status().workspace == str(tmp_path)
    assert client.versions("dig", sort="p50", descending=True, limit=7) == values.page()
    assert client.model("digits") == values.model_detail()
    assert client.version("digits", 1) == values.version_detail()
    assert client.resolve("digits:production").target == "digits:1-fp32"
    assert client.jobs() == (values.job(),)
    assert client.job("j1") == values.job()
    assert client.job_log("j1") == "hello\n"
    assert client.comparisons() == (values.comparison(),)
    assert client.comparison("c1") == values.comparison()
    assert client.metrics("", 0, 0, 2.0)[0].requests == 900.0
    assert client.call("digits") == values.call_example("http://x")
    assert client.logs(source="engine", level="info", limit=9) == (values.log_line(),)
    assert client.journal()[0].subject == "digits:1"

    queries = {path: query for _, path, query, _ in engine.requests}
    assert queries["/api/versions"] == {
        "filter": ["dig"],
        "sort": ["p50"],
        "descending": ["true"],
        "archived": ["false"],
        "offset": ["0"],
        "limit": ["7"],
    }
    assert queries["/api/metrics"]["step"] == ["2"]
    assert queries["/api/logs"] == {"source": ["engine"], "level": ["info"], "limit": ["9"]}


def test_changing_calls_say_who_asks(engine: FakeEngine, tmp_path: Path) -> None:
    for path, value in {
        "/api/aliases": values.move(),
        "/api/rollback": values.move(),
        "/api/undo": values.move(),
        "/api/archive": values.version_row(1, "archived"),
        "/api/restore": values.version_row(1),
        "/api/purge": {"freed": 12},
        "/api/add": {"files": ["/w/inbox/a.onnx"]},
        "/api/jobs/j1/cancel": values.job(state="cancelled"),
        "/api/jobs/j1/retry": values.job(),
        "/api/comparisons": values.comparison("queued"),
        "/api/comparisons/c1/cancel": values.comparison("cancelled"),
        "/api/load": values.comparison("queued", ("digits:1-fp32",)),
        "/api/netron": {"url": "http://127.0.0.1:1"},
        "/api/shutdown": {},
    }.items():
        engine.on("POST", path, value)
    client = Client(engine.url, TOKEN, actor="cli")

    assert client.move_alias("digits", "production", "2", why="better") == values.move()
    assert engine.asked("POST", "/api/aliases")[-1] == {
        "model": "digits",
        "alias": "production",
        "target": "2",
        "why": "better",
        "actor": "cli",
    }
    client.remove_alias("digits", "mine")
    assert engine.asked("POST", "/api/aliases")[-1]["target"] == ""
    assert client.rollback("digits").after == "2-fp32"
    assert client.undo().after == "2-fp32"
    assert client.archive("digits:1").state == "archived"
    assert client.restore("digits:1").state == "serving"
    assert client.purge("digits:1", "digits:1") == 12
    assert client.cancel_job("j1").state == "cancelled"
    assert client.retry_job("j1").state == "running"
    assert client.compare(Plan(references=("digits:1", "digits:2"), seconds=3)).state == "queued"
    assert engine.asked("POST", "/api/comparisons")[0] == {
        "references": ["digits:1", "digits:2"],
        "seconds": 3.0,
        "clients": 1,
        "slice_seconds": 0.5,
    }
    assert client.cancel_comparison("c1").state == "cancelled"
    assert len(client.load("digits", 2, 1).arms) == 1
    assert client.netron("digits").startswith("http://")
    client.shutdown()
    for path in ("/api/rollback", "/api/undo", "/api/archive", "/api/restore", "/api/purge"):
        assert engine.asked("POST", path)[0]["actor"] == "cli"

    source = tmp_path / "a.onnx"
    assert client.add(str(source), name="b") == ("/w/inbox/a.onnx",)
    assert engine.asked("POST", "/api/add") == [{"path": str(source.resolve()), "name": "b"}]


@pytest.mark.parametrize("kind", [InvalidInput, NotFound, Conflict, Refused, Unavailable, Denied, StepFailed])
def test_errors_come_back_as_what_they_were(engine: FakeEngine, client: Client, kind: type[StudioError]) -> None:
    engine.on("GET", "/api/jobs/j1", kind("What.", "Why.", "Fix."))
    with pytest.raises(kind) as caught:
        client.job("j1")
    assert caught.value.problem == Problem(code=kind.code, what="What.", why="Why.", fix="Fix.")


def test_a_wrong_token_is_denied(engine: FakeEngine) -> None:
    with pytest.raises(Denied):
        Client(engine.url, "wrong").status()


def test_no_engine_is_unavailable_and_says_how_to_start_one(engine: FakeEngine, client: Client) -> None:
    engine.close()
    with pytest.raises(Unavailable) as caught:
        client.status()
    assert "studio up" in caught.value.fix


def test_an_answer_of_another_shape_is_an_error_of_ours(engine: FakeEngine, client: Client) -> None:
    engine.on("GET", "/api/jobs/j1", {"surprise": 1})
    with pytest.raises(InvalidInput, match="answer of the engine"):
        client.job("j1")
    engine.on("GET", "/api/jobs/j1", lambda _: (502, b"<html>bad gateway</html>", {}))
    with pytest.raises(StudioError, match="502"):
        client.job("j1")


def test_one_connection_serves_many_calls(engine: FakeEngine, client: Client) -> None:
    for _ in range(5):
        client.status()
    assert engine.connections == 1


def test_a_connection_that_the_engine_closed_is_replaced(engine: FakeEngine, client: Client) -> None:
    engine.on("POST", "/api/undo", values.move())
    engine.drop_after_answer = True
    client.status()
    assert engine.dropped.wait(10)
    client.undo()
    assert client.status().models == 1
    assert len(engine.asked("POST", "/api/undo")) == 1


def test_threads_do_not_disturb_each_other(engine: FakeEngine, client: Client) -> None:
    for i in range(8):
        engine.on("GET", f"/api/jobs/j{i}", values.job(id=f"j{i}"))
    wrong: list[Any] = []

    def run(i: int) -> None:
        for _ in range(20):
            got = client.job(f"j{i}").id
            if got != f"j{i}":
                wrong.append((i, got))

    threads = [threading.Thread(target=run, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert len(engine.requests) == 160
    assert engine.connections <= 8


def test_an_engine_that_moved_is_found_again(engine: FakeEngine, tmp_path: Path) -> None:
    from studio.client.connect import attach

    client = attach(tmp_path)
    assert client is not None
    second = FakeEngine(tmp_path)
    try:
        second.on("GET", "/api/status", values.status(str(tmp_path), second.url))
        engine.close()
        assert client.status().control_url == second.url
    finally:
        second.close()


def test_wait_job_tells_each_change_once(engine: FakeEngine, client: Client) -> None:
    course = [values.job(done=2), values.job(done=2), values.job(done=5), values.job(done=9, state="done", version=1)]
    left = list(course)
    engine.on("GET", "/api/jobs/j1", lambda _: left.pop(0))
    seen: list[Any] = []
    assert client.wait_job("j1", seen.append).version == 1
    assert seen == [course[0], course[2], course[3]]


def test_wait_job_gives_up_when_told(engine: FakeEngine, client: Client) -> None:
    engine.on("GET", "/api/jobs/j1", values.job())
    with pytest.raises(Unavailable):
        client.wait_job("j1", timeout=0.0)


def test_failures_become_exceptions() -> None:
    raise_failure(values.job(state="done", done=9))
    with pytest.raises(NeedsTrust):
        raise_failure(
            values.job(state="failed", problem=NeedsTrust((CodeFile(name="net.pt", sha256="0" * 64),)).problem)
        )
    with pytest.raises(Cancelled):
        raise_failure(values.comparison("cancelled"))
    with pytest.raises(StepFailed):
        raise_failure(values.comparison("failed"))
