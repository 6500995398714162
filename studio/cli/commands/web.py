"""web: the terminal in a browser."""

from __future__ import annotations

import asyncio

import click

from studio.cli.output import emit_line, say
from studio.cli.session import Session, command, pass_session


@command("web", short_help="Serve the terminal to a browser on this machine.")
@click.option("--port", type=click.IntRange(1, 65535), default=8000, show_default=True, help="On 127.0.0.1.")
@pass_session
def web(session: Session, port: int) -> None:
    """Serve the terminal to a browser on this machine; prints the link to open.

    The link carries a key: who does not have it is refused.
    """
    from studio.cli.web import WebTerminal

    terminal = WebTerminal(session.workspace, port)

    def listening() -> None:
        emit_line(session, {"url": terminal.link}, lambda: terminal.link)
        say("Open the link in a browser on this machine; ctrl+c ends it. The engine keeps serving.")

    asyncio.run(terminal.run(listening))


COMMANDS = (web,)
