"""logs: what the engine, jobs, requests and the audit trail say."""

from __future__ import annotations

from typing import get_args

import click

from studio.cli.output import clock, emit, emit_line, paint
from studio.cli.session import Session, command, pass_session
from studio.core import codec
from studio.core.views import Level, LogLine, LogSource

LEVELS: tuple[str, ...] = get_args(Level)
COLOURS = {"warning": "yellow", "error": "red", "debug": "faint"}


@command("logs", short_help="Print or follow the log.")
@click.option("--source", type=click.Choice(get_args(LogSource)), help="Only lines of this source.")
@click.option("--level", type=click.Choice(LEVELS), help="Only lines of at least this level.")
@click.option("--follow", "-f", is_flag=True, help="Go on with new lines, until ctrl+c.")
@click.option("--limit", "-n", type=click.IntRange(1, 5000), default=100, show_default=True, help="How many lines.")
@pass_session
def logs(session: Session, source: str | None, level: str | None, follow: bool, limit: int) -> None:
    """Print the newest lines of the log, oldest first."""
    client = session.client()
    lines = client.logs(source or "", level or "", limit)
    if not follow:
        emit(session, lines, lambda: "\n".join(map(line_text, lines)))
        return
    for line in lines:
        _print_line(session, line)
    last = lines[-1].at if lines else 0.0
    least = LEVELS.index(level) if level else 0
    # The stream begins with what the engine still keeps, so that nothing is lost between the two questions.
    for event in client.events():
        if event.kind != "log":
            continue
        line = codec.convert(event.data, LogLine, "event")
        if line.at > last and (not source or line.source == source) and LEVELS.index(line.level) >= least:
            _print_line(session, line)


def _print_line(session: Session, line: LogLine) -> None:
    emit_line(session, line, lambda: line_text(line))


def line_text(line: LogLine) -> str:
    words = f"{line.subject}: {line.text}" if line.subject else line.text
    level = paint(f"{line.level:<7}", COLOURS[line.level]) if line.level in COLOURS else f"{line.level:<7}"
    return f"{paint(clock(line.at), 'faint')}  {level}  {line.source:<8}  {words}"


COMMANDS = (logs,)
