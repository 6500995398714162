"""What one can do with a version or a variant on Models: mark, promote, archive, copy, export."""

from __future__ import annotations

import webbrowser
from collections.abc import Callable
from typing import TYPE_CHECKING

from studio.core.comparison import Plan
from studio.core.names import PRODUCTION, variant_key
from studio.core.views import ModelDetail, VersionRow
from studio.tui import laboratory, messages, moves, report, samples
from studio.tui.dialogs import Choice, PurgeDialog
from studio.tui.screens.base import Handler

if TYPE_CHECKING:
    from studio.tui.screens.models import ModelsView

MOST_MARKS = 4


def handlers(view: ModelsView) -> dict[str, Handler]:
    """The handlers of the Models screen that need a version."""
    row = view.no_row

    def callable_() -> str:
        return row() or _unservable(view)

    return {
        "mark": Handler(lambda: mark(view), lambda: row() or _unservable(view)),
        "compare": Handler(lambda: compare(view), lambda: _why_not_compare(view)),
        "promote": Handler(lambda: promote(view), lambda: row() or _archived(view)),
        "rollback": Handler(lambda: moves.rollback(view.studio, _model(view)), row),
        "undo": Handler(lambda: moves.undo(view.studio), row),
        "archive": Handler(lambda: archive(view), lambda: row() or _archived(view)),
        "restore": Handler(lambda: restore(view), lambda: row() or _not_archived(view, "It is not archived.")),
        "purge": Handler(
            lambda: purge(view),
            lambda: (
                row()
                or _not_archived(view, f"Archive it first ({view.studio.keys.label('archive')}); that can be undone.")
            ),
        ),
        "lab": Handler(lambda: laboratory.run(view), lambda: row() or _archived(view) or laboratory.why_not_run(view)),
        "lab.pause": Handler(lambda: laboratory.toggle(view.studio)),
        "samples": Handler(lambda: run_samples(view), lambda: _why_not_samples(view)),
        "netron": Handler(lambda: netron(view), lambda: row() or _unservable(view)),
        "copy.curl": Handler(
            lambda: moves.copy_call(view.studio, view.target, "curl"), lambda: row() or _archived(view)
        ),
        "copy.python": Handler(
            lambda: moves.copy_call(view.studio, view.target, "python"), lambda: row() or _archived(view)
        ),
        "export": Handler(
            lambda: export(view), lambda: row() or ("" if view.detail else "The details are still on their way.")
        ),
    }


def _model(view: ModelsView) -> str:
    return view.chosen.model if view.chosen else ""


def _archived(view: ModelsView) -> str:
    chosen = view.chosen
    key = view.studio.keys.label("restore")
    return f"It is archived; {key} restores it." if chosen and chosen.state == "archived" else ""


def _not_archived(view: ModelsView, words: str) -> str:
    return "" if view.chosen and view.chosen.state == "archived" else words


def _archive_first(view: ModelsView) -> str:
    return f"Archive it first ({view.studio.keys.label('archive')}); that can be undone."


def _unservable(view: ModelsView) -> str:
    """A variant that was never made can be neither compared nor drawn."""
    detail, key = view.detail, view.target.partition(":")[2]
    rows = detail.row.variants if detail else ()
    found = next((one for one in rows if detail and key == variant_key(detail.row.version, one.variant)), None)
    if found is not None and found.outcome == "not applicable":
        return f"{found.variant} was not made: {found.sentence}"
    return _archived(view)


def mark(view: ModelsView) -> None:
    """Mark or unmark what is chosen; a fifth mark pushes nothing out, it says so."""
    marked, target = view.state.marked, view.target
    if target in marked:
        wanted = tuple(one for one in marked if one != target)
    elif len(marked) >= MOST_MARKS:
        view.studio.notify("Unmark one first.", title="Four are marked already", severity="warning", markup=False)
        return
    else:
        wanted = (*marked, target)
    view.store.update(messages.MarksChanged, marked=wanted)


def _why_not_compare(view: ModelsView) -> str:
    key = view.studio.keys.label("mark")
    return "" if len(view.state.marked) >= 2 else f"Mark two to four variants first, with {key}."


