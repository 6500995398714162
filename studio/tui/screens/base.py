"""What all five screens have in common: named actions with a reason when they can not be done, panes, being shown."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, cast

from textual.containers import Container
from textual.widget import Widget

from studio.tui.actions import Screen
from studio.tui.state import State, Store, Topic

if TYPE_CHECKING:
    from studio.tui.app import StudioApp


@dataclass(frozen=True)
class Handler:
    """How a screen does an action. `why_not` gives the reason why it can not be done now, empty = it can."""

    do: Callable[[], None]
    why_not: Callable[[], str] = lambda: ""


class View(Container):
    """A screen. `PANES` are the ids of its panes, the first one grows and shrinks against the rest."""

    SCREEN: ClassVar[Screen]
    PANES: ClassVar[tuple[str, ...]] = ()
    TOPICS: ClassVar[tuple[Topic, ...]] = ()
    START_SHARE: ClassVar[int] = 50

    def __init__(self) -> None:
        super().__init__(id=self.SCREEN)
        self._share = 0

    @property
    def share(self) -> int:
        """Per cent of the screen that the first pane takes, where the user set it; else what the style sheet says."""
        return self._share or self.START_SHARE

    @share.setter
    def share(self, value: int) -> None:
        self._share = value

    @property
    def share_set(self) -> bool:
        return self._share > 0

    @property
    def studio(self) -> StudioApp:
        return cast("StudioApp", self.app)

    @property
    def store(self) -> Store:
        return self.studio.store

    @property
    def state(self) -> State:
        return self.studio.store.state

    @property
    def showing(self) -> bool:
        """Whether this screen is the one in front."""
        return self.studio.current is self

    def on_mount(self) -> None:
        self.store.subscribe(self, *self.TOPICS)
        self.call_after_refresh(self.studio.arrived, self)

    def handlers(self) -> Mapping[str, Handler]:
        """The screen's own actions by name."""
        return {}

    def shown(self) -> None:
        """Called when the screen comes to the front, and when the engine is first there."""

    def first_focus(self) -> Widget | None:
        """What takes the focus when the screen comes to the front."""
        return None

    def reveal(self, widget: Widget, visible: bool) -> None:
        """Show or hide a list. One that comes back takes the focus that hiding it took away."""
        came = visible and not widget.display
        widget.display = visible
        if came and self.showing and len(self.app.screen_stack) == 1 and self.app.focused is None:
            self.call_after_refresh(widget.focus)

    def move_tab(self, by: int) -> None:
        """`h` and `l`: the tab before or after, on screens that have tabs. Others scroll the focused widget."""
        focused = self.app.focused
        if focused is not None:
            focused.scroll_relative(x=8 * by, animate=False)

    def ask(self, call: Callable[[], Any], then: Callable[[Any], None], group: str = "") -> None:
        """Run a blocking client call in a thread; `then` gets its result on the UI thread. Errors become toasts."""
        self.studio.ask(call, then, group=group)
