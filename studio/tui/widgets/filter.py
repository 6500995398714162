"""The filter line: hidden until asked for; enter keeps what was typed, esc clears it."""

from __future__ import annotations

from textual.widgets import Input


class FilterLine(Input):
    """One line under a list. Post-processing is the list's: it hears `Input.Changed` and `Input.Submitted`."""

    DEFAULT_CSS = """
    FilterLine { height: 1; border: none; padding: 0 1; background: $panel; display: none; }
    FilterLine:focus { border: none; }
    FilterLine.open { display: block; }
    """

    def __init__(self, words: str) -> None:
        super().__init__(placeholder=words, id="filter", compact=True)

    def open(self) -> None:
        self.add_class("open")
        self.focus()

    def close(self) -> None:
        """Clear and hide."""
        self.value = ""
        self.remove_class("open")
