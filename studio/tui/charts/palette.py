"""The theme variable that each role is drawn in. No role has a background, and none is told by its colour alone."""

from __future__ import annotations

from collections.abc import Mapping

from rich.style import Style
from textual.color import Color, ColorParseError

_COLORS = {
    "series0": "text-warning",
    "series1": "text-primary",
    "series2": "text-success",
    "series3": "text-error",
    "good": "text-success",
    "bad": "text-error",
    "warn": "text-warning",
}
_SHARES = {"label": 0.62, "faint": 0.34}
_BOLD = ("title", "strong", "good", "bad", "even", "warn", "letter0", "letter1", "letter2", "letter3")


def role_styles(variables: Mapping[str, str]) -> dict[str, Style]:
    """A style for every role, from the variables of a Textual theme (`App.theme_variables`).

    'label' and 'faint' are the foreground blended into the background, or dimmed where the terminal owns the colours.
    """
    styles = {role: Style(bold=True) for role in _BOLD}
    for role, name in _COLORS.items():
        color = _color(variables, name)
        styles[role] = Style(color=color.rich_color if color else None, bold=role in _BOLD or None)
    for index in range(4):
        styles[f"letter{index}"] = styles[f"series{index}"] + Style(bold=True)
    front, back = _color(variables, "foreground"), _color(variables, "background")
    for role, share in _SHARES.items():
        fixed = front is not None and back is not None and front.ansi is None and back.ansi is None
        styles[role] = Style(color=back.blend(front, share).rich_color) if fixed and front and back else Style(dim=True)
    return styles


def _color(variables: Mapping[str, str], name: str) -> Color | None:
    try:
        return Color.parse(variables.get(name, ""))
    except ColorParseError:
        return None
