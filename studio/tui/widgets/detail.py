"""The right half of Models: everything about the chosen version, in tabs."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, ClassVar, cast

from textual import on
from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.content import Content
from textual.message import Message
from textual.widget import Widget
from textual.widgets import DataTable, Static, TabbedContent, TabPane

from studio.core.jobs import Job
from studio.core.manifest import VariantManifest
from studio.core.views import VersionDetail
from studio.tui.widgets import version_text
from studio.tui.widgets.tables import Column, Table

if TYPE_CHECKING:
    from studio.tui.app import StudioApp

TABS: tuple[tuple[str, str], ...] = (
    ("overview", "Overview"),
    ("variants", "Variants"),
    ("signature", "Signature"),
    ("lineage", "Lineage"),
    ("graph", "Graph"),
    ("history", "History"),
)
VARIANT_COLUMNS = (
    Column("mark", "", 1),
    Column("variant", "variant", 12),
    Column("outcome", "outcome", 14),
    Column("p50", "p50 ms", 6, right=True),
    Column("speedup", "speed", 6, right=True),
    Column("size", "size", 7, right=True, need=52),
    Column("fidelity", "cosine", 8, right=True, need=58),
    Column("accuracy", "accuracy", 8, right=True, need=70),
    Column("inputs", "judged on", 9, need=80),
    Column("alias", "alias", 12, need=94),
)


class VersionPane(Widget):
    """Shows one `VersionDetail`. `target` is the full reference of the variant under the cursor."""

    DEFAULT_CSS = """
    VersionPane { height: 1fr; width: 1fr; }
    VersionPane TabbedContent, VersionPane ContentSwitcher { height: 1fr; }
    VersionPane TabPane { padding: 0; height: 1fr; }
    VersionPane VerticalScroll { padding: 0 1; }
    VersionPane #variant-table { height: auto; max-height: 50%; }
    VersionPane #variant-choice { padding: 1 1 0 1; }
    VersionPane #variant-words { padding: 1 1 0 1; }
    VersionPane #variant-plot { padding: 1 0 0 1; }
    """
    ORDER: ClassVar[tuple[str, ...]] = tuple(name for name, _ in TABS)

    class VariantChosen(Message):
        """Another variant is under the cursor."""

    def __init__(self, open_key: str) -> None:
        super().__init__(id="version")
        self._open_key = open_key
        self._detail: VersionDetail | None = None
        self._work: Job | None = None

    def compose(self) -> ComposeResult:
        with TabbedContent(initial="overview"):
            for name, title in TABS:
                with TabPane(title, id=name):
                    if name == "variants":
                        yield Table(VARIANT_COLUMNS, id="variant-table")
                        with VerticalScroll():
                            yield Static(id="variant-choice")
                            yield Static(id="variant-words")
                            yield Static(id="variant-plot")
                    else:
                        with VerticalScroll():
                            yield Static(id=f"{name}-text")

    @property
    def detail(self) -> VersionDetail | None:
        return self._detail

    @property
    def tab(self) -> str:
        return self.query_one(TabbedContent).active

    @property
    def on_variants(self) -> bool:
        """Whether a variant is being looked at, so that actions mean it rather than the version."""
        return self.tab == "variants" and self._detail is not None

    @property
    def variant(self) -> str:
        return self.query_one("#variant-table", Table).chosen

    def show(self, detail: VersionDetail | None) -> None:
        self._detail = detail
        self.query_one("#variant-table", Table).fill(
            [(row.variant, version_text.variant_cells(row, detail.row.auto)) for row in detail.row.variants]
            if detail
            else []
        )
        self._show_choice()
        self._paint(self.tab)
        self._show_variant()
        if self.on_variants:
            self._plot()

    def show_work(self, job: Job | None) -> None:
        """The job that makes variants of this version now, None where there is none."""
        if job != self._work:
            self._work = job
            self._show_choice()

    def on_resize(self) -> None:
        self._show_choice()

    def _show_choice(self) -> None:
        width = self.size.width - 6
        words = version_text.choice(self._detail.row, self._work, width) if self._detail else Content("")
        self.query_one("#variant-choice", Static).update(words)

    def _paint(self, tab: str) -> None:
        detail = self._detail
        if tab == "variants":
            return
        target = self.query_one(f"#{tab}-text", Static)
        if detail is None:
            target.update("")
            return
        width = max(20, self.size.width - 4)
        texts = {
            "overview": lambda: version_text.overview(detail, time.time()),
            "signature": lambda: version_text.signature(detail),
            "lineage": lambda: version_text.lineage(detail),
            "graph": lambda: version_text.graph(detail, width, self._open_key),
            "history": lambda: version_text.history(detail),
        }
        target.update(texts[tab]())

    def move_tab(self, by: int) -> None:
        tabs = self.query_one(TabbedContent)
        tabs.active = self.ORDER[(self.ORDER.index(tabs.active) + by) % len(self.ORDER)]

    def open(self) -> Widget:
        """Bring the variants to the front; gives what should take the focus."""
        self.query_one(TabbedContent).active = "variants"
        return self.query_one("#variant-table", Table)

    @on(TabbedContent.TabActivated)
    def _activated(self) -> None:
        self._paint(self.tab)
        if self.on_variants:
            self._plot()
        self.post_message(self.VariantChosen())

    @on(DataTable.RowHighlighted, "#variant-table")
    def _highlighted(self, event: DataTable.RowHighlighted) -> None:
        event.stop()
        self._show_variant()
        self.post_message(self.VariantChosen())

    def _plot(self) -> None:
        """Speed against accuracy where that differs, else against size. Drawn in a thread: plotext imports slowly."""
        detail, plot = self._detail, self.query_one("#variant-plot", Static)
        offered = ("reference", "keep", "not distinguishable")
        rows = [row for row in detail.row.variants if row.p50 is not None and row.outcome in offered] if detail else []
        accuracies = [row.accuracy for row in rows if row.accuracy is not None]
        by_accuracy = len(accuracies) == len(rows) and bool(rows) and max(accuracies) - min(accuracies) >= 0.001
        points = [(row.variant, row.p50 or 0.0, row.accuracy if by_accuracy else row.size / 1000) for row in rows]
        width, height = self.size.width - 4, min(14, self.size.height - 24)
        if len(points) < 2 or width < 40 or height < 8:
            plot.update("")
            return

        def draw() -> object:
            from studio.tui.charts.still import Candidate, as_text, pareto

            known = [Candidate(label, x, y) for label, x, y in points if y is not None]
            value, better = ("accuracy", "higher") if by_accuracy else ("size in kB", "lower")
            return as_text(pareto(known, width=width, height=height, value=value, better=better))

        cast("StudioApp", self.app).ask(draw, plot.update, group="pareto")

    def _show_variant(self) -> None:
        words = self.query_one("#variant-words", Static)
        detail, name = self._detail, self.variant
        row = next((one for one in detail.row.variants if one.variant == name), None) if detail else None
        if detail is None or row is None:
            words.update(Content(""))
            return
        manifest: VariantManifest | None = next((one for one in detail.variants if one.variant == name), None)
        words.update(version_text.variant_words(row, manifest))
