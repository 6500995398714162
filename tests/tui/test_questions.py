"""Jobs that ask the user something: how they look, what each key answers, and that no answer is given by accident."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
from textual.app import App
from textual.widgets import Input

from studio.core.errors import CodeFile, Conflict, InvalidInput, NeedsSettings, NeedsTrust, Problem
from studio.core.jobs import Job
from studio.core.shapes import parse_shape, shape_text
from studio.core.tensors import TensorSpec
from studio.core.views import TrustAnswer
from studio.tui.questions import InputsDialog, TrustDialog
from tests.tui.conftest import Studio, screen_text, until
from tests.tui.stub import StubClient, filled
from tests.tui.values import asking, job

FOREST = CodeFile(name="forest.pkl", sha256="9f3c1e20" * 8, imports=("os.system", "sklearn.svm.SVC"))
TREES = CodeFile(name="trees.pkl", sha256="0badcafe" * 8, imports=tuple(f"module.function{n}" for n in range(60)))
HINT = TensorSpec("image", "FP16", ("batch", 3, "?"))
SHAPES = NeedsSettings("It does not say what it takes.", ("image", "mask"), "A script has no shapes.", "", (HINT,))


def asks() -> StubClient:
    """The newest job asks for trust, the one before for settings, and one is done."""
    jobs = [asking(9, "forest", NeedsTrust((FOREST,), "A pickle calls.")), asking(8, "net", SHAPES), job(1)]
    return StubClient(job_list=jobs)


def answers(client: StubClient) -> list[tuple[object, ...]]:
    """The calls that change something, in order."""
    return [call for call in client.calls if call[0] != "versions"]


def toasts(app: App[str]) -> list[str]:
    return [f"{note.title}: {note.message}" for note in app._notifications]


def dialog(app: App[str]) -> str:
    """What is seen of the dialog, its lines joined."""
    box = app.screen.query_one(".box").region
    lines = screen_text(app).splitlines()[box.y : box.bottom]
    return " ".join(" ".join(line[box.x + 1 : box.right - 1] for line in lines).split())


async def at_question(pilot, kind: type) -> None:
    await until(pilot, lambda: pilot.app.current and pilot.app.current.chosen, "a job is chosen")
    await pilot.press("a")
    await until(pilot, lambda: isinstance(pilot.app.screen, kind) and pilot.app.screen.is_attached, "the question")
    await pilot.pause()


async def test_waiting_jobs_are_told_apart_and_show_their_question(studio: Studio) -> None:
    async with studio(asks(), size=(80, 24)) as pilot:
        await pilot.press("2")
        await until(pilot, lambda: "✓ ✓ ✓ ? ○ ○ ○ ○ ○" in screen_text(pilot.app), "the step that waits")
        words = screen_text(pilot.app)
        assert "? needs trust" in words and "? needs settings" in words
        assert "2 Inbox 2?" in words and "2 to answer, " in words
        for shown in ("? 'forest.pkl' would run code", FOREST.sha256, "os.system", "sklearn.svm.SVC", "a answers it"):
            assert shown in words
        assert "a Answer" in words
        assert pilot.app.why_not("retry") == "It needs trust: a answers it."
        assert pilot.app._clock is not None and not pilot.app.store.state.busy(time.time())  # waiting costs nothing
        await pilot.press("j")
        await until(pilot, lambda: "input   image" in screen_text(pilot.app), "the other question")
        await pilot.press("j")
        await until(pilot, lambda: pilot.app.why_not("answer") == "It asks nothing.", "a job that asks nothing")


@pytest.mark.parametrize("size", [(80, 24), (120, 40)])
async def test_the_question_of_trust_shows_everything_and_only_y_says_yes(
    studio: Studio, size: tuple[int, int]
) -> None:
    client = asks()
    async with studio(client, size=size) as pilot:
        await pilot.press("2")
        await at_question(pilot, TrustDialog)
        for shown in (
            "forest needs trust",
            f"file forest.pkl sha256 {FOREST.sha256} runs os.system sklearn.svm.SVC A pickle calls.",
            "kept in the journal, for exactly this content.",
            "y yes, run it n no, cancel the job esc decide later",
        ):
            assert shown in dialog(pilot.app)
        for key in ("enter", "space", "a", "Y", "tab", "1", "r"):
            await pilot.press(key)
        assert isinstance(pilot.app.screen, TrustDialog)
        assert not answers(client)
        await pilot.press("y")
        await until(pilot, lambda: client.called("trust"), "the yes")
        assert client.called("trust") == [("trust", FOREST.sha256)]
        await until(pilot, lambda: toasts(pilot.app) == ["Trusted forest.pkl: 1 job goes on"], "the toast")
        assert pilot.app.store.state.jobs["j0009"].state == "queued"


@pytest.mark.parametrize(("key", "called"), [("n", [("cancelled", "j0009")]), ("escape", [])])
async def test_no_cancels_the_job_and_escape_leaves_it(studio: Studio, key: str, called: list[tuple[str, str]]) -> None:
    client = asks()
    async with studio(client) as pilot:
        await pilot.press("2")
        await at_question(pilot, TrustDialog)
        await pilot.press(key)
        await until(pilot, lambda: len(pilot.app.screen_stack) == 1, "the question is closed")
        await until(pilot, lambda: answers(client) == called, "what was called")
        assert pilot.app.store.state.jobs["j0009"].state == ("cancelled" if called else "waiting")


async def test_more_than_fits_is_counted_and_scrolls_and_the_keys_stay_in_sight(studio: Studio) -> None:
    client = StubClient(job_list=[asking(1, "both", NeedsTrust((TREES, FOREST)))])
    async with studio(client, size=(80, 24)) as pilot:
        await pilot.press("2")
        await at_question(pilot, TrustDialog)
        assert "62 imports and calls" in dialog(pilot.app)
        assert "y yes, run it" in dialog(pilot.app)
        assert FOREST.sha256 not in dialog(pilot.app)
        for _ in range(12):
            await pilot.press("j")
        assert pilot.app.screen.query_one("#files").scroll_y == 12
        pilot.app.screen.query_one("#files").scroll_end(animate=False)
        await until(pilot, lambda: FOREST.sha256 in dialog(pilot.app), "the second file")
        assert "y yes, run it" in dialog(pilot.app)
        await pilot.press("y")
        await until(pilot, lambda: client.called("trust"), "the yes")
        assert client.called("trust") == [("trust", TREES.sha256, FOREST.sha256)]


async def test_a_question_that_was_answered_elsewhere_closes(studio: Studio) -> None:
    client = asks()
    async with studio(client) as pilot:
        await pilot.press("2")
        await at_question(pilot, TrustDialog)
        client.push("job", replace(job(9, "running", 3, "forest"), attempt=2))
        await until(pilot, lambda: len(pilot.app.screen_stack) == 1, "the question is closed")
        assert not answers(client)


async def test_a_yes_that_fails_is_told(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: StubClient, *sha256: str) -> TrustAnswer:
        raise Conflict("No job asks to run that any more.")

    monkeypatch.setattr(StubClient, "trust", refuse)
    async with studio(asks()) as pilot:
        await pilot.press("2")
        await at_question(pilot, TrustDialog)
        await pilot.press("y")
        await until(pilot, lambda: ": No job asks to run that any more." in toasts(pilot.app), "the reason")


async def test_inputs_are_asked_for_with_hints_and_checked_before_they_are_sent(studio: Studio) -> None:
    client = asks()
    async with studio(client, size=(80, 24)) as pilot:
        await pilot.press("2")
        await until(pilot, lambda: pilot.app.current and pilot.app.current.chosen, "a job is chosen")
        await pilot.press("j")
        await at_question(pilot, InputsDialog)
        words = dialog(pilot.app)
        assert "net needs settings" in words and "It does not say what it takes. A script has no shapes." in words
        assert "image batch, 3, ? FP16" in words and "mask batch, FP32" in words
        assert "written to net.toml" in words and "enter go on" in words
        assert isinstance(pilot.app.focused, Input) and pilot.app.focused.id == "shape-0"

        await pilot.press("enter")
        await until(pilot, lambda: "image: '?' is no size." in screen_text(pilot.app), "what is wrong")
        await pilot.press("backspace", *"224")
        await until(pilot, lambda: "is no size" not in screen_text(pilot.app), "the complaint is gone")
        await pilot.press("enter")
        await until(pilot, lambda: "Something is missing behind 'batch,'" in screen_text(pilot.app), "the second one")
        assert pilot.app.focused.id == "shape-1"
        await pilot.press("1", "2", "8", "tab")
        pilot.app.focused.value = "int63"
        await pilot.press("enter")
        await until(pilot, lambda: "'int63' is no datatype." in screen_text(pilot.app), "the datatype")
        assert not answers(client)
        pilot.app.focused.value = "int64"

        client.refusal = InvalidInput("net.toml is not valid TOML.", fix="Correct it.")
        await pilot.press("enter")
        await until(pilot, lambda: "net.toml is not valid TOML." in screen_text(pilot.app), "the engine's refusal")
        assert isinstance(pilot.app.screen, InputsDialog)
        client.refusal = None
        await pilot.press("enter")
        await until(pilot, lambda: len(pilot.app.screen_stack) == 1, "it is taken")
        said = (TensorSpec("image", "FP16", ("batch", 3, 224)), TensorSpec("mask", "INT64", ("batch", 128)))
        assert client.called("describe_inputs")[-1] == ("describe_inputs", "j0008", said)
        assert toasts(pilot.app) == ["Wrote net.toml: The inbox sees it, and the arrival begins anew."]
        # The arrival begins anew, as another job; the cursor goes along.
        client.push("job", job(10, "running", 2, "net"))
        await until(pilot, lambda: pilot.app.current.chosen.id == "j0010", "the job in its place")


async def test_a_question_without_a_form_says_what_to_do(studio: Studio) -> None:
    client = StubClient(job_list=[asking(1, "odd", NeedsSettings("It is odd.", (), fix="Write odd.toml."))])
    async with studio(client) as pilot:
        await pilot.press("2")
        await until(pilot, lambda: pilot.app.current and pilot.app.current.chosen, "a job is chosen")
        await pilot.press("a")
        await until(
            pilot, lambda: "Answer: It can not be answered here. Write odd.toml." in toasts(pilot.app), "the way"
        )


async def test_who_looks_elsewhere_is_told_of_fresh_questions_only(studio: Studio) -> None:
    def waiting(number: int, age: float) -> Job:
        return replace(asking(number, f"model{number}", NeedsTrust((FOREST,))), updated=time.time() - age)

    client = filled()
    async with studio(client) as pilot:
        client.push("job", waiting(21, age=3600.0))  # an event of long ago, sent again when the stream is taken up
        client.push("job", waiting(22, age=0.0))
        await until(pilot, lambda: toasts(pilot.app), "the fresh question")
        said = "? model22 needs trust: 'forest.pkl' would run code when it is loaded.\n2 Inbox, then a to answer."
        assert toasts(pilot.app) == [said]
        await pilot.press("2")
        await at_question(pilot, TrustDialog)
        assert not toasts(pilot.app)  # nothing lies over the question


async def test_what_is_on_the_screen_already_is_not_told_again(studio: Studio) -> None:
    async with studio(filled()) as pilot:
        for number in range(5):
            pilot.app.tell(Problem(code="unavailable", what="The engine can not be reached.", why=f"Try {number}."))
        pilot.app.tell(Problem(code="conflict", what="Something else."))
        await pilot.press("2")
        await until(pilot, lambda: pilot.app.current and pilot.app.current.chosen, "a job is chosen")
        await pilot.press("a", "a", "a")
        await until(pilot, lambda: len(toasts(pilot.app)) > 2, "the toasts")
        said = ["The engine can not be reached.: Try 0.", ": Something else.", "Answer: It asks nothing."]
        assert toasts(pilot.app) == said


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("batch, 3, 224, 224", ("batch", 3, 224, 224)),
        (' ["batch",3] ', ("batch", 3)),
        ("batch × length", ("batch", "length")),
        ("1 16", (1, 16)),
        ("scalar", ()),
    ],
)
def test_shapes_are_read_as_people_write_them(text: str, shape: tuple[int | str, ...]) -> None:
    assert parse_shape(text) == shape
    assert parse_shape(shape_text(shape)) == shape


@pytest.mark.parametrize("text", ["", "batch,", "batch, 0", "-1, 3", "batch, ?", "3.5", "a-b", "batch, 9999999999"])
def test_what_is_no_shape_says_so(text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_shape(text)
    assert caught.value.fix
