"""The Models screen: first run, the table, marks, promotion, removal, samples."""

from __future__ import annotations

from pathlib import Path

from studio.core.errors import Unavailable
from studio.tui.dialogs import MoveDialog, PurgeDialog
from studio.tui.screens.models import PAGE
from tests.tui.conftest import Studio, screen_text, until
from tests.tui.stub import StubClient, filled
from tests.tui.values import version_row


async def ready(pilot) -> None:  # type: ignore[no-untyped-def]
    await until(pilot, lambda: pilot.app.current and pilot.app.current.detail, "the first version is shown")


async def test_the_table_and_the_details_of_the_chosen_version(studio: Studio) -> None:
    async with studio(filled()) as pilot:
        await ready(pilot)
        words = screen_text(pilot.app)
        for expected in (
            "cancer:1",
            "digits:3",
            "production",
            "412 kB",
            "fidelity",
            "Handwritten digits",
            "4 versions",
        ):
            assert expected in words
        await pilot.press("j", "j")
        await until(pilot, lambda: pilot.app.current.detail and pilot.app.current.detail.row.version == 2, "digits:2")
        assert "digits:2" in screen_text(pilot.app)


async def test_first_run_names_the_inbox_and_the_samples_key(studio: Studio, tmp_path: Path) -> None:
    async with studio(StubClient(), samples=[tmp_path], size=(80, 24)) as pilot:
        await until(pilot, lambda: "No models yet" in screen_text(pilot.app), "the empty state")
        words = screen_text(pilot.app)
        assert "/ws/inbox" in words and "Press s to run the built-in samples" in words


async def test_without_an_engine_the_screen_says_why_and_r_tries_again(studio: Studio) -> None:
    problem = Unavailable("The engine did not start.", "Port 8080 is taken.", "Free it.")
    async with studio(problem) as pilot:
        await until(pilot, lambda: "The engine did not start." in screen_text(pilot.app), "the problem")
        words = screen_text(pilot.app)
        assert "Port 8080 is taken." in words and "Press R to try again." in words
        assert "no engine" in words.splitlines()[0]
        pilot.app._connect = filled
        await pilot.press("R")
        await ready(pilot)


async def test_samples_are_added_in_order_each_after_the_one_before(studio: Studio, tmp_path: Path) -> None:
    folders = []
    for number in (1, 2):
        folder = tmp_path / "samples" / str(number)
        folder.mkdir(parents=True)
        for name in ("digits.pt2", "digits.npz", "digits.toml"):
            (folder / name).write_text("")
        folders.append(folder)
    client = StubClient()
    async with studio(client, samples=folders) as pilot:
        await until(pilot, lambda: not pilot.app.why_not("samples"), "samples are offered")
        await pilot.press("s")
        await until(pilot, lambda: len(client.job_list) == 2, "two jobs")
        added = [Path(call[1]) for call in client.called("add")]
        assert [path.parent.name for path in added] == ["1", "1", "1", "2", "2", "2"]
        assert [path.name for path in added[:3]] == ["digits.npz", "digits.toml", "digits.pt2"]
        assert pilot.app.screen_name == "inbox"


async def test_samples_are_not_offered_where_there_are_models(studio: Studio, tmp_path: Path) -> None:
    async with studio(filled(), samples=[tmp_path]) as pilot:
        await ready(pilot)
        await pilot.press("s")
        assert any("empty workspace" in note.message for note in pilot.app._notifications)


async def test_promote_shows_old_and_new_and_asks_with_another_key(studio: Studio) -> None:
    client = filled()
    async with studio(client) as pilot:
        await ready(pilot)
        await pilot.press("G", "enter", "j", "j", "p")
        await until(pilot, lambda: isinstance(pilot.app.screen, MoveDialog), "the dialog")
        await pilot.pause()
        words = screen_text(pilot.app)
        assert "digits:2-int8  →  digits:3-int8" in words
        await pilot.press("p")
        assert isinstance(pilot.app.screen, MoveDialog) and not client.called("move_alias")
        await pilot.press("y")
        await until(pilot, lambda: client.called("move_alias"), "the move")
        assert client.called("move_alias") == [("move_alias", "digits", "production", "3-int8", "")]


async def test_promote_keeps_the_reason_typed_and_escape_leaves_it(studio: Studio) -> None:
    client = filled()
    async with studio(client) as pilot:
        await ready(pilot)
        await pilot.press("G", "p")
        await until(pilot, lambda: isinstance(pilot.app.screen, MoveDialog), "the dialog")
        await pilot.press("escape")
        assert not client.called("move_alias")
        await pilot.press("p")
        await until(pilot, lambda: isinstance(pilot.app.screen, MoveDialog), "the dialog again")
        await pilot.press("tab", *"yes", "enter")
        await until(pilot, lambda: client.called("move_alias"), "the move")
        assert client.called("move_alias")[0][3:] == ("3-fp32", "yes")


async def test_undo_and_roll_back(studio: Studio) -> None:
    client = filled()
    async with studio(client) as pilot:
        await ready(pilot)
        await pilot.press("u")
        await until(pilot, lambda: client.called("undo"), "undo")
        await pilot.press("G", "b")
        await until(pilot, lambda: "digits:2-int8  →  digits:1-fp32" in screen_text(pilot.app), "the question")
        await pilot.press("enter")
        await until(pilot, lambda: client.called("rollback"), "rollback")


