"""The terminal app: one header, one of five screens, one footer; every key goes through the action table."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from textual import on
from textual.app import App, ComposeResult
from textual.containers import Container
from textual.content import Content
from textual.widget import Widget

from studio.core.errors import InvalidInput, Problem
from studio.tui import messages, themes
from studio.tui.actions import BY_NAME, SCREENS, Screen
from studio.tui.asking import Answered, Asker, EngineLost, EventsArrived, Listener
from studio.tui.dialogs import QuitDialog, TextDialog
from studio.tui.help import ActionProvider, help_text, help_title
from studio.tui.jump import JumpScreen
from studio.tui.keys import Keymap, keymap, read_keymap
from studio.tui.ports import EngineClient
from studio.tui.screens.base import Handler, View
from studio.tui.state import Store, with_jobs, with_lines
from studio.tui.toasts import Toasts
from studio.tui.widgets.footer import FooterBar
from studio.tui.widgets.header import HeaderBar

if TYPE_CHECKING:
    from textual.timer import Timer


def _view(screen: Screen) -> View:
    """A new screen. Imported when first visited: the first paint pays for one screen, not for five."""
    if screen == "models":
        from studio.tui.screens.models import ModelsView

        return ModelsView()
    if screen == "inbox":
        from studio.tui.screens.inbox import InboxView

        return InboxView()
    if screen == "compare":
        from studio.tui.screens.comparing import ComparingView

        return ComparingView()
    if screen == "serve":
        from studio.tui.screens.serve import ServeView

        return ServeView()
    from studio.tui.screens.log import LogView

    return LogView()


class StudioApp(App[str]):
    """Studio in the terminal. `run()` gives `"keep"` or `"stop"`: what became of the engine that it started.

    `connect` attaches to the workspace's engine, starting one if need be; it is called in a thread after the first
    paint and may raise StudioError. `owns_engine` says, once connected, whether `connect` started it: then leaving asks
    whether it keeps serving. `samples` are offered on the empty Models screen, in order.
    """

    TITLE = "Studio"
    CSS_PATH = "studio.tcss"
    COMMANDS: ClassVar[set[Any]] = {ActionProvider}
    COMMAND_PALETTE_BINDING = "f20"  # ours come from the action table
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (104, "-wide")]  # noqa: RUF012 - Textual declares it so

    def __init__(
        self,
        connect: Callable[[], EngineClient],
        *,
        workspace: Path,
        samples: Sequence[Path] = (),
        owns_engine: Callable[[], bool] = lambda: False,
        theme: str = "studio-dark",
    ) -> None:
        super().__init__()
        self._connect = connect
        self._owns_engine = owns_engine
        self.workspace = workspace
        self.samples = tuple(samples)
        self.store = Store()
        self.client: EngineClient | None = None
        self.reconnecting = False
        self.screen_name: Screen = "models"
        self._asker = Asker(self)
        self._listener: Listener | None = None
        self._views: dict[Screen, View] = {}
        self._clock: Timer | None = None
        self._toasts = Toasts(self)
        self._keys_problem: Problem | None = None
        self.keys: Keymap = self._read_keys()
        for found in themes.THEMES:
            self.register_theme(found)
        self.theme = theme

    def _read_keys(self) -> Keymap:
        try:
            return read_keymap(self.workspace)
        except InvalidInput as error:
            self._keys_problem = error.problem
            return keymap()

    def get_theme_variable_defaults(self) -> dict[str, str]:
        return themes.DEFAULTS

    # Life

    def compose(self) -> ComposeResult:
        yield HeaderBar()
        yield Container(id="body")
        yield FooterBar()

    def on_mount(self) -> None:
        for key in sorted(self.keys.all_keys()):
            self.bind(key, f"press('{key}')", show=False)
        self._clock = self.set_interval(1.0, self._tick, pause=True)
        self._show("models")
        self.call_after_refresh(self.reconnect)
        if self._keys_problem:
            self.tell(self._keys_problem)

    def on_unmount(self) -> None:
        if self._listener:
            self._listener.stop()

    def reconnect(self) -> None:
        """Attach to the engine, or start it."""
        self.store.update(messages.StatusChanged, phase="starting", problem=None)
        self._asker.ask(self._reach, self._reached, self._unreached, group="connect")

    def _reach(self) -> EngineClient:
        client = self._connect()
        client.status()
        return client

    def _reached(self, client: EngineClient) -> None:
        self.client = client
        if self._listener:
            self._listener.stop()
        self._listener = Listener(self, client)
        self._listener.start()
        self.resync()

    def _unreached(self, problem: Problem) -> None:
        self.store.update(messages.StatusChanged, phase="failed", problem=problem)

    def resync(self) -> None:
        """Ask for everything that events may have missed."""
        client = self.client
        if client is None:
            return
        self.ask(
            lambda: (client.status(), client.jobs(), client.comparisons(), client.logs()), self._synced, group="resync"
        )

    def _synced(self, answer: tuple[Any, Any, Any, Any]) -> None:
        status, jobs, comparisons, lines = answer
        self.reconnecting = False
        state = with_lines(with_jobs(self.store.state, jobs), list(lines))
        self.store.state = state
        known = {one.id: one for one in sorted(comparisons, key=lambda one: one.created)}
        self.store.update(
            messages.StatusChanged,
            messages.JobsChanged,
            messages.ComparisonChanged,
            messages.RegistryChanged,
            messages.LogChanged,
            phase="online",
            problem=None,
            status=status,
            comparisons={**known, **state.comparisons},
            registry=state.registry + 1,
            gap=False,
        )
        self._mind_clock()

    # Events of the engine, answers of calls

    @on(EventsArrived)
    def _events_arrived(self) -> None:
        if self._listener is None:
            return
        if self.reconnecting:
            self.reconnecting = False
            self.resync()
        asked = {job.id for job in self.store.state.waiting_jobs()}
        self.store.apply(self._listener.take())
        for job in self.store.state.waiting_jobs():
            if job.id not in asked and self.screen_name != "inbox":
                self._toasts.announce(job, self.keys)
        if self.store.state.gap:
            self.store.update(gap=False)
            self.resync()
        self._mind_clock()

    @on(EngineLost)
    def _engine_lost(self, event: EngineLost) -> None:
        if not self.reconnecting:
            self.reconnecting = True
            self.tell(event.problem)
            self.store.publish(messages.StatusChanged)

    @on(Answered)
    def _answered(self, event: Answered) -> None:
        event.deliver()

    def ask(
        self,
        call: Callable[[], Any],
        then: Callable[[Any], None],
        group: str = "",
        failed: Callable[[Problem], None] | None = None,
    ) -> None:
        """Run a blocking call in a thread; its result goes to `then`, its error to `failed`, or becomes a toast."""
        self._asker.ask(call, then, failed or self.tell, group)

    def tell(self, problem: Problem) -> None:
        """A problem as a toast: what, why, fix."""
        self._toasts.tell(problem)

    def say(self, words: str, title: str = "") -> None:
        self._toasts.say(words, title)

    # The one clock

    def _mind_clock(self) -> None:
        """Runs while something moves and the terminal has the focus; idle costs nothing."""
        if self._clock:
            wanted = self.app_focus and self.store.state.busy(time.time())
            (self._clock.resume if wanted else self._clock.pause)()

    def _tick(self) -> None:
        self.store.publish(messages.ClockTicked)
        self._mind_clock()

    def on_app_focus(self) -> None:
        self._mind_clock()

    def on_app_blur(self) -> None:
        self._mind_clock()

    # Screens

    @property
    def current(self) -> View | None:
        view = self._views.get(self.screen_name)
        return view if view is not None and view.is_mounted else None

    def _show(self, name: Screen) -> None:
        old = self._views.get(self.screen_name)
        if old is not None:
            old.display = False
        self.screen_name = name
        view = self._views.get(name)
        if view is None:
            view = self._views[name] = _view(name)
            self.query_one("#body").mount(view)  # it calls `arrived` once it is there
        else:
            view.display = True
            self.call_after_refresh(self.arrived, view)
        self.query_one(HeaderBar).refresh()
        self.refresh_footer()

    def arrived(self, view: View) -> None:
        """A screen is in front and laid out: it takes the focus, and shows what there is."""
        if self.current is not view:
            return
        target = view.first_focus()
        if target is not None and len(self.screen_stack) == 1:
            target.focus()
        view.shown()
        self.refresh_footer()

    def go(self, name: Screen) -> None:
        if name != self.screen_name:
            self._show(name)

    def refresh_footer(self) -> None:
        self.query_one(FooterBar).refresh()

    # Actions

    def action_press(self, key: str) -> None:
        action = self.keys.action(key, self.screen_name)
        if action:
            self.perform(action.name)

    def _handler(self, name: str) -> Handler | None:
        own = self._handlers().get(name)
        return own or (self.current.handlers().get(name) if self.current else None)

    def why_not(self, name: str) -> str:
        """Why an action can not be done now; empty = it can."""
        handler = self._handler(name)
        return handler.why_not() if handler else "Not on this screen."

    def perform(self, name: str) -> None:
        """Do an action, or say why not."""
        handler = self._handler(name)
        reason = self.why_not(name)
        if reason or handler is None:
            self._toasts.refuse(reason, BY_NAME[name].title)
            return
        handler.do()
        self.refresh_footer()

    def _handlers(self) -> Mapping[str, Handler]:
        from studio.tui import moving

        screens = {f"screen.{name}": Handler(lambda name=name: self.go(name)) for name in SCREENS}  # type: ignore[misc]
        return screens | {
            "help": Handler(lambda: self._help()),
            "palette": Handler(self.action_command_palette),
            "theme": Handler(self._next_theme),
            "screenshot": Handler(self._save_picture),
            "jump": Handler(self._jump),
            "reconnect": Handler(self.reconnect, self._why_not_reconnect),
            "quit": Handler(self._leave),
            **moving.handlers(self),
        }

    def _why_not_reconnect(self) -> str:
        return "" if self.store.state.phase == "failed" or self.reconnecting else "The engine is there."

    def _help(self) -> None:
        self.push_screen(TextDialog(help_title(self.screen_name), help_text(self.screen_name, self.keys)))

    def _next_theme(self) -> None:
        self.theme = themes.after(self.theme)
        for view in self._views.values():
            view.shown()
        self.say(self.theme, "Theme")

    def _save_picture(self) -> None:
        folder = self.reports()
        name = f"{self.screen_name}-{time.strftime('%Y%m%d-%H%M%S')}.svg"
        self.say(self.save_screenshot(name, str(folder)), "Saved the screen as SVG")

    def reports(self) -> Path:
        """The folder for reports and pictures."""
        folder = self.workspace / "reports"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _jump(self) -> None:
        targets = [widget for widget in self.screen.focus_chain if isinstance(widget, Widget) and widget.region.area]

        def go(widget: Widget | None) -> None:
            if widget is not None:
                widget.focus()

        self.push_screen(JumpScreen(targets), go)

    def copy(self, words: str, what: str) -> None:
        """Copy through the terminal (OSC 52) and say what was copied."""
        self.copy_to_clipboard(words)
        self.say(words if len(words) < 240 else words[:240] + "…", f"Copied {what}")

    # Leaving

    async def action_quit(self) -> None:
        if isinstance(self.screen, QuitDialog):
            self.exit("keep")
        else:
            self._leave()

    def _leave(self) -> None:
        if self.client is None or not self._owns_engine():
            self.exit("keep")
            return
        server = self.store.state.server
        self.push_screen(QuitDialog(server.url if server else ""), self._left)

    def _left(self, answer: str | None) -> None:
        client = self.client
        if answer == "stop" and client is not None:
            self.say("Stopping the engine …")
            self.ask(client.shutdown, lambda _: self.exit("stop"))
        elif answer:
            self.exit("keep")

    def key_hint(self, name: str, words: str) -> Content:
        """`Press s to …`, with the key in force."""
        return Content.assemble("Press ", (self.keys.label(name), "$accent bold"), f" {words}")
