"""The lab with real workers: a choice with its reasons, a recipe of the user's own, a pause, evidence taken over."""

from __future__ import annotations

import shutil
from pathlib import Path

import psutil
import pytest

from studio.core.errors import InvalidInput
from studio.pipeline.guard import WORKER_NAME
from tests.journeys.engines import SAMPLES, RunningEngine, until
from tests.journeys.test_terminal import STUDIO, Terminal

SMALL = """title = "Sparse, then 8 bits"
[[steps]]
recipe = "sparse"
amount = 0.2
[[steps]]
recipe = "int8"
"""


@pytest.mark.slow
def test_the_lab_chooses_takes_orders_waits_and_does_nothing_twice(studio: RunningEngine, tmp_path: Path) -> None:
    client = studio.client
    studio.drop(SAMPLES / "1")
    job = studio.finished_job("digits")
    assert job.state == "done", job.problem
    row = client.version("digits", 1).row
    assert job.note == row.choice and row.choice.startswith(f"{row.auto}: ")
    assert client.resolve("digits:1-auto").variant == row.auto
    assert any(one.front for one in row.variants) and not any(one.stale for one in row.variants)

    # A recipe of the user's own, held in the middle of its work: its processes stand still.
    own = tmp_path / "small.toml"
    own.write_text(SMALL)
    (order,) = client.make_variants("digits:1", own=[own])
    until(lambda: client.job(order.id).current and client.job(order.id).state == "running", "the lab to begin")
    until(lambda: workers(studio), "a worker")
    assert client.pause_lab().paused and client.status().lab_paused
    until(lambda: all(state == psutil.STATUS_STOPPED for state in workers(studio)), "all of it to stand still")
    assert not client.job(order.id).finished
    assert not client.resume_lab().paused
    done = client.wait_job(order.id, timeout=120)
    assert done.state == "done", done.problem
    small = next(one for one in client.version("digits", 1).variants if one.variant == "small")
    assert small.plan.text == "sparse (amount 0.2), then int8" and small.measurement is not None
    assert small.measurement.tuned is not None and small.measurement.at(1, 1) is not None
    assert client.make_variants("digits:1", own=[own]) == ()
    own.write_text(SMALL.replace("amount", "amuont"))
    with pytest.raises(InvalidInput, match=r"small\.toml, line 4"):
        client.make_variants("digits:1", own=[own])

    # Production gets what `auto` means now. Judged once more, the graph stays, and the newest run holds.
    move = client.move_alias("digits", "production", "1-auto")
    assert move.after == f"1-{client.version('digits', 1).row.auto}"
    before = {one.variant: one for one in client.version("digits", 1).variants}
    (again,) = client.make_variants("digits:1", ["fp16"], again=True)
    assert client.wait_job(again.id, timeout=120).state == "done"
    after = {one.variant: one for one in client.version("digits", 1).variants}
    assert (after["fp16"].run, before["fp16"].run, after["int8"].run) == (2, 1, 1)
    assert after["fp16"].graph == before["fp16"].graph
    assert (studio.workspace / "store" / "models" / "digits" / "1-fp16@2.json").is_file()
    assert client.resolve("digits").target == f"digits:{move.after}"

    seen_in_the_terminal(studio, tmp_path)

    # The same files under another name: nothing is worked through again.
    for file in (SAMPLES / "1").iterdir():
        shutil.copy(file, studio.inbox / file.name.replace("digits", "numbers"))
    job = studio.finished_job("numbers")
    assert job.state == "done", job.problem
    taken = {one.variant: one for one in client.version("numbers", 1).variants}
    assert {one.taken_from for one in taken.values()} == {f"digits:1-{name}" for name in ("fp32", "fp16", "int8")}
    assert taken["fp16"].measurement == after["fp16"].measurement

    # What is deleted while the lab has it in hand is told as that.
    client.pause_lab()
    (order,) = client.make_variants("numbers:1", ["sparse"])
    client.archive("numbers:1")
    client.purge("numbers:1", "numbers:1")
    ended = client.job(order.id)
    assert (ended.state, ended.note) == ("cancelled", "numbers:1 was deleted")
    client.resume_lab()


def seen_in_the_terminal(studio: RunningEngine, folder: Path) -> None:
    """The choice, its reasons and the dialog of recipes, in a real terminal of the smallest size."""
    auto = studio.client.version("digits", 1).row.auto
    terminal = Terminal(folder, [str(STUDIO), "-w", str(studio.workspace)], 80, 24)
    try:
        terminal.see("digits:1")
        terminal.press("Enter")
        terminal.see(f"★ {auto}")
        terminal.press("L")
        shown = terminal.see("Lab: digits:1")
        assert "○ int4" in shown and "choose one first" in shown
        terminal.press("Escape")
        until(lambda: "choose one first" not in terminal.screen(), "the dialog to close")
        terminal.press("H")
        until(lambda: studio.client.lab().paused, "the lab to be held")
        terminal.press("H")
        until(lambda: not studio.client.lab().paused, "the lab to go on")
        terminal.press("q")
    finally:
        terminal.close()


def workers(studio: RunningEngine) -> list[str]:
    """The states of the engine's workers."""
    found = []
    for process in studio.children():
        try:
            if process.name() == WORKER_NAME:
                found.append(process.status())
        except psutil.NoSuchProcess:
            continue
    return found
