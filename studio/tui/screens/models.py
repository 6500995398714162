"""Models: versions left, paged from the engine; the chosen one right, in tabs."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from textual import on
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.widget import Widget
from textual.widgets import DataTable, Input

from studio.core.names import REFERENCE_VARIANT
from studio.core.views import VersionDetail, VersionPage, VersionRow
from studio.tui import laboratory, messages, text
from studio.tui.screens import versions
from studio.tui.screens.base import Handler, View
from studio.tui.widgets import version_text
from studio.tui.widgets.detail import VersionPane
from studio.tui.widgets.empty import Empty
from studio.tui.widgets.filter import FilterLine
from studio.tui.widgets.tables import Column, Table

PAGE = 100
SORTS: tuple[tuple[str, bool], ...] = (
    ("model", False),
    ("created", True),
    ("size", False),
    ("p50", False),
    ("fidelity", True),
)
COLUMNS = (
    Column("mark", "", 2),
    Column("name", "version", 0),
    Column("state", "state", 10),
    Column("variants", "var", 4),
    Column("size", "size", 7, right=True),
    Column("p50", "p50 ms", 6, right=True),
    Column("fidelity", "fidelity", 8, right=True, need=60),
    Column("accuracy", "accuracy", 8, right=True, need=84),
    Column("traffic", "req/s", version_text.TRAFFIC_WIDTH, need=78),
    Column("alias", "alias", 11),
)
LETTERS = "ABCD"


class ModelsView(View):
    """The table pages: only what is on screen is asked for, whatever the number of versions."""

    SCREEN = "models"
    PANES = ("models-list", "models-detail")
    TOPICS = (
        messages.StatusChanged,
        messages.RegistryChanged,
        messages.JobsChanged,
        messages.MarksChanged,
        messages.ClockTicked,
    )
    START_SHARE = 55

    def __init__(self) -> None:
        super().__init__()
        self.page = VersionPage(rows=(), total=0, offset=0)
        self._asked = False
        self._sort = 0
        self._archived = False
        self._place = ""  # where the cursor goes on the next page: "first", "last" or where it was
        self.running_samples = False

    def compose(self) -> ComposeResult:
        with Horizontal(classes="panes"):
            with Vertical(id="models-list", classes="pane"):
                yield Table(COLUMNS, id="versions")
                yield Empty(id="models-empty")
                yield FilterLine("filter: model, title, tag, alias or format")
            with Vertical(id="models-detail", classes="pane"):
                yield VersionPane(self.studio.keys.label("netron"))

    def on_mount(self) -> None:
        self.query_one("#models-detail").border_title = "Version"
        self._titles()

    def first_focus(self) -> Widget:
        return self.query_one("#versions", Table)

    def shown(self) -> None:
        self.reload()
        self._fill()

    # Asking

    @property
    def filter(self) -> str:
        return self.query_one(FilterLine).value.strip()

    def reload(self, offset: int | None = None, place: str = "") -> None:
        """Ask for a page. Only the newest question is answered."""
        client = self.studio.client
        if client is None:
            self._empty()
            return
        sort, descending = SORTS[self._sort]
        start, words, archived = self.page.offset if offset is None else offset, self.filter, self._archived
        self._place = place
        self.ask(lambda: client.versions(words, sort, descending, archived, start, PAGE), self._paged, group="versions")

    def _paged(self, page: VersionPage) -> None:
        if page.total and not page.rows and page.offset:  # the list shrank below this page
            self.reload(max(0, (page.total - 1) // PAGE * PAGE), "last")
            return
        self.page, self._asked = page, True
        self._fill()
        table = self.query_one("#versions", Table)
        if self._place:
            table.move_cursor(row=0 if self._place == "first" else len(page.rows) - 1, animate=False)
        self._place = ""
        self._ask_detail()
        self.studio.refresh_footer()

    def _fill(self) -> None:
        marks = dict(zip(self.state.marked, LETTERS, strict=False))
        now = time.time()
        rows = [
            (f"{row.model}:{row.version}", version_text.version_cells(row, marks, self.state.points, now))
            for row in self.page.rows
        ]
        self.query_one("#versions", Table).fill(rows)
        self._titles()
        self._empty()

    @on(messages.ClockTicked)
    def _clock_ticked(self) -> None:
        if self.showing:
            self._fill()

    def _titles(self) -> None:
        pane, page = self.query_one("#models-list"), self.page
        pane.border_title = "Models" + (f"  filter: {self.filter}" if self.filter else "")
        first, last = page.offset + 1, page.offset + len(page.rows)
        count = (
            f"{first:,}-{last:,} of {page.total:,}"
            if page.total > len(page.rows)
            else text.plural(page.total, "version")
        )
        sort = f"by {SORTS[self._sort][0]}"
        pane.border_subtitle = f"{count}, {sort}" + (", with archived" if self._archived else "") if page.total else ""

    def _empty(self) -> None:
        words = self._empty_words()
        self.query_one("#models-empty", Empty).show(words)
        self.reveal(self.query_one("#versions"), words is None)
        self.query_one("#models-detail").display = words is None
        self.set_class(words is not None, "alone")

    def _empty_words(self) -> Content | None:
        state, app = self.state, self.studio
        if state.phase == "starting":
            return Content.assemble(("starting the engine …\n\n", "bold"), (str(app.workspace), "$muted"))
        if state.phase == "failed":
            problem = state.problem
            lines = "\n".join(part for part in (problem.why, problem.fix) if part) if problem else ""
            what = problem.what if problem else "There is no engine."
            return Content.assemble(
                (what + "\n", "$error bold"), lines + "\n\n", app.key_hint("reconnect", "to try again.")
            )
        if self.page.rows or not self._asked:
            return None
        if self.filter:
            return Content.assemble(
                "No version matches ", (self.filter, "bold"), ".\n\n", app.key_hint("clear", "to clear the filter.")
            )
        return self._first_run()

    def _first_run(self) -> Content:
        app, status = self.studio, self.state.status
        where = status.inbox if status else str(app.workspace / "inbox")
        parts: list[Any] = [
            ("No models yet.\n\n", "bold"),
            "Drop a model file into\n",
            (where, "$accent bold"),
            "\nand it is converted, checked, measured and served.\n\n",
        ]
        if self.running_samples or self.state.active_jobs():
            parts.append(app.key_hint("screen.inbox", "to watch the first one arrive."))
        elif app.samples:
            parts.append(app.key_hint("samples", "to run the built-in samples, offline."))
        else:
            parts.append(app.key_hint("screen.inbox", "to watch the inbox."))
        return Content.assemble(*parts)

    # The chosen version

    @property
    def chosen(self) -> VersionRow | None:
        key = self.query_one("#versions", Table).chosen
        return next((row for row in self.page.rows if f"{row.model}:{row.version}" == key), None)

    @property
    def detail(self) -> VersionDetail | None:
        """The details on the right, when they are those of the chosen row."""
        detail, row = self.query_one(VersionPane).detail, self.chosen
        same = (
            detail is not None
            and row is not None
            and (detail.row.model, detail.row.version) == (row.model, row.version)
        )
        return detail if same else None

    @property
    def target(self) -> str:
        """The full reference that actions mean: the variant looked at, else the reference variant of the row."""
        row, pane = self.chosen, self.query_one(VersionPane)
        if row is None:
            return ""
        variant = pane.variant if pane.on_variants and self.detail and pane.variant else REFERENCE_VARIANT
        return f"{row.model}:{row.version}-{variant}"

    def _ask_detail(self) -> None:
        row, client = self.chosen, self.studio.client
        pane = self.query_one(VersionPane)
        if row is None or client is None:
            pane.show(None)
            return
        self.ask(lambda: client.version(row.model, row.version), self._detailed, group="version")

    def _detailed(self, detail: VersionDetail) -> None:
        row = self.chosen
        if row and (row.model, row.version) == (detail.row.model, detail.row.version):
            self.query_one(VersionPane).show(detail)
            self._show_work()
            self.query_one("#models-detail").border_title = f"{row.model}:{row.version}"
            self.studio.refresh_footer()

    @on(messages.JobsChanged)
    def _show_work(self) -> None:
        """What the lab does for the version that is shown."""
        detail = self.detail
        if self.showing and detail is not None:
            job = laboratory.work_on(self.state.jobs.values(), detail.row.model, detail.row.version)
            self.query_one(VersionPane).show_work(job)

    # What happens

    @on(messages.RegistryChanged)
    def _registry_changed(self) -> None:
        if self.showing:
            self.reload()

    @on(messages.StatusChanged)
    def _status_changed(self) -> None:
        if self.showing:
            self._empty()

    @on(messages.MarksChanged)
    def _marks_changed(self) -> None:
        self._fill()

    @on(DataTable.RowHighlighted, "#versions")
    def _highlighted(self) -> None:
        self.set_timer(0.08, self._settled)

    def _settled(self) -> None:
        if self.detail is None:
            self._ask_detail()
        self.studio.refresh_footer()

    @on(DataTable.RowSelected, "#versions")
    def _selected(self) -> None:
        self.studio.perform("open")

    @on(VersionPane.VariantChosen)
    def _variant_chosen(self) -> None:
        self.studio.refresh_footer()

    @on(Table.AtEdge)
    def _at_edge(self, event: Table.AtEdge) -> None:
        page = self.page
        last = max(0, (page.total - 1) // PAGE * PAGE)
        wanted = (last if event.by > 0 else 0) if event.end else page.offset + event.by * PAGE
        if 0 <= wanted <= last and wanted != page.offset:
            forward = wanted > page.offset
            self.reload(wanted, ("last" if event.end else "first") if forward else ("first" if event.end else "last"))

    @on(Input.Changed, "#filter")
    def _filter_changed(self) -> None:
        self.reload(0, "first")

    @on(Input.Submitted, "#filter")
    def _filter_kept(self) -> None:
        self.query_one("#versions").focus()

    def move_tab(self, by: int) -> None:
        self.query_one(VersionPane).move_tab(by)

    # Actions

    def handlers(self) -> Mapping[str, Handler]:
        return versions.handlers(self) | {
            "filter": Handler(self.query_one(FilterLine).open),
            "clear": Handler(self._clear),
            "open": Handler(self._open_variants, self.no_row),
            "sort": Handler(self._next_sort, self.no_row),
            "archived": Handler(self._toggle_archived),
        }

    def no_row(self) -> str:
        return "" if self.chosen else "There is no version to choose."

    def _clear(self) -> None:
        line = self.query_one(FilterLine)
        if line.has_class("open"):
            line.close()
        self.query_one("#versions").focus()

    def _open_variants(self) -> None:
        self.query_one(VersionPane).open().focus()

    def _next_sort(self) -> None:
        self._sort = (self._sort + 1) % len(SORTS)
        self.reload(0, "first")

    def _toggle_archived(self) -> None:
        self._archived = not self._archived
        self.reload(0)
        self.studio.say("shown too" if self._archived else "hidden", "Archived versions are")
