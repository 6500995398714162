"""The line at the bottom: the keys of this screen, dim where they can not be used now."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from textual import events, on
from textual.content import Content
from textual.widget import Widget

from studio.tui import messages
from studio.tui.actions import Action, footer_of

if TYPE_CHECKING:
    from studio.tui.app import StudioApp


class FooterBar(Widget):
    """What fits, most useful first; `? Help` always does."""

    DEFAULT_CSS = """
    FooterBar { height: 1; background: $panel; color: $foreground; }
    FooterBar:ansi { background: ansi_default; }
    """

    def __init__(self) -> None:
        super().__init__(id="footer")
        self._spans: list[tuple[int, int, str]] = []

    @property
    def _studio(self) -> StudioApp:
        return cast("StudioApp", self.app)

    def on_mount(self) -> None:
        self._studio.store.subscribe(
            self,
            messages.StatusChanged,
            messages.JobsChanged,
            messages.RegistryChanged,
            messages.ComparisonChanged,
            messages.MarksChanged,
        )

    @on(messages.StatusChanged)
    @on(messages.JobsChanged)
    @on(messages.RegistryChanged)
    @on(messages.ComparisonChanged)
    @on(messages.MarksChanged)
    def _changed(self) -> None:
        self.refresh()

    def _choose(self) -> list[Action]:
        """The actions that fit, in order; what can be done now comes before what can not."""
        app = self._studio
        offered = [action for action in footer_of(app.screen_name) if app.keys.label(action.name)]
        last = [action for action in offered if action.name == "help"]
        rest = [action for action in offered if action.name != "help"]
        rest.sort(key=lambda action: (bool(app.why_not(action.name)), action.footer))
        room = self.size.width - sum(self._width(action) for action in last) - 1
        fitting: list[Action] = []
        for action in rest:
            if self._width(action) <= room:
                room -= self._width(action)
                fitting.append(action)
        return sorted(fitting, key=lambda action: action.footer) + last

    def _width(self, action: Action) -> int:
        return len(self._studio.keys.label(action.name)) + len(action.title) + 3

    def render(self) -> Content:
        app = self._studio
        self._spans, parts, start = [], [], 1
        for action in self._choose():
            key, width = app.keys.label(action.name), self._width(action)
            off = bool(app.why_not(action.name))
            parts += [
                (key, "$faint" if off else "$footer-key-foreground bold"),
                (f" {action.title}  ", "$faint" if off else "$foreground"),
            ]
            self._spans.append((start, start + width, action.name))
            start += width
        return Content.assemble(" ", *parts)

    def on_click(self, event: events.Click) -> None:
        for start, end, name in self._spans:
            if start <= event.x < end:
                self._studio.perform(name)
