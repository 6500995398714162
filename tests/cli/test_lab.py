"""`studio lab`: orders, progress, lists and pauses, and what of it is data."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest

from studio.core.errors import Cancelled, NotFound
from studio.core.recipe import OptionEntry, RecipeEntry
from studio.core.views import LabState, VersionDetail
from tests.cli.conftest import Run
from tests.client import values
from tests.client.fake_engine import FakeEngine

ENTRIES = (
    RecipeEntry(name="int8", title="8-bit weights, dynamic", origin="built in"),
    RecipeEntry(
        name="sparse",
        title="Small weights set to zero",
        origin="built in",
        options=(
            OptionEntry(name="amount", default=0.3, help="share of weights", allowed="a number from 0.01 to 0.99"),
        ),
    ),
    RecipeEntry(name="small", title="", origin="small.toml", steps="sparse (amount 0.2), then int8"),
    RecipeEntry(name="broken", title="", origin="broken.toml", problem="broken.toml: it has no steps."),
)
STATE = LabState(
    paused=False, jobs=("j1",), recipes=ENTRIES, defaults=("int8",), folder="/ws/recipes", machine=values.MACHINE
)


def detail(choice: str = "int8: 1.4x faster.", stale: str = "") -> VersionDetail:
    whole = values.version_detail()
    rows = tuple(replace(one, stale=stale, front=one.variant == "int8") for one in whole.row.variants)
    return replace(whole, row=replace(whole.row, variants=rows, auto="int8", choice=choice))


@pytest.fixture
def lab(engine: FakeEngine) -> FakeEngine:
    engine.on("GET", "/api/lab", STATE)
    engine.on("GET", "/api/versions/digits/1", detail())
    engine.on("GET", "/api/jobs", [replace(values.job("j1", version=1), stem="digits:1")])
    engine.on(
        "GET", "/api/resolve/digits:1", {"model": "digits", "version": 1, "variant": "fp32", "target": "digits:1"}
    )
    return engine


def test_recipes_are_ordered_by_name_and_by_file(lab: FakeEngine, run: Run, tmp_path: Path) -> None:
    own = tmp_path / "my.toml"
    own.write_text('[[steps]]\nrecipe = "int8"\n')
    lab.on("POST", "/api/lab", lambda _: [replace(values.job("j1", version=1), created=time.time() + 1)])
    ran = run("lab", "digits:1", "-r", "int8", "--recipe", str(own), "--again")
    assert ran.code == 0, ran.err
    assert lab.asked("POST", "/api/lab") == [
        {
            "reference": "digits:1",
            "recipes": ["int8"],
            "own": [{"file": "my.toml", "text": own.read_text()}],
            "again": True,
        }
    ]
    assert "1 job for the lab. Follow: studio" in ran.err
    assert "◆ int8" in ran.out and "auto     int8: 1.4x faster." in ran.out
    missing = run("lab", "digits:1", "-r", str(tmp_path / "none.toml"))
    assert missing.code == 2 and "can not be read" in missing.err


def test_wait_narrates_each_verdict_and_ends_as_the_job_did(lab: FakeEngine, run: Run) -> None:
    course = [values.job("j1", done=6), values.job("j1", done=8), values.job("j1", "done", 9, version=1)]
    course = [replace(one, model="digits", version=1) for one in course]
    lab.on("POST", "/api/lab", [course[0]])
    lab.on("GET", "/api/jobs/j1", lambda _: course.pop(0) if len(course) > 1 else course[0])
    before, after = detail(), detail()
    before = replace(before, row=replace(before.row, variants=before.row.variants[:1]))
    told = [before]
    lab.on("GET", "/api/versions/digits/1", lambda _: told.pop() if told else after)
    ran = run("lab", "digits:1", "--wait", "--json")
    assert ran.code == 0, ran.err
    assert "✓ 3.9x smaller, 1.4x faster." in ran.err  # what came, not what was there before
    assert "The reference." not in ran.err
    assert [job["state"] for job in ran.json["jobs"]] == ["done"]
    assert ran.json["versions"][0]["auto"] == "int8"


def test_waiting_on_a_paused_lab_says_so_and_how_it_goes_on(
    lab: FakeEngine, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("studio.cli.progress.LOOK_SECONDS", 0.0)
    waits = replace(values.job("j1", done=6, version=1), model="digits", stem="digits")
    course: list[bool] = []

    def status(_: object) -> object:
        course.append(len(course) < 3)
        return replace(values.status(str(tmp_path), lab.url, lab.url), lab_paused=course[-1])

    def job(_: object) -> object:
        return values.job("j1", "done", 9, version=1) if len(course) > 4 else waits

    lab.on("GET", "/api/status", status)
    lab.on("GET", "/api/jobs/j1", job)
    lab.on("POST", "/api/lab", [waits])
    ran = run("lab", "digits:1", "-r", "int8", "--wait")
    assert ran.code == 0, ran.err
    assert ran.err.count("The lab is paused, and goes on with: studio lab --resume") == 1  # told once
    assert ran.err.index("lab is paused") < ran.err.index("The lab goes on.")

    course.clear()
    model = tmp_path / "digits.onnx"
    model.write_bytes(b"onnx")
    here = replace(waits, files=(str(model),))
    lists: list[int] = []
    lab.on("POST", "/api/add", {"files": [str(model)]})
    lab.on("GET", "/api/jobs", lambda _: lists.append(1) or ([] if len(lists) == 1 else [here]))
    ran = run("add", str(model), "--wait")
    assert ran.code == 0, ran.err
    assert "The lab is paused, and goes on with: studio lab --resume" in ran.err

    course.clear()
    ended = values.job("j0", "done", 9)
    lab.on("GET", "/api/jobs", [here, ended])
    ran = run("jobs")
    assert "): the lab is paused" in ran.out and ran.out.count("paused") == 1
    assert "goes on with: studio lab --resume" in ran.err
    lab.on("GET", "/api/jobs", [ended])
    ran = run("jobs")
    assert "paused" not in ran.out + ran.err  # nothing waits for it


def test_what_is_deleted_while_one_waits_is_told_as_that(lab: FakeEngine, run: Run) -> None:
    begun = replace(values.job("j1", done=6, version=1), model="digits")
    gone = values.job("j1", "cancelled", 6, Cancelled("It was cancelled: digits:1 was deleted.").problem, version=1)
    lab.on("POST", "/api/lab", [begun])
    lab.on("GET", "/api/jobs/j1", replace(gone, model="digits"))
    lab.on("GET", "/api/versions/digits/1", NotFound("There is no version digits:1."))
    ran = run("lab", "digits:1", "--wait")
    assert ran.code == 9 and ran.err.rstrip().endswith("error: It was cancelled: digits:1 was deleted.")


def test_nothing_left_to_do_is_said_and_still_shows_the_table(lab: FakeEngine, run: Run) -> None:
    lab.on("POST", "/api/lab", [])
    ran = run("lab", "digits:1")
    assert ran.code == 0 and "Nothing is left to do" in ran.err and "int8" in ran.out
    ran = run("lab", "--stale")
    assert (ran.code, ran.out) == (0, "") and "Nothing is stale" in ran.err
    assert lab.asked("POST", "/api/lab")[-1] == {"stale": True, "reference": ""}
    ran = run("lab", "digits:1", "--stale")
    assert ran.code == 0 and "Nothing is stale" in ran.err and "int8" in ran.out
    assert lab.asked("POST", "/api/lab")[-1] == {"stale": True, "reference": "digits:1"}
    assert run("lab", "digits:1", "--stale", "-r", "int8").code == 2


def test_what_is_under_way_is_no_further_job(lab: FakeEngine, run: Run) -> None:
    lab.on("POST", "/api/lab", [values.job("j1", version=1)])  # of long ago
    ran = run("lab", "digits:1")
    assert ran.code == 0 and "The lab is at it already. Follow: studio" in ran.err and "int8" in ran.out
    lab.on("POST", "/api/lab", lambda _: [replace(values.job("j1", version=1), created=time.time() + 1)])
    assert "1 job for the lab. Follow: studio" in run("lab", "digits:1").err


def test_stale_figures_are_marked_everywhere(lab: FakeEngine, run: Run) -> None:
    lab.on("GET", "/api/versions/digits/1", detail(stale="measured with 2 cores; this machine has 8"))
    shown = run("show", "digits:1")
    assert "keep, stale" in shown.out and "auto         int8: 1.4x faster." in shown.out
    lab.on("POST", "/api/lab", [])
    assert (
        "measured with 2 cores; this machine has 8. Measure again: studio lab digits:1 --stale"
        in run("lab", "digits:1").out
    )


def test_the_list_has_options_and_what_is_wrong_with_files(lab: FakeEngine, run: Run) -> None:
    ran = run("lab", "--list")
    assert "• int8" in ran.out and "  sparse" in ran.out
    assert "      amount" in ran.out and "share of weights: a number from 0.01 to 0.99" in ran.out
    assert "sparse (amount 0.2), then int8 (small.toml)" in ran.out
    assert "broken.toml: it has no steps." in ran.out and "/ws/recipes" in ran.out
    assert run("lab", "--list", "--json").json["defaults"] == ["int8"]


def test_the_lab_says_what_it_does_and_can_be_held(lab: FakeEngine, run: Run) -> None:
    ran = run("lab")
    assert "at work     digits:1: " in ran.out and "Test CPU, 2 cores" in ran.out
    lab.on("POST", "/api/lab/pause", replace(STATE, paused=True))
    lab.on("POST", "/api/lab/resume", STATE)
    assert "paused: studio lab --resume" in run("lab", "--pause").out
    assert "ready" in run("lab", "--resume").out


def test_what_makes_no_sense_is_refused(lab: FakeEngine, run: Run) -> None:
    assert run("lab", "digits:1", "--pause").code == 2
    assert "go with a version" in run("lab", "--recipe", "int8").err
    lab.on("POST", "/api/lab", NotFound("There is no recipe 'int9'.", "Known: int8.", "See: studio lab --list"))
    ran = run("lab", "digits:1", "-r", "int9")
    assert ran.code == 3 and "no recipe 'int9'" in ran.err
