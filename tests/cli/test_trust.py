"""`studio trust`: what is shown before anything is said, who may say it, and what each answer does."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import click
import pytest

from studio.core.errors import CodeFile, NeedsSettings, NeedsTrust, NotFound
from studio.core.jobs import Job
from studio.core.journal import TrustedCode
from studio.core.views import TrustAnswer
from tests.cli.conftest import Run
from tests.client import values
from tests.client.fake_engine import FakeEngine

CONTENT = b"a forest"
SHA256 = hashlib.sha256(CONTENT).hexdigest()
FOREST = CodeFile(name="forest.pkl", sha256=SHA256, imports=("sklearn.ensemble.RandomForestClassifier", "os.system"))
OTHER = CodeFile(name="other.pkl", sha256="b" * 64, imports=tuple(f"m.f{n}" for n in range(50)))
TRUSTED = TrustedCode(sha256=SHA256, name="forest.pkl", imports="os.system", actor="cli", at="2026-11-21T04:10:00.000Z")


def asking(id: str, inbox: Path, *files: CodeFile) -> Job:
    problem = NeedsTrust(files, "A pickle calls what it names.").problem
    fix = problem.fix.replace("JOB", id)
    job = values.job(id, "waiting", 3, replace(problem, fix=fix))
    return replace(job, stem=files[0].name.partition(".")[0], files=(str(inbox / files[0].name),))


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    folder = tmp_path / "inbox"
    folder.mkdir()
    (folder / "forest.pkl").write_bytes(CONTENT)
    return folder


@pytest.fixture
def waiting(engine: FakeEngine, inbox: Path) -> FakeEngine:
    """Two jobs that wait for trust, one that waits for settings, one that is done."""
    shapes = values.job("j3", "waiting", 3, NeedsSettings("It has no shapes.", ("x",)).problem)
    jobs = [asking("j1", inbox, FOREST), asking("j2", inbox, OTHER), shapes, values.job("j4", "done", 9)]
    engine.on("GET", "/api/jobs", jobs)
    engine.on("POST", "/api/trust", TrustAnswer(code=(TRUSTED,), jobs=(replace(jobs[0], state="queued"),)))
    for job in jobs:
        engine.on("POST", f"/api/jobs/{job.id}/cancel", replace(job, state="cancelled"))
    return engine


def said_yes_to(engine: FakeEngine) -> list[list[str]]:
    return [body["sha256"] for body in engine.asked("POST", "/api/trust")]


def test_a_job_a_file_and_a_hash_name_the_same_question(
    waiting: FakeEngine, run: Run, inbox: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "renamed.bin"
    copy.write_bytes(CONTENT)
    monkeypatch.chdir(inbox)
    ways = ("j1", SHA256, SHA256[:8], str(inbox / "forest.pkl"), "forest.pkl", str(copy))
    for way in ways:
        ran = run("trust", way, "--yes")
        assert ran.code == 0, ran.err
        assert f"forest.pkl is trusted  sha256 {SHA256}" in ran.out
        assert "forest goes on" in ran.out
        for shown in ("forest.pkl", SHA256, *FOREST.imports, "j1", "A pickle calls what it names."):
            assert shown in ran.err, way
        assert "other.pkl" not in ran.err
    assert said_yes_to(waiting) == [[SHA256]] * len(ways)
    assert waiting.asked("POST", "/api/trust")[0]["actor"] == "cli"


def test_a_name_is_enough_from_another_folder(waiting: FakeEngine, run: Run, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("trust", "other.pkl", "--yes").code == 0
    assert run("trust", "other", "--yes").code == 0
    assert said_yes_to(waiting) == [["b" * 64]] * 2


def test_all_that_waits_is_asked_about_without_a_name(waiting: FakeEngine, run: Run) -> None:
    ran = run("trust", "--yes", "--json")
    assert said_yes_to(waiting) == [[SHA256, "b" * 64]]
    assert ran.json["code"][0]["sha256"] == SHA256
    assert "… and 10 more" in ran.err


def test_without_a_terminal_it_shows_and_asks_for_yes(waiting: FakeEngine, run: Run) -> None:
    ran = run("trust", "j1")
    assert (ran.code, ran.out) == (2, "")
    assert SHA256 in ran.err and "os.system" in ran.err
    assert "add --yes" in ran.err
    assert said_yes_to(waiting) == []


@pytest.mark.parametrize("typed", ["y", "yes"])
def test_a_yes_on_the_terminal(waiting: FakeEngine, run: Run, monkeypatch, typed: str) -> None:
    answer_with(monkeypatch, typed)
    assert run("trust", "j1").code == 0
    assert said_yes_to(waiting) == [[SHA256]]


@pytest.mark.parametrize("typed", ["n", ""])
def test_a_no_cancels_the_job_and_the_enter_key_says_no(waiting: FakeEngine, run: Run, monkeypatch, typed: str) -> None:
    answer_with(monkeypatch, typed)
    ran = run("trust", "j1")
    assert ran.code == 9
    assert "studio jobs --retry j1" in ran.err
    assert "You said no: nothing was run; 1 job cancelled." in ran.err and "Error" not in ran.err
    assert said_yes_to(waiting) == []
    assert [path for _, path, _, _ in waiting.requests if path.endswith("/cancel")] == ["/api/jobs/j1/cancel"]


def test_ctrl_c_leaves_everything_as_it_was(waiting: FakeEngine, run: Run, monkeypatch) -> None:
    def interrupt(*_: object, **__: object) -> str:
        raise click.Abort

    answer_with(monkeypatch, "")
    monkeypatch.setattr("click.confirm", interrupt)
    assert run("trust", "j1").code == 130
    assert not [method for method, _, _, _ in waiting.requests if method == "POST"]


def answer_with(monkeypatch: pytest.MonkeyPatch, typed: str) -> None:
    monkeypatch.setattr("studio.cli.commands.trust.is_terminal", lambda _: True)
    monkeypatch.setattr("click.termui.visible_prompt_func", lambda _: typed)


def test_what_asks_nothing_is_told_apart(waiting: FakeEngine, run: Run, tmp_path: Path) -> None:
    (tmp_path / "new.pkl").write_bytes(b"never added")
    for way, code, words in (
        ("j4", 4, "done"),
        ("j3", 4, "needs settings"),
        ("nobody.pkl", 3, "studio add FILE"),
        (str(tmp_path / "new.pkl"), 3, "No job asks"),
        ("c" * 64, 3, "No job asks"),
    ):
        ran = run("trust", way, "--yes")
        assert (ran.code, ran.out) == (code, ""), way
        assert words in ran.err
    waiting.on("GET", "/api/jobs", [values.job()])
    assert run("trust").code == 3
    assert said_yes_to(waiting) == []


def test_another_file_of_the_name_is_not_the_one_that_waits(waiting: FakeEngine, run: Run, tmp_path: Path) -> None:
    (tmp_path / "forest.pkl").write_bytes(b"another forest")
    assert run("trust", str(tmp_path / "forest.pkl"), "--yes").code == 3


def test_list_and_revoke(engine: FakeEngine, run: Run) -> None:
    engine.on("GET", "/api/trust", [TRUSTED, replace(TRUSTED, sha256=SHA256[:10] + "0" * 54, name="twin.pkl")])
    engine.on("POST", "/api/distrust", TRUSTED)
    ran = run("trust", "--list")
    head, first, second = ran.out.splitlines()
    assert head.split() == ["SHA256", "FILE", "BY", "SAID", "RUNS"]
    assert first.startswith(SHA256[:16]) and "forest.pkl" in first and first.endswith("os.system")
    assert "twin.pkl" in second
    assert run("trust", "--list", "--json").json[0]["sha256"] == SHA256
    assert "no longer trusted" in run("trust", "--revoke", SHA256[:16]).out
    assert engine.asked("POST", "/api/distrust")[0]["sha256"] == SHA256
    assert run("trust", "--revoke", SHA256[:8]).code == 2
    engine.on("POST", "/api/distrust", NotFound("No such code is trusted."))
    assert run("trust", "--revoke", "e" * 64).code == 3
    engine.on("GET", "/api/trust", [])
    ran = run("trust", "--list")
    assert (ran.code, ran.out) == (0, "") and "No code is trusted" in ran.err


@pytest.mark.parametrize("words", [("j1", "--list"), ("--list", "--revoke", "ab"), ("--yes", "--revoke", "ab")])
def test_one_thing_at_a_time(engine: FakeEngine, run: Run, words: tuple[str, ...]) -> None:
    assert run("trust", *words).code == 2


def test_jobs_and_status_say_what_waits(waiting: FakeEngine, run: Run, tmp_path: Path) -> None:
    rows = run("jobs").out.splitlines()
    assert "needs trust" in rows[1] and "'forest.pkl' would run code when it is loaded." in rows[1]
    assert "needs settings" in rows[3] and "It has no shapes." in rows[3]
    waiting.on("GET", "/api/status", replace(values.status(str(tmp_path), waiting.url, waiting.url), jobs_waiting=3))
    assert "3 to answer" in run("status").out


def test_add_wait_ends_with_the_question(engine: FakeEngine, run: Run, inbox: Path) -> None:
    job = asking("j9", inbox, FOREST)
    course = [[], [replace(job, state="running", problem=None)]]
    engine.on("GET", "/api/jobs", lambda _: course.pop(0) if len(course) > 1 else course[0])
    engine.on("POST", "/api/add", {"files": [str(inbox / "forest.pkl")]})
    engine.on("GET", "/api/jobs/j9", job)
    ran = run("add", "--wait", str(inbox / "forest.pkl"))
    assert ran.code == NeedsTrust.exit_code == 5
    assert "? forest: needs trust" in ran.err
    assert "trust j9" in ran.err
    assert "needs trust" in ran.out
    course[:] = [[], course[0]]
    ran_json = run("--json", "add", "--wait", str(inbox / "forest.pkl"))
    assert json.loads(ran_json.err.strip().splitlines()[-1])["error"]["code_files"][0]["sha256"] == SHA256
