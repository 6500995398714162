"""What one can do with the lab on Models: run recipes, pause it, let it go on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from studio.core.jobs import LAB_STEPS, Job
from studio.core.views import LabState
from studio.tui.lab_dialog import LabDialog, Order

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from studio.tui.app import StudioApp
    from studio.tui.screens.models import ModelsView


def why_not_run(view: ModelsView) -> str:
    """Why no recipe can be run on what is chosen."""
    if view.chosen is None:
        return "There is no version to choose."
    if view.detail is None:
        return "The details are still on their way."
    return view.detail.manifest.serve_only


def run(view: ModelsView) -> None:
    """Ask which recipes, then hand them to the lab."""
    row, client, app = view.chosen, view.studio.client, view.studio
    if row is None or client is None:
        return
    reference = f"{row.model}:{row.version}"

    def ordered(order: Order | None) -> None:
        if order is not None:
            view.ask(lambda: client.make_variants(reference, order.recipes, (), order.again), begun)

    def begun(jobs: Sequence[Job]) -> None:
        if jobs:
            app.say(f"{app.keys.label('screen.inbox')} shows it at work.", f"The lab works on {reference}")
        else:
            app.say("Every recipe chosen has run here.", "Nothing is left to do")

    def known(state: LabState) -> None:
        app.push_screen(LabDialog(row, state, app.keys.of("lab")), ordered)

    view.ask(client.lab, known, group="lab")


def toggle(app: StudioApp) -> None:
    """Stop the lab where it is, or let it go on."""
    client, status = app.client, app.store.state.status
    if client is None or status is None:
        return
    call = client.resume_lab if status.lab_paused else client.pause_lab

    def done(state: LabState) -> None:
        if state.paused:
            app.say(f"{app.keys.label('lab.pause')} lets it go on.", "The lab is paused")
        else:
            app.say("It goes on where it was.", "The lab is no longer paused")

    app.ask(call, done, group="lab-pause")


def work_on(jobs: Iterable[Job], model: str, version: int) -> Job | None:
    """The job that makes variants of a version now, or waits to."""
    return next((job for job in jobs if (job.model, job.version) == (model, version) and in_lab(job)), None)


def in_lab(job: Job) -> bool:
    """Whether what is left of a job is the lab's."""
    step = job.current
    return not job.resting and (not job.is_arrival or (step is not None and step.name in ("registered", *LAB_STEPS)))
