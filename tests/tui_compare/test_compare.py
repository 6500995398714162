from __future__ import annotations

import re
from dataclasses import replace

import pytest

from studio.core.comparison import Comparison
from studio.core.errors import Problem
from studio.core.manifest import Gate
from studio.tui.charts.frame import length, plain
from studio.tui.widgets.compare_cards import arm_labels, card_lines
from studio.tui.widgets.compare_words import gate_value, measured_lines, promotion
from studio.tui.widgets.verdict_table import verdict_lines

from .demo import DemoApp
from .synthetic import comparison, versions

SIZES = [(80, 24), (130, 40)]


async def shown(size: tuple[int, int], value: Comparison | None, **options: object) -> str:
    app = DemoApp(**options)  # type: ignore[arg-type]
    async with app.run_test(size=size) as pilot:
        app.view.show(value, (), versions())
        await pilot.pause()
        await pilot.pause()
        return app.screen_text()


@pytest.mark.parametrize("size", SIZES)
async def test_the_verdict_stands_in_words_with_its_interval(size: tuple[int, int]) -> None:
    text = await shown(size, comparison())
    p50 = next(line for line in text.split("\n") if line.startswith("p50 ms") and "faster" in line)
    assert re.search(r"9\.60 +5\.24 +▲ B faster +1\.83× .*1\.79–1\.88", p50)
    assert "= not distinguishable" in text and "▼ A smaller" in text
    assert "95 % CI" in text
    assert "B is 1.83 times as fast as A" in text


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("arms", [2, 3, 4])
async def test_how_it_was_measured_is_always_on_screen(size: tuple[int, int], arms: int) -> None:
    text = await shown(size, comparison(arms=arms))
    foot = " ".join(text.split("\n")[-5:-1])
    for words in (
        "250 labelled inputs",
        "8 clients",
        "60 s in turns A B",
        "0.5 s each",
        "1 thread",
        "AMD EPYC",
        "2 cores",
    ):
        assert words in foot
    assert "onnxruntime 1.31.0" in foot


@pytest.mark.parametrize("size", SIZES)
async def test_cards_charts_and_gates_are_whole(size: tuple[int, int]) -> None:
    text = await shown(size, comparison())
    for words in ("A digits:3-fp32", "production", "B digits:4-int8", "candidate", "24.1 MB −51 %", "75.9 % −0.24 pt"):
        assert words in text
    for words in ("p50 ms", "p99 ms", "throughput", "8.99", "11.7", "0 s", "60 s"):
        assert words in text
    for words in ("cosine ≥ 0.99", "0.9931", "top-1 agreement ≥ 0.98", "accuracy drop ≤ 0.01"):
        assert words in text
    assert "…" not in text


@pytest.mark.parametrize("theme", ["textual-light", "ansi-dark"])
async def test_themes_change_no_word(theme: str) -> None:
    assert await shown((80, 24), comparison(), theme=theme) == await shown((80, 24), comparison())


async def test_without_colour_every_word_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    coloured = await shown((80, 24), comparison())
    monkeypatch.setenv("NO_COLOR", "1")
    assert await shown((80, 24), comparison()) == coloured


@pytest.mark.parametrize("size", [*SIZES, (60, 16), (30, 8), (200, 60)])
@pytest.mark.parametrize("state", ["queued", "running", "done", "failed", "cancelled"])
async def test_any_state_at_any_size(size: tuple[int, int], state: str) -> None:
    value = comparison(state, elapsed=12)  # type: ignore[arg-type]
    if state == "failed":
        value = replace(
            value, problem=Problem(code="unavailable", what="The server stopped.", why="It was killed.", fix="Retry.")
        )
    text = await shown(size, value)
    assert max(len(line) for line in text.split("\n")) <= size[0]
    expected = {"queued": "Waiting", "running": "12 of 60 s", "failed": "The server stopped.", "cancelled": "Cancelled"}
    assert expected.get(state, "B is 1.83") in text


async def test_the_empty_screen_names_the_next_key() -> None:
    app = DemoApp()
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.pause()
        assert "Mark two variants with space on Models, then press c." in app.screen_text()
        app.view.show(None, ("digits:3-fp32",))
        await pilot.pause()
        assert "Mark one more variant" in app.screen_text() and "A digits:3-fp32" in app.screen_text()
        app.view.show(None, ("digits:3-fp32", "digits:4-int8"))
        await pilot.pause()
        assert "Press c to compare" in app.screen_text() and "B digits:4-int8" in app.screen_text()
        app.view.show(comparison(), (), versions())
        await pilot.pause()
        assert "▲ B faster" in app.screen_text() and "Press c" not in app.screen_text()
        app.view.show(None)
        await pilot.pause()
        assert "Nothing to compare yet." in app.screen_text() and "▲" not in app.screen_text()


