"""`studio route`: what it asks the engine for, and what it says of a split and of a shadow."""

from __future__ import annotations

import pytest

from studio.core.journal import RouteChange
from studio.core.metrics import ShadowFigures
from studio.core.views import ArmRow, RouteDetail
from tests.cli.conftest import Run
from tests.client.fake_engine import FakeEngine

CHANGE = RouteChange(
    model="digits", before="", after="production=90 candidate=10", why="try", actor="cli", at="2026-11-21T04:10:00Z"
)


def figures() -> ShadowFigures:
    seen = ShadowFigures(model="digits", target="digits:1-fp32", shadow="digits:2-int8", compared=40, dropped=3)
    seen.rows, seen.ranked, seen.same = 40, 40, 39
    seen.cosines, seen.cosine_sum, seen.cosine_min, seen.max_abs = 40, 39.6, 0.91, 0.25
    seen.target_us.add(1000, 40)
    seen.shadow_us.add(500, 40)
    return seen


DETAIL = RouteDetail(
    model="digits",
    arms=(
        ArmRow(name="production", target="digits:1-fp32", share=0.9),
        ArmRow(name="candidate", target="digits:2-fp32", share=0.1),
    ),
    shadow="digits:2-int8",
    shadow_name="2-int8",
    share=0.2,
    figures=(figures(),),
)


@pytest.mark.parametrize(
    ("words", "path", "asked"),
    [
        (
            "--split production=90 candidate=10 --why try",
            "/api/routes",
            {"split": {"production": 90, "candidate": 10}, "shadow": None, "share": None, "why": "try"},
        ),
        (
            "--shadow 4-int8 --share 0.2",
            "/api/routes",
            {"split": None, "shadow": "4-int8", "share": 0.2, "why": ""},
        ),
        ("--no-shadow", "/api/routes", {"split": None, "shadow": "", "share": None, "why": ""}),
        ("--no-split", "/api/routes", {"split": {}, "shadow": None, "share": None, "why": ""}),
        ("--clear", "/api/routes", {"split": {}, "shadow": "", "share": None, "why": ""}),
        ("--rollback", "/api/routes/rollback", {"why": ""}),
    ],
)
def test_what_is_asked_for(engine: FakeEngine, run: Run, words: str, path: str, asked: dict[str, object]) -> None:
    engine.on("POST", path, CHANGE)
    ran = run("route", "digits", *words.split())
    assert ran.code == 0
    assert engine.asked("POST", path) == [{"model": "digits", "actor": "cli", **asked}]
    assert ran.out == "digits  route none → production=90 candidate=10  (try)\n"


def test_a_cleared_route_says_who_answers(engine: FakeEngine, run: Run) -> None:
    engine.on("POST", "/api/routes", RouteChange(**(vars(CHANGE) | {"before": "production=1", "after": ""})))
    assert "answers alone from now on" in run("route", "digits", "--clear").err


@pytest.mark.parametrize(
    "words",
    [
        "--split",
        "production=90",
        "--split a=1 --clear",
        "--split a=1 --no-split",
        "--shadow 3 --no-shadow",
        "--rollback --clear",
        "--split a=x",
        "--split a",
    ],
)
def test_what_makes_no_sense_is_bad_usage(engine: FakeEngine, run: Run, words: str) -> None:
    ran = run("route", "digits", *words.split())
    assert ran.code == 2
    assert ran.err
    assert not engine.asked("POST", "/api/routes")


def test_it_shows_who_answers_and_what_the_shadow_gave(engine: FakeEngine, run: Run) -> None:
    engine.on("GET", "/api/routes/digits", DETAIL)
    engine.on("GET", "/api/metrics", {"target": "digits:1-fp32", "points": []})
    out = run("route", "digits").out
    for words in (
        "digits:1-fp32",
        "90.0 %",
        "2-int8 → digits:2-int8, copies of 20.0 %",
        "40 compared, 3 dropped, 0 failed",
        "cosine 0.9900",
        "same answer on 97.5 %",
        "shadow p50 0.5",
    ):
        assert words in out, out
    assert run("route", "digits", "--json").json["figures"][0]["compared"] == 40


def test_undo_tells_of_routes_too(engine: FakeEngine, run: Run) -> None:
    engine.on("POST", "/api/undo", CHANGE)
    assert run("undo").out.startswith("digits  route none → production=90 candidate=10")
    assert run("undo", "--json").json["after"] == CHANGE.after
