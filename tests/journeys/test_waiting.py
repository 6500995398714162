"""Jobs that wait for a word of the user: asked once, kept by hash, gone on by themselves, ended with their files."""

from __future__ import annotations

import hashlib
import os
import shutil
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from studio.core.errors import Conflict, InvalidInput, NotFound
from studio.core.jobs import Job
from studio.core.tensors import TensorSpec
from tests.formats import programs
from tests.formats.graphs import repacked
from tests.journeys import toy_format
from tests.journeys.engines import RunningEngine, until

SETTINGS = "[serving]\nport = 0\n[workers]\nrecipes = []\nmeasure_seconds = 0.4\n[inbox]\nsettle_seconds = 0.1\n"


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The toy format is installed for the engines of this module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(toy_format.install(tmp_path_factory.mktemp("packages"))))
        yield


def engine_in(folder: Path) -> RunningEngine:
    engine = RunningEngine(folder / "workspace")
    engine.workspace.mkdir()
    (engine.workspace / "studio.toml").write_text(SETTINGS)
    engine.start()
    return engine


@pytest.fixture(scope="module")
def studio(toys: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningEngine]:
    """One engine for all: each test has stems of its own."""
    engine = engine_in(tmp_path_factory.mktemp("waiting"))
    yield engine
    assert engine.stop() == 0


def drop(studio: RunningEngine, name: str, words: str) -> str:
    """Put a toy into the inbox; the SHA-256 of its content."""
    path = studio.inbox / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(words)
    return hashlib.sha256(words.encode()).hexdigest()


def resting(studio: RunningEngine, stem: str, wanted: Callable[[Job], bool] = lambda job: job.resting) -> Job:
    """The newest job of a stem, once it is as wanted."""

    def see() -> Job | None:
        job = next((job for job in studio.client.jobs() if job.stem == stem), None)
        return job if job is not None and wanted(job) else None

    return until(see, f"{stem} to rest")


def waiting(studio: RunningEngine, stem: str) -> Job:
    job = resting(studio, stem)
    assert job.state == "waiting", job.problem
    return job


def registered(studio: RunningEngine, stem: str) -> Job:
    """The newest job of a stem, once it is a version."""
    job = resting(studio, stem, lambda job: job.version is not None or job.state == "failed")
    assert job.version is not None, job.problem
    return job


def test_what_can_only_be_served_is_measured_and_says_so(studio: RunningEngine) -> None:
    (studio.inbox / "shelf.toml").write_text('recipes = ["fp16"]\n')
    drop(studio, "shelf.toy", "toy shelf")
    job = resting(studio, "shelf")
    assert (job.step("optimised").state, job.step("optimised").detail) == ("skipped", "A toy stays as it is.")
    assert (job.step("measured").state, job.step("measured").detail) == ("done", "the reference alone")
    detail = studio.client.version("shelf", 1)
    assert [variant.variant for variant in detail.variants] == ["fp32"]
    assert detail.row.p50 is not None


def test_a_file_that_would_run_code_is_shown_and_runs_after_one_yes(studio: RunningEngine) -> None:
    sha256 = drop(studio, "asks.toy", "toy code")
    job = waiting(studio, "asks")
    assert job.problem is not None
    (file,) = job.problem.code_files
    assert (file.name, file.sha256) == ("asks.toy", sha256)
    assert file.imports == ("toy.layers.Dense", "posix.\\x1b[2Ksystem")  # no codes for the terminal get through
    assert job.standing == "needs trust"
    assert f"studio trust {job.id}" in job.problem.fix
    assert job.step("converted").state == "pending"
    status = studio.client.status()
    assert (status.jobs_waiting, status.jobs_active) == (1, 0)

    answer = studio.client.trust(sha256)
    assert [one.sha256 for one in answer.code] == [sha256]
    assert [one.id for one in answer.jobs] == [job.id]
    done = registered(studio, "asks")
    assert (done.id, done.version, done.attempt) == (job.id, 1, 1)
    entry = next(entry for entry in studio.client.journal() if entry.action == "code.trusted")
    assert (entry.subject, entry.after, entry.actor) == (f"sha256:{sha256}", "asks.toy", "test")
    assert entry.why == "toy.layers.Dense, posix.\\x1b[2Ksystem"
    assert studio.client.status().jobs_waiting == 0

    # The same content never asks again, whatever it is called; other content does.
    drop(studio, "twin.toy", "toy code")
    assert registered(studio, "twin").attempt == 1
    drop(studio, "asks.toy", "toy code again")
    again = resting(studio, "asks", lambda one: one.id != job.id and one.resting)
    assert again.standing == "needs trust"


