"""What waiting jobs ask: may this code run, and what does a model take. Each answer goes to the engine at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar, cast

from textual import events, on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.suggester import SuggestFromList
from textual.widgets import Input, Static

from studio.core.errors import InvalidInput, Problem
from studio.core.jobs import Job
from studio.core.shapes import parse_shape, shape_text
from studio.core.tensors import DATATYPES, TensorSpec
from studio.tui import messages
from studio.tui.dialogs import ESCAPE, Dialog, confirm_keys, keys_line
from studio.tui.widgets import job_text

if TYPE_CHECKING:
    from studio.tui.app import StudioApp

MOST_IMPORTS = 500
FITTING_IMPORTS = 6  # at 80 × 24 more than that are not seen at once
FIRST_SHAPE = "batch, "
FIRST_DATATYPE = "FP32"

Send = Callable[[Sequence[TensorSpec], Callable[[], None], Callable[[Problem], None]], None]
"""Sends the answer; calls the first function when it was taken, the second with what was wrong with it."""


class Question(Dialog[str]):
    """A dialog about a waiting job. It closes by itself when the job waits no longer: someone else has answered."""

    def __init__(self, job: Job) -> None:
        super().__init__()
        self.job = job

    def on_mount(self) -> None:
        app = cast("StudioApp", self.app)
        app.store.subscribe(self, messages.JobsChanged)
        self.ask_first()

    def ask_first(self) -> None:
        """Called once it is laid out."""

    @on(messages.JobsChanged)
    def _jobs_changed(self) -> None:
        now = cast("StudioApp", self.app).store.state.jobs.get(self.job.id)
        if self.is_current and (now is None or now.problem != self.job.problem):
            self.dismiss(None)


class TrustDialog(Question):
    """May the code in these files run? Shows all that is known of it. Gives `yes`, `no`, or None for later.

    Only the key for yes says yes: neither enter nor anything else that a hand may hit does.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        *ESCAPE,
        Binding("j,down", "scroll(1)", show=False),
        Binding("k,up", "scroll(-1)", show=False),
    ]
    DEFAULT_CSS = """
    TrustDialog > .box { width: 78; max-width: 100%; max-height: 100%; padding: 0 1; }
    TrustDialog #files { height: auto; max-height: 40vh; background: $surface; margin-top: 1; }
    TrustDialog #means { margin-top: 1; }
    """

    def __init__(self, job: Job, trigger: Sequence[str]) -> None:
        super().__init__(job)
        self._yes = confirm_keys(trigger, ("y",))
        self._no = confirm_keys(trigger, ("n", "x"))[:1]

    def compose(self) -> ComposeResult:
        problem = self.job.problem
        files = problem.code_files if problem else ()
        few = len(files) == 1
        with Vertical(classes="box") as box:
            box.border_title = f"{job_text.ASKS} {self.job.stem} {self.job.standing}"
            count = sum(len(file.imports) for file in files)
            more = f" {count} imports and calls, ↑↓ scrolls." if count > FITTING_IMPORTS else ""
            yield Static(Content.assemble((problem.what if problem else "", "bold"), (more, "$muted")))
            with VerticalScroll(id="files"):
                for file in files:
                    yield Static(Content.assemble(*job_text.code(file, MOST_IMPORTS)))
                if problem and problem.why:
                    yield Static(problem.why, markup=False)
            yield Static(
                Content.assemble(
                    "Say yes only if you know where it comes from. It then runs in a worker of its own, shut in as far "
                    "as this system can. Your yes is kept in the journal, for exactly ",
                    "this content." if few else "these contents.",
                ),
                id="means",
            )
            yield Static(
                keys_line((self._yes[0], "yes, run it"), (self._no[0], "no, cancel the job"), ("esc", "decide later")),
                classes="keys",
            )

    def ask_first(self) -> None:
        self.query_one("#files").focus()

    def on_key(self, event: events.Key) -> None:
        answer = "yes" if event.key in self._yes else "no" if event.key in self._no else ""
        if answer:
            event.stop()
            self.dismiss(answer)

    def action_scroll(self, by: int) -> None:
        self.query_one("#files").scroll_relative(y=by, animate=False)


