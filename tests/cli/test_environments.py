"""`studio environments` against an engine that answers with core values."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from studio.core.errors import NotFound, StepFailed
from studio.core.views import EnvironmentRow
from tests.cli.conftest import Run
from tests.client.fake_engine import FakeEngine

ROW = EnvironmentRow(
    name="tensorflow", title="TensorFlow models", state="absent", download=290_000_000, installed=1_350_000_000
)
PATH = "/api/environments/tensorflow"


def test_the_list_shows_what_there_is_and_what_it_would_take(engine: FakeEngine, run: Run) -> None:
    failed = StepFailed("It could not be installed.", "pip says: no.").problem
    engine.on(
        "GET",
        "/api/environments",
        (ROW, replace(ROW, name="other", state="ready", size=2_000_000, outdated=1), replace(ROW, problem=failed)),
    )
    head, absent, ready, broken = run("environments").out.splitlines()
    assert head.split() == ["NAME", "STATE", "SIZE", "FOR"]
    assert absent.split()[:4] == ["tensorflow", "absent", "(1.4", "GB)"]
    assert "2.0 MB" in ready and "studio environments remove other" in ready
    assert "pip says: no." in broken
    assert run("environments", "--json").json[0]["state"] == "absent"


def test_make_narrates_until_it_is_ready(engine: FakeEngine, run: Run) -> None:
    making = replace(ROW, state="making", progress=0.2, detail="downloading tensorflow-cpu, 273.8 MB")
    rows: list[Any] = [making, replace(ROW, state="ready", size=1_300_000_000, folder="/somewhere")]
    engine.on("POST", f"{PATH}/make", making)
    engine.on("GET", PATH, lambda _: rows.pop(0))
    ran = run("environments", "make", "tensorflow")
    assert ran.code == 0 and "downloading tensorflow-cpu, 273.8 MB" in ran.err
    assert "about 290 MB to download" in ran.err
    assert ran.out.strip() == "tensorflow is ready: 1.3 GB in /somewhere."


def test_make_fails_as_the_engine_did(engine: FakeEngine, run: Run) -> None:
    failed = StepFailed("It could not be installed.", "pip says: no.", "Retry.").problem
    engine.on("POST", f"{PATH}/make", replace(ROW, state="making"))
    engine.on("GET", PATH, replace(ROW, state="failed", problem=failed))
    ran = run("environments", "make", "tensorflow")
    assert ran.code == StepFailed.exit_code and "pip says: no." in ran.err and not ran.out


def test_remove_says_what_is_free_again(engine: FakeEngine, run: Run) -> None:
    engine.on("POST", f"{PATH}/remove", {"freed": 1_300_000_000})
    assert run("environments", "remove", "tensorflow").out.strip() == "tensorflow: 1.3 GB are free again."


def test_bad_usage_names_what_there_is(engine: FakeEngine, run: Run) -> None:
    engine.on("GET", "/api/environments", (ROW,))
    ran = run("environments", "make")
    assert ran.code == 2 and "There are: tensorflow." in ran.err
    engine.on("POST", "/api/environments/other/make", NotFound("There is no converter environment 'other'."))
    assert run("environments", "make", "other").code == NotFound.exit_code
    assert run("environments", "build").code == 2
