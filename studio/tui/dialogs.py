"""Dialogs: they say what will happen, old → new, and ask with a key that is not the one that opened them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Generic, TypeVar

from textual import events, on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Input, OptionList, Static
from textual.widgets.option_list import Option

T = TypeVar("T")

ESCAPE: list[BindingType] = [Binding("escape", "cancel", "Cancel", show=False)]


def confirm_keys(trigger: Sequence[str], wanted: Sequence[str] = ("y", "enter")) -> tuple[str, ...]:
    """The keys that confirm: those wanted, without the ones that opened the dialog; never empty."""
    return tuple(key for key in wanted if key not in trigger) or ("ctrl+y",)


class Dialog(ModalScreen[T | None], Generic[T]):
    """A box in the middle; `esc` leaves it with None."""

    BINDINGS: ClassVar[list[BindingType]] = ESCAPE
    DEFAULT_CSS = """
    Dialog { align: center middle; background: $background 60%; }
    Dialog > .box {
        width: 76; max-width: 94%; height: auto; max-height: 90%; padding: 1 2;
        background: $surface; border: round $primary; border-title-color: $foreground; border-title-style: bold;
    }
    Dialog .keys { margin-top: 1; color: $muted; }
    Dialog OptionList { height: auto; max-height: 8; margin-top: 1; border: none; padding: 0; background: $surface; }
    Dialog Input { margin-top: 1; }
    """

    def action_cancel(self) -> None:
        self.dismiss(None)


def keys_line(*pairs: tuple[str, str]) -> Content:
    """The line at the foot of a dialog: keys with what they do."""
    parts: list[str | tuple[str, str]] = []
    for key, word in pairs:
        parts += [(key, "$accent bold"), f" {word}   "]
    return Content.assemble(*parts)


@dataclass(frozen=True)
class Choice:
    """A target that an alias may move to: `key` such as `3-int8`, and a sentence about it."""

    key: str
    words: str


class MoveDialog(Dialog[tuple[str, str]]):
    """Confirm an alias move; shows old → new. Gives (key, why)."""

    AUTO_FOCUS = ""  # never the reason's line: the confirm key would be typed into it

    def __init__(self, model: str, alias: str, old: str, choices: Sequence[Choice], trigger: Sequence[str]) -> None:
        super().__init__()
        self._model, self._alias, self._old = model, alias, old
        self._choices, self._confirm = list(choices), confirm_keys(trigger)
        self._chosen = self._choices[0].key

    def compose(self) -> ComposeResult:
        with Vertical(classes="box") as box:
            box.border_title = f"Promote {self._model}"
            yield Static(id="move")
            if len(self._choices) > 1:
                yield OptionList(
                    *(Option(f"{one.key}  {one.words}", id=one.key) for one in self._choices), markup=False
                )
            else:
                yield Static(self._choices[0].words, classes="dim", markup=False)
            yield Input(placeholder="why (optional, kept in the journal)", id="why")
            yield Static(
                keys_line(
                    (" or ".join(self._confirm), "move it"),
                    *([("↑↓", "choose")] if len(self._choices) > 1 else []),
                    ("tab", "say why"),
                    ("esc", "leave it"),
                ),
                classes="keys",
            )

    def on_mount(self) -> None:
        self._show()
        for choices in self.query(OptionList):
            choices.focus()

    def _show(self) -> None:
        new = f"{self._model}:{self._chosen}"
        old = f"{self._model}:{self._old}" if self._old else "nothing yet"
        self.query_one("#move", Static).update(
            Content.assemble(
                (f"{self._model}:{self._alias}", "bold"), "  ", (old, "$muted"), "  →  ", (new, "$success bold")
            )
        )

    @on(OptionList.OptionHighlighted)
    def _highlighted(self, event: OptionList.OptionHighlighted) -> None:
        self._chosen = event.option_id or self._chosen
        self._show()

    @on(OptionList.OptionSelected)
    @on(Input.Submitted)
    def _submitted(self) -> None:
        if "enter" in self._confirm:
            self._done()

    def on_key(self, event: events.Key) -> None:
        if event.key in self._confirm and not isinstance(self.focused, Input):
            event.stop()
            self._done()

    def _done(self) -> None:
        self.dismiss((self._chosen, self.query_one("#why", Input).value.strip()))


class ConfirmDialog(Dialog[bool]):
    """A question with one answer that does something."""

    def __init__(self, title: str, words: Content, yes: str, trigger: Sequence[str]) -> None:
        super().__init__()
        self._title, self._words, self._yes, self._confirm = title, words, yes, confirm_keys(trigger)

    def compose(self) -> ComposeResult:
        with Vertical(classes="box") as box:
            box.border_title = self._title
            yield Static(self._words)
            yield Static(keys_line((" or ".join(self._confirm), self._yes), ("esc", "leave it")), classes="keys")

    def on_key(self, event: events.Key) -> None:
        if event.key in self._confirm:
            event.stop()
            self.dismiss(True)


class PurgeDialog(Dialog[str]):
    """Deletes for good: the name must be typed. Gives the typed name."""

    def __init__(self, reference: str) -> None:
        super().__init__()
        self._reference = reference

    def compose(self) -> ComposeResult:
        with Vertical(classes="box") as box:
            box.border_title = f"Purge {self._reference}"
            yield Static(
                Content.assemble(
                    "This deletes the version, its variants and its measurements from the disk.\n",
                    ("It can not be undone.", "$error bold"),
                    " What you dropped into the inbox stays.\n\nType ",
                    (self._reference, "bold"),
                    " to delete it.",
                )
            )
            yield Input(placeholder=self._reference)
            yield Static(keys_line(("enter", "delete for good"), ("esc", "leave it")), classes="keys", id="hint")

    @on(Input.Submitted)
    def _submitted(self, event: Input.Submitted) -> None:
        if event.value.strip() == self._reference:
            self.dismiss(self._reference)
        else:
            self.query_one("#hint", Static).update(
                Content.assemble(
                    (f"That is not {self._reference}.", "$error"), "   ", ("esc", "$accent bold"), " leave it"
                )
            )


class QuitDialog(Dialog[str]):
    """Asked once: does the engine that we started keep serving? Gives `keep` or `stop`."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = url

    def compose(self) -> ComposeResult:
        with Vertical(classes="box") as box:
            box.border_title = "Leave Studio"
            yield Static(f"Shall {self._url or 'the engine'} keep answering after you leave?", markup=False)
            yield Static(
                keys_line(("k", "keep serving"), ("s", "stop everything"), ("esc", "stay here")), classes="keys"
            )

    def on_key(self, event: events.Key) -> None:
        answer = {"k": "keep", "s": "stop"}.get(event.key)
        if answer:
            event.stop()
            self.dismiss(answer)


