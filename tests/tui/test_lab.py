"""The lab on Models: the choice and its reasons, the dialog of recipes, what runs, what is stale."""

from __future__ import annotations

from dataclasses import replace

from studio.core.jobs import STEPS, Job, Step
from studio.core.views import VariantRow
from studio.tui.lab_dialog import LabDialog, offers
from studio.tui.widgets import job_text, version_text
from tests.tui.conftest import Studio, screen_text, until
from tests.tui.stub import StubClient, filled
from tests.tui.values import job, version_row


async def ready(pilot) -> None:  # type: ignore[no-untyped-def]
    await until(pilot, lambda: pilot.app.current and pilot.app.current.detail, "the first version is shown")


def in_lab(state: str = "running", progress: float | None = 0.45) -> Job:
    """A job that a user asked the lab for, on cancer:1."""
    steps = tuple(
        Step(name=name, state="running", started=1.0, progress=progress, detail="int8: measuring latency")
        if name == "measured" and state == "running"
        else Step(name=name, state="pending" if name in ("optimised", "verified", "measured") else "skipped")
        for name in STEPS
    )
    return replace(job(9, "queued"), stem="cancer:1", state=state, model="cancer", version=1, kind="lab", steps=steps)


async def test_the_choice_is_seen_with_its_reasons(studio: Studio) -> None:
    async with studio(filled()) as pilot:
        await ready(pilot)
        words = " ".join(screen_text(pilot.app).split())
        assert "auto ★ int8 1.83x faster, 3.9x smaller" in words
        await pilot.press("enter")
        await until(pilot, lambda: "★ int8 " in screen_text(pilot.app), "the variants")
        text = screen_text(pilot.app)
        assert "◆ fp32" in text
        assert "fp16: not distinguishable" in text


async def test_recipes_are_chosen_and_handed_to_the_lab(studio: Studio) -> None:
    client = filled()
    async with studio(client) as pilot:
        await ready(pilot)
        await pilot.press("L")
        await until(pilot, lambda: isinstance(pilot.app.screen, LabDialog), "the dialog")
        await pilot.pause()
        words = screen_text(pilot.app)
        # What every arrival gets and is missing here is chosen; what is broken is not offered.
        assert "● int8-static" in words and "○ small" in words and "○ int8 " in words
        assert "broken" not in words
        assert "run 1 recipe " in words
        await pilot.press("j", "space")
        await until(pilot, lambda: "● small" in screen_text(pilot.app), "a second one is chosen")
        assert "From small.toml." in screen_text(pilot.app)
        await pilot.press("enter")
        await until(pilot, lambda: client.called("make_variants"), "the order")
        assert client.called("make_variants") == [("make_variants", "cancer:1", ("int8-static", "small"), False)]


async def test_what_was_judged_is_judged_again_only_when_chosen(studio: Studio) -> None:
    client = filled()
    async with studio(client, size=(80, 24)) as pilot:
        await ready(pilot)
        await pilot.press("L")
        await until(pilot, lambda: isinstance(pilot.app.screen, LabDialog), "the dialog")
        await pilot.press("space")  # not the missing one
        await until(pilot, lambda: "choose one first" in screen_text(pilot.app), "nothing is chosen")
        await pilot.press("enter")
        assert isinstance(pilot.app.screen, LabDialog)
        await pilot.press("j", "j", "space", "y")
        await until(pilot, lambda: client.called("make_variants"), "the order")
        assert client.called("make_variants")[0][2:] == (("fp16",), True)


def test_stale_recipes_are_chosen_at_first() -> None:
    row = version_row("digits", 1, {}, True)
    stale = tuple(replace(one, stale="measured with 2 cores; this machine has 8") for one in row.variants)
    row = replace(row, variants=stale)
    state = StubClient().lab()
    dialog = LabDialog(row, state, ("L",))
    assert dialog._chosen == {"fp16", "int8", "int4", "int8-static"}
    assert [one.name for one in offers(state, row)] == ["int8-static", "small", "fp16", "int8", "int4"]


async def test_the_lab_at_work_is_seen_beside_the_variants(studio: Studio) -> None:
    client = filled()
    async with studio(client) as pilot:
        await ready(pilot)
        await pilot.press("enter")
        client.push("job", in_lab())
        await until(pilot, lambda: "int8: measuring latency" in screen_text(pilot.app), "its progress")
        assert "45 %" in screen_text(pilot.app)
        client.push("job", replace(in_lab("done"), updated=2e9))
        await until(pilot, lambda: "int8: measuring latency" not in screen_text(pilot.app), "its end")


async def test_stale_figures_are_marked(studio: Studio) -> None:
    client = filled()
    rows: list[VariantRow] = [
        replace(one, stale="measured with onnxruntime 1; this is onnxruntime 2") for one in client.rows[0].variants
    ]
    client.rows[0] = replace(client.rows[0], variants=tuple(rows), auto="fp32", choice="fp32: nothing is faster here.")
    async with studio(client) as pilot:
        await ready(pilot)
        await pilot.press("enter")
        await until(pilot, lambda: "stale: measured with onnxruntime 1" in screen_text(pilot.app), "why it is stale")
        assert screen_text(pilot.app).count("! stale") >= 2 and "✓ keep" not in screen_text(pilot.app)


async def test_h_holds_the_lab_and_lets_it_go_on(studio: Studio) -> None:
    client = filled()
    async with studio(client) as pilot:
        await ready(pilot)
        await pilot.press("H")
        await until(pilot, lambda: "lab paused" in screen_text(pilot.app).splitlines()[0], "the header")
        await pilot.press("2", "H")
        await until(pilot, lambda: "lab paused" not in screen_text(pilot.app).splitlines()[0], "it goes on")
        assert [call[0] for call in client.calls if "_lab" in call[0]] == ["pause_lab", "resume_lab"]


async def test_the_automatic_choice_is_offered_first_for_promotion(studio: Studio) -> None:
    client = filled()
    async with studio(client) as pilot:
        await ready(pilot)
        await pilot.press("p")
        await until(pilot, lambda: "Promote cancer" in screen_text(pilot.app), "the dialog")
        assert "1-int8  ★ keep" in screen_text(pilot.app)


def test_in_the_inbox_a_lab_job_is_called_so_and_shows_its_own_steps() -> None:
    cells = job_text.cells(in_lab(), 10.0)
    assert cells["name"] == "lab: cancer:1" and cells["steps"][0] == "– – – – – – ○ ○ ◐"
    shown = job_text.steps(in_lab(), 10.0, job_text.Keys()).plain
    assert "arrived" not in shown and "measured" in shown and "45 %" in shown


def test_long_reasons_hang_under_their_first_word() -> None:
    long = "int8: 1.2x faster, 3.5x smaller, agrees on 100 % of 172 labelled samples; fp16 kept too: " + "as fast " * 9
    row = replace(version_row("digits", 1, {}, True), choice=f"{long.strip()}.")
    lines = version_text.choice(row, None, 40).plain.splitlines()
    assert lines[0] == "★ int8  1.2x faster, 3.5x smaller"
    assert all(len(line) <= 40 for line in lines)
    assert lines[2].startswith("    ") and any(line.startswith("  fp16 kept too") for line in lines)
