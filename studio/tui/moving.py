"""Moving about: hjkl, first and last, panes. The same on every screen."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from textual.widget import Widget
from textual.widgets import DataTable

from studio.tui.screens.base import Handler

if TYPE_CHECKING:
    from studio.tui.app import StudioApp


def handlers(app: StudioApp) -> dict[str, Handler]:
    """The handlers of `move.*` and `pane.*`."""

    def pane(do: Callable[[], None]) -> Handler:
        return Handler(do, lambda: "" if app.current and app.current.PANES else "This screen has one pane.")

    return {
        "move.down": Handler(lambda: vertical(app.focused, 1)),
        "move.up": Handler(lambda: vertical(app.focused, -1)),
        "move.first": Handler(lambda: edge(app.focused, first=True)),
        "move.last": Handler(lambda: edge(app.focused, first=False)),
        "move.left": Handler(lambda: app.current.move_tab(-1) if app.current else None),
        "move.right": Handler(lambda: app.current.move_tab(1) if app.current else None),
        "pane.zoom": pane(lambda: zoom(app)),
        "pane.grow": pane(lambda: resize(app, 1)),
        "pane.shrink": pane(lambda: resize(app, -1)),
        "pane.reset": pane(lambda: reset(app)),
    }


def vertical(focused: Widget | None, by: int) -> None:
    if isinstance(focused, DataTable):
        (focused.action_cursor_down if by > 0 else focused.action_cursor_up)()
    elif focused is not None:
        focused.scroll_relative(y=by, animate=False)


def edge(focused: Widget | None, first: bool) -> None:
    if isinstance(focused, DataTable):
        (focused.action_scroll_top if first else focused.action_scroll_bottom)()
    elif focused is not None:
        (focused.scroll_home if first else focused.scroll_end)(animate=False)


def _panes(app: StudioApp) -> list[Widget]:
    return [app.query_one(f"#{name}") for name in app.current.PANES] if app.current else []


def zoom(app: StudioApp) -> None:
    """The pane that has the focus alone, or all of them again."""
    panes = _panes(app)
    if any(pane.has_class("zoomed") for pane in panes):
        for pane in panes:
            pane.remove_class("zoomed", "beside-zoomed")
        return
    focused = app.focused
    chosen = next((pane for pane in panes if focused is not None and pane in focused.ancestors_with_self), panes[0])
    for pane in panes:
        pane.add_class("zoomed" if pane is chosen else "beside-zoomed")


def resize(app: StudioApp, by: int) -> None:
    """The first pane takes or gives a twentieth."""
    if app.current is None:
        return
    share = max(20, min(80, app.current.share + 5 * by))
    app.current.share = share
    apply_share(app)


def reset(app: StudioApp) -> None:
    if app.current is None:
        return
    for pane in _panes(app):
        pane.remove_class("zoomed", "beside-zoomed")
    app.current.share = 0
    apply_share(app)


def apply_share(app: StudioApp) -> None:
    """Give the first pane its share of the screen, in the direction in which it lies."""
    view = app.current
    if view is None:
        return
    first = _panes(app)[0]
    wide = app.screen.has_class("-wide")
    first.styles.clear_rule("width")
    first.styles.clear_rule("height")
    if view.share_set:
        if wide:
            first.styles.width = f"{view.share}%"
        else:
            first.styles.height = f"{view.share}%"
    first.refresh(layout=True)
