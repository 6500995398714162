"""web: the terminal in a browser."""

from __future__ import annotations

import socket

import click

from studio.cli.output import emit_line
from studio.cli.session import Session, command, pass_session
from studio.core.errors import Conflict


@command("web", short_help="Serve the terminal to a browser on this machine.")
@click.option("--port", type=click.IntRange(1, 65535), default=8000, show_default=True, help="On 127.0.0.1.")
@pass_session
def web(session: Session, port: int) -> None:
    """Serve the terminal to a browser on this machine; prints the link to open."""
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError as error:
        raise Conflict(
            f"Port {port} is not free.",
            f"{error.strerror}.",
            f"Choose another: studio{session.option} web --port {port + 1}",
        ) from error
    from studio.cli.web import WebTerminal

    terminal = WebTerminal(session.workspace, port)
    emit_line(session, {"url": terminal.link}, lambda: terminal.link)
    terminal.serve()


COMMANDS = (web,)
