"""The lab's dialog: which recipes to run on a version, and what there is of each already."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from textual import events, on
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from studio.core.recipe import RecipeEntry
from studio.core.views import LabState, VariantRow, VersionRow
from studio.tui.dialogs import Dialog, confirm_keys, keys_line
from studio.tui.widgets.version_text import OUTCOMES, Part

NAME_WIDTH = 14


@dataclass(frozen=True)
class Order:
    """What is asked of the lab: recipes by name, and whether some of them have run already."""

    recipes: tuple[str, ...]
    again: bool


@dataclass(frozen=True)
class Offer:
    """A recipe in the list: what is known of the variant that it makes here, if it was made."""

    entry: RecipeEntry
    row: VariantRow | None

    @property
    def name(self) -> str:
        return self.entry.name


def offers(state: LabState, row: VersionRow) -> list[Offer]:
    """Recipes that can be run: those not tried first, then what is stale, then the others."""
    known = {one.variant: one for one in row.variants}
    found = [Offer(entry, known.get(entry.name)) for entry in state.recipes if not entry.problem]
    return sorted(found, key=lambda one: (one.row is not None, one.row is not None and not one.row.stale))


class LabDialog(Dialog[Order]):
    """Choose recipes. Chosen at first: what every arrival gets and is missing here, and what is stale."""

    DEFAULT_CSS = """
    LabDialog > .box { width: 92; }
    LabDialog OptionList { max-height: 14; }
    LabDialog #about { margin-top: 1; color: $muted; height: 2; }
    """

    def __init__(self, row: VersionRow, state: LabState, trigger: Sequence[str]) -> None:
        super().__init__()
        self._row, self._state, self._offers = row, state, offers(state, row)
        self._confirm = confirm_keys(trigger)
        self._chosen = {
            one.name
            for one in self._offers
            if (one.row is None and one.name in state.defaults) or (one.row is not None and one.row.stale)
        }

    def compose(self) -> ComposeResult:
        with Vertical(classes="box") as box:
            box.border_title = f"Lab: {self._row.model}:{self._row.version}"
            yield Static("Make variants and judge them against the original, on this machine.", markup=False)
            yield OptionList(*(Option(self._line(one), id=one.name) for one in self._offers))
            yield Static(id="about", markup=False)
            yield Static(id="keys", classes="keys")

    def on_mount(self) -> None:
        self.query_one(OptionList).focus()
        self._show()

    def _line(self, one: Offer) -> Content:
        mark = ("● ", "$accent bold") if one.name in self._chosen else ("○ ", "$muted")
        parts: list[Part] = [mark, (f"{one.name:<{NAME_WIDTH}}", "bold")]
        if one.row is None:
            title = one.entry.title or one.entry.steps
            parts.append((title, "$muted"))
        else:
            word, style = OUTCOMES.get(one.row.outcome, (one.row.outcome, "foreground"))
            parts += [(word, f"${style}"), ("  stale" if one.row.stale else "", "$warning")]
            if one.row.speedup is not None:
                parts.append((f"  {one.row.speedup:.2f}x", "$muted"))
        return Content.assemble(*parts)

    def _show(self) -> None:
        listed = self.query_one(OptionList)
        for one in self._offers:
            listed.replace_option_prompt(one.name, self._line(one))
        place = listed.highlighted or 0
        self.query_one("#about", Static).update(about(self._offers[place]) if self._offers else "")
        count = len(self._chosen)
        run = f"run {count} recipe{'s' if count != 1 else ''}" if count else "choose one first"
        self.query_one("#keys", Static).update(
            keys_line(("space", "choose"), (" or ".join(self._confirm), run), ("esc", "leave it"))
        )

    @on(OptionList.OptionHighlighted)
    def _highlighted(self) -> None:
        self._show()

    @on(OptionList.OptionSelected)
    def _selected(self) -> None:
        if "enter" in self._confirm:
            self._done()

    def on_key(self, event: events.Key) -> None:
        listed = self.query_one(OptionList)
        if event.key == "space" and listed.highlighted is not None:
            event.stop()
            name = self._offers[listed.highlighted].name
            self._chosen ^= {name}
            self._show()
        elif event.key in ("j", "k"):
            event.stop()
            (listed.action_cursor_down if event.key == "j" else listed.action_cursor_up)()
        elif event.key in self._confirm and event.key != "enter":
            event.stop()
            self._done()

    def _done(self) -> None:
        if not self._chosen:
            return
        names = tuple(one.name for one in self._offers if one.name in self._chosen)
        made = {one.name for one in self._offers if one.row is not None and not one.row.stale}
        self.dismiss(Order(recipes=names, again=bool(made & self._chosen)))


def about(one: Offer) -> str:
    """What a recipe does, or what came of it here."""
    if one.row is not None:
        return one.row.stale[:1].upper() + one.row.stale[1:] + "." if one.row.stale else one.row.sentence
    words = one.entry.steps or one.entry.title
    origin = "" if one.entry.origin == "built in" else f" From {one.entry.origin}."
    options = ", ".join(option.name for option in one.entry.options)
    return f"{words}.{origin}" + (f" Its options, for a recipe of your own: {options}." if options else "")
