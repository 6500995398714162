"""Whatever lies in the inbox is told: what waits for a model, what is never taken in, and what to do about either."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from studio.core.errors import Conflict
from studio.core.jobs import Job
from tests.journeys.engines import SAMPLES, RunningEngine, until

SETTINGS = """
[serving]
port = 0
[inbox]
settle_seconds = 0.1
patience_seconds = 0.4
[workers]
recipes = []
measure_seconds = 0.4
"""
CANCER = SAMPLES / "3" / "cancer.onnx"


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningEngine]:
    """One engine for all of them; each uses stems of its own."""
    engine = RunningEngine(tmp_path_factory.mktemp("told") / "workspace")
    engine.workspace.mkdir()
    (engine.workspace / "studio.toml").write_text(SETTINGS)
    engine.start()
    yield engine
    assert engine.stop() == 0


def job_of(engine: RunningEngine, stem: str, state: str) -> Job:
    """The newest job of a stem, once it is in a state."""

    def see() -> Job | None:
        newest = next((job for job in engine.client.jobs(1000) if job.stem == stem), None)
        return newest if newest is not None and newest.state == state else None

    return until(see, f"{stem} to be {state}", 30)


def noted(engine: RunningEngine, stem: str) -> Job:
    """The job of a stem that has a note."""
    see = lambda: next((job for job in engine.client.jobs(1000) if job.stem == stem and job.note), None)  # noqa: E731
    return until(see, f"a note on {stem}", 30)


def test_companions_alone_wait_for_their_model_and_go_on_with_it(engine: RunningEngine) -> None:
    (engine.inbox / "early.toml").write_text('title = "Came first"\n')
    job = job_of(engine, "early", "waiting")
    assert job.standing == "needs model" and job.problem is not None
    said = job.problem.sentence()
    assert "'early.toml' waits for its model" in said and "holds settings" in said and "early.onnx" in said
    assert engine.client.status().jobs_waiting >= 1
    with pytest.raises(Conflict, match="nothing of it was taken in"):
        engine.client.retry_job(job.id)
    (engine.inbox / "early.onnx").write_bytes(CANCER.read_bytes())
    assert engine.registered_version("early") == 1
    jobs = [one for one in engine.client.jobs(1000) if one.stem == "early"]
    assert [one.id for one in jobs] == [job.id] and jobs[0].version == 1
    assert engine.client.version("early", 1).manifest.title == "Came first"


def test_more_companions_are_told_in_the_same_job_which_ends_with_them(engine: RunningEngine) -> None:
    (engine.inbox / "pair.py").write_text("def model(): ...\n")
    first = job_of(engine, "pair", "waiting")
    (engine.inbox / "pair.npz").write_bytes(b"PK\x05\x06" + bytes(18))
    until(lambda: len(engine.client.job(first.id).files) == 2, "the second file to be told")
    job = engine.client.job(first.id)
    assert job.problem is not None and "'pair.npz' and 'pair.py' wait for their model" in job.problem.what
    assert "code that makes a model" in job.problem.why and "sample inputs" in job.problem.why
    for name in ("pair.py", "pair.npz"):
        (engine.inbox / name).unlink()
    assert job_of(engine, "pair", "cancelled").id == first.id


def test_an_empty_folder_waits_until_something_is_in_it(engine: RunningEngine) -> None:
    folder = engine.inbox / "hollow"
    folder.mkdir()
    (folder / ".hidden").write_bytes(b"x")
    job = job_of(engine, "hollow", "waiting")
    assert job.problem is not None and "'hollow' is empty" in job.problem.what and "hidden" in job.problem.why
    (folder / "model.onnx").write_bytes(CANCER.read_bytes() + b"\x12\x01h")
    assert engine.registered_version("hollow") == 1
    assert engine.client.job(job.id).version == 1


def test_links_and_pipes_are_refused_with_words(engine: RunningEngine, tmp_path: Path) -> None:
    (tmp_path / "outside.onnx").write_bytes(CANCER.read_bytes())
    (engine.inbox / "bylink.onnx").symlink_to(tmp_path / "outside.onnx")
    os.mkfifo(engine.inbox / "bypipe.onnx")
    link, pipe = job_of(engine, "bylink", "failed"), job_of(engine, "bypipe", "failed")
    assert link.problem is not None and link.problem.code == "refused"
    assert "symbolic link" in link.problem.what and "studio add" in link.problem.fix
    assert pipe.problem is not None and "a pipe" in pipe.problem.what
    with pytest.raises(Conflict, match="nothing of it was taken in"):
        engine.client.retry_job(link.id)


def test_a_link_in_a_folder_is_told_with_its_arrival(engine: RunningEngine, tmp_path: Path) -> None:
    draft = engine.inbox / ".partly"
    draft.mkdir()
    (draft / "model.onnx").write_bytes(CANCER.read_bytes() + b"\x12\x01p")
    (draft / "weights.data").symlink_to(tmp_path / "nowhere")
    draft.rename(engine.inbox / "partly")
    assert engine.registered_version("partly") == 1
    job = noted(engine, "partly")
    assert "'partly/weights.data' was left out" in job.note and "symbolic link" in job.note


def test_a_large_file_of_zeros_is_refused_without_being_read(engine: RunningEngine) -> None:
    path = engine.inbox / "hole.onnx"
    with path.open("wb") as file:
        file.truncate(200 * 10**9)  # one hole: hashing it would take minutes, copying it more than the disk holds
    job = job_of(engine, "hole", "failed")
    assert job.problem is not None and "nothing but zeros" in job.problem.what and "not finished" in job.problem.why
    path.write_bytes(CANCER.read_bytes() + b"\x12\x01z")
    assert engine.registered_version("hole") == 1


def test_what_hard_links_share_is_left_as_it_is(engine: RunningEngine, tmp_path: Path) -> None:
    outside = {"hard.onnx": CANCER.read_bytes() + b"\x12\x01l", "hard.toml": b'title = "Mine"\n'}
    for name, data in outside.items():
        (tmp_path / name).write_bytes(data)
        os.link(tmp_path / name, engine.inbox / name)
    assert engine.registered_version("hard") == 1
    spare = tmp_path / "spare" / "hard.onnx"
    spare.parent.mkdir()
    spare.write_bytes(CANCER.read_bytes() + b"\x12\x01k")
    engine.client.add(spare)  # takes the place of the link in the inbox
    until(lambda: engine.client.model("hard").versions[0].version == 2, "the second version", 30)
    assert {name: (tmp_path / name).read_bytes() for name in outside} == outside
    (tmp_path / "hard.toml").write_text("changed outside")
    assert engine.client.version("hard", 2).manifest.title == "Mine"


def test_names_that_become_the_same_model_are_told(engine: RunningEngine) -> None:
    (engine.inbox / "My Net.onnx").write_bytes(CANCER.read_bytes() + b"\x12\x01m")
    assert engine.registered_version("My Net") == 1
    (engine.inbox / "my-net.onnx").write_bytes(CANCER.read_bytes() + b"\x12\x01n")
    assert engine.registered_version("my-net") == 2
    second = noted(engine, "my-net")
    assert "version 2 of 'my-net', whose version 1 came from My Net.onnx" in second.note
    assert "--name" in second.note
    (engine.inbox / "my-net.onnx").write_bytes(CANCER.read_bytes() + b"\x12\x01o")
    until(lambda: engine.registered_version("my-net") == 3, "the third version", 30)
    third = engine.finished_job("my-net", 2)
    assert third.version == 3 and "whose version" not in third.note


def test_a_name_without_a_letter_that_can_be_used_says_how_to_give_another(engine: RunningEngine) -> None:
    (engine.inbox / "東京.onnx").write_bytes(CANCER.read_bytes() + b"\x12\x01t")
    job = job_of(engine, "東京", "failed")
    assert job.problem is not None and "letters a to z" in job.problem.why
    assert "studio add FILE --name NAME" in job.problem.fix
    engine.client.add(engine.inbox / "東京.onnx", "tokyo")
    assert engine.registered_version("tokyo") == 1


def test_what_was_told_is_told_once_over_restarts(engine: RunningEngine, tmp_path: Path) -> None:
    (engine.inbox / "stays.toml").write_text("")
    (engine.inbox / "linked.onnx").symlink_to(tmp_path / "nowhere")
    waiting, refused = job_of(engine, "stays", "waiting"), job_of(engine, "linked", "failed")
    assert engine.stop() == 0
    engine.start()
    (engine.inbox / "later.toml").write_text("")
    job_of(engine, "later", "waiting")  # by now patience with the others is over, too
    jobs = [job for job in engine.client.jobs(1000) if job.stem in ("stays", "linked")]
    assert {job.id for job in jobs} == {waiting.id, refused.id}
    (engine.inbox / "stays.onnx").write_bytes(CANCER.read_bytes() + b"\x12\x01s")
    assert engine.registered_version("stays") == 1
    assert engine.client.job(waiting.id).version == 1
