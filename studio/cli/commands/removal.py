"""rm, restore: archive first, delete only when asked by name."""

from __future__ import annotations

import sys

import click

from studio.cli.output import emit, is_terminal, say, size
from studio.cli.session import Session, command, complete_reference, pass_session
from studio.core.errors import InvalidInput


@command("rm", short_help="Archive a version; --purge deletes an archived one.")
@click.argument("reference", metavar="REF", shell_complete=complete_reference)
@click.option("--purge", is_flag=True, help="Delete an archived version's files for good.")
@click.option("--confirm", metavar="REF", help="The reference once more, instead of being asked for it.")
@pass_session
def rm(session: Session, reference: str, purge: bool, confirm: str | None) -> None:
    """Archive the version REF (digits:3): out of service, out of the list, and back with `studio restore`.

    With --purge an archived version is deleted for good.
    """
    client = session.client()
    if not purge:
        row = client.archive(reference)
        say(f"Bring it back with: studio{session.option} restore {reference}")
        emit(session, row, lambda: f"{row.model}:{row.version} is archived.")
        return
    if confirm is None:
        if not is_terminal(sys.stdin):
            raise InvalidInput(
                f"Deleting {reference} needs a confirmation.",
                "It can not be undone, and there is no terminal to ask on.",
                f"Repeat the reference: --confirm {reference}",
            )
        confirm = click.prompt(f"This can not be undone. Type {reference} to delete it", err=True)
    freed = client.purge(reference, confirm or "")
    emit(session, {"freed": freed}, lambda: f"{reference} is deleted; {size(freed)} are free again.")


@command("restore", short_help="Bring an archived version back.")
@click.argument("reference", metavar="REF", shell_complete=complete_reference)
@pass_session
def restore(session: Session, reference: str) -> None:
    """Bring an archived version back."""
    row = session.client().restore(reference)
    emit(session, row, lambda: f"{row.model}:{row.version} is {row.state}.")


COMMANDS = (rm, restore)
