"""Toasts: what went wrong, what was done, and which job has begun to ask something."""

from __future__ import annotations

import time
from typing import Any

from textual.app import App

from studio.core.errors import Problem
from studio.core.jobs import Job
from studio.tui.keys import Keymap
from studio.tui.widgets.job_text import ASKS

PROBLEM_SECONDS = 9.0
WORDS_SECONDS = 5.0
NEWS_SECONDS = 10.0


class Toasts:
    """The app's messages that pass by themselves."""

    def __init__(self, app: App[Any]) -> None:
        self._app = app
        self._told: dict[str, float] = {}

    def tell(self, problem: Problem) -> None:
        """What, why, fix. One that is still on the screen is not shown again: a dead engine fails every call alike."""
        now = time.monotonic()
        self._told = {what: at for what, at in self._told.items() if now - at < PROBLEM_SECONDS}
        if problem.what in self._told:
            return
        self._told[problem.what] = now
        words = "\n".join(part for part in (problem.why, problem.fix) if part)
        self._notify(words or problem.what, problem.what if words else "", "error", PROBLEM_SECONDS)

    def say(self, words: str, title: str = "") -> None:
        self._notify(words, title, "information", WORDS_SECONDS)

    def announce(self, job: Job, keys: Keymap) -> None:
        """A job begins to wait for the user, who looks elsewhere. What has waited for longer, the header tells."""
        if time.time() - job.updated > NEWS_SECONDS:
            return
        way = f"{keys.label('screen.inbox')} Inbox, then {keys.label('answer')} to answer."
        words = f"{job.problem.what}\n{way}" if job.problem else way
        self._notify(words, f"{ASKS} {job.stem} {job.standing}", "warning", PROBLEM_SECONDS)

    def _notify(self, words: str, title: str, severity: Any, seconds: float) -> None:
        self._app.notify(words, title=title, severity=severity, timeout=seconds, markup=False)
