"""Compare: what one can do with a comparison. How it looks is `compare.py`'s."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from textual import on
from textual.app import ComposeResult
from textual.widget import Widget

from studio.core.comparison import Comparison, Plan
from studio.core.names import PRODUCTION
from studio.core.views import ModelDetail, VersionPage, VersionRow
from studio.tui import messages, moves, report
from studio.tui.dialogs import Choice
from studio.tui.screens.base import Handler, View
from studio.tui.screens.compare import CompareView

RUNNING = ("queued", "running")


class ComparingView(View):
    """Shows the newest comparison, or an earlier one, or what is marked."""

    SCREEN = "compare"
    TOPICS = (messages.ComparisonChanged, messages.MarksChanged, messages.RegistryChanged)

    def __init__(self) -> None:
        super().__init__()
        self._chosen_id = ""
        self._rows: tuple[VersionRow, ...] = ()
        self._rows_of = ""

    def compose(self) -> ComposeResult:
        yield CompareView()

    def first_focus(self) -> Widget | None:
        return next(iter(self.query("#compare-main")), None)

    def shown(self) -> None:
        self._show()
        self._ask_rows()

    @property
    def _all(self) -> list[Comparison]:
        """Newest first."""
        return sorted(self.state.comparisons.values(), key=lambda one: one.created, reverse=True)

    @property
    def comparison(self) -> Comparison | None:
        """The one on screen: the one that was paged to, unless a newer one was started since."""
        chosen = self.state.comparisons.get(self._chosen_id)
        return chosen or next(iter(self._all), None)

    def _show(self) -> None:
        if self.showing:
            self.query_one(CompareView).show(self.comparison, list(self.state.marked), self._rows)
            self.studio.refresh_footer()

    def _ask_rows(self) -> None:
        """Sizes, aliases and accuracies of the versions compared."""
        one, client = self.comparison, self.studio.client
        if one is None or client is None:
            return
        models = sorted({arm.target.partition(":")[0] for arm in one.arms})
        self._rows_of = one.id

        def fetch() -> tuple[VersionRow, ...]:
            pages: list[VersionPage] = [client.versions(model, archived=True, limit=200) for model in models]
            return tuple(row for page in pages for row in page.rows)

        def got(rows: tuple[VersionRow, ...]) -> None:
            self._rows = rows
            self._show()

        self.ask(fetch, got, group="compare-rows")

    @on(messages.ComparisonChanged)
    def _comparison_changed(self) -> None:
        running = next((one for one in self._all if one.state in RUNNING), None)
        if running is not None:
            self._chosen_id = running.id
        if self.showing and self.comparison and self.comparison.id != self._rows_of:
            self._ask_rows()
        self._show()

    @on(messages.MarksChanged)
    def _marks_changed(self) -> None:
        self._show()

    @on(messages.RegistryChanged)
    def _registry_changed(self) -> None:
        if self.showing:
            self._ask_rows()

    # Actions

    def handlers(self) -> Mapping[str, Handler]:
        return {
            "compare": Handler(self._start, self._why_not_start),
            "promote": Handler(self._promote, self._why_not_promote),
            "undo": Handler(lambda: moves.undo(self.studio), self._none),
            "swap": Handler(self._swap, self._why_not_swap),
            "stop": Handler(self._stop, lambda: "" if self._measuring else "No comparison runs."),
            "earlier": Handler(self._earlier, lambda: "" if len(self._all) > 1 else "There is no other comparison."),
            "load": Handler(self._load, self._none),
            "export": Handler(self._export, self._none),
            "clear": Handler(self._clear_marks),
        }

    @property
    def _measuring(self) -> bool:
        one = self.comparison
        return one is not None and one.state in RUNNING

    def _none(self) -> str:
        return "" if self.comparison else "Nothing is compared yet."

    def _references(self) -> tuple[str, ...]:
        """What a new comparison would compare: the marks, else the same again."""
        if len(self.state.marked) >= 2:
            return self.state.marked
        one = self.comparison
        return one.plan.references if one and len(one.plan.references) >= 2 else ()

    def _why_not_start(self) -> str:
        if self._measuring:
            return f"One is running; {self.studio.keys.label('stop')} stops it."
        key = self.studio.keys.label("mark")
        return "" if self._references() else f"Mark two to four variants on Models first, with {key}."

    def _start(self) -> None:
        references, one = self._references(), self.comparison
        plan = replace(one.plan, references=references) if one and len(one.arms) > 1 else Plan(references=references)
        moves.compare(self.studio, plan)

    def _why_not_promote(self) -> str:
        found = self.query_one(CompareView).promotion
        return "" if found.enabled else found.words

    def _promote(self) -> None:
        found, client = self.query_one(CompareView).promotion, self.studio.client
        if client is None:
            return
        model, _, key = found.reference.partition(":")
        one = self.comparison
        choices = [Choice(key, one.verdict if one else found.words)]

        def known(detail: ModelDetail) -> None:
            moves.ask_move(self.studio, model, PRODUCTION, detail.aliases.get(PRODUCTION, ""), choices)

        self.ask(lambda: client.model(model), known, group="promote")

    def _why_not_swap(self) -> str:
        if self._measuring:
            return "The sides can be swapped when it has ended."
        return "" if len(self._references()) >= 2 else "There are no two sides to swap."

    def _swap(self) -> None:
        """The last side becomes the baseline; figures against another baseline must be measured again."""
        references = tuple(reversed(self._references()))
        self.store.update(messages.MarksChanged, marked=references)
        key = self.studio.keys.label("compare")
        self.studio.say(f"A is {references[0]} now; {key} measures again.", "Swapped")

    def _stop(self) -> None:
        one, client = self.comparison, self.studio.client
        if one and client:
            self.ask(lambda: client.cancel_comparison(one.id), lambda _: self.studio.say(one.id, "Stopped"))

    def _earlier(self) -> None:
        everything, one = self._all, self.comparison
        place = everything.index(one) if one in everything else 0
        self._chosen_id = everything[(place + 1) % len(everything)].id
        self._show()
        self._ask_rows()

    def _load(self) -> None:
        one = self.comparison
        if one and one.arms:
            moves.load_test(self.studio, one.arms[-1].target)

    def _export(self) -> None:
        one = self.comparison
        if one:
            path = self.studio.reports() / f"comparison-{one.id}.md"
            path.write_text(report.comparison_report(one), encoding="utf-8")
            self.studio.copy(str(path), "the path of the report")

    def _clear_marks(self) -> None:
        if self.state.marked:
            self.store.update(messages.MarksChanged, marked=())
            self.studio.say("Nothing is marked now.")
