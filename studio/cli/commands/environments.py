"""environments: what conversions run in, where a framework is too large to be installed beside Studio."""

from __future__ import annotations

import click

from studio.cli.output import BAD, FAINT, GOOD, WARN, emit, paint, say, size, table
from studio.cli.progress import Live
from studio.cli.session import Session, command, pass_session
from studio.client import Client
from studio.client.client import wait_for
from studio.core.errors import InvalidInput, from_problem
from studio.core.views import EnvironmentRow

STATES = {"ready": GOOD, "included": GOOD, "making": WARN, "failed": BAD, "absent": FAINT}


@command("environments", short_help="List, make or remove converter environments.")
@click.argument("action", required=False, type=click.Choice(["make", "remove"]), metavar="[make|remove")
@click.argument("name", required=False, metavar="NAME]")
@pass_session
def environments(session: Session, action: str | None, name: str | None) -> None:
    """List converter environments; make NAME before it is needed; remove NAME to free its disk space.

    Formats whose framework is large (TensorFlow) are converted in an environment of its own. The first such arrival
    makes it, once: it is downloaded, layered over Studio's packages, and kept for all workspaces.
    """
    client = session.client()
    if action is None:
        rows = client.environments()
        emit(session, rows, lambda: environments_table(rows))
        return
    if not name:
        known = ", ".join(row.name for row in client.environments())
        raise InvalidInput(
            f"Which environment is to be {action}d?".replace("maked", "made"), fix=f"There are: {known}."
        )
    if action == "remove":
        freed = client.remove_environment(name)
        emit(session, {"freed": freed}, lambda: f"{name}: {size(freed)} are free again.")
        return
    row = client.make_environment(name)
    say(f"Making {name}: about {size(row.download)} to download, {size(row.installed)} on disk.")
    row = follow(client, row)
    if row.problem is not None:
        raise from_problem(row.problem)
    emit(session, row, lambda: f"{row.name} is ready: {size(row.size)} in {row.folder}.")


def follow(client: Client, row: EnvironmentRow) -> EnvironmentRow:
    """Narrate it until it is made or has failed; ctrl+c leaves it to the engine."""
    with Live() as live:

        def update(now: EnvironmentRow) -> None:
            if now.state == "making":
                live.show(now.detail, "" if now.progress is None else f"{now.progress:.0%}")

        try:
            return wait_for(lambda: client.environment(row.name), lambda now: now.state != "making", update)
        except KeyboardInterrupt:
            live.keep("The engine goes on making it. Look with: studio environments")
            raise


def environments_table(rows: tuple[EnvironmentRow, ...]) -> str:
    return table(
        ["NAME", "STATE", "SIZE", "FOR"],
        [[row.name, paint(row.state, STATES[row.state]), _sizes(row), _about(row)] for row in rows],
    )


def _sizes(row: EnvironmentRow) -> str:
    return size(row.size) if row.size else f"({size(row.installed)})" if row.state != "included" else ""


def _about(row: EnvironmentRow) -> str:
    if row.state == "making":
        return row.detail
    if row.problem is not None:
        return f"{row.title}. {row.problem.what} {row.problem.why}"
    old = f" ({row.outdated} of earlier versions: studio environments remove {row.name})" if row.outdated else ""
    return row.title + old


COMMANDS = (environments,)
