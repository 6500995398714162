"""promote, rollback, alias, undo: which variant answers under which name."""

from __future__ import annotations

import click

from studio.cli.commands.routes import change_text
from studio.cli.output import emit, say
from studio.cli.session import Session, command, complete_reference, pass_session
from studio.core.errors import InvalidInput
from studio.core.journal import AliasMove, RouteChange
from studio.core.names import PRODUCTION, Reference

why_option = click.option("--why", default="", help="The reason, for the journal.")


@command("promote", short_help="Let a version or variant answer as production.")
@click.argument("reference", metavar="REF", shell_complete=complete_reference)
@why_option
@pass_session
def promote(session: Session, reference: str, why: str) -> None:
    """Let REF answer as production: digits:3, digits:3-int8 or digits:candidate.

    It is loaded and warm before it takes the first request; `studio undo` takes the move back.
    """
    parsed = Reference.parse(reference)
    _, _, target = str(parsed).partition(":")
    if not target:
        raise InvalidInput(
            f"{reference!r} does not say which version.",
            "A model's bare name is what production answers to.",
            f"Name one, for example {parsed.model}:latest. List them with: studio{session.option} show {parsed.model}",
        )
    _tell(session, session.client().move_alias(parsed.model, PRODUCTION, target, why))


@command("rollback", short_help="Point an alias back at what it named before.")
@click.argument("model")
@click.option("--alias", default=PRODUCTION, show_default=True, help="Which alias.")
@why_option
@pass_session
def rollback(session: Session, model: str, alias: str, why: str) -> None:
    """Point an alias of MODEL back at what it named before."""
    _tell(session, session.client().rollback(model, alias, why))


@command("alias", short_help="Point an alias of a model at a version or variant.")
@click.argument("model")
@click.argument("name")
@click.argument("target", required=False)
@click.option("--rm", "remove", is_flag=True, help="Remove the alias instead.")
@why_option
@pass_session
def alias(session: Session, model: str, name: str, target: str | None, remove: bool, why: str) -> None:
    """Point the alias NAME of MODEL at TARGET: 3, 3-int8 or another alias."""
    if bool(target) == remove:
        raise click.UsageError("Give either TARGET or --rm.")
    client = session.client()
    if remove or not target:
        _tell(session, client.remove_alias(model, name, why))
    else:
        _tell(session, client.move_alias(model, name, target, why))


@command("undo", short_help="Take back the newest move of any alias or change of a route.")
@pass_session
def undo(session: Session) -> None:
    """Take back the newest move of any alias or change of a route, whichever was last."""
    _tell(session, session.client().undo())


def _tell(session: Session, move: AliasMove | RouteChange) -> None:
    if isinstance(move, RouteChange):
        emit(session, move, lambda: change_text(move))
        return
    emit(session, move, lambda: move_text(move))
    if not move.after:
        say(f"Requests for {move.model}:{move.alias} are answered with 'not found' from now on.")


def move_text(move: AliasMove) -> str:
    """`digits:production  1-fp32 → 2-int8  (why)`."""
    why = f"  ({move.why})" if move.why else ""
    return f"{move.model}:{move.alias}  {move.before or 'new'} → {move.after or 'removed'}{why}"


COMMANDS = (promote, rollback, alias, undo)
