"""The smallest app around the Compare screen: one line above, one below, as the real one has."""

from __future__ import annotations

from textual.app import App, ComposeResult
from textual.widgets import Static

from studio.tui.charts.render import Symbols
from studio.tui.screens.compare import CompareView


class DemoApp(App[None]):
    CSS = "Static { height: 1; background: $panel; }"

    def __init__(self, theme: str = "textual-dark", symbols: Symbols = "braille") -> None:
        super().__init__()
        self._wanted = theme
        self.view = CompareView(symbols=symbols)

    def compose(self) -> ComposeResult:
        yield Static(" header")
        yield self.view
        yield Static(" footer")

    def on_mount(self) -> None:
        self.theme = self._wanted

    def screen_text(self) -> str:
        """What is on the screen, as plain lines."""
        strips = self.screen._compositor.render_strips(self.size)
        return "\n".join(strip.text.rstrip() for strip in strips)