async def test_a_running_comparison_grows_on_screen() -> None:
    app = DemoApp()
    async with app.run_test(size=(130, 40)) as pilot:
        seen = set()
        for elapsed in (0, 5, 20, 59):
            app.view.show(comparison("running", elapsed=elapsed), (), versions())
            await pilot.pause()
            seen.add(app.screen_text())
            assert f"Measuring, {elapsed} of 60 s" in app.screen_text()
        assert len(seen) == 4


def test_promotion_says_why_not() -> None:
    done = comparison()
    yes = promotion(done, versions())
    assert yes.enabled and yes.reference == "digits:4-int8" and "digits:production becomes digits:4-int8" in yes.words
    reasons = [
        (None, "nothing is compared"),
        (comparison("running", elapsed=12), "still measuring, 12 of 60 s"),
        (comparison("queued"), "waits"),
        (comparison("cancelled"), "cancelled"),
        (comparison("failed"), "failed"),
        (comparison(gate_fails=True), "gate failed: top-1 agreement ≥ 0.98, saw 0.971"),
        (comparison(arms=1), "alone"),
        (
            replace(done, arms=(done.arms[0], replace(done.arms[1], errors=3))),
            "B answered 3 requests of 5600 with an error",
        ),
        (replace(done, arms=(done.arms[0], replace(done.arms[1], requests=0))), "B answered nothing"),
    ]
    for value, words in reasons:
        state = promotion(value, versions())
        assert not state.enabled and words in state.words
    serving = tuple(
        replace(row, variants=tuple(replace(one, aliases=("production",)) for one in row.variants))
        for row in versions()
    )
    assert promotion(done, serving).words == "B is production already"


async def test_a_disabled_promotion_shows_its_reason() -> None:
    for size in SIZES:
        text = await shown(size, comparison(gate_fails=True))
        assert "promote B is off: gate failed: top-1 agreement ≥ 0.98, saw 0.971" in text
        assert "✗" in text and "failed" in text


def test_with_more_arms_the_better_one_is_offered() -> None:
    value = comparison(arms=3)
    rows = (replace(value.rows[0], better="C"), *value.rows[1:])
    assert promotion(replace(value, rows=rows)).reference == "digits:4-fp16"


@pytest.mark.parametrize("width", range(10, 240, 7))
@pytest.mark.parametrize("arms", [1, 2, 4])
def test_tables_and_cards_keep_to_their_width(width: int, arms: int) -> None:
    value = comparison(arms=arms)
    for line in card_lines(value, versions(), width) + measured_lines(value, width):
        assert length(line) <= width
    if width >= 60:
        assert all(length(line) <= width for line in verdict_lines(value, width))


def test_a_ratio_is_never_cut() -> None:
    for width in range(30, 140):
        text = plain(verdict_lines(comparison(), width))
        assert not re.search(r"1\.83(?!×)", text)
        assert not re.search(r"1\.79(?!–1\.88)", text)


def test_arms_are_named_as_short_as_they_differ() -> None:
    assert arm_labels(comparison()) == ["A fp32", "B int8"]
    value = comparison()
    twins = replace(value, arms=(value.arms[0], replace(value.arms[1], target="digits:4-fp32")))
    assert arm_labels(twins) == ["A 3-fp32", "B 4-fp32"]


def test_words_from_the_engine_without_a_ratio_are_kept() -> None:
    value = comparison()
    row = replace(value.rows[0], words="too few requests, 12 of 30", better="", ratio=None)
    line = plain(verdict_lines(replace(value, rows=(row,), fidelity=()), 100)).split("\n")[1]
    assert "too few requests" in line and "12 of 30" in line and not re.search("[▲▼=]", line)


def test_a_share_is_never_rounded_up_to_one() -> None:
    assert gate_value(0.999999) != "1" and gate_value(1.0) == "1" and gate_value(0.971) == "0.971"
    gate = Gate(name="cosine", rule="cosine ≥ 0.99", value=0.98996, passed=False)
    assert gate_value(gate.value) != "0.99"