class InputsDialog(Question):
    """Shape and datatype of each input that a file does not tell. Closes once the engine has taken the answer."""

    DEFAULT_CSS = """
    InputsDialog #inputs { height: auto; max-height: 10; background: $surface; margin-top: 1; }
    InputsDialog .row { height: 1; }
    InputsDialog .head { height: 1; color: $muted; }
    InputsDialog .head .shape, InputsDialog .head .datatype { padding: 0 1; }
    InputsDialog .name { width: 16; padding-right: 1; text-style: bold; text-wrap: nowrap; text-overflow: ellipsis; }
    InputsDialog .head .name { text-style: none; }
    InputsDialog .shape { width: 1fr; margin: 0 1 0 0 !important; }
    InputsDialog .datatype { width: 12; margin: 0 !important; }
    InputsDialog #wrong { color: $error; text-style: bold; height: auto; }
    """

    def __init__(self, job: Job, send: Send) -> None:
        super().__init__(job)
        self._send = send
        problem = job.problem
        self._names = problem.missing_inputs if problem else ()
        self._hints = {spec.name: spec for spec in problem.hints} if problem else {}

    def compose(self) -> ComposeResult:
        problem = self.job.problem
        with Vertical(classes="box") as box:
            box.border_title = f"{job_text.ASKS} {self.job.stem} {self.job.standing}"
            yield Static(
                Content.assemble((problem.what if problem else "", "bold"), " ", problem.why if problem else "")
            )
            with VerticalScroll(id="inputs", can_focus=False):
                with Horizontal(classes="head"):
                    yield Static("input", classes="name")
                    yield Static("shape", classes="shape")
                    yield Static("datatype", classes="datatype")
                for number, name in enumerate(self._names):
                    yield from self._row(number, name)
            yield Static("", id="wrong")
            yield Static(
                "Rows first. A number is a size that never changes, a word such as batch or length one that is free. "
                f"It is written to {self.job.stem}.toml in the inbox, beside the file."
            )
            yield Static(keys_line(("enter", "go on"), ("tab", "next field"), ("esc", "decide later")), classes="keys")

    def _row(self, number: int, name: str) -> ComposeResult:
        hint = self._hints.get(name)
        shape = shape_text(hint.shape) if hint and hint.shape else FIRST_SHAPE
        datatype = hint.datatype if hint and hint.datatype else FIRST_DATATYPE
        with Horizontal(classes="row"):
            yield Static(name, classes="name", markup=False)
            yield Input(shape, id=f"shape-{number}", classes="shape", select_on_focus=False)
            known = SuggestFromList(list(DATATYPES), case_sensitive=False)
            yield Input(datatype, id=f"datatype-{number}", classes="datatype", suggester=known)

    def ask_first(self) -> None:
        for field in self.query("#shape-0").results(Input):
            field.focus()
            field.cursor_position = len(field.value)

    @on(Input.Changed)
    def _edited(self) -> None:
        self.query_one("#wrong", Static).update("")

    @on(Input.Submitted)
    def _submitted(self) -> None:
        inputs = []
        for number, name in enumerate(self._names):
            shape, datatype = (self.query_one(f"#{what}-{number}", Input) for what in ("shape", "datatype"))
            try:
                sizes = parse_shape(shape.value)
            except InvalidInput as error:
                self._refuse(shape, f"{name}: {error}")
                return
            word = datatype.value.strip().upper()
            if word not in DATATYPES:
                self._refuse(datatype, f"{name}: '{datatype.value}' is no datatype. They are {', '.join(DATATYPES)}.")
                return
            inputs.append(TensorSpec(name, word, sizes))
        self._send(inputs, self._taken, lambda problem: self._refuse(None, problem.sentence()))

    def _taken(self) -> None:
        if self.is_current:
            self.dismiss("said")

    def _refuse(self, field: Input | None, words: str) -> None:
        self.query_one("#wrong", Static).update(Content(words))
        if field is not None:
            field.focus()
