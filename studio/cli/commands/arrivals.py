"""add, jobs: what comes in, and what becomes of it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import click

from studio.cli.output import (
    ASKS,
    BAD,
    FAINT,
    GOOD,
    WARN,
    ago,
    duration,
    emit,
    emit_line,
    job_line,
    paint,
    plural,
    say,
    table,
)
from studio.cli.progress import PAUSED, LabWatch, Live
from studio.cli.session import Session, command, pass_session
from studio.client import Client
from studio.client.client import raise_failure
from studio.core import codec
from studio.core.errors import InvalidInput, Unavailable
from studio.core.jobs import Job

SHOWN = 30
MOST_JOBS = 1000
STATES = {"done": GOOD, "failed": BAD, "running": WARN, "waiting": ASKS}
APPEAR_SECONDS = 60.0
BESIDE = (".toml", ".npz", ".py", ".tokenizer.json", ".labels")


@command("add", short_help="Copy model files or folders into the inbox.")
@click.argument("paths", nargs=-1, required=True, metavar="PATH...", type=click.Path(exists=True, path_type=Path))
@click.option("--name", help="The model's name, instead of the file's. For one PATH.")
@click.option("--wait", is_flag=True, help="Wait until it is measured, asks you something, or has failed.")
@pass_session
def add(session: Session, paths: tuple[Path, ...], name: str | None, wait: bool) -> None:
    """Copy model files or folders into the inbox; each becomes a version.

    Files with the same stem belong together: digits.pt2, digits.toml (settings), digits.npz (samples).
    """
    if name and len(paths) > 1:
        raise InvalidInput("--name goes with one PATH.", f"There are {len(paths)}.", "Add them one by one.")
    client = session.client()
    known = {job.id for job in client.jobs()}
    copies = add_all(client, in_order(paths), name)
    if not wait:
        emit(session, {"files": copies}, lambda: "\n".join(copies))
        return
    say(f"In the inbox: {plural(len(copies), 'file')}.")
    jobs = [follow_job(client, job.id) for job in new_jobs(client, known, copies)]
    emit(session, jobs, lambda: jobs_table(jobs))
    for job in jobs:
        raise_failure(here(session, job))


def here(session: Session, job: Job) -> Job:
    """The job with the command that its question names meant for this workspace."""
    if job.state != "waiting" or job.problem is None:
        return job
    fix = job.problem.fix.replace("studio trust ", f"studio{session.option} trust ")
    return replace(job, problem=replace(job.problem, fix=fix))


def add_all(client: Client, paths: Sequence[Path], name: str | None = None) -> list[str]:
    """Copy into the inbox; each copy once, though the engine takes along what belongs to a file."""
    return list(dict.fromkeys(copy for path in paths for copy in client.add(path, name)))


def in_order(paths: Sequence[Path]) -> list[Path]:
    """What goes with a model before the model, so that it arrives complete."""
    return sorted(paths, key=lambda path: not path.name.endswith(BESIDE))


def new_jobs(client: Client, known: set[str], copies: Sequence[str]) -> list[Job]:
    """The jobs that the engine has made of these files, once all of them belong to one.

    Raises Unavailable when the engine does not take them up.
    """
    deadline = time.monotonic() + APPEAR_SECONDS
    wanted = set(copies)
    while True:
        jobs = [job for job in client.jobs() if job.id not in known]
        if jobs and wanted <= {file for job in jobs for file in job.files}:
            return list(reversed(jobs))
        if time.monotonic() > deadline:
            if jobs:
                return list(reversed(jobs))
            raise Unavailable(
                "No job has begun for what was added.", "The engine did not see the files.", "See: studio logs"
            )
        time.sleep(0.1)


def follow_job(client: Client, id: str) -> Job:
    """Narrate a job until it has finished or waits for the user; ctrl+c leaves it running."""
    with Live() as live:
        done: set[str] = set()

        def update(job: Job) -> None:
            for step in job.steps:
                if step.state == "done" and step.name not in done:
                    done.add(step.name)
                    took = step.elapsed(time.time())
                    detail = f"  {step.detail}" if step.detail else ""
                    live.keep(f"{paint('✓', GOOD)} {job.stem}: {step.name:<11} {duration(took):>7}{detail}")
            step_now = job.current
            if step_now is not None and step_now.state == "running":
                share = "" if step_now.progress is None else f"{step_now.progress:.0%}"
                live.show(f"  {job.stem}: {step_now.name}", f"{step_now.detail} {share}".strip(), passing=True)

        try:
            job = client.wait_job(id, update, until=LabWatch(client, live).over)
        except KeyboardInterrupt:
            live.keep(f"The job goes on without you. Stop it with: studio jobs --cancel {id}")
            raise
    mark = f"{paint('?', ASKS)} " if job.state == "waiting" else ""
    say(f"{mark}{job.stem}: {job_line(job)}")
    return job


@command("jobs", short_help="List, follow, retry or cancel jobs.")
@click.option("--retry", metavar="ID", help="Run a failed, cancelled or waiting job again.")
@click.option("--cancel", metavar="ID", help="Stop a job.")
@click.option("--log", metavar="ID", help="Print what the workers of a job wrote.")
@click.option("--follow", "-f", is_flag=True, help="Print changes as they happen, until ctrl+c.")
@click.option("--limit", "-n", type=click.IntRange(1, 1000), default=SHOWN, show_default=True, help="How many.")
@pass_session
def jobs(session: Session, retry: str | None, cancel: str | None, log: str | None, follow: bool, limit: int) -> None:
    """List jobs, those that wait for you first, then the newest; or act on one."""
    if sum(1 for one in (retry, cancel, log, follow) if one) > 1:
        raise click.UsageError("Choose one of --retry, --cancel, --log and --follow.")
    client = session.client()
    if log:
        text = client.job_log(log)
        emit(session, {"id": log, "text": text}, text.rstrip)
    elif retry or cancel:
        job = client.retry_job(retry) if retry else client.cancel_job(cancel or "")
        say(f"{job.stem}: {job_line(job)}")
        emit(session, job, lambda: jobs_table([job]))
    elif follow:
        if client.status().lab_paused:
            say(PAUSED)
        for event in client.events():
            if event.kind == "job":
                _print_change(session, codec.convert(event.data, Job, "event"))
    else:
        known = client.jobs(MOST_JOBS)
        found = sorted(known, key=lambda job: job.state != "waiting")[:limit]
        if not found:
            say(f"No jobs yet. Add a model with: studio{session.option} add PATH")
        held = any(job.in_lab for job in found) and client.status().lab_paused
        emit(session, found, lambda: jobs_table(found, held) if found else "")
        if held:
            say(PAUSED)
        if len(known) > len(found):
            many = f"{len(known):,}" if len(known) < MOST_JOBS else f"{MOST_JOBS:,} or more"
            more = f"; more with: studio{session.option} jobs -n {MOST_JOBS}" if limit < MOST_JOBS else ""
            say(f"{len(found):,} of {many}{more}")


def _print_change(session: Session, job: Job) -> None:
    emit_line(session, job, lambda: f"{job.id}  {job.stem}  {job_line(job)}")


def where(job: Job, held: bool = False) -> str:
    """What a row of the table says beside the state; `held`: the lab is paused."""
    if job.state in ("done", "cancelled"):
        return job.note
    if held and job.in_lab:
        return f"{job_line(job)}: the lab is paused"
    return job.problem.what if job.state == "waiting" and job.problem else job_line(job)


def jobs_table(jobs: Sequence[Job], held: bool = False) -> str:
    """One line a job; `held`: the lab is paused."""
    rows = [
        [
            job.id,
            job.stem,
            paint(job.standing, STATES.get(job.state, FAINT)),
            f"{job.model}:{job.version}" if job.version is not None else "–",
            ago(job.created),
            where(job, held),
        ]
        for job in jobs
    ]
    return table(("JOB", "ARRIVAL", "STATE", "VERSION", "CAME", "WHERE"), rows)


COMMANDS = (add, jobs)