def test_one_yes_lets_every_job_go_on_that_waits_for_nothing_else(studio: RunningEngine) -> None:
    first = drop(studio, "one.toy", "toy code of both")
    drop(studio, "same.toy", "toy code of both")
    second = drop(studio, "pair/a.toy", "toy code of a pair")
    drop(studio, "pair/b.toy", "toy code of both")
    one, same, pair = waiting(studio, "one"), waiting(studio, "same"), waiting(studio, "pair")
    assert {job.id for job in studio.client.trust(first).jobs} == {one.id, same.id}
    assert registered(studio, "one").id == one.id
    assert registered(studio, "same").id == same.id
    assert waiting(studio, "pair").id == pair.id  # it asks about two files, and heard of one
    assert [job.id for job in studio.client.trust(second).jobs] == [pair.id]
    assert registered(studio, "pair").id == pair.id


def test_a_yes_is_an_answer_and_never_given_ahead(studio: RunningEngine) -> None:
    for wrong, kind in (("f" * 64, NotFound), ("old.pkl", InvalidInput), ("F" * 64, InvalidInput)):
        with pytest.raises(kind):
            studio.client.trust(wrong)
    assert not [one for one in studio.client.trusted() if one.sha256 == "f" * 64]


def test_no_ends_the_job_and_nothing_else(studio: RunningEngine) -> None:
    sha256 = drop(studio, "declined.toy", "toy code declined")
    job = waiting(studio, "declined")
    ended = studio.client.cancel_job(job.id)
    assert (ended.state, ended.version) == ("cancelled", None)
    assert (studio.inbox / "declined.toy").exists()
    assert sha256 not in {one.sha256 for one in studio.client.trusted()}
    with pytest.raises(NotFound):
        studio.client.trust(sha256)
    studio.client.retry_job(job.id)  # who changes their mind is asked again
    assert waiting(studio, "declined").id == job.id


def test_a_yes_taken_back_is_asked_for_again(studio: RunningEngine) -> None:
    sha256 = drop(studio, "regret.toy", "toy code regretted")
    waiting(studio, "regret")
    studio.client.trust(sha256)
    assert registered(studio, "regret").version == 1
    assert studio.client.distrust(sha256).name == "regret.toy"
    with pytest.raises(NotFound):
        studio.client.distrust(sha256)
    assert studio.client.resolve("regret").target == "regret:1-fp32"  # what was made stays
    drop(studio, "regret2.toy", "toy code regretted")
    assert waiting(studio, "regret2").standing == "needs trust"


def test_what_is_taken_out_of_the_inbox_asks_no_more(studio: RunningEngine) -> None:
    drop(studio, "leaves.toy", "toy code leaving")
    drop(studio, "leaves/inner.toy", "toy code in a folder of the same name")
    both = until(lambda: [j for j in studio.client.jobs() if j.stem == "leaves" and j.state == "waiting"][1:], "both")
    assert both
    (studio.inbox / "leaves.toy").unlink()
    (loose,) = until(lambda: [j for j in studio.client.jobs() if j.stem == "leaves" and j.finished], "the end of it")
    assert (loose.state, loose.note) == ("cancelled", "its files left the inbox")
    assert loose.files == (str(studio.inbox / "leaves.toy"),)
    shutil.rmtree(studio.inbox / "leaves")
    until(lambda: all(j.finished for j in studio.client.jobs() if j.stem == "leaves"), "the end of the folder's")


def test_changed_content_is_asked_about_anew(studio: RunningEngine) -> None:
    drop(studio, "changes.toy", "toy code before")
    before = waiting(studio, "changes")
    drop(studio, "changes.toy", "toy nothing to ask")
    assert registered(studio, "changes").id != before.id
    old = studio.client.job(before.id)
    assert (old.state, old.note) == ("cancelled", "replaced by newer content")


