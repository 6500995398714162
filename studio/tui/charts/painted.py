"""A widget that shows lines of (text, role), and repaints only the lines that changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from rich.style import Style
from textual.geometry import Region, Size
from textual.strip import Strip
from textual.widget import Widget

from studio.tui.charts.frame import Line, strip_of
from studio.tui.charts.palette import role_styles

_themes: dict[str, Mapping[str, Style]] = {}


class Painted(Widget):
    """Base of charts and tables here. Its natural height is the number of its lines."""

    DEFAULT_CSS: ClassVar[str] = "Painted { height: auto; width: 1fr; }"

    def __init__(self, *, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(id=id, classes=classes)
        self.lines: tuple[Line, ...] = ()

    def show_lines(self, lines: Sequence[Line]) -> None:
        """Show these lines. A change of their number asks for a new layout, anything else repaints what differs."""
        old, self.lines = self.lines, tuple(lines)
        if len(old) != len(self.lines):
            self.refresh(layout=self.styles.height is not None and self.styles.height.is_auto)
            return
        changed = [
            Region(0, y, self.size.width, 1) for y, (a, b) in enumerate(zip(old, self.lines, strict=True)) if a != b
        ]
        if changed:
            self.refresh(*changed)

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        return len(self.lines)

    def render_line(self, y: int) -> Strip:
        line = self.lines[y] if y < len(self.lines) else ()
        # Text and background of the theme lie under the roles, which have no background of their own.
        return strip_of(line, self.size.width, self._role_styles()).apply_style(self.rich_style)

    def _role_styles(self) -> Mapping[str, Style]:
        theme = self.app.theme
        if theme not in _themes:
            _themes[theme] = role_styles(self.app.theme_variables)
        return _themes[theme]
