"""Each command against an engine that answers with core values."""

from __future__ import annotations

import io
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from studio.cli import output
from studio.core import codec
from studio.core.comparison import Comparison
from studio.core.errors import CodeFile, NeedsSettings, NeedsTrust, NotFound
from studio.core.events import Event
from studio.core.jobs import Job
from studio.core.manifest import Verdict
from studio.core.recipe import plan_of
from studio.core.views import LogLine, VersionDetail, VersionPage
from tests.cli.conftest import Run
from tests.client import values
from tests.client.fake_engine import FakeEngine


def rows_of(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip()]


def test_status(engine: FakeEngine, run: Run, tmp_path: Path) -> None:
    ran = run("status")
    assert "2 versions" in ran.out
    assert "The index was rebuilt." in ran.out
    assert "73 MB" in ran.out
    assert run("status", "--json").json["models"] == 1


def test_ls_aligns_its_columns(engine: FakeEngine, run: Run) -> None:
    engine.on("GET", "/api/versions", values.page())
    ran = run("ls", "dig", "--sort", "p50", "--descending", "--archived")
    head, second, first = rows_of(ran.out)
    assert second.startswith("digits:2  ready")
    assert first.index("torch.export") == head.index("FORMAT") == second.index("torch.export")
    assert "99.7 %" in second
    assert first.endswith("production")
    assert second.endswith("latest")
    query = next(query for _, path, query, _ in engine.requests if path == "/api/versions")
    assert (query["filter"], query["sort"], query["descending"], query["archived"]) == (
        ["dig"],
        ["p50"],
        ["true"],
        ["true"],
    )


def test_ls_all_asks_for_every_page(engine: FakeEngine, run: Run) -> None:
    pages = [values.page(5), values.page(5), VersionPage(rows=values.page().rows[:1], total=5, offset=4)]
    engine.on("GET", "/api/versions", lambda _: pages.pop(0))
    page = run("ls", "--all", "--json").json
    assert len(page["rows"]) == 5
    offsets = [query["offset"] for _, path, query, _ in engine.requests if path == "/api/versions"]
    assert offsets == [["0"], ["2"], ["4"]]


def test_ls_says_what_it_leaves_out_and_what_to_do_when_empty(engine: FakeEngine, run: Run) -> None:
    engine.on("GET", "/api/versions", values.page(500))
    assert "--all" in run("ls").err
    engine.on("GET", "/api/versions", VersionPage(rows=(), total=0, offset=0))
    ran = run("ls")
    assert (ran.code, ran.out) == (0, "")
    assert "studio add" in ran.err


def test_show(engine: FakeEngine, run: Run) -> None:
    engine.on("GET", "/api/models/digits", values.model_detail())
    engine.on("GET", "/api/versions/digits/1", values.version_detail())
    resolution = {"model": "digits", "version": 1, "variant": "int8", "target": "digits:1-int8"}
    engine.on("GET", "/api/resolve/digits:candidate", resolution)
    engine.on("GET", "/api/resolve/digits:1-int8", resolution)
    assert "production → 1-fp32" in run("show", "digits").out
    version = run("show", "digits:1")
    assert "image FP32 [batch × 1 × 8 × 8]" in version.out
    assert "300 labelled" in version.out
    assert "▸" not in version.out
    for reference in ("digits:candidate", "digits:1-int8"):
        assert "▸ int8" in run("show", reference).out
    assert codec.decode(run("show", "digits:1", "--json").out, VersionDetail) == values.version_detail()
    # One that could not be made can be asked for nothing, but why is told.
    whole = values.version_detail()
    words = "int8-static does not apply: needs real samples."
    missing = replace(
        whole.variants[0],
        variant="int8-static",
        plan=plan_of("int8-static"),
        graph=None,
        verdict=Verdict(outcome="not applicable", sentence=words),
    )
    engine.on("GET", "/api/versions/digits/1", replace(whole, variants=(*whole.variants, missing)))
    engine.on("GET", "/api/resolve/digits:1-int8-static", NotFound("'digits:1-int8-static' does not exist."))
    engine.on("GET", "/api/resolve/digits:1-int9", NotFound("'digits:1-int9' does not exist."))
    shown = run("show", "digits:1-int8-static")
    assert shown.code == 0 and f"not applicable: {words}" in shown.out
    assert run("show", "digits:1-int9").code == 3
    assert run("show", "Digits").code == 2