async def test_marks_then_compare(studio: Studio) -> None:
    client = filled()
    async with studio(client) as pilot:
        await ready(pilot)
        assert "Mark two to four" in pilot.app.why_not("compare")
        await pilot.press("j", "space", "j", "space", "space", "space")
        await until(pilot, lambda: len(pilot.app.store.state.marked) == 2, "two marks")
        await pilot.press("c")
        await until(pilot, lambda: client.called("compare"), "a comparison")
        assert client.called("compare")[0][1].references == ("digits:1-fp32", "digits:2-fp32")
        await until(pilot, lambda: pilot.app.screen_name == "compare", "the Compare screen")


async def test_a_variant_can_be_marked_and_one_that_was_not_made_can_not(studio: Studio) -> None:
    async with studio(filled()) as pilot:
        await ready(pilot)
        await pilot.press("enter", "j", "j", "space")
        assert pilot.app.store.state.marked == ("cancer:1-int8",)
        await pilot.press("j")
        await pilot.pause()
        assert "int4 was not made" in pilot.app.why_not("mark")


async def test_archive_restore_purge(studio: Studio) -> None:
    client = filled()
    async with studio(client) as pilot:
        await ready(pilot)
        await pilot.press("D")
        assert any("Archive it first (d)" in note.message for note in pilot.app._notifications)
        await pilot.press("d")
        await until(pilot, lambda: client.called("archive"), "archived")
        await pilot.press("a")
        await until(pilot, lambda: "▪ archived" in screen_text(pilot.app), "shown too")
        await pilot.press("g")
        await until(pilot, lambda: not pilot.app.why_not("purge"), "it is chosen")
        await pilot.press("D")
        await until(pilot, lambda: isinstance(pilot.app.screen, PurgeDialog), "the dialog")
        await pilot.press(*"cancer", "enter")
        assert isinstance(pilot.app.screen, PurgeDialog) and not client.called("purge")
        await pilot.press("colon", "1", "enter")
        await until(pilot, lambda: client.called("purge"), "purged")
        assert client.called("purge") == [("purge", "cancer:1", "cancer:1")]


async def test_a_refusal_of_the_engine_is_told_with_why_and_fix(studio: Studio) -> None:
    async with studio(filled()) as pilot:
        await ready(pilot)
        await pilot.press("j", "j", "d")
        await until(
            pilot, lambda: any(note.title == "digits:2 serves." for note in pilot.app._notifications), "a toast"
        )
        note = next(note for note in pilot.app._notifications if note.title == "digits:2 serves.")
        assert "production points at it." in note.message and "Move production first" in note.message


async def test_filter_asks_the_engine_and_escape_clears_it(studio: Studio) -> None:
    client = filled()
    async with studio(client) as pilot:
        await ready(pilot)
        await pilot.press("slash", *"cancer", "enter")
        await until(pilot, lambda: pilot.app.current.page.total == 1, "one match")
        assert "filter: cancer" in screen_text(pilot.app)
        await pilot.press("slash", "x")
        await until(pilot, lambda: "No version matches" in screen_text(pilot.app), "nothing matches")
        await pilot.press("escape")
        await until(pilot, lambda: pilot.app.current.page.total == 4, "all again")


async def test_long_tables_are_paged_from_the_engine(studio: Studio) -> None:
    client = StubClient(rows=[version_row("digits", n, {}, n == 250) for n in range(1, 251)])
    async with studio(client) as pilot:
        await ready(pilot)
        assert "1-100 of 250" in screen_text(pilot.app)
        await pilot.press("G")
        await until(pilot, lambda: pilot.app.current.target.startswith("digits:250-"), "the last row of all")
        assert "201-250 of 250" in screen_text(pilot.app)
        await pilot.press("g")
        await until(pilot, lambda: pilot.app.current.target.startswith("digits:1-"), "the first row of all")
        assert max(call[6] for call in client.called("versions")) == PAGE


async def test_copy_says_what_was_copied(studio: Studio) -> None:
    async with studio(filled()) as pilot:
        await ready(pilot)
        await pilot.press("y")
        await until(pilot, lambda: pilot.app.clipboard.startswith("curl"), "the clipboard")
        assert any(note.title == "Copied curl for cancer:1-fp32" for note in pilot.app._notifications)


async def test_export_writes_a_report_with_every_verdict(studio: Studio, tmp_path: Path) -> None:
    async with studio(filled()) as pilot:
        await ready(pilot)
        await pilot.press("e")
        report = (tmp_path / "reports" / "cancer-1.md").read_text()
        assert "1.83x faster" in report and "No MatMul large enough" in report and "AMD EPYC" in report
        assert "Chosen: int8: 1.83x faster, 3.9x smaller" in report


async def test_h_and_l_turn_the_tabs(studio: Studio) -> None:
    async with studio(filled()) as pilot:
        await ready(pilot)
        for words in ("1.83x", "image FP32", "sha256", "Conv", "alias.moved"):
            await pilot.press("l")
            await until(pilot, lambda w=words: w in screen_text(pilot.app), words)
        await pilot.press("l")
        await until(pilot, lambda: "agrees with the source" in screen_text(pilot.app), "round to the overview")
