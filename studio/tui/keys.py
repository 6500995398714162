"""Keys as data: the keymap in force, read from the action table and a workspace's `keys.toml`.

The file has one table, `[keys]`, from action name to a key or a list of keys:

    [keys]
    promote = "P"
    "pane.zoom" = ["z", "f11"]

Keys are single characters (`P`, `/`) or Textual's names (`f11`, `ctrl+p`, `space`). An empty list unbinds an action.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from studio.core.errors import InvalidInput
from studio.tui.actions import ACTIONS, BY_NAME, SCREENS, TITLES, Action, Screen

KEYS_FILE = "keys.toml"

_NAMES: dict[str, str] = {
    "/": "slash",
    "+": "plus",
    "-": "minus",
    "'": "apostrophe",
    ":": "colon",
    "?": "question_mark",
    " ": "space",
    ".": "full_stop",
    ",": "comma",
    ";": "semicolon",
    "!": "exclamation_mark",
    "=": "equals_sign",
    "[": "left_square_bracket",
    "]": "right_square_bracket",
    "<": "less_than_sign",
    ">": "greater_than_sign",
}
_SHOWN: dict[str, str] = {name: char for char, name in _NAMES.items() if char != " "} | {"escape": "esc"}


def key_name(key: str) -> str:
    """Textual's name of a key that a person wrote: `/` → `slash`."""
    return _NAMES.get(key, key)


def key_label(key: str) -> str:
    """What to print for a key: `slash` → `/`, `ctrl+p` → `ctrl+p`."""
    return _SHOWN.get(key, key)


@dataclass(frozen=True)
class Keymap:
    """Which keys mean which action. Build one with `keymap()`."""

    keys: Mapping[str, tuple[str, ...]]

    def of(self, action: str) -> tuple[str, ...]:
        return self.keys[action]

    def label(self, action: str) -> str:
        """The first key of an action as printed; empty when it has none."""
        keys = self.keys[action]
        return key_label(keys[0]) if keys else ""

    def labels(self, action: str) -> str:
        """All keys of an action as printed."""
        return " ".join(key_label(key) for key in self.keys[action])

    def action(self, key: str, screen: Screen) -> Action | None:
        """What a key means on a screen."""
        for action in ACTIONS:
            if action.on(screen) and key in self.keys[action.name]:
                return action
        return None

    def all_keys(self) -> frozenset[str]:
        return frozenset(key for keys in self.keys.values() for key in keys)


def clashes(keymap: Keymap) -> list[str]:
    """A sentence for every key that means two actions on one screen."""
    found: list[str] = []
    for screen in SCREENS:
        seen: dict[str, str] = {}
        for action in ACTIONS:
            if not action.on(screen):
                continue
            for key in keymap.of(action.name):
                if key in seen:
                    found.append(f"'{key_label(key)}' means both '{seen[key]}' and '{action.name}' on {screen}.")
                seen[key] = action.name
    return found


def keymap(changes: Mapping[str, str | list[str]] | None = None) -> Keymap:
    """The table's keys with some replaced. Raises InvalidInput for unknown actions and for keys that clash."""
    keys = {action.name: action.keys for action in ACTIONS}
    for name, wanted in (changes or {}).items():
        if name not in BY_NAME:
            raise InvalidInput(
                f"There is no action {name!r}.",
                f"{KEYS_FILE} names it.",
                f"The actions are: {', '.join(BY_NAME)}.",
            )
        keys[name] = tuple(key_name(key) for key in ([wanted] if isinstance(wanted, str) else wanted))
    made = Keymap(keys)
    wrong = clashes(made)
    if wrong:
        raise InvalidInput("Two actions share a key.", " ".join(wrong), f"Give one of them another key in {KEYS_FILE}.")
    return made


def read_keymap(workspace: Path) -> Keymap:
    """The keymap of a workspace. Raises InvalidInput when its `keys.toml` is malformed; no file = the table's keys."""
    path = workspace / KEYS_FILE
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return keymap()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"Unreadable {path}.", f"{error}.", "Correct or remove the file.") from error
    try:
        document: dict[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidInput(f"{path} is not TOML.", f"{error}.", "Correct or remove the file.") from error
    table = document.get("keys", {})
    if not isinstance(table, dict) or not all(
        isinstance(value, str) or (isinstance(value, list) and all(isinstance(key, str) for key in value))
        for value in table.values()
    ):
        raise InvalidInput(
            f"{path} is not a keymap.",
            "The table [keys] maps action names to a key or a list of keys.",
            'For example: promote = "P"',
        )
    return keymap(table)


def keys_markdown() -> str:
    """The table of keys for the documentation, grouped as in the help; the same source, so it can not drift."""
    lines: list[str] = []
    for group in dict.fromkeys(action.group for action in ACTIONS):
        lines += [f"### {group}", "", "| key | action | name in `keys.toml` | where |", "|---|---|---|---|"]
        for action in ACTIONS:
            if action.group == group:
                keys = " ".join(f"`{key_label(key)}`" for key in action.keys)
                where = "everywhere" if action.screens == SCREENS else ", ".join(TITLES[one] for one in action.screens)
                lines.append(f"| {keys} | {action.help} | `{action.name}` | {where} |")
        lines.append("")
    return "\n".join(lines)