def test_add_gives_the_copies(engine: FakeEngine, run: Run, tmp_path: Path) -> None:
    for name in ("m.onnx", "m.npz", "m.toml"):
        (tmp_path / name).write_bytes(b"x")
    engine.on("GET", "/api/jobs", [])
    engine.on("POST", "/api/add", lambda body: {"files": [f"/inbox/{Path(body['path']).name}"]})
    ran = run("add", *[str(tmp_path / name) for name in ("m.onnx", "m.npz", "m.toml")])
    assert ran.code == 0
    # what goes with the model first: the engine must not see it alone
    assert ran.out.splitlines() == ["/inbox/m.npz", "/inbox/m.toml", "/inbox/m.onnx"]
    assert run("add", str(tmp_path / "none")).code == 2
    assert run("add", "--name", "n", str(tmp_path / "m.onnx"), str(tmp_path / "m.npz")).code == 2


@pytest.mark.parametrize(("state", "code"), [("done", 0), ("failed", 5)])
def test_add_wait_narrates_and_ends_as_the_job_did(
    engine: FakeEngine, run: Run, tmp_path: Path, state: str, code: int
) -> None:
    (tmp_path / "digits.pt2").write_bytes(b"x")
    problem = NeedsTrust((CodeFile(name="net.pt", sha256="0" * 64),)).problem if state == "failed" else None
    final = values.job("new", state, 9 if state == "done" else 4, problem, version=1)
    course = [values.job("new", done=1), values.job("new", done=4), final]
    answers = [[values.job("old")], [values.job("old")], [values.job("new", done=0), values.job("old")]]
    engine.on("GET", "/api/jobs", lambda _: answers.pop(0))
    engine.on("GET", "/api/jobs/new", lambda _: course.pop(0))
    engine.on("POST", "/api/add", {"files": ["/inbox/digits.pt2"]})
    ran = run("add", "--wait", str(tmp_path / "digits.pt2"))
    assert ran.code == code
    assert ran.err.count("✓ digits: arrived") == 1
    assert "✓ digits: converted" in ran.err
    assert "new" in ran.out
    assert ("studio trust" in ran.err) == (state == "failed")


def test_jobs_that_wait_come_first_and_what_is_not_shown_is_counted(engine: FakeEngine, run: Run) -> None:
    waiting = values.job("j0", "waiting", 3, NeedsSettings("It has no shapes.", ("x",)).problem)
    engine.on("GET", "/api/jobs", [*(values.job(f"j{at}", "done", 9) for at in range(40, 0, -1)), waiting])
    ran = run("jobs", "-n", "5")
    rows = ran.out.splitlines()[1:]
    assert [row.split()[0] for row in rows] == ["j0", "j40", "j39", "j38", "j37"]
    assert "5 of 41; more with: studio" in ran.err and "jobs -n 1000" in ran.err
    assert len(run("jobs").out.splitlines()) == 1 + 30


def test_jobs(engine: FakeEngine, run: Run) -> None:
    failed = values.job("j2", "failed", 3, NeedsTrust((CodeFile(name="net.pt", sha256="0" * 64),)).problem)
    engine.on("GET", "/api/jobs", [failed, values.job("j1", "done", 9, version=1)])
    engine.on("POST", "/api/jobs/j2/retry", values.job("j2"))
    engine.on("POST", "/api/jobs/j2/cancel", values.job("j2", "cancelled"))
    engine.on("GET", "/api/jobs/j2/log", {"text": "worker says\n"})
    ran = run("jobs", "-n", "2")
    assert "failed at converted: 'net.pt' would run code" in ran.out
    assert "digits:1" in ran.out
    assert "of" not in ran.err
    assert codec.decode(run("jobs", "--json").out, list[Job])[0] == failed
    assert run("jobs", "--retry", "j2").code == 0
    assert "cancelled" in run("jobs", "--cancel", "j2").out
    assert run("jobs", "--log", "j2").out == "worker says\n"
    assert run("jobs", "--log", "j2", "--follow").code == 2


