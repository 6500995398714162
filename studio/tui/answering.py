"""From a waiting job to its answer: the dialog that asks, and the call that tells the engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

from studio.core.errors import Problem
from studio.core.jobs import Job
from studio.core.tensors import TensorSpec
from studio.core.views import TrustAnswer
from studio.tui import messages, text
from studio.tui.questions import InputsDialog, TrustDialog

if TYPE_CHECKING:
    from studio.tui.app import StudioApp


def answerable(job: Job) -> bool:
    """Whether there is a dialog for what a job asks."""
    return job.asks_for("needs_trust") or (
        job.asks_for("needs_settings") and bool(job.problem and job.problem.missing_inputs)
    )


def answer(app: StudioApp, job: Job, replaced: Callable[[Job], None]) -> None:
    """Ask the user what a job asks, and pass the answer on. `replaced` is told of a job that another will follow."""
    app.clear_notifications()  # none may lie over the question
    if job.asks_for("needs_trust"):
        app.push_screen(TrustDialog(job, app.keys.of("answer")), lambda said: _trust(app, job, said))
    elif answerable(job):

        def send(inputs: Sequence[TensorSpec], taken: Callable[[], None], wrong: Callable[[Problem], None]) -> None:
            _describe(app, job, inputs, taken, wrong)

        app.push_screen(InputsDialog(job, send), lambda said: replaced(job) if said else None)


def _trust(app: StudioApp, job: Job, said: str | None) -> None:
    client = app.client
    if client is None or job.problem is None or not said:
        return
    if said == "no":
        app.ask(lambda: client.cancel_job(job.id), lambda job: changed(app, job, "cancel"))
        return
    hashes = [file.sha256 for file in job.problem.code_files]

    def told(answer: TrustAnswer) -> None:
        for one in answer.jobs:
            _put(app, one)
        names = " and ".join(file.name for file in answer.code)
        app.say(
            f"{text.plural(len(answer.jobs), 'job')} go{'es' if len(answer.jobs) == 1 else ''} on", f"Trusted {names}"
        )

    app.ask(lambda: client.trust(*hashes), told)


def _describe(
    app: StudioApp,
    job: Job,
    inputs: Sequence[TensorSpec],
    taken: Callable[[], None],
    wrong: Callable[[Problem], None],
) -> None:
    client = app.client
    if client is None:
        return

    def told(file: str) -> None:
        taken()
        app.say("The inbox sees it, and the arrival begins anew.", f"Wrote {file.rpartition('/')[2]}")

    app.ask(lambda: client.describe_inputs(job.id, inputs), told, failed=wrong)


def changed(app: StudioApp, job: Job, how: Literal["retry", "cancel"]) -> None:
    """Show a job as a call left it, and say so."""
    _put(app, job)
    app.say(job.stem, "Runs again" if how == "retry" else "Cancelled")


def _put(app: StudioApp, job: Job) -> None:
    app.store.update(messages.JobsChanged, jobs={**app.store.state.jobs, job.id: job})
