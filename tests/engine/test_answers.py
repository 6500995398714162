"""A yes that is given while the same question is on its way, and questions that come again."""

from __future__ import annotations

import asyncio

import pytest

from studio.core.errors import CodeFile, NeedsTrust, NotFound, Problem, StepFailed, Waiting
from studio.core.jobs import Job
from studio.engine.answers import Answers
from studio.engine.jobs import Jobs
from tests.engine.conftest import Parts

CODE = CodeFile(name="digits.toy", sha256="a" * 64, imports=("os.system",))
OTHER = CodeFile(name="other.toy", sha256="b" * 64)


@pytest.fixture
def answers(parts: Parts) -> Answers:
    return Answers(parts.workspace, parts.keep, parts.jobs)


async def until_resting(parts: Parts, key: str) -> Job:
    async with asyncio.timeout(10):
        while not parts.jobs.get(key).resting:  # noqa: ASYNC110 - jobs have no event to wait for
            await asyncio.sleep(0.01)
    return parts.jobs.get(key)


async def test_a_yes_given_while_it_runs_is_heard(parts: Parts, answers: Answers) -> None:
    """Two jobs over the same content: the answer to the first comes while the second is being looked into."""
    runs = 0

    async def lane(jobs: Jobs, key: str) -> None:
        nonlocal runs
        runs += 1
        known = {one.sha256 for one in parts.keep.trusted()}
        if runs == 1:
            await parts.keep.trust([CODE], "tui")
        if CODE.sha256 not in known:
            raise NeedsTrust((CODE,))

    parts.use(lambda jobs, key: answers.attended(jobs, key, lane))
    job = parts.job()
    parts.jobs.submit(job.id)
    assert (await until_resting(parts, job.id)).state == "done"
    assert runs == 2


async def test_what_asks_for_what_it_was_allowed_fails_instead_of_asking_for_ever(
    parts: Parts, answers: Answers
) -> None:
    async def lane(jobs: Jobs, key: str) -> None:
        raise NeedsTrust((CODE,), "It always does.")

    await parts.keep.trust([CODE], "tui")
    with pytest.raises(StepFailed, match="asked again all the same"):
        await answers.attended(parts.jobs, "j", lane)


async def test_a_yes_to_one_of_two_files_goes_on_waiting(parts: Parts, answers: Answers) -> None:
    async def lane(jobs: Jobs, key: str) -> None:
        known = {one.sha256 for one in parts.keep.trusted()}
        if not {CODE.sha256, OTHER.sha256} <= known:
            raise NeedsTrust((CODE, OTHER))

    parts.use(lambda jobs, key: answers.attended(jobs, key, lane))
    job = parts.job()
    parts.jobs.submit(job.id)
    assert (await until_resting(parts, job.id)).standing == "needs trust"
    first = await answers.trust([CODE.sha256], "tui")
    assert (first.code[0].sha256, first.jobs) == (CODE.sha256, ())
    second = await answers.trust([OTHER.sha256, CODE.sha256], "tui")
    assert [one.id for one in second.jobs] == [job.id]
    assert (await until_resting(parts, job.id)).state == "done"
    with pytest.raises(NotFound, match="No job asks"):
        await answers.trust(["c" * 64], "tui")


async def test_jobs_that_were_answered_before_a_crash_go_on_at_the_start(parts: Parts, answers: Answers) -> None:
    async def lane(jobs: Jobs, key: str) -> None:
        if not parts.keep.trusted():
            raise NeedsTrust((CODE,))

    parts.use(lane)
    job = parts.job()
    parts.jobs.submit(job.id)
    await until_resting(parts, job.id)
    await parts.keep.trust([CODE], "tui")  # and the engine is killed before it has told the job
    parts.jobs.recover()
    assert parts.jobs.get(job.id).state == "waiting"
    assert [one.id for one in await answers.go_on()] == [job.id]
    assert (await until_resting(parts, job.id)).state == "done"


async def test_words_from_a_file_can_not_steer_the_terminal(parts: Parts) -> None:
    class Asking(Waiting):
        code = "needs_settings"

    async def lane(jobs: Jobs, key: str) -> None:
        raise Asking("evil\x1b]0;title\x07 name", "first line\nsecond \u202eline", "Plain – words.")

    parts.use(lane)
    job = parts.job()
    parts.jobs.submit(job.id)
    problem = (await until_resting(parts, job.id)).problem
    assert problem == Problem(
        code="needs_settings",
        what="evil\\x1b]0;title\\x07 name",
        why="first line\nsecond \\u202eline",
        fix="Plain – words.\nThe Inbox has a form for it (a); or begin the file with: "
        f"studio init {parts.workspace.inbox / 'digits.toy'}",
    )