def test_follow_prints_json_lines_until_the_engine_goes(
    engine: FakeEngine, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [values.job(done=1), values.job(done=2)]
    lines = [values.log_line("before"), values.log_line("after")]
    newer = LogLine(at=lines[0].at + 1, source="job", level="error", text="later")
    quiet = LogLine(at=lines[0].at + 2, source="job", level="debug", text="too quiet")
    engine.on("GET", "/api/logs", lines[:1])
    events: list[Any] = [("job", jobs[0]), ("log", lines[0]), ("job", jobs[1]), ("log", newer), ("log", quiet)]
    engine.events = [
        Event(seq=i, at=0.0, kind=kind, data=codec.builtins(value)) for i, (kind, value) in enumerate(events, 1)
    ]

    def ends(transport: Any, since: int, stop: Any, patience: float) -> Any:
        yield from engine.events
        raise KeyboardInterrupt

    monkeypatch.setattr("studio.client.client.listen", ends)
    ran = run("jobs", "--follow", "--json")
    assert ran.code == 130
    assert [codec.decode(line, Job) for line in ran.out.splitlines()] == jobs
    ran = run("logs", "--follow", "--json", "--level", "info")
    assert [json.loads(line)["text"] for line in ran.out.splitlines()] == ["before", "later"]


def test_logs(engine: FakeEngine, run: Run) -> None:
    engine.on("GET", "/api/logs", [values.log_line(), values.log_line("bad", "error")])
    ran = run("logs", "--source", "engine", "--level", "info", "-n", "7")
    assert "info     engine    digits:1: Engine is up." in ran.out
    query = next(query for _, path, query, _ in engine.requests if path == "/api/logs")
    assert query == {"source": ["engine"], "level": ["info"], "limit": ["7"]}


def test_aliases(engine: FakeEngine, run: Run) -> None:
    engine.on("POST", "/api/aliases", lambda body: values.move(body["alias"], after=body["target"], why=body["why"]))
    engine.on("POST", "/api/rollback", values.move(after="1-fp32", before="2-fp32"))
    engine.on("POST", "/api/undo", values.move(after="", before="2-fp32"))
    ran = run("promote", "digits:2-int8", "--why", "faster")
    assert ran.out == "digits:production  1-fp32 → 2-int8  (faster)\n"
    assert engine.asked("POST", "/api/aliases")[-1]["actor"] == "cli"
    assert run("alias", "digits", "mine", "2").out.startswith("digits:mine")
    assert "removed" in run("alias", "digits", "mine", "--rm").out
    assert engine.asked("POST", "/api/aliases")[-1]["target"] == ""
    assert run("alias", "digits", "mine", "2", "--rm").code == 2
    assert "2-fp32 → 1-fp32" in run("rollback", "digits").out
    ran = run("undo")
    assert "2-fp32 → removed" in ran.out
    assert "not found" in ran.err
    ran = run("promote", "digits")
    assert ran.code == 2
    assert "digits:latest" in ran.err


def test_removal_archives_first_and_deletes_only_by_name(
    engine: FakeEngine, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.on("POST", "/api/archive", values.version_row(1, "archived"))
    engine.on("POST", "/api/restore", values.version_row(1, "ready"))
    engine.on("POST", "/api/purge", {"freed": 12_345_678})
    assert run("rm", "digits:1").out == "digits:1 is archived.\n"
    assert run("restore", "digits:1").out == "digits:1 is ready.\n"
    monkeypatch.setattr(sys, "stdin", io.StringIO("digits:1\n"))
    ran = run("rm", "digits:1", "--purge")
    assert ran.code == 2
    assert not engine.asked("POST", "/api/purge")
    assert "12 MB" in run("rm", "digits:1", "--purge", "--confirm", "digits:1").out
    monkeypatch.setattr("studio.cli.commands.removal.is_terminal", lambda _: True)
    assert run("rm", "digits:1", "--purge").code == 0
    assert [body["confirm"] for body in engine.asked("POST", "/api/purge")] == ["digits:1", "digits:1"]


def serve_doubler(engine: FakeEngine, inputs: int = 1) -> None:
    """A model that answers every request with the double of its first input."""
    declared = [{"name": f"x{i}", "datatype": "FP32", "shape": [-1, 2]} for i in range(inputs)]
    engine.on("GET", "/v2/models/digits", {"name": "digits", "inputs": declared, "outputs": []})

    def infer(body: bytes) -> dict[str, Any]:
        head, end = json.JSONDecoder().raw_decode(body.decode("latin-1"))
        entry = head["inputs"][0]
        size = entry["parameters"]["binary_data_size"]
        data = np.frombuffer(body[end : end + size], "<f4") * 2
        return {"outputs": [{"name": "y", "datatype": "FP32", "shape": entry["shape"], "data": data.tolist()}]}

    engine.on("POST", "/v2/models/digits/infer", infer)


def test_predict_takes_inputs_in_every_form(
    engine: FakeEngine, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve_doubler(engine)
    rows = np.array([[1, 2]], "f4")
    np.save(tmp_path / "x.npy", rows)
    np.savez(tmp_path / "x.npz", x0=rows)
    (tmp_path / "x.json").write_text("[[1, 2]]")
    protocol = json.dumps({"inputs": [{"name": "x0", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]})
    forms = [
        f"x0=@{tmp_path}/x.npy", f"@{tmp_path}/x.npy", f"@{tmp_path}/x.npz", f"x0=@{tmp_path}/x.json", "x0=[[1,2]]",
        "[[1, 2]]", '{"x0": [[1, 2]]}', protocol,
    ]  # fmt: skip
    for form in forms:
        assert run("predict", "digits", "-i", form, "--json").json["outputs"] == {"y": [[2.0, 4.0]]}, form
    for text in ("[[1, 2]]", '{"x0": [[1, 2]]}', '{"inputs": {"x0": [[1, 2]]}}', protocol):
        monkeypatch.setattr(sys, "stdin", io.StringIO(text))
        assert run("predict", "digits", "--json").json["outputs"] == {"y": [[2.0, 4.0]]}, text
    engine.on("GET", "/api/call/digits", values.call_example(engine.url))
    ran = run("predict", "digits", "--sample")
    assert ran.out == "y  float32 [1 × 2]\n[[2. 4.]]\n"


def test_predict_refuses_what_it_can_not_use(
    engine: FakeEngine, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve_doubler(engine, inputs=2)
    (tmp_path / "evil.npy").write_bytes(b"\x80\x04not numpy")
    np.save(tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
    np.savez(tmp_path / "objects.npz", x0=np.array([{}]))
    cut = (tmp_path / "objects.npz").read_bytes()[:60]
    (tmp_path / "cut.npz").write_bytes(cut)
    files = {
        "evil.npy": "is not a",
        "objects.npy": "Python objects",
        "objects.npz": "Python objects",
        "cut.npz": "damaged",
    }
    for name, words in files.items():
        ran = run("predict", "digits", "-i", f"@{tmp_path}/{name}")
        assert (ran.code, ran.out) == (2, ""), name
        assert words in ran.err and "pickle" not in ran.err and "→" in ran.err, ran.err
    for form in ("x=@/none.npy", "x={", "[[1, 2]]"):
        ran = run("predict", "digits", "-i", form)
        assert ran.code == 2, form
        assert ran.out == ""
    assert "x0, x1" in ran.err
    for datatype, value, words in (("INT8", 300, "out of the range of INT8"), ("INT32", 1.5, "wrong datatype")):
        entry = {"name": "x0", "shape": [1], "datatype": datatype, "data": [value]}
        ran = run("predict", "digits", "-i", json.dumps({"inputs": [entry]}))
        assert (ran.code, words in ran.err) == (2, True), ran.err
    assert run("predict", "digits", "-i", "x={}", "--sample").code == 2
    monkeypatch.setattr("studio.cli.commands.predict.is_terminal", lambda _: True)
    assert "Usage" in run("predict", "digits").err


def test_compare_narrates_and_prints_the_verdict_first(engine: FakeEngine, run: Run) -> None:
    course = [values.comparison("queued"), values.comparison("running"), values.comparison()]
    engine.on("POST", "/api/comparisons", course[0])
    engine.on("GET", "/api/comparisons/c1", lambda _: course.pop(0) if len(course) > 1 else course[0])
    ran = run("compare", "digits:1-fp32", "digits:1-int8", "--seconds", "4")
    assert ran.code == 0
    assert "Measuring digits:1-fp32 against digits:1-int8" in ran.err
    lines = rows_of(ran.out)
    assert lines[0] == "digits:1-int8 is 2.00x faster, and agrees."
    assert any("p50 latency" in line and "B faster, 2.00x, 95 % CI 1.95-2.05" in line for line in lines)
    assert any("120 kB" in line and "31 kB" in line for line in lines)
    assert "4 s, 1 client, 1 thread a run" in ran.out
    assert engine.asked("POST", "/api/comparisons")[0]["references"] == ["digits:1-fp32", "digits:1-int8"]
    assert codec.decode(run("compare", "a", "b", "--json").out, Comparison) == values.comparison()
    for arguments in (["compare", "a"], ["compare", *"abcde"], ["compare", "a", "b", "--list"]):
        assert run(*arguments).code == 2


def test_compare_past_ones_and_failures(engine: FakeEngine, run: Run) -> None:
    engine.on("GET", "/api/comparisons", [values.comparison()])
    engine.on("GET", "/api/comparisons/c1", values.comparison())
    assert "2.00x faster" in run("compare", "--list").out
    assert "2.00x faster" in run("compare", "--show", "c1").out
    engine.on("POST", "/api/comparisons", values.comparison("queued"))
    engine.on("GET", "/api/comparisons/c1", values.comparison("cancelled"))
    assert run("compare", "a", "b").code == 9
    engine.on("GET", "/api/comparisons/c1", values.comparison("failed"))
    assert run("compare", "a", "b").code == 8


def test_ctrl_c_cancels_the_measurement(engine: FakeEngine, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    engine.on("POST", "/api/comparisons", values.comparison("queued"))
    engine.on("GET", "/api/comparisons/c1", values.comparison("running"))
    engine.on("POST", "/api/comparisons/c1/cancel", values.comparison("cancelled"))

    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("studio.client.client.time.sleep", interrupt)
    ran = run("compare", "a", "b")
    assert ran.code == 130
    assert len(engine.asked("POST", "/api/comparisons/c1/cancel")) == 1
    assert "cancelled" in ran.err


def test_bench_with_charts(engine: FakeEngine, run: Run) -> None:
    done = values.comparison("done", ("digits:1-fp32",))
    engine.on("POST", "/api/load", values.comparison("queued", ("digits:1-fp32",)))
    engine.on("GET", "/api/comparisons/c1", done)
    ran = run("bench", "digits", "--seconds", "3", "--clients", "2", "--charts")
    assert ran.code == 0
    assert "p99 latency, ms" in ran.out
    assert "1800 /s" in ran.out or "1,800 /s" in ran.out
    assert "\x1b" not in ran.out
    assert engine.asked("POST", "/api/load") == [{"reference": "digits", "seconds": 3.0, "clients": 2}]
    assert "p99 latency, ms" not in run("bench", "digits").out


def test_two_arms_differ_without_colour() -> None:
    from studio.cli.charts import line_chart

    text = line_chart("t", [("A", [0, 1], [1, 1]), ("B", [0, 1], [2, 2])], width=60, colour=False)
    assert "A: fine line   B: thick line" in text
    plot = [line for line in text.splitlines() if "┤" in line or "│" in line]
    assert len({line.strip("│┤ 0123456789.")[:5] for line in plot if line.strip("│┤ 0123456789.")}) >= 2


def test_up_refuses_a_second_engine_and_down_is_idempotent(engine: FakeEngine, run: Run, tmp_path: Path) -> None:
    ran = run("up")
    assert ran.code == 4
    assert "studio down" in ran.err or " down`" in ran.err
    assert run("up", "--detach", "--json").json["pid"] == 4242
    ran = run("down", "-w", str(tmp_path / "other"), "--json")
    assert (ran.code, ran.json) == (0, {"stopped": False})


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: output.size(0), "0 B"),
        (lambda: output.size(999), "999 B"),
        (lambda: output.size(1_200), "1.2 kB"),
        (lambda: output.size(31_000), "31 kB"),
        (lambda: output.size(999_960_000), "1.0 GB"),
        (lambda: output.size(None), "–"),
        (lambda: output.milliseconds(0.0243), "24.3 µs"),
        (lambda: output.milliseconds(0.3111), "0.311 ms"),
        (lambda: output.milliseconds(1234.0), "1.23 s"),
        (lambda: output.duration(59.97), "1 min 0 s"),
        (lambda: output.duration(7500), "2 h 5 min"),
        (lambda: output.quantity(1234.5, "/s"), "1,234 /s"),
        (lambda: output.quantity(0.5, "ms"), "0.5 ms"),
        (lambda: output.percent(0.9966), "99.7 %"),
        (lambda: output.since("no time"), "no time"),
    ],
)
def test_units_are_humane(call: Any, text: str) -> None:
    assert call() == text
