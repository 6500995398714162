"""demo: the sample models through the whole of Studio; in the terminal app, or in lines of text without a terminal."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import click

from studio.cli.commands.arrivals import add_all, follow_job, new_jobs
from studio.cli.commands.measure import comparison_text, follow
from studio.cli.commands.models import versions_table
from studio.cli.output import emit, is_terminal, say
from studio.cli.session import Session, command, pass_session
from studio.client import Client
from studio.client.client import raise_failure
from studio.client.connect import attach
from studio.core.comparison import Plan
from studio.core.errors import NotFound, Refused, StudioError
from studio.core.names import PRODUCTION
from studio.core.views import VersionRow

ATTACH_SECONDS = 90.0


@command("demo", short_help="Run the sample models through the whole of Studio.")
@click.option(
    "--samples",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="A folder of numbered folders, each with the files of one model (default: the samples of the checkout).",
)
@click.option(
    "--seconds", type=click.FloatRange(1, 3600), default=6.0, show_default=True, help="Length of the comparison."
)
@click.option("--plain", is_flag=True, help="Lines of text even on a terminal.")
@click.option("--stop", is_flag=True, help="Stop the engine at the end, if this started it.")
@pass_session
def demo(session: Session, samples: Path | None, seconds: float, plain: bool, stop: bool) -> None:
    """Add the sample models, compare two versions, promote the newer one and ask it for a prediction."""
    from studio.tui.samples import sample_folders

    folders = sample_folders(samples)
    if not folders:
        raise NotFound("There are no sample models here.", fix="Name their folder: studio demo --samples sample_models")
    if not (plain or session.json) and is_terminal(sys.stdin) and is_terminal(sys.stdout):
        _in_terminal(session.workspace, folders)
        return
    started = attach(session.workspace, "cli") is None
    if started:
        say(f"Starting an engine for {session.workspace} …")
    client = session.client(start=True)
    try:
        _in_lines(session, client, folders, seconds)
    finally:
        if stop and started:
            client.shutdown()
            say("The engine stops.")
        else:
            say(f"The engine keeps serving at {client.status().server.url}; stop it with: studio{session.option} down")


def _in_lines(session: Session, client: Client, folders: Sequence[Path], seconds: float) -> None:
    for number, folder in enumerate(folders, 1):
        say(f"Sample {number} of {len(folders)}:")
        add_sample(client, folder)
    rows = client.versions(sort="created").rows
    say("")
    say(versions_table(rows))
    first, second = pair(rows)
    say("")
    comparison = follow(client, client.compare(Plan(references=(first, second), seconds=seconds)))
    model, _, target = second.partition(":")
    move = client.move_alias(model, PRODUCTION, target, f"demo: {comparison.verdict}")
    reference = f"{model}:{PRODUCTION}"
    answer = client.predict(reference, _sample_of(client, reference))
    from studio.cli.commands.aliases import move_text
    from studio.cli.commands.predict import outputs_text

    emit(
        session,
        {
            "versions": rows,
            "comparison": comparison,
            "promoted": move,
            "outputs": {name: array.tolist() for name, array in answer.items()},
        },
        lambda: "\n\n".join([comparison_text(comparison), move_text(move), outputs_text(answer)]),
    )
    say(f"\nAsk it yourself:\n  {client.call(reference).curl}")


def add_sample(client: Client, folder: Path) -> None:
    """Add the files of one sample and narrate its jobs. Raises what they failed with."""
    from studio.tui.samples import files_of

    known = {job.id for job in client.jobs()}
    copies = add_all(client, files_of(folder))
    for job in new_jobs(client, known, copies):
        raise_failure(follow_job(client, job.id))


def pair(rows: Sequence[VersionRow]) -> tuple[str, str]:
    """The two references to compare: the two newest versions of one model, else a version and its best variant.

    Raises Refused when there is nothing to choose between.
    """
    by_model: dict[str, list[int]] = {}
    for row in rows:
        by_model.setdefault(row.model, []).append(row.version)
    for model, versions in sorted(by_model.items(), key=lambda item: -len(item[1])):
        if len(versions) >= 2:
            older, newer = sorted(versions)[-2:]
            return f"{model}:{older}-fp32", f"{model}:{newer}-fp32"
    for row in rows:
        kept = [variant.variant for variant in row.variants if variant.outcome == "keep"]
        if kept:
            return f"{row.model}:{row.version}-fp32", f"{row.model}:{row.version}-{kept[0]}"
    raise Refused("There is nothing to compare.", "No model has two versions, and no variant was worth keeping.")


def _sample_of(client: Client, reference: str) -> dict[str, object]:
    from studio.cli.commands.predict import from_json

    sample: dict[str, object] = from_json(client.call(reference).body, "sample")
    return sample


def _in_terminal(workspace: Path, folders: Sequence[Path]) -> None:
    """Open the terminal app; the samples arrive in it one after the other, as if someone dropped them."""
    from studio.tui.samples import run_samples
    from studio.tui.start import run

    def drop() -> None:
        deadline = time.monotonic() + ATTACH_SECONDS
        while time.monotonic() < deadline:
            client = attach(workspace, "tui")
            if client is not None:
                try:
                    if not client.versions(limit=1, archived=True).total:
                        run_samples(client, folders, lambda _: None)
                except StudioError:
                    return  # the app shows what became of the jobs
                return
            time.sleep(0.2)

    threading.Thread(target=drop, name="studio-demo", daemon=True).start()
    run(workspace)


COMMANDS = (demo,)
