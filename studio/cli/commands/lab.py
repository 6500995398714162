"""lab: variants that are smaller or faster, and the proof of it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import click

from studio.cli.commands.models import choice_lines, variants_table
from studio.cli.output import BAD, FAINT, GOOD, WARN, emit, fields, job_line, paint, plural, say, table
from studio.cli.progress import LabWatch, Live
from studio.cli.session import Session, command, complete_reference, pass_session
from studio.client import Client
from studio.client.client import raise_failure
from studio.core.errors import NotFound
from studio.core.jobs import Job
from studio.core.recipe import RecipeEntry
from studio.core.views import LabState, VersionRow

SUFFIX = ".toml"


@command("lab", short_help="Make variants of a version and measure them; list recipes; pause.")
@click.argument("reference", metavar="[REF]", required=False, shell_complete=complete_reference)
@click.option("--recipe", "-r", "recipes", multiple=True, metavar="NAME|FILE.toml", help="Run this recipe. Repeatable.")
@click.option("--again", is_flag=True, help="Judge those too that are there already.")
@click.option("--wait", is_flag=True, help="Follow it to its end, and show what it found.")
@click.option(
    "--stale", is_flag=True, help="Judge again what was measured on another machine or runtime: of REF, or of all."
)
@click.option("--list", "listed", is_flag=True, help="List recipes, with their options.")
@click.option("--pause", is_flag=True, help="Stop what the lab runs where it is.")
@click.option("--resume", is_flag=True, help="Let the lab go on.")
@pass_session
def lab(
    session: Session,
    reference: str | None,
    recipes: tuple[str, ...],
    again: bool,
    wait: bool,
    stale: bool,
    listed: bool,
    pause: bool,
    resume: bool,
) -> None:
    """Make variants of the version REF, judge them against the original on this machine, and choose the best.

    Without --recipe: what is missing of those that every arrival gets. Without REF: what the lab does now.
    """
    if sum((bool(reference) or stale, listed, pause, resume)) > 1:
        raise click.UsageError("Choose one of REF or --stale, --list, --pause and --resume.")
    if (stale or not reference) and (recipes or again):
        raise click.UsageError("--recipe and --again go with a version, without --stale: studio lab digits:3 -r int8")
    client = session.client()
    if reference or stale:
        _order(session, client, reference or "", recipes, again, stale, wait)
        return
    state = client.pause_lab() if pause else client.resume_lab() if resume else client.lab()
    emit(session, state, lambda: recipes_text(state) if listed else state_text(client, state))


def _order(
    session: Session, client: Client, reference: str, recipes: Sequence[str], again: bool, stale: bool, wait: bool
) -> None:
    own = [Path(name) for name in recipes if name.endswith(SUFFIX)]
    names = [name for name in recipes if not name.endswith(SUFFIX)]
    begun = time.time()
    jobs = client.judge_stale(reference) if stale else client.make_variants(reference, names, own, again)
    if not jobs and stale:
        say("Nothing is stale: all figures are of this machine and runtime.")
    elif not jobs:
        say("Nothing is left to do: every recipe asked for has run here. --again judges them once more.")
    elif not wait and all(job.created < begun for job in jobs):
        say(f"The lab is at it already. Follow: studio{session.option} jobs -f")
    elif not wait:
        say(f"{plural(len(jobs), 'job')} for the lab. Follow: studio{session.option} jobs -f")
    if wait:
        jobs = tuple(follow(client, job) for job in jobs)
    rows = _rows(client, reference, jobs)
    emit(session, {"jobs": jobs, "versions": rows}, lambda: "\n\n".join(row_text(row) for row in rows))
    for job in jobs if wait else ():
        raise_failure(job)


def _rows(client: Client, reference: str, jobs: Sequence[Job]) -> list[VersionRow]:
    keys = {(job.model, job.version) for job in jobs if job.version is not None}
    if not keys and reference:
        found = client.resolve(reference)
        keys = {(found.model, found.version)}
    return [row for model, version in sorted(keys) if (row := _row(client, model, version)) is not None]


def _row(client: Client, model: str, version: int) -> VersionRow | None:
    """None where it was deleted while one waited."""
    try:
        return client.version(model, version).row
    except NotFound:
        return None


def follow(client: Client, job: Job) -> Job:
    """Narrate each variant until the lab is through; ctrl+c leaves it running."""
    with Live() as live:
        told: set[str] = set()

        def update(now: Job) -> None:
            found = _row(client, now.model, now.version) if now.version else None
            for row in found.variants if found else ():
                mark = f"{row.variant} {row.sentence}"
                if mark not in told and row.sentence:
                    if told_before:
                        live.keep(f"{paint(_sign(row.outcome), _colour(row.outcome))} {row.sentence}")
                    told.add(mark)
            step = now.current
            if step is not None and step.state == "running":
                share = "" if step.progress is None else f"{step.progress:.0%}"
                live.show(f"  {now.stem}: {step.name}", f"{step.detail} {share}".strip(), passing=True)

        told_before = False
        update(job)
        told_before = True
        try:
            job = client.wait_job(job.id, update, until=LabWatch(client, live).over)
        except KeyboardInterrupt:
            live.keep(f"The lab goes on without you. Stop it with: studio jobs --cancel {job.id}")
            raise
    say(f"{job.stem}: {job_line(job)}")
    return job


def _sign(outcome: str) -> str:
    return {"keep": "✓", "reject": "✗", "reference": "✓"}.get(outcome, "≈")


def _colour(outcome: str) -> str:
    return {"keep": GOOD, "reference": GOOD, "reject": BAD}.get(outcome, WARN)


def row_text(row: VersionRow) -> str:
    """The variants of a version with the choice among them."""
    head = paint(f"{row.model}:{row.version}", "bold")
    return "\n".join([head, variants_table(row.variants), "", choice_lines(row)])


def state_text(client: Client, state: LabState) -> str:
    """What the lab does, and what it would do."""
    now = {job.id: job for job in client.jobs() if job.id in state.jobs}
    work = "\n".join(f"{job.stem}: {job_line(job)}" for job in now.values())
    names = ", ".join(entry.name for entry in state.recipes if not entry.problem)
    return fields(
        [
            ("lab", paint("paused: studio lab --resume", WARN) if state.paused else "ready"),
            ("at work", work or "nothing"),
            ("by default", ", ".join(state.defaults) or "nothing"),
            ("recipes", f"{names} (--list says what they do)"),
            ("machine", f"{state.machine.cpu}, {plural(state.machine.cores, 'core')}, {state.machine.runtime}"),
        ]
    )


def recipes_text(state: LabState) -> str:
    """Every recipe with its options; those of every arrival are marked."""
    lines = [line for entry in state.recipes for line in recipe_lines(entry, entry.name in state.defaults)]
    foot = f"• every arrival gets these (workers.recipes). Recipes of your own: TOML files in {state.folder}"
    return table(("  RECIPE", "DEFAULT", "WHAT IT DOES"), lines) + "\n\n" + paint(foot, FAINT)


def recipe_lines(entry: RecipeEntry, default: bool) -> list[list[str]]:
    """A line for it, and one for each of its options."""
    words = "; ".join(word for word in (entry.title, entry.steps) if word)
    if entry.origin != "built in":
        words += f" ({entry.origin})"
    lines = [[("• " if default else "  ") + entry.name, "", paint(entry.problem, BAD) if entry.problem else words]]
    for option in entry.options:
        shown = "–" if option.default == () else str(option.default).lower()
        lines.append([f"      {option.name}", shown, paint(f"{option.help}: {option.allowed}", FAINT)])
    return lines


COMMANDS = (lab,)
