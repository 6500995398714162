"""Tables: fixed columns that fit the width, rows by key, and edges that ask for the next page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.style import Style
from rich.text import Text
from textual.message import Message
from textual.widgets import DataTable

from studio.tui import text
from studio.tui.themes import rich_style


@dataclass(frozen=True)
class Column:
    """`need`: how much room the table must have for this column to be shown. Width 0 = takes what is left."""

    key: str
    title: str
    width: int
    right: bool = False
    need: int = 0


Cell = str | tuple[str, str]
"""Words, or words with the name of a theme variable (`success`, `muted`, `foreground bold`)."""


class Table(DataTable[Text]):
    """A DataTable that is filled whole: `fill(rows)` keeps the cursor on its row."""

    DEFAULT_CSS = """
    Table { height: 1fr; background: $background; scrollbar-size-horizontal: 0; }
    Table > .datatable--header { background: $background; color: $muted; text-style: none; }
    Table:focus { background-tint: $foreground 0%; }
    Table > .datatable--cursor { background: $block-cursor-blurred-background; color: $foreground; }
    Table:focus > .datatable--cursor { background: $block-cursor-background; color: $block-cursor-foreground; }
    Table:ansi > .datatable--header { background: ansi_default; color: ansi_bright_black; }
    Table:ansi > .datatable--cursor { background: ansi_bright_black; color: ansi_bright_white; }
    Table:ansi:focus > .datatable--cursor { background: ansi_blue; color: ansi_bright_white; }
    """

    class AtEdge(Message):
        """The cursor was moved past the last row (`by` 1) or the first (`by` -1), or to the very `end`."""

        def __init__(self, by: int, end: bool = False) -> None:
            super().__init__()
            self.by = by
            self.end = end

    def __init__(self, columns: Sequence[Column], id: str) -> None:
        super().__init__(id=id, cursor_type="row", zebra_stripes=False, cell_padding=0, show_row_labels=False)
        self._all = tuple(columns)
        self._rows: list[tuple[str, dict[str, Cell]]] = []
        self._shape: tuple[tuple[str, int], ...] = ()
        self._drawn: list[tuple[str, tuple[Cell, ...]]] = []
        self._theme_drawn = ""

    def _columns_for(self, width: int) -> list[tuple[Column, int]]:
        shown = [column for column in self._all if column.need <= width]
        fixed = sum(column.width + 1 for column in shown if column.width)
        stretch = max(1, sum(not column.width for column in shown))
        left = max(8, (width - fixed - 2) // stretch - 1)
        return [(column, column.width or left) for column in shown]

    def fill(self, rows: Sequence[tuple[str, dict[str, Cell]]]) -> None:
        """Show these rows: (key, cells by column key). Draws only what differs."""
        self._rows = list(rows)
        self._draw()

    def on_resize(self) -> None:
        self._draw()

    def _draw(self) -> None:
        width = self.size.width
        if width < 8:
            return
        columns = self._columns_for(width)
        shape = tuple((column.key, wide) for column, wide in columns)
        drawn = [(key, tuple(cells.get(column.key, "") for column, _ in columns)) for key, cells in self._rows]
        same_keys = [key for key, _ in drawn] == [key for key, _ in self._drawn]
        fresh = shape != self._shape or self.app.theme != self._theme_drawn
        if not fresh and drawn == self._drawn:
            return
        if not fresh and same_keys:
            for (key, cells), (_, old) in zip(drawn, self._drawn, strict=True):
                for (column, wide), cell, before in zip(columns, cells, old, strict=True):
                    if cell != before:
                        self.update_cell(key, column.key, self._cell(cell, column, wide))
        else:
            self._redraw(columns, drawn)
        self._shape, self._drawn, self._theme_drawn = shape, drawn, self.app.theme

    def _redraw(self, columns: list[tuple[Column, int]], drawn: list[tuple[str, tuple[Cell, ...]]]) -> None:
        chosen, row, scroll = self.chosen, self.cursor_row, self.scroll_y
        with self.prevent(DataTable.RowHighlighted):
            self.clear(columns=True)
            for column, wide in columns:
                self.add_column(self._cell(column.title, column, wide), width=wide + 1, key=column.key)
            for key, cells in drawn:
                self.add_row(*(self._cell(c, col, w) for c, (col, w) in zip(cells, columns, strict=True)), key=key)
            keys = [key for key, _ in drawn]
            target = keys.index(chosen) if chosen in keys else min(row, len(keys) - 1)
            if target > 0:
                self.move_cursor(row=target, animate=False, scroll=False)
                self.scroll_to(y=scroll, animate=False)
        if keys and keys[max(0, target)] != chosen:
            row_key = next(iter(self.rows.keys() if target <= 0 else [list(self.rows.keys())[target]]))
            self.post_message(DataTable.RowHighlighted(self, max(0, target), row_key))

    def _cell(self, cell: Cell, column: Column, width: int) -> Text:
        words, name = (cell, "") if isinstance(cell, str) else cell
        style: Style = rich_style(self.app.theme_variables, name) if name else Style()
        words = text.fit(words, width)
        return Text((words.rjust(width) if column.right else words) + " ", style=style, no_wrap=True, end="")

    @property
    def chosen(self) -> str:
        """The key of the row under the cursor; empty when there is none."""
        keys = [key for key, _ in self._drawn]
        return keys[self.cursor_row] if 0 <= self.cursor_row < len(keys) else ""

    def choose(self, key: str) -> None:
        """Put the cursor on a row; nothing happens when it is not there."""
        keys = [one for one, _ in self._drawn]
        if key in keys:
            self.move_cursor(row=keys.index(key), animate=False)

    def action_cursor_down(self) -> None:
        if self.cursor_row >= self.row_count - 1:
            self.post_message(self.AtEdge(1))
        super().action_cursor_down()

    def action_cursor_up(self) -> None:
        if self.cursor_row <= 0:
            self.post_message(self.AtEdge(-1))
        super().action_cursor_up()

    def action_scroll_bottom(self) -> None:
        self.post_message(self.AtEdge(1, end=True))
        self.move_cursor(row=max(0, self.row_count - 1), animate=False)

    def action_scroll_top(self) -> None:
        self.post_message(self.AtEdge(-1, end=True))
        self.move_cursor(row=0, animate=False)
