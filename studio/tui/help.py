"""The help overlay and the command palette: both read the action table."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, cast

from textual.command import DiscoveryHit, Hit, Hits, Provider
from textual.content import Content

from studio.tui.actions import TITLES, Action, Screen, of_screen
from studio.tui.keys import KEYS_FILE, Keymap

if TYPE_CHECKING:
    from studio.tui.app import StudioApp


def help_text(screen: Screen, keys: Keymap) -> Content:
    """All actions of a screen, grouped, with their keys; the screen's own groups come first."""
    groups: dict[str, list[Action]] = {}
    for action in of_screen(screen):
        groups.setdefault(action.group, []).append(action)
    own = [name for name in groups if name not in ("Everywhere", "Lists", "Panes")]
    parts: list[str | tuple[str, str]] = []
    for name in [*own, "Lists", "Panes", "Everywhere"]:
        if name not in groups:
            continue
        parts.append((f"{name}\n", "$primary bold"))
        for action in groups[name]:
            parts += [
                (f"  {keys.labels(action.name):<10}", "$accent bold"),
                (f"{action.title:<13}", "bold"),
                (f"{action.help}\n", "$foreground"),
            ]
        parts.append("\n")
    parts += [
        ("Arrow keys, page up and down, tab and the mouse work as everywhere.\n", "$muted"),
        (f'Keys can be changed in <workspace>/{KEYS_FILE}: [keys] promote = "P"\n', "$muted"),
        ("Symbols: ✓ done  ◐ running  ✗ failed  ? asks you  ○ to come  – left out", "$muted"),
    ]
    return Content.assemble(*parts)


def help_title(screen: Screen) -> str:
    return f"Keys on {TITLES[screen]}"


class ActionProvider(Provider):
    """Every action that can be done now, by its title, name and help."""

    def _actions(self) -> list[tuple[str, str, Action]]:
        app = cast("StudioApp", self.app)
        rows = []
        for action in of_screen(app.screen_name):
            reason = app.why_not(action.name)
            keys = app.keys.labels(action.name)
            rows.append((f"{action.title}  ({keys})" if keys else action.title, reason or action.help, action))
        return rows

    async def discover(self) -> Hits:
        for title, words, action in self._actions():
            yield DiscoveryHit(title, partial(cast("StudioApp", self.app).perform, action.name), help=words)

    async def search(self, query: str) -> Hits:
        matcher = self.matcher(query)
        for title, words, action in self._actions():
            score = max(matcher.match(title), matcher.match(f"{action.name} {action.help}"))
            if score > 0:
                run = partial(cast("StudioApp", self.app).perform, action.name)
                yield Hit(score, matcher.highlight(title), run, help=words)
