"""Every action of the terminal, in one table: footer, help, palette, keymap file and docs all read it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Screen = Literal["models", "inbox", "compare", "serve", "log"]
SCREENS: tuple[Screen, ...] = ("models", "inbox", "compare", "serve", "log")
TITLES: dict[Screen, str] = {
    "models": "Models",
    "inbox": "Inbox",
    "compare": "Compare",
    "serve": "Serve",
    "log": "Log",
}
EVERYWHERE = SCREENS


@dataclass(frozen=True, kw_only=True)
class Action:
    """One thing a user can do. `keys` are Textual key names; `footer` is its place there, 0 = not shown.

    `screens` says where the keys mean this action: two actions may share a key when their screens differ.
    """

    name: str
    keys: tuple[str, ...]
    title: str
    help: str
    screens: tuple[Screen, ...] = EVERYWHERE
    footer: int = 0
    group: str = "Everywhere"

    def on(self, screen: Screen) -> bool:
        return screen in self.screens


def _at(*screens: Screen) -> tuple[Screen, ...]:
    return screens


ACTIONS: tuple[Action, ...] = (
    Action(name="screen.models", keys=("1",), title="Models", help="Models and versions, and all about one."),
    Action(name="screen.inbox", keys=("2",), title="Inbox", help="What was dropped, and how far it has come."),
    Action(name="screen.compare", keys=("3",), title="Compare", help="Two to four variants side by side."),
    Action(name="screen.serve", keys=("4",), title="Serve", help="Routes, traffic, and how to call a model."),
    Action(name="screen.log", keys=("5",), title="Log", help="Engine, jobs, requests and audit, merged."),
    Action(
        name="filter",
        keys=("slash",),
        title="Filter",
        help="Filter the list; enter keeps it, esc clears it.",
        screens=_at("models", "inbox", "log"),
        footer=50,
        group="Lists",
    ),
    Action(
        name="clear", keys=("escape",), title="Clear", help="Clear the filter, or leave what is open.", group="Lists"
    ),
    Action(
        name="open",
        keys=("enter",),
        title="Open",
        help="Open what is chosen: details of a version, log of a job.",
        screens=_at("models", "inbox"),
        footer=40,
        group="Lists",
    ),
    Action(
        name="sort",
        keys=("S",),
        title="Sort",
        help="Sort by the next column: model, created, size, p50, fidelity.",
        screens=_at("models"),
        group="Lists",
    ),
    Action(name="move.down", keys=("j",), title="Down", help="One row down.", group="Lists"),
    Action(name="move.up", keys=("k",), title="Up", help="One row up.", group="Lists"),
    Action(
        name="move.left",
        keys=("h",),
        title="Left",
        help="Scroll left; on Models and Serve the tab before.",
        group="Lists",
    ),
    Action(
        name="move.right",
        keys=("l",),
        title="Right",
        help="Scroll right; on Models the next tab.",
        screens=_at("models", "inbox", "log"),
        group="Lists",
    ),
    Action(name="move.first", keys=("g",), title="First", help="The first row.", group="Lists"),
    Action(name="move.last", keys=("G",), title="Last", help="The last row.", group="Lists"),
    Action(
        name="mark",
        keys=("space",),
        title="Mark",
        help="Mark or unmark for a comparison (2 to 4).",
        screens=_at("models"),
        footer=11,
        group="Models",
    ),
    Action(
        name="compare",
        keys=("c",),
        title="Compare",
        help="Compare what is marked, on the same inputs.",
        screens=_at("models", "compare"),
        footer=12,
        group="Models",
    ),
    Action(
        name="promote",
        keys=("p",),
        title="Promote",
        help="Make a variant production; shows old → new and asks.",
        screens=_at("models", "compare"),
        footer=10,
        group="Models",
    ),
    Action(
        name="rollback",
        keys=("b",),
        title="Roll back",
        help="Return production to what it was before; asks.",
        screens=_at("models", "serve"),
        group="Models",
    ),
    Action(
        name="undo",
        keys=("u",),
        title="Undo",
        help="Undo the newest move of an alias.",
        screens=_at("models", "compare", "serve"),
        footer=30,
        group="Models",
    ),
    Action(
        name="archive",
        keys=("d",),
        title="Archive",
        help="Take a version out of service; nothing is deleted.",
        screens=_at("models"),
        footer=35,
        group="Models",
    ),
    Action(
        name="restore",
        keys=("U",),
        title="Restore",
        help="Bring an archived version back.",
        screens=_at("models"),
        group="Models",
    ),
    Action(
        name="archived",
        keys=("a",),
        title="Archived",
        help="Show or hide archived versions.",
        screens=_at("models"),
        group="Models",
    ),
    Action(
        name="purge",
        keys=("D",),
        title="Purge",
        help="Delete an archived version for good; you type its name.",
        screens=_at("models"),
        group="Models",
    ),
    Action(
        name="lab",
        keys=("L",),
        title="Lab",
        help="Make variants by recipes of your choice, and judge them here.",
        screens=_at("models"),
        footer=13,
        group="Models",
    ),
    Action(
        name="lab.pause",
        keys=("H",),
        title="Pause lab",
        help="Stop the lab where it is, or let it go on.",
        screens=_at("models", "inbox"),
        group="Models",
    ),
    Action(
        name="samples",
        keys=("s",),
        title="Samples",
        help="Run the built-in samples (the empty Models screen).",
        screens=_at("models"),
        footer=1,
        group="Models",
    ),
    Action(
        name="netron",
        keys=("o",),
        title="Graph",
        help="Open the graph in Netron, in the browser.",
        screens=_at("models"),
        footer=37,
        group="Models",
    ),
    Action(
        name="copy.curl",
        keys=("y",),
        title="Copy curl",
        help="Copy a curl command that calls what is chosen.",
        screens=_at("models", "serve"),
        footer=20,
        group="Models",
    ),
    Action(
        name="copy.python",
        keys=("Y",),
        title="Copy Python",
        help="Copy the same call in Python.",
        screens=_at("models", "serve"),
        footer=0,
        group="Models",
    ),
    Action(
        name="export",
        keys=("e",),
        title="Report",
        help="Write a report of what is shown as Markdown.",
        screens=_at("models", "compare"),
        footer=38,
        group="Models",
    ),
    Action(
        name="answer",
        keys=("a",),
        title="Answer",
        help="Answer what a job asks: may its code run, what are its inputs.",
        screens=_at("inbox"),
        footer=5,
        group="Inbox",
    ),
    Action(
        name="retry",
        keys=("r",),
        title="Retry",
        help="Run a failed or cancelled job again.",
        screens=_at("inbox"),
        footer=10,
        group="Inbox",
    ),
    Action(
        name="cancel",
        keys=("x",),
        title="Cancel",
        help="Stop the chosen job.",
        screens=_at("inbox"),
        footer=12,
        group="Inbox",
    ),
    Action(
        name="swap",
        keys=("x",),
        title="Swap A/B",
        help="Swap the sides; the first is the baseline.",
        screens=_at("compare"),
        footer=14,
        group="Compare",
    ),
    Action(
        name="stop",
        keys=("s",),
        title="Stop",
        help="Stop the comparison that runs.",
        screens=_at("compare"),
        footer=16,
        group="Compare",
    ),
    Action(
        name="earlier",
        keys=("n",),
        title="Earlier",
        help="Show the comparison before this one; wraps around.",
        screens=_at("compare"),
        group="Compare",
    ),
    Action(
        name="load",
        keys=("l",),
        title="Load test",
        help="Ten seconds of load on what is chosen.",
        screens=_at("compare", "serve"),
        footer=15,
        group="Compare",
    ),
    Action(
        name="follow",
        keys=("f",),
        title="Follow",
        help="Stay at the newest line, or stop doing so.",
        screens=_at("log"),
        footer=10,
        group="Log",
    ),
    Action(
        name="level",
        keys=("v",),
        title="Level",
        help="Least level shown: debug, info, warning, error.",
        screens=_at("log"),
        footer=12,
        group="Log",
    ),
    Action(
        name="source",
        keys=("w",),
        title="Source",
        help="Where lines come from: all, engine, job, requests, audit, server.",
        screens=_at("log"),
        footer=14,
        group="Log",
    ),
    Action(
        name="pane.zoom",
        keys=("z",),
        title="Zoom",
        help="Give the focused pane the whole screen, and back.",
        group="Panes",
    ),
    Action(name="pane.grow", keys=("plus",), title="Grow", help="Make the first pane larger.", group="Panes"),
    Action(name="pane.shrink", keys=("minus",), title="Shrink", help="Make the first pane smaller.", group="Panes"),
    Action(name="pane.reset", keys=("0",), title="Reset", help="Return the panes to their first sizes.", group="Panes"),
    Action(
        name="jump",
        keys=("apostrophe",),
        title="Jump",
        help="Label every pane; the letter takes you there.",
        group="Panes",
    ),
    Action(name="theme", keys=("t",), title="Theme", help="Next theme: dark, light, the terminal's own colours."),
    Action(name="screenshot", keys=("ctrl+s",), title="SVG", help="Save the screen as an SVG picture."),
    Action(name="palette", keys=("colon", "ctrl+p"), title="Commands", help="Find any action by its name."),
    Action(name="help", keys=("question_mark",), title="Help", help="All keys of this screen.", footer=90),
    Action(name="reconnect", keys=("R",), title="Reconnect", help="Try again to reach or start the engine."),
    Action(name="quit", keys=("q",), title="Quit", help="Leave; asks once whether the engine keeps serving."),
)

BY_NAME: dict[str, Action] = {action.name: action for action in ACTIONS}


def of_screen(screen: Screen, actions: Iterable[Action] = ACTIONS) -> tuple[Action, ...]:
    """The actions that keys can reach on a screen, in table order."""
    return tuple(action for action in actions if action.on(screen))


def footer_of(screen: Screen) -> tuple[Action, ...]:
    """What the footer offers on a screen, most useful first."""
    return tuple(sorted((one for one in of_screen(screen) if one.footer), key=lambda one: one.footer))
