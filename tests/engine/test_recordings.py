"""Recordings in the engine: begun, limited, ended and deleted by word of the user, and there again after a restart."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from studio.core.errors import InvalidInput, NotFound, Refused
from studio.core.manifest import Samples
from studio.core.recording import RecordingPlan, part_name
from studio.core.tensors import Signature, TensorSpec
from studio.engine.bus import Bus
from studio.engine.captured import Captured
from studio.engine.logs import Logs
from studio.engine.recordings import PLAN, Recordings
from tests.manifests import SIGNATURE, version

Made = Callable[[], Recordings]


class Told:
    """What the server was told last, and how often someone was told of a change."""

    def __init__(self) -> None:
        self.plans: tuple[RecordingPlan, ...] = ()
        self.changes = 0

    def change(self) -> None:
        self.changes += 1

    def send(self, plans: tuple[RecordingPlan, ...]) -> None:
        self.plans = plans


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def made(tmp_path: Path, told: Told) -> Made:
    def signature(model: str) -> Signature:
        if model == "whole":
            return Signature((TensorSpec("x", "FP32", ()),), SIGNATURE.outputs)
        if model != "digits":
            raise NotFound(f"There is no model {model!r}.")
        return SIGNATURE

    def build() -> Recordings:
        logs = Logs(tmp_path / "engine.log", Bus())
        return Recordings(tmp_path / "recordings", logs, told.send, signature, told.change)

    return build


def fill(folder: Path, rows: int, number: int = 1) -> None:
    values = np.random.default_rng(number).random((rows, 64)).astype(np.float32)
    np.savez(folder / part_name(number, 1, 1, rows), x=values)


def private(path: Path) -> bool:
    return path.stat().st_mode & 0o077 == 0


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


async def test_a_recording_is_begun_seen_ended_and_deleted(made: Made, told: Told, tmp_path: Path) -> None:
    recordings = made()
    await recordings.open()
    assert told.plans == () and await recordings.all() == []
    begun = await recordings.start("digits", 100, 60, "cli")
    (plan,) = told.plans
    folder = Path(plan.folder)
    assert begun.plan == plan and (plan.rows, begun.state, begun.rows) == (100, "recording", 0)
    assert plan.until == pytest.approx(time.time() + 60, abs=5)
    assert private(folder) and private(folder / PLAN)
    fill(folder, 30)
    (active,) = await recordings.active()
    assert (active.rows, active.bytes) == (30, (folder / part_name(1, 1, 1, 30)).stat().st_size)
    stopped = await recordings.stop("digits", "cli")
    assert (stopped.state, stopped.rows, told.plans) == ("stopped", 30, ())
    assert await recordings.active() == ()
    again = await recordings.start("digits", 20, 60, "cli")
    assert again.state == "full"  # what there is counts
    assert await recordings.delete("digits", "cli") == 30
    assert names(folder.parent) == [] and told.plans == ()
    assert told.changes == 5


async def test_it_goes_on_after_a_restart_and_ends_in_time(made: Made, told: Told) -> None:
    first = made()
    await first.open()
    await first.start("digits", 100, 60, "cli")
    (plan,) = told.plans
    second = made()
    await second.open()
    assert told.plans == (plan,)
    path = Path(plan.folder) / PLAN
    path.write_text(path.read_text().replace(f"{plan.until}", f"{time.time() - 1}"))
    third = made()
    await third.open()
    assert told.plans == () and (await third.get("digits")).state == "over"
    path.write_text("{")
    await made().open()
    assert told.plans == () and path.exists()


async def test_what_can_not_be_is_refused_in_words(made: Made, tmp_path: Path) -> None:
    recordings = made()
    await recordings.open()
    for model, rows, seconds, error in (
        ("digits", 0, 60, InvalidInput),
        ("digits", 10, -1, InvalidInput),
        ("digits", 10**9, 60, InvalidInput),
        ("../digits", 10, 60, InvalidInput),
        ("other", 10, 60, NotFound),
        ("whole", 10, 60, Refused),
    ):
        with pytest.raises(error):
            await recordings.start(model, rows, seconds, "cli")
    assert not (tmp_path / "recordings").exists()
    with pytest.raises(NotFound, match="Nothing was recorded of 'digits'"):
        await recordings.stop("digits", "cli")
    with pytest.raises(NotFound):
        await recordings.delete("digits", "cli")


async def test_the_lab_takes_recorded_requests_in_place_of_made_up_inputs_alone(
    made: Made, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    recordings = made()
    await recordings.open()
    captured = Captured(recordings.folder)
    bare = version(None)
    assert captured.over(bare) == bare
    await recordings.start("digits", 100, 60, "cli")
    folder = Path(told.plans[0].folder)
    fill(folder, 10)
    assert captured.over(bare) == bare  # too few to say anything
    fill(folder, 30, number=2)
    over = captured.over(bare)
    monkeypatch.setattr(time, "localtime", lambda *_: time.gmtime(10**9))
    assert (over.samples.kind, over.samples.count) == ("captured", 40)
    assert over.samples.file is not None
    path = captured.path(over.samples.file)
    assert path is not None and path.parent == folder and len(np.load(path)["x"]) == 40
    assert captured.over(bare) == over  # the same rows are the same samples
    own = replace(bare, samples=Samples(kind="samples", count=8))
    assert captured.over(own) == own
    await recordings.delete("digits", "cli")
    assert captured.over(bare) == bare and not path.exists()