def compare(view: ModelsView) -> None:
    """Start a comparison of what is marked, and go to look at it."""
    moves.compare(view.studio, Plan(references=view.state.marked))


def offered(row: VersionRow) -> list[Choice]:
    """The variants that may be promoted: the reference and those kept first, then rejected ones with their reason."""
    order = {"reference": 0, "keep": 0, "not distinguishable": 1, "reject": 2}
    usable = [one for one in row.variants if one.outcome in order]
    usable.sort(key=lambda one: (order[one.outcome], one.variant != row.auto))
    return [
        Choice(
            f"{row.version}-{one.variant}",
            ("★ " if one.variant == row.auto and row.choice else "") + f"{one.outcome}: {one.sentence}",
        )
        for one in usable
    ]


def promote(view: ModelsView) -> None:
    """Ask old → new, then move `production`."""
    row, client, target = view.chosen, view.studio.client, view.target
    if row is None or client is None:
        return
    wanted = target.partition(":")[2]
    choices = offered(row)
    choices.sort(key=lambda one: one.key != wanted)

    def known(model: ModelDetail) -> None:
        moves.ask_move(view.studio, row.model, PRODUCTION, model.aliases.get(PRODUCTION, ""), choices)

    view.ask(lambda: client.model(row.model), known, group="promote")


def archive(view: ModelsView) -> None:
    row, client = view.chosen, view.studio.client
    if row is None or client is None:
        return
    reference, key = f"{row.model}:{row.version}", view.studio.keys.label("restore")
    shown = view.studio.keys.label("archived")
    _change(view, lambda: client.archive(reference), f"Archived {reference}", f"{shown} shows it, {key} restores it.")


def restore(view: ModelsView) -> None:
    row, client = view.chosen, view.studio.client
    if row is None or client is None:
        return
    reference = f"{row.model}:{row.version}"
    _change(view, lambda: client.restore(reference), f"Restored {reference}", "It answers requests again.")


def _change(view: ModelsView, call: Callable[[], object], title: str, words: str) -> None:
    def done(_: object) -> None:
        view.studio.say(words, title)
        view.reload()

    view.ask(call, done)


def purge(view: ModelsView) -> None:
    row, client = view.chosen, view.studio.client
    if row is None or client is None:
        return
    reference = f"{row.model}:{row.version}"

    def typed(confirm: str | None) -> None:
        if confirm:
            _change(view, lambda: client.purge(reference, confirm), f"Purged {reference}", "Its files are deleted.")

    view.studio.push_screen(PurgeDialog(reference), typed)


def _why_not_samples(view: ModelsView) -> str:
    if not view.studio.samples:
        return "This installation carries no samples."
    if view.studio.client is None:
        return "The engine is still starting."
    if view.running_samples:
        return "The samples are running."
    return "The samples are for an empty workspace." if view.page.total or view.filter else ""


def run_samples(view: ModelsView) -> None:
    """Add the samples one after the other; the Inbox shows them."""
    app, client = view.studio, view.studio.client
    if client is None:
        return
    view.running_samples = True

    def tell(words: str) -> None:
        app.call_from_thread(app.say, words)

    def work() -> int:
        try:
            return samples.run_samples(client, app.samples, tell)
        finally:
            view.running_samples = False

    view.ask(work, lambda count: app.say("Look at them on Models when they are registered.", f"Added {count} samples"))
    app.go("inbox")


def netron(view: ModelsView) -> None:
    client, target = view.studio.client, view.target
    if client is None:
        return

    def opened(url: str) -> None:
        view.studio.copy(url, "the address of the graph")
        webbrowser.open(url)

    view.ask(lambda: client.netron(target), opened)


def export(view: ModelsView) -> None:
    detail = view.detail
    if detail is not None:
        name = f"{detail.row.model}-{detail.row.version}.md"
        path = view.studio.reports() / name
        path.write_text(report.version_report(detail), encoding="utf-8")
        view.studio.copy(str(path), "the path of the report")
