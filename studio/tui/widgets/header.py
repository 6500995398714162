"""The bar on top: screens left; endpoint, loaded models, requests a second and watch state right. Never cut off."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, cast

from textual import events, on
from textual.content import Content
from textual.widget import Widget

from studio.tui import messages, text
from studio.tui.actions import SCREENS, TITLES, Screen
from studio.tui.state import State

if TYPE_CHECKING:
    from studio.tui.app import StudioApp

Part = tuple[str, str]


def tabs(
    current: Screen, labels: dict[Screen, str], active: int, waiting: int, failed: int, short: bool
) -> list[tuple[Screen, Part]]:
    """The screen tabs; the inbox carries how many jobs run and how many ask something, else a mark for failed ones."""
    parts: list[tuple[Screen, Part]] = []
    for screen in SCREENS:
        title = "" if short and screen != current else f" {TITLES[screen]}"
        style = "$block-cursor-foreground on $block-cursor-background bold" if screen == current else "$foreground"
        parts.append((screen, (f" {labels[screen]}{title}", style)))
        if screen == "inbox":
            parts.append((screen, (f" {active}▸" if active else "", style)))
            parts.append((screen, (f" {waiting}?" if waiting else "", style if screen == current else "$accent bold")))
            parts.append((screen, (" !" if failed and not active and not waiting else "", style)))
        parts.append((screen, (" ", style)))
    return parts


def facts(state: State, now: float, reconnecting: bool = False) -> list[list[Part]]:
    """What stands right, longest form first; the bar takes the first that fits."""
    if state.phase == "starting":
        return [[("◌ starting the engine … ", "$warning")], [("◌ starting … ", "$warning")]]
    if state.phase == "failed" or state.status is None:
        return [[("✗ no engine ", "$error")]]
    if reconnecting:
        return [[("◌ reconnecting … ", "$warning")]]
    server = state.status.server
    address = server.url.removeprefix("http://").removeprefix("https://").rstrip("/")
    port = ":" + address.rpartition(":")[2]
    good = server.state == "ready"
    style = "$success" if good else "$warning"
    dot = "●" if good else "◌"
    state_word: str = "serving" if good else server.state
    rate = f"{text.rate(state.rate(now))} req/s"
    if state.status.lab_paused:
        state_word += ", lab paused"
    watch = "watch ✓" if state.status.watching else "watch ✗"
    watch_style = "$success" if state.status.watching else "$error"
    loaded = f"{server.loaded} loaded"
    return [
        [(f"{dot} {state_word} {address}   {loaded}   {rate}   ", style), (f"{watch} ", watch_style)],
        [(f"{dot} {address}  {loaded}  {rate}  ", style), (f"{watch} ", watch_style)],
        [(f"{dot} {port}  {loaded}  {rate}  ", style), (f"{watch} ", watch_style)],
        [(f"{dot} {port} {loaded} {rate} ", style), (f"{watch[-1]} ", watch_style)],
        [(f"{dot} {port} {rate} ", style), (f"{watch[-1]} ", watch_style)],
    ]


class HeaderBar(Widget):
    """One line. A click on a tab goes there."""

    DEFAULT_CSS = """
    HeaderBar { height: 1; background: $panel; color: $foreground; }
    HeaderBar:ansi { background: ansi_default; }
    """

    def __init__(self) -> None:
        super().__init__(id="header")
        self._spans: list[tuple[int, int, Screen]] = []

    @property
    def _studio(self) -> StudioApp:
        return cast("StudioApp", self.app)

    def on_mount(self) -> None:
        self._studio.store.subscribe(
            self, messages.StatusChanged, messages.TrafficChanged, messages.JobsChanged, messages.ClockTicked
        )

    @on(messages.StatusChanged)
    @on(messages.TrafficChanged)
    @on(messages.JobsChanged)
    @on(messages.ClockTicked)
    def _changed(self) -> None:
        self.refresh()

    def render(self) -> Content:
        app, state = self._studio, self._studio.store.state
        active = len(state.active_jobs())
        waiting = len(state.waiting_jobs())
        failed = sum(job.state == "failed" for job in state.jobs.values())
        labels = {screen: app.keys.label(f"screen.{screen}") for screen in SCREENS}
        width = self.size.width
        for short in (False, True):
            left = tabs(app.screen_name, labels, active, waiting, failed, short)
            used = sum(len(part[0]) for _, part in left)
            for right in facts(state, time.time(), app.reconnecting):
                room = width - used - sum(len(words) for words, _ in right)
                if room >= 1:
                    return self._line(left, room, right)
        return self._line(left, 0, [])

    def _line(self, left: list[tuple[Screen, Part]], room: int, right: list[Part]) -> Content:
        self._spans, start = [], 0
        for screen, (words, _) in left:
            self._spans.append((start, start + len(words), screen))
            start += len(words)
        return Content.assemble(*(part for _, part in left), " " * room, *right)

    def on_click(self, event: events.Click) -> None:
        for start, end, screen in self._spans:
            if start <= event.x < end:
                self._studio.perform(f"screen.{screen}")
