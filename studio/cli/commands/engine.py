"""up, down, status: the engine itself."""

from __future__ import annotations

import os
import time

import click

from studio.cli.output import ASKS, ago, emit, fields, paint, plural, say, size
from studio.cli.session import Session, command, pass_session
from studio.client.client import wait_for
from studio.client.connect import attach, engine_command, engine_environment
from studio.core.errors import Conflict, Unavailable
from studio.core.recording import recording_words
from studio.core.views import Status

STOP_SECONDS = 60.0
SERVER_SECONDS = 30.0


@command("up", short_help="Run the engine.")
@click.option("--detach", "-d", is_flag=True, help="Run in the background; return once it answers.")
@pass_session
def up(session: Session, detach: bool) -> None:
    """Run the engine: watch the inbox and serve what is registered.

    In the foreground until ctrl+c, fit for a service manager; with --detach in the background until `studio down`.
    """
    running = attach(session.workspace, "cli")
    if detach:
        client = running or session.client(start=True)
        status = wait_for(client.status, lambda now: now.server.state != "starting", timeout=SERVER_SECONDS)
        say("The engine runs already." if running else "The engine is up.")
        emit(session, status, lambda: status_text(status))
        return
    if running:
        raise Conflict(
            f"An engine runs already for {session.workspace}.",
            "A workspace has one engine.",
            f"Attach to it with `studio{session.option}`, or stop it with `studio{session.option} down`.",
        )
    say(f"Starting the engine for {session.workspace}; ctrl+c stops it. Its log: {session.workspace}/logs/engine.log")
    arguments = engine_command(session.workspace)
    # The engine takes this process's place, so that signals of a service manager reach it without a relay.
    os.execve(arguments[0], arguments, engine_environment())  # noqa: S606 - no shell is meant


@command("down", short_help="Stop the engine.")
@pass_session
def down(session: Session) -> None:
    """Stop the engine: finish what is being answered, then end."""
    client = attach(session.workspace, "cli")
    if client is None:
        say(f"No engine runs for {session.workspace}.")
        emit(session, {"stopped": False}, lambda: "")
        return
    pid = client.status().pid
    client.shutdown()
    deadline = time.monotonic() + STOP_SECONDS
    while _alive(pid):
        if time.monotonic() > deadline:
            raise Unavailable(
                f"The engine (process {pid}) has not ended within {STOP_SECONDS:.0f} s.",
                "It was asked to, and may still be finishing a request.",
                f"End it with: kill {pid}. Nothing registered is lost by that.",
            )
        time.sleep(0.05)
    say("The engine has stopped.")
    emit(session, {"stopped": True}, lambda: "")


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return not _zombie(pid)


def _zombie(pid: int) -> bool:
    """Whether a process has ended and only waits to be asked how: an engine started from this very process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123
            return file.read().rpartition(b")")[2].split()[0] == b"Z"
    except (OSError, IndexError):
        return False


@command("status", short_help="Show what the engine is doing.")
@pass_session
def status(session: Session) -> None:
    """Show what the engine is doing. Exit code 6 when none runs."""
    value = session.client().status()
    emit(session, value, lambda: status_text(value))


def status_text(status: Status) -> str:
    """The engine at a glance, for people."""
    server = status.server
    state = server.state if server.state == "ready" else paint(server.state, "yellow")
    restarts = f", {plural(server.restarts, 'restart')}" if server.restarts else ""
    asks = paint(f", {status.jobs_waiting} to answer", ASKS) if status.jobs_waiting else ""
    failed = f", {status.jobs_failed} failed" if status.jobs_failed else ""
    return fields(
        [
            ("endpoint", f"{server.url} ({state}{restarts})"),
            ("loaded", f"{plural(server.loaded, 'variant')}, {size(server.memory)} of memory"),
            ("registered", f"{plural(status.models, 'model')}, {plural(status.versions, 'version')}"),
            ("recording", recording_words(status.recording)),
            ("jobs", f"{status.jobs_active} active{asks}{failed}"),
            ("inbox", status.inbox + ("" if status.watching else "  (not watched)")),
            ("workspace", status.workspace),
            ("engine", f"{status.version}, process {status.pid}, started {ago(status.started)}"),
            ("notices", "\n".join(status.notices)),
        ]
    )


COMMANDS = (up, down, status)
