"""Themes: a calm dark one, a light one, and the terminal's own colours. Widgets use theme variables only."""

from __future__ import annotations

from rich.style import Style
from textual.color import Color, ColorParseError
from textual.theme import Theme

DARK = Theme(
    name="studio-dark",
    primary="#2f81d6",
    secondary="#5a9bd8",
    accent="#ffa62b",
    warning="#e5b33d",
    error="#e5646e",
    success="#57c27d",
    foreground="#e4e4e4",
    background="#121212",
    surface="#171819",
    panel="#212b33",
    dark=True,
    variables={
        "border": "#3b4a55",
        "border-blurred": "#3b4a55",
        "block-cursor-foreground": "#ffffff",
        "block-cursor-background": "#1f5c99",
        "block-cursor-blurred-background": "#26333d",
        "block-cursor-text-style": "none",
        "footer-key-foreground": "#ffa62b",
        "muted": "#949ca3",
        "faint": "#6a737b",
    },
)
LIGHT = Theme(
    name="studio-light",
    primary="#1f66b3",
    secondary="#35597d",
    accent="#a85d00",
    warning="#8a6100",
    error="#b3263a",
    success="#1f7a44",
    foreground="#1d2227",
    background="#fbfbfa",
    surface="#f4f4f2",
    panel="#e3e8ec",
    dark=False,
    variables={
        "border": "#a9b4bd",
        "border-blurred": "#a9b4bd",
        "block-cursor-foreground": "#ffffff",
        "block-cursor-background": "#1f66b3",
        "block-cursor-blurred-background": "#d3dde6",
        "block-cursor-text-style": "none",
        "footer-key-foreground": "#a85d00",
        "muted": "#5c666f",
        "faint": "#8b949c",
    },
)
THEMES = (DARK, LIGHT)
DEFAULTS: dict[str, str] = {"muted": "ansi_bright_black", "faint": "ansi_bright_black"}
"""Our own variables where a theme, such as the terminal's colours, does not know them."""

CYCLE: tuple[str, ...] = ("studio-dark", "studio-light", "ansi-dark", "ansi-light")


def after(theme: str) -> str:
    """The theme that follows in the cycle."""
    return CYCLE[(CYCLE.index(theme) + 1) % len(CYCLE)] if theme in CYCLE else CYCLE[0]


def rich_style(variables: dict[str, str], name: str) -> Style:
    """A theme variable as a Rich style, for table cells, which know no theme variables.

    `name` may be followed by `bold`.
    """
    name, _, weight = name.partition(" ")
    color = _color(variables, name)
    return Style(color=color.rich_color if color else None, bold=weight == "bold" or None)


def _color(variables: dict[str, str], name: str) -> Color | None:
    try:
        return Color.parse(variables.get(name, ""))
    except ColorParseError:
        return None
