"""Empty states: what would be here, and the one next key."""

from __future__ import annotations

from textual.content import Content
from textual.widgets import Static


class Empty(Static):
    """Words in the middle of a pane."""

    DEFAULT_CSS = """
    Empty { height: 1fr; width: 1fr; content-align: center middle; text-align: center; padding: 1 2; display: none; }
    Empty.open { display: block; }
    """

    def show(self, words: Content | None) -> None:
        """Show the words, or hide when there are none."""
        self.set_class(words is not None, "open")
        if words is not None:
            self.update(words)
