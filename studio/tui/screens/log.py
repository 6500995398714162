"""Log: engine, jobs, requests, server and audit in one list; filter, level, source, follow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content
from textual.widget import Widget
from textual.widgets import Input, RichLog

from studio.core.views import LogLine
from studio.tui import messages, text
from studio.tui.screens.base import Handler, View
from studio.tui.state import merged_lines
from studio.tui.themes import rich_style
from studio.tui.widgets.empty import Empty
from studio.tui.widgets.filter import FilterLine

LEVELS: tuple[str, ...] = ("debug", "info", "warning", "error")
SOURCES: tuple[str, ...] = ("", "engine", "job", "requests", "audit", "server")
STYLES = {"debug": "muted", "info": "foreground", "warning": "warning", "error": "error bold"}


def matching(lines: Sequence[LogLine], words: str, level: str, source: str) -> list[LogLine]:
    """Lines of at least a level, of a source ('' = all), that contain all words."""
    least, wanted = LEVELS.index(level), words.lower().split()
    return [
        line
        for line in lines
        if LEVELS.index(line.level) >= least
        and (not source or line.source == source)
        and all(word in f"{line.source} {line.subject} {line.text}".lower() for word in wanted)
    ]


class LogView(View):
    SCREEN = "log"
    PANES = ("log-pane",)
    TOPICS = (messages.LogChanged,)

    def __init__(self) -> None:
        super().__init__()
        self._level, self._source, self._follow = "info", "", True
        self._written: list[LogLine] = []

    def compose(self) -> ComposeResult:
        with Vertical(id="log-pane", classes="pane"):
            yield RichLog(id="lines", max_lines=2000, wrap=True, auto_scroll=False)
            yield Empty(id="log-empty")
            yield FilterLine("filter: words that a line contains")

    def first_focus(self) -> Widget:
        return self.query_one("#lines", RichLog)

    def shown(self) -> None:
        self._written = []
        self._draw(afresh=True)

    @property
    def filter(self) -> str:
        return self.query_one(FilterLine).value.strip()

    def _draw(self, afresh: bool = False) -> None:
        if not self.showing:
            return
        log = self.query_one("#lines", RichLog)
        lines = matching(merged_lines(self.state), self.filter, self._level, self._source)
        known = len(self._written)
        if afresh or lines[:known] != self._written:
            log.clear()
            known = 0
        for line in lines[known:]:
            log.write(self._line(line), expand=True)
        self._written = lines
        if self._follow:
            log.scroll_end(animate=False)
        self._titles(len(lines))
        empty = None if lines else self._empty_words()
        self.query_one("#log-empty", Empty).show(empty)
        self.reveal(log, empty is None)

    def _line(self, line: LogLine) -> Text:
        variables = self.app.theme_variables

        def part(words: str, name: str) -> tuple[str, object]:
            return words, rich_style(variables, name)

        pieces = [part(f"{text.clock(line.at)} ", "muted"), part(f"{line.source:<9}", "muted")]
        pieces.append(part(f"{line.level:<8}" if line.level != "info" else " " * 8, STYLES[line.level]))
        if line.subject:
            pieces.append(part(f"{line.subject}  ", "foreground bold"))
        pieces.append(part(line.text, STYLES[line.level]))
        found = Text()
        for words, style in pieces:
            found.append(words, style)  # type: ignore[arg-type]
        return found

    def _titles(self, count: int) -> None:
        pane = self.query_one("#log-pane")
        pane.border_title = "Log" + (f"  filter: {self.filter}" if self.filter else "")
        pane.border_subtitle = (
            f"{text.plural(count, 'line')}, {self._source or 'all sources'}, {self._level} and up, "
            + ("following" if self._follow else "not following")
        )

    def _empty_words(self) -> Content:
        if self.filter or self._source or self._level != "info":
            return Content.assemble("No line matches.\n\n", self.studio.key_hint("clear", "to show all lines."))
        return Content.assemble("Nothing was logged yet.\n\n", self.studio.key_hint("screen.models", "for the models."))

    @on(messages.LogChanged)
    def _changed(self) -> None:
        self._draw()

    @on(Input.Changed)
    def _filter_changed(self) -> None:
        self._draw(afresh=True)

    @on(Input.Submitted)
    def _filter_kept(self) -> None:
        self.query_one("#lines").focus()

    def handlers(self) -> Mapping[str, Handler]:
        return {
            "filter": Handler(self.query_one(FilterLine).open),
            "clear": Handler(self._clear),
            "follow": Handler(self._toggle_follow),
            "level": Handler(self._next_level),
            "source": Handler(self._next_source),
        }

    def _clear(self) -> None:
        self._level, self._source = "info", ""
        self.query_one(FilterLine).close()
        self._draw(afresh=True)
        log = self.query_one("#lines")
        if log.display:
            log.focus()

    def _toggle_follow(self) -> None:
        self._follow = not self._follow
        self._draw()

    def _next_level(self) -> None:
        self._level = LEVELS[(LEVELS.index(self._level) + 1) % len(LEVELS)]
        self._draw(afresh=True)

    def _next_source(self) -> None:
        self._source = SOURCES[(SOURCES.index(self._source) + 1) % len(SOURCES)]
        self._draw(afresh=True)
