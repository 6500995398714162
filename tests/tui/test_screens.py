"""Inbox, Compare, Serve, Log, header, footer, leaving."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest

from studio.core.comparison import Plan
from studio.core.metrics import ShadowFigures
from studio.core.views import ArmRow, LogLine, RouteDetail
from studio.tui.dialogs import QuitDialog, TextDialog
from studio.tui.screens.serve import Route, routes_of
from studio.tui.widgets.tables import Table
from tests.tui.conftest import Studio, screen_text, until
from tests.tui.stub import StubClient, filled
from tests.tui.values import START, comparison, job, version_row


async def test_inbox_shows_nine_steps_and_the_failure_with_its_fix(studio: Studio) -> None:
    async with studio(filled()) as pilot:
        await pilot.press("2")
        await until(pilot, lambda: "✓ ✓ ✓ ✓ ✓ ✓ ◐ ○ ○" in screen_text(pilot.app), "the steps of the running job")
        assert "optimised ━━━╌╌╌╌╌ 40 %" in screen_text(pilot.app)
        assert pilot.app.why_not("retry").startswith("It is running")
        await pilot.press("j", "j")
        await until(pilot, lambda: "Export it with torch.export.save" in screen_text(pilot.app), "the fix")
        words = screen_text(pilot.app)
        assert "This file holds a pickle" in words and "✓ ✓ ✗ ○ ○ ○ ○ ○ ○" in words


async def test_inbox_retry_cancel_and_log(studio: Studio) -> None:
    client = filled()
    async with studio(client) as pilot:
        await pilot.press("2")
        await until(pilot, lambda: pilot.app.current and pilot.app.current.chosen, "a job is chosen")
        await pilot.press("x")
        await until(pilot, lambda: client.called("cancelled"), "cancelled")
        await until(pilot, lambda: pilot.app.store.state.jobs["j0005"].state == "cancelled", "shown as cancelled")
        await pilot.press("r")
        await until(pilot, lambda: client.called("queued"), "queued again")
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(pilot.app.screen, TextDialog), "the log")
        await pilot.pause()
        assert "log of j0005" in screen_text(pilot.app)
        await pilot.press("escape")


async def test_job_events_move_the_row_and_the_header(studio: Studio) -> None:
    client = StubClient()
    async with studio(client) as pilot:
        await pilot.press("2")
        await until(pilot, lambda: "Nothing has arrived yet." in screen_text(pilot.app), "the empty inbox")
        client.push("job", job(1, "running", 3, progress=0.5))
        await until(pilot, lambda: "converted ━━━━╌╌╌╌ 50 %" in screen_text(pilot.app), "progress")
        assert "2 Inbox 1▸" in screen_text(pilot.app)
        client.push("job", job(1))
        await until(pilot, lambda: "digits:1" in screen_text(pilot.app), "what it became")
        assert "2 Inbox  3 Compare" in screen_text(pilot.app)
        client.push("job", job(2, "running", 2, stem="newer"))
        await until(pilot, lambda: pilot.app.current.chosen.stem == "newer", "the cursor follows what arrives")
        client.push("job", job(3, "running", 2, stem="newest"))
        await until(pilot, lambda: pilot.app.current.chosen.stem == "newest", "and again")
        await pilot.press("j")
        client.push("job", job(4, "running", 2, stem="last"))
        await until(pilot, lambda: "last" in screen_text(pilot.app), "one more arrives")
        assert pilot.app.current.chosen.stem == "newer"  # the user chose it


async def test_compare_promotes_swaps_and_reports(studio: Studio, tmp_path: Path) -> None:
    client = filled()
    client.comparison_list.append(comparison(Plan(references=("digits:2-int8", "digits:3-fp32"))))
    async with studio(client) as pilot:
        await pilot.press("3")
        await until(pilot, lambda: "B is faster" in screen_text(pilot.app), "the verdict")
        await pilot.press("e")
        assert "B faster, 1.83x" in (tmp_path / "reports" / "comparison-c1.md").read_text()
        await pilot.press("x")
        assert pilot.app.store.state.marked == ("digits:3-fp32", "digits:2-int8")
        await pilot.press("c")
        await until(pilot, lambda: client.called("compare"), "measured again")
        assert client.called("compare")[0][1].references == ("digits:3-fp32", "digits:2-int8")
        await until(pilot, lambda: pilot.app.current.comparison.id == "c2", "the newest is shown")
        await pilot.press("n")
        await until(pilot, lambda: pilot.app.current.comparison.id == "c1", "the one before")
        await pilot.press("p")
        await until(pilot, lambda: "digits:2-int8  →  digits:3-fp32" in screen_text(pilot.app), "old and new")
        await pilot.press("y")
        await until(pilot, lambda: client.called("move_alias"), "promoted")
        assert client.called("move_alias") == [("move_alias", "digits", "production", "3-fp32", "")]


async def test_compare_without_one_names_the_next_key(studio: Studio) -> None:
    async with studio(StubClient()) as pilot:
        await pilot.press("3")
        await until(pilot, lambda: "Mark two variants with space" in screen_text(pilot.app), "the empty state")
        await pilot.press("c")
        assert any("Mark two to four" in note.message for note in pilot.app._notifications)


async def test_serve_shows_routes_traffic_and_how_to_call(studio: Studio) -> None:
    client = filled()
    async with studio(client) as pilot:
        await pilot.press("4")
        await until(pilot, lambda: ":production" in screen_text(pilot.app), "routes")
        assert "2-int8" in screen_text(pilot.app)
        client.tick("digits:2-int8", 55, time.time())
        await until(pilot, lambda: "55 req/s" in screen_text(pilot.app).splitlines()[0], "the rate in the header")
        await until(pilot, lambda: "oip-v2" in screen_text(pilot.app), "the tail")
        await pilot.press("j", "j", "l")
        await pilot.press("escape")


async def test_serve_shows_a_split_and_its_shadow(studio: Studio) -> None:
    client = filled()
    seen = ShadowFigures(model="digits", target="digits:2-int8", shadow="digits:1-fp32", compared=7, error="It broke.")
    seen.cosines, seen.cosine_sum = 7, 6.93
    arms = (
        ArmRow(name="production", target="digits:2-int8", share=0.9),
        ArmRow(name="3", target="digits:3-fp32", share=0.1),
    )
    detail = RouteDetail(model="digits", arms=arms, shadow="digits:1-fp32", shadow_name="1", share=0.2, figures=(seen,))
    client.route_list = [detail]
    async with studio(client) as pilot:
        await pilot.press("4")
        await until(pilot, lambda: "split" in screen_text(pilot.app), "the split")
        for words in (":production  90", ":3  10", ":1  shadow 20"):
            assert words in screen_text(pilot.app), screen_text(pilot.app)
        view = pilot.app.current
        view.query_one("#routes", Table).choose("digits")
        view.query_one("TabbedContent").active = "route"
        await until(pilot, lambda: "7 compared" in screen_text(pilot.app), "figures")
        assert "It broke." in screen_text(pilot.app)
        client.route_list = [replace(detail, figures=(replace(seen, compared=8),))]
        client.tick("digits:2-int8", 55, time.time())
        await until(pilot, lambda: "8 compared" in screen_text(pilot.app), "newer figures")


async def test_serve_copies_and_load_tests_the_chosen_route(studio: Studio) -> None:
    client = filled()
    async with studio(client) as pilot:
        await pilot.press("4")
        await until(
            pilot, lambda: pilot.app.current and pilot.app.current.id == "serve" and pilot.app.current.chosen, "x"
        )
        pilot.app.current.query_one("#routes", Table).choose("digits:production")
        await pilot.press("Y")
        await until(pilot, lambda: "import requests" in pilot.app.clipboard, "Python copied")
        assert "digits:production" in pilot.app.clipboard
        pilot.app.current.query_one("TabbedContent").active = "curl"
        await until(pilot, lambda: "curl -s http://127.0.0.1:8080/v2/models/digits" in screen_text(pilot.app), "curl")
        await pilot.press("l")
        await until(pilot, lambda: client.called("load"), "the load test")
        assert client.called("load")[0][1] == "digits:2-int8"


def test_routes_name_what_answers() -> None:
    rows = (version_row("digits", 1, {"production": "1-int8"}, False), version_row("digits", 2, {}, True))
    assert routes_of(rows) == [
        Route("digits", "digits:1-int8"),
        Route("digits:production", "digits:1-int8"),
        Route("digits:latest", "digits:2-fp32"),
    ]
    assert routes_of(rows[1:])[0] == Route("digits", "digits:2-fp32")


async def test_log_filters_by_words_level_and_source_and_follows(studio: Studio) -> None:
    client = filled()
    async with studio(client) as pilot:
        await pilot.press("5")
        await until(pilot, lambda: "4 lines, all sources" in screen_text(pilot.app), "all lines")
        await pilot.press("v")
        await until(pilot, lambda: "2 lines, all sources, warning and up" in screen_text(pilot.app), "warnings")
        await pilot.press("w", "w")
        await until(pilot, lambda: "1 line, job" in screen_text(pilot.app), "warnings of jobs")
        await pilot.press("escape", "slash", *"nowhere", "enter")
        await until(pilot, lambda: "No line matches." in screen_text(pilot.app), "no match")
        await pilot.press("escape")
        client.push("log", LogLine(at=START + 9, source="engine", level="info", text="a new line"))
        await until(pilot, lambda: "a new line" in screen_text(pilot.app), "a line that came")
        await pilot.press("f")
        await until(pilot, lambda: "not following" in screen_text(pilot.app), "not following")


@pytest.mark.parametrize("size", [(80, 24), (130, 40)])
async def test_header_and_footer_are_never_cut_off(studio: Studio, size: tuple[int, int]) -> None:
    client = filled()
    async with studio(client, size=size) as pilot:
        client.tick("digits:2-int8", 1234, time.time())
        await until(pilot, lambda: "1234 req/s" in screen_text(pilot.app), "traffic")
        for number, title in enumerate(("Models", "Inbox", "Compare", "Serve", "Log"), 1):
            await pilot.press(str(number))
            await until(pilot, lambda t=title: pilot.app.current and pilot.app.current.id == t.lower(), title)
            lines = screen_text(pilot.app).splitlines()
            assert all(len(line) == size[0] for line in lines) and len(lines) == size[1]
            assert f"{number} {title}" in lines[0] and "8080" in lines[0] and lines[0].rstrip().endswith("✓")
            assert lines[-1].rstrip().endswith("? Help")


@pytest.mark.parametrize("theme", ["studio-light", "ansi-dark"])
async def test_other_themes_show_the_same(studio: Studio, theme: str) -> None:
    async with studio(filled(), theme=theme, size=(80, 24)) as pilot:
        await until(pilot, lambda: "digits:3" in screen_text(pilot.app), "the table")
        for number in "2345":
            await pilot.press(number)
        await until(pilot, lambda: "all sources" in screen_text(pilot.app), "the last screen")


async def test_without_colour_words_and_symbols_remain(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    async with studio(filled()) as pilot:
        await pilot.press("2")
        await until(pilot, lambda: "failed: recognised" in screen_text(pilot.app), "a state in words")


async def test_t_turns_the_themes(studio: Studio) -> None:
    async with studio(filled()) as pilot:
        seen = []
        for _ in range(4):
            await pilot.press("t")
            seen.append(pilot.app.theme)
        assert seen == ["studio-light", "ansi-dark", "ansi-light", "studio-dark"]


async def test_zoom_grow_and_reset(studio: Studio) -> None:
    async with studio(filled()) as pilot:
        await until(pilot, lambda: pilot.app.current and pilot.app.current.detail, "details")
        pane = pilot.app.current.query_one("#models-list")
        width = pane.size.width
        await pilot.press("plus")
        await until(pilot, lambda: pane.size.width > width, "larger")
        await pilot.press("0")
        await until(pilot, lambda: pane.size.width == width, "as before")
        await pilot.press("z")
        await until(pilot, lambda: pane.size.width > 120, "zoomed")
        await pilot.press("z")
        await until(pilot, lambda: pane.size.width == width, "back")


async def test_jump_goes_to_the_labelled_pane(studio: Studio) -> None:
    async with studio(filled()) as pilot:
        await until(pilot, lambda: pilot.app.current and pilot.app.current.detail, "details")
        first = pilot.app.focused
        await pilot.press("apostrophe")
        await pilot.press("s")
        await until(pilot, lambda: pilot.app.focused is not first, "another widget has the focus")


async def test_help_and_palette_know_the_actions(studio: Studio) -> None:
    async with studio(filled()) as pilot:
        await pilot.press("question_mark")
        await until(pilot, lambda: "Keys on Models" in screen_text(pilot.app), "help")
        await pilot.press("escape", "colon", *"theme")
        await until(pilot, lambda: "Next theme" in screen_text(pilot.app), "the palette finds it")


async def test_svg_of_the_screen(studio: Studio, tmp_path: Path) -> None:
    async with studio(filled()) as pilot:
        await pilot.press("ctrl+s")
        assert len(list((tmp_path / "reports").glob("models-*.svg"))) == 1


async def test_leaving_asks_only_when_the_engine_is_ours(studio: Studio) -> None:
    client = filled()
    async with studio(client) as pilot:
        await pilot.press("q")
        await pilot.pause()
        assert pilot.app.return_value == "keep"
    async with studio(client, owns_engine=lambda: True) as pilot:
        await pilot.press("q")
        await until(pilot, lambda: isinstance(pilot.app.screen, QuitDialog), "the question")
        await pilot.press("escape", "q")
        await until(pilot, lambda: isinstance(pilot.app.screen, QuitDialog), "the question again")
        await pilot.press("s")
        await until(pilot, lambda: pilot.app.return_value == "stop", "stopped")
        assert client.called("shutdown")


async def test_the_clock_stands_still_when_nothing_moves(studio: Studio) -> None:
    client = StubClient()
    async with studio(client) as pilot:
        clock = pilot.app._clock
        await until(pilot, lambda: not clock._active.is_set(), "paused")
        client.push("job", job(1, "running", 3))
        await until(pilot, lambda: clock._active.is_set(), "runs while a job runs")
        client.push("job", job(1))
        await until(pilot, lambda: not clock._active.is_set(), "paused again")
