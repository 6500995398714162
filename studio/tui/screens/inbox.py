"""Inbox: one row an arrival with its nine steps; below, what the chosen one does, or why it failed and the fix."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Literal

from textual import on
from textual.app import ComposeResult
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.widget import Widget
from textual.widgets import DataTable, Input, Static

from studio.core.jobs import Job
from studio.tui import laboratory, messages, text
from studio.tui.answering import answer, answerable, changed
from studio.tui.dialogs import TextDialog
from studio.tui.screens.base import Handler, View
from studio.tui.widgets import job_text
from studio.tui.widgets.empty import Empty
from studio.tui.widgets.filter import FilterLine
from studio.tui.widgets.tables import Column, Table

COLUMNS = (
    Column("name", "arrival", 0),
    Column("format", "format", 12, need=104),
    Column("steps", "steps", 18),
    Column("now", "now", 26),
    Column("elapsed", "elapsed", 11, right=True),
    Column("result", "became", 14, need=92),
)


class InboxView(View):
    SCREEN = "inbox"
    PANES = ("inbox-list", "inbox-detail")
    TOPICS = (messages.JobsChanged, messages.ClockTicked, messages.StatusChanged)

    def __init__(self) -> None:
        super().__init__()
        self._replaced: Job | None = None

    def compose(self) -> ComposeResult:
        with Vertical(classes="panes stacked"):
            with Vertical(id="inbox-list", classes="pane"):
                yield Table(COLUMNS, id="jobs")
                yield Empty(id="inbox-empty")
                yield FilterLine("filter: name, format, state or model")
            with Vertical(id="inbox-detail", classes="pane"), VerticalScroll():
                yield Static(id="job-words")

    def first_focus(self) -> Widget:
        return self.query_one("#jobs", Table)

    def shown(self) -> None:
        self._fill()

    @property
    def filter(self) -> str:
        return self.query_one(FilterLine).value.strip().lower()

    @property
    def chosen(self) -> Job | None:
        return self.state.jobs.get(self.query_one("#jobs", Table).chosen)

    def _fill(self) -> None:
        words, now = self.filter, time.time()
        jobs = [job for job in self.state.jobs.values() if not words or words in job_text.searched(job)]
        jobs.sort(key=lambda job: job.state != "waiting")  # what waits for the user first, else the newest first
        table = self.query_one("#jobs", Table)
        newest = table.cursor_row == 0  # who stays at the top follows what arrives
        table.fill([(job.id, job_text.cells(job, now)) for job in jobs])
        if newest and jobs:
            table.choose(jobs[0].id)
        self._follow_replacement()
        pane = self.query_one("#inbox-list")
        active = len(self.state.active_jobs())
        pane.border_title = "Inbox" + (f"  filter: {self.filter}" if self.filter else "")
        status = self.state.status
        waiting = len(self.state.waiting_jobs())
        asks = f"{waiting} to answer, " if waiting else ""
        pane.border_subtitle = (
            (f"{active} running, " if active else "")
            + asks
            + (f"watching {text.fit(status.inbox, 60)}" if status and status.watching else "not watching")
        )
        empty = self._empty_words() if not jobs else None
        self.query_one("#inbox-empty", Empty).show(empty)
        self.reveal(self.query_one("#jobs"), empty is None)
        self.query_one("#inbox-detail").display = empty is None
        self.set_class(empty is not None, "alone")
        self._words()

    def await_replacement(self, job: Job) -> None:
        """The answer to this job makes a new one of the same stem: the cursor goes with it."""
        self._replaced = job
        self._follow_replacement()

    def _follow_replacement(self) -> None:
        old = self._replaced
        new = next((job for job in self.state.jobs.values() if old and job.stem == old.stem), None)
        if old is not None and new is not None and new.created > old.created:
            if self.query_one("#jobs", Table).chosen == old.id:
                self.query_one("#jobs", Table).choose(new.id)
            self._replaced = None

    def _empty_words(self) -> Content:
        app, status = self.studio, self.state.status
        if self.filter:
            return Content.assemble("No arrival matches.\n\n", app.key_hint("clear", "to clear the filter."))
        where = status.inbox if status else str(app.workspace / "inbox")
        parts: list[Any] = [
            ("Nothing has arrived yet.\n\n", "bold"),
            "Drop a model file into\n",
            (where, "$accent bold"),
            "\n\n",
        ]
        parts.append(app.key_hint("screen.models", "for the models; an empty workspace offers samples there."))
        return Content.assemble(*parts)

    def _words(self) -> None:
        job, pane = self.chosen, self.query_one("#inbox-detail")
        pane.border_title = job.stem if job else "Arrival"
        if job is not None:
            keys = self.studio.keys
            shown = job_text.Keys(*(keys.label(name) for name in ("open", "answer", "cancel", "retry")))
            body = job_text.steps(job, time.time(), shown)
            self.query_one("#job-words", Static).update(body)

    @on(messages.JobsChanged)
    @on(messages.ClockTicked)
    @on(messages.StatusChanged)
    def _changed(self) -> None:
        if self.showing:
            self._fill()

    @on(DataTable.RowHighlighted)
    def _highlighted(self) -> None:
        self._words()
        self.studio.refresh_footer()

    @on(DataTable.RowSelected)
    def _selected(self) -> None:
        self.studio.perform("open")

    @on(Input.Changed)
    def _filter_changed(self) -> None:
        self._fill()

    @on(Input.Submitted)
    def _filter_kept(self) -> None:
        self.query_one("#jobs").focus()

    def handlers(self) -> Mapping[str, Handler]:
        return {
            "filter": Handler(self.query_one(FilterLine).open),
            "clear": Handler(self._clear),
            "open": Handler(self._open_log, self._no_job),
            "answer": Handler(self._answer, self._why_not_answer),
            "retry": Handler(self._retry, self._why_not_retry),
            "cancel": Handler(self._cancel, self._why_not_cancel),
            "lab.pause": Handler(lambda: laboratory.toggle(self.studio)),
        }

    def _no_job(self) -> str:
        return "" if self.chosen else "There is no arrival to choose."

    def _why_not_retry(self) -> str:
        job = self.chosen
        if job is None:
            return self._no_job()
        if job.state == "waiting":
            if not answerable(job):
                return f"It {job.standing}: the arrival goes on by itself once that is there."
            return f"It {job.standing}: {self.studio.keys.label('answer')} answers it."
        if job.state in ("failed", "cancelled") and job.is_arrival and not job.digest:
            return "Nothing of it was taken in. Drop it again: that starts a new job."
        return (
            ""
            if job.state in ("failed", "cancelled")
            else f"It is {job.state}; failed and cancelled jobs can be retried."
        )

    def _why_not_answer(self) -> str:
        job = self.chosen
        if job is None:
            return self._no_job()
        if job.state != "waiting":
            return "It asks nothing."
        return "" if answerable(job) else f"It can not be answered here. {job.problem.fix if job.problem else ''}"

    def _why_not_cancel(self) -> str:
        job = self.chosen
        if job is None:
            return self._no_job()
        return f"It is {job.state} already." if job.finished else ""

    def _clear(self) -> None:
        self.query_one(FilterLine).close()
        self.query_one("#jobs").focus()

    def _answer(self) -> None:
        job = self.chosen
        if job is not None:
            answer(self.studio, job, self.await_replacement)

    def _retry(self) -> None:
        self._change("retry")

    def _cancel(self) -> None:
        self._change("cancel")

    def _change(self, what: Literal["retry", "cancel"]) -> None:
        job, client = self.chosen, self.studio.client
        if job is None or client is None:
            return
        call = client.retry_job if what == "retry" else client.cancel_job

        self.ask(lambda: call(job.id), lambda job: changed(self.studio, job, what))

    def _open_log(self) -> None:
        job, client = self.chosen, self.studio.client
        if job is None or client is None:
            return

        def show(log: str) -> None:
            body = log.rstrip() or "The workers of this job have written nothing yet."
            self.studio.push_screen(TextDialog(f"Log of {job.stem}", Content(body), end=True))

        self.ask(lambda: client.job_log(job.id), show, group="job-log")