def test_shapes_are_asked_for_and_written_beside_the_file(studio: RunningEngine) -> None:
    (studio.inbox / "shapeless.toml").write_text('title = "Kept"  # by hand\n')
    drop(studio, "shapeless.toy", "toy shapes")
    job = waiting(studio, "shapeless")
    assert job.problem is not None
    assert (job.standing, job.problem.missing_inputs) == ("needs settings", ("x",))
    assert job.problem.hints == (TensorSpec("x", "FP32", ("batch", "?")),)
    with pytest.raises(InvalidInput, match="does not ask about"):
        studio.client.describe_inputs(job.id, [TensorSpec("z", "FP32", ("batch", 6))])
    with pytest.raises(InvalidInput):
        studio.client.describe_inputs(job.id, [TensorSpec("x", "FP32", ("batch", -6))])
    written = studio.client.describe_inputs(job.id, [TensorSpec("x", "FP32", ("batch", 6))])
    assert Path(written) == studio.inbox / "shapeless.toml"
    assert tomllib.loads(Path(written).read_text()) == {
        "title": "Kept",
        "inputs": {"x": {"shape": ["batch", 6], "datatype": "FP32"}},
    }
    assert registered(studio, "shapeless").id != job.id
    assert studio.client.version("shapeless", 1).manifest.signature.inputs[0].shape == ("batch", 6)
    until(lambda: studio.client.job(job.id).state == "cancelled", "the old job to end")
    with pytest.raises(Conflict, match="does not ask"):
        studio.client.describe_inputs(job.id, [TensorSpec("x", "FP32", ("batch", 6))])


def test_both_questions_one_after_the_other(studio: RunningEngine) -> None:
    sha256 = drop(studio, "curious.toy", "toy code shapes")
    first = waiting(studio, "curious")
    studio.client.trust(sha256)
    until(lambda: studio.client.job(first.id).standing == "needs settings", "the second question")
    studio.client.describe_inputs(first.id, [TensorSpec("x", "FP32", ("batch", 3))])
    assert registered(studio, "curious").id != first.id


def test_the_alias_that_settings_ask_for_is_moved_once_the_version_serves(studio: RunningEngine) -> None:
    (studio.inbox / "wish.toml").write_text('alias = "staging"\nrecipes = []\n')
    sha256 = drop(studio, "wish.toy", "toy code wish")
    waiting(studio, "wish")
    studio.client.trust(sha256)
    registered(studio, "wish")
    (move,) = until(lambda: studio.client.model("wish").moves, "the alias to move")
    assert studio.client.resolve("wish:staging").target == "wish:1-fp32"
    assert "staging" in studio.client.version("wish", 1).row.aliases
    assert (move.after, move.actor, move.why) == ("1-fp32", "engine", "asked for in wish.toml")


@pytest.mark.timeout(300)
def test_it_waits_through_restarts_kills_and_a_lost_registry(toys: None, tmp_path: Path) -> None:
    engine = engine_in(tmp_path)
    try:
        yes = drop(engine, "yes.toy", "toy code yes")
        drop(engine, "later.toy", "toy code later")
        drop(engine, "gone.toy", "toy code gone")
        ids = {stem: waiting(engine, stem).id for stem in ("yes", "later", "gone")}
        engine.client.trust(yes)
        assert registered(engine, "yes").version == 1
        engine.kill()
        (engine.inbox / "gone.toy").unlink()
        engine.start()
        assert engine.client.job(ids["gone"]).state == "cancelled"
        assert waiting(engine, "later").id == ids["later"]
        assert engine.client.status().jobs_waiting == 1
        assert engine.stop() == 0
        (engine.workspace / "registry.duckdb").unlink()
        (engine.inbox / "later.toy").write_text("toy code yes")  # changed while nobody looked, to what is trusted
        engine.start()
        assert registered(engine, "later").id != ids["later"]
        assert engine.client.job(ids["later"]).state == "cancelled"
        assert [one.sha256 for one in engine.client.trusted()] == [yes]
        assert [entry.action for entry in engine.client.journal() if "code" in entry.action] == ["code.trusted"]
    finally:
        assert engine.stop() == 0


@pytest.mark.timeout(300)
def test_a_crafted_pytorch_program_waits_and_serves_after_a_yes(studio: RunningEngine, tmp_path: Path) -> None:
    plain = programs.save(programs.SmallNet(), torch.randn(2, 1, 8, 8), tmp_path / "net.pt2", free=True)
    crafted = repacked(plain, tmp_path / "crafted.pt2", programs.attacks(Path(os.devnull))["node name"])
    shutil.copyfile(crafted, studio.inbox / "crafted.pt2")
    job = waiting(studio, "crafted")
    assert job.problem is not None
    (file,) = job.problem.code_files
    assert file.sha256 == hashlib.sha256(crafted.read_bytes()).hexdigest()
    assert any("open('/dev/null', 'w')" in one for one in file.imports)
    studio.client.trust(file.sha256)
    assert registered(studio, "crafted").id == job.id
    image = np.random.default_rng(0).random((3, 1, 8, 8), np.float32)
    answer = studio.client.predict("crafted", {"image": image})
    expected = programs.SmallNet().eval()(torch.from_numpy(image)).detach().numpy()
    np.testing.assert_allclose(next(iter(answer.values())), expected, rtol=1e-4, atol=1e-5)
