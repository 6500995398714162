"""Moves of aliases, calls to copy, comparisons to start: what several screens do the same way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from textual.content import Content

from studio.core.comparison import Comparison, Plan
from studio.core.journal import AliasMove, RouteChange
from studio.core.names import PRODUCTION
from studio.core.views import CallExample, ModelDetail
from studio.tui import messages
from studio.tui.dialogs import Choice, ConfirmDialog, MoveDialog

if TYPE_CHECKING:
    from studio.tui.app import StudioApp

LOAD_SECONDS = 10.0
LOAD_CLIENTS = 4


def say_move(app: StudioApp, title: str, move: AliasMove | RouteChange) -> None:
    if isinstance(move, RouteChange):
        app.say(f"{move.model}  route {move.before or 'none'} → {move.after or 'none'}", title)
        return
    app.say(f"{move.model}:{move.alias}  {move.before or 'nothing'} → {move.after or 'nothing'}", title)


def ask_move(app: StudioApp, model: str, alias: str, old: str, choices: Sequence[Choice]) -> None:
    """Show old → new, and move when confirmed."""
    client = app.client
    if client is None or not choices:
        app.notify("No variant of it can be served.", severity="warning", markup=False)
        return

    def answered(answer: tuple[str, str] | None) -> None:
        if answer:
            key, why = answer
            undo = app.keys.label("undo")
            app.ask(
                lambda: client.move_alias(model, alias, key, why),
                lambda move: say_move(app, f"Promoted; {undo} undoes it", move),
            )

    app.push_screen(MoveDialog(model, alias, old, choices, app.keys.of("promote")), answered)


def rollback(app: StudioApp, model: str) -> None:
    """Ask, then return production to what it was before."""
    client = app.client
    if client is None:
        return

    def known(detail: ModelDetail) -> None:
        now = detail.aliases.get(PRODUCTION, "")
        last = next((move for move in detail.moves if move.alias == PRODUCTION and move.after == now), None)
        if not now or last is None or not last.before:
            app.notify(
                "Production has pointed at one thing only.",
                title="Nothing to roll back",
                severity="warning",
                markup=False,
            )
            return
        change = Content.assemble(
            (f"{model}:{PRODUCTION}", "bold"),
            "  ",
            (f"{model}:{now}", "$muted"),
            "  →  ",
            (f"{model}:{last.before}", "$success bold"),
        )

        def answered(yes: bool | None) -> None:
            if yes:
                app.ask(lambda: client.rollback(model, PRODUCTION), lambda move: say_move(app, "Rolled back", move))

        app.push_screen(ConfirmDialog(f"Roll back {model}", change, "roll back", app.keys.of("rollback")), answered)

    app.ask(lambda: client.model(model), known, group="rollback")


def undo(app: StudioApp) -> None:
    client = app.client
    if client is not None:
        app.ask(client.undo, lambda move: say_move(app, "Undid the newest change", move))


def copy_call(app: StudioApp, reference: str, language: Literal["curl", "python", "javascript"]) -> None:
    """Copy a request that runs as shown."""
    client = app.client
    if client is None or not reference:
        return

    def got(example: CallExample) -> None:
        title = {"curl": "curl", "python": "Python", "javascript": "JavaScript"}[language]
        app.copy(str(getattr(example, language)), f"{title} for {reference}")

    app.ask(lambda: client.call(reference), got, group="copy")


def _watch(app: StudioApp, comparison: Comparison) -> None:
    known = {**app.store.state.comparisons, comparison.id: comparison}
    app.store.update(messages.ComparisonChanged, comparisons=known)
    app.go("compare")


def compare(app: StudioApp, plan: Plan) -> None:
    """Start a comparison and go to look at it."""
    client = app.client
    if client is not None:
        app.ask(lambda: client.compare(plan), lambda comparison: _watch(app, comparison), group="compare")


def load_test(app: StudioApp, reference: str) -> None:
    """Ten seconds of load from four clients; shown on Compare with one side."""
    client = app.client
    if client is not None:
        app.say(f"{LOAD_SECONDS:.0f} s, {LOAD_CLIENTS} clients", f"Load test of {reference}")
        app.ask(
            lambda: client.load(reference, LOAD_SECONDS, LOAD_CLIENTS), lambda one: _watch(app, one), group="compare"
        )