class TextDialog(Dialog[bool]):
    """Long text to read and scroll: the log of a job, the help."""

    BINDINGS: ClassVar[list[BindingType]] = [
        *ESCAPE,
        Binding("q", "cancel", show=False),
        Binding("j", "scroll(1)", show=False),
        Binding("k", "scroll(-1)", show=False),
        Binding("g", "edge('top')", show=False),
        Binding("G", "edge('end')", show=False),
    ]
    DEFAULT_CSS = """
    TextDialog > .box { width: 100; max-width: 94%; height: 80%; padding: 0 1; }
    TextDialog VerticalScroll { background: $surface; }
    """

    def __init__(self, title: str, body: Content, end: bool = False) -> None:
        super().__init__()
        self._title, self._body, self._end = title, body, end

    def compose(self) -> ComposeResult:
        with Vertical(classes="box") as box:
            box.border_title = self._title
            box.border_subtitle = "esc back   ↑↓ j k scroll"
            with VerticalScroll(id="scroll"):
                yield Static(self._body, id="body")

    def on_mount(self) -> None:
        scroll = self.query_one("#scroll", VerticalScroll)
        scroll.focus()
        if self._end:
            scroll.scroll_end(animate=False)

    def show(self, body: Content) -> None:
        """Replace the text; stays at the end when it was there."""
        scroll = self.query_one("#scroll", VerticalScroll)
        at_end = scroll.is_vertical_scroll_end
        self.query_one("#body", Static).update(body)
        if at_end:
            scroll.scroll_end(animate=False)

    def action_scroll(self, by: int) -> None:
        self.query_one("#scroll", VerticalScroll).scroll_relative(y=by, animate=False)

    def action_edge(self, edge: str) -> None:
        scroll = self.query_one("#scroll", VerticalScroll)
        (scroll.scroll_home if edge == "top" else scroll.scroll_end)(animate=False)
