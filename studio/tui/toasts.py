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
REASON_SECONDS = 4.0
NEWS_SECONDS = 10.0


class Toasts:
    """The app's messages that pass by themselves."""

    def __init__(self, app: App[Any]) -> None:
        self._app = app
        self._shown: dict[str, float] = {}

    def tell(self, problem: Problem) -> None:
        """What, why, fix. One that is still on the screen is not shown again: a dead engine fails every call alike."""
        words = "\n".join(part for part in (problem.why, problem.fix) if part)
        if self._fresh(problem.what, PROBLEM_SECONDS):
            self._notify(words or problem.what, problem.what if words else "", "error", PROBLEM_SECONDS)

    def refuse(self, reason: str, title: str) -> None:
        """Why an action can not be done now; said once while it is on the screen, however often the key is hit."""
        if self._fresh(f"{title}: {reason}", REASON_SECONDS):
            self._notify(reason, title, "warning", REASON_SECONDS)

    def say(self, words: str, title: str = "") -> None:
        self._notify(words, title, "information", WORDS_SECONDS)

    def announce(self, job: Job, keys: Keymap) -> None:
        """A job begins to wait for the user, who looks elsewhere. What has waited for longer, the header tells."""
        if time.time() - job.updated > NEWS_SECONDS:
            return
        way = f"{keys.label('screen.inbox')} Inbox, then {keys.label('answer')} to answer."
        if job.asks_for("needs_model"):  # an answer is no words, but a file
            way = f"{keys.label('screen.inbox')} Inbox says what is missing."
        words = f"{job.problem.what}\n{way}" if job.problem else way
        self._notify(words, f"{ASKS} {job.stem} {job.standing}", "warning", PROBLEM_SECONDS)

    def _fresh(self, words: str, seconds: float) -> bool:
        now = time.monotonic()
        self._shown = {one: until for one, until in self._shown.items() if now < until}
        fresh = words not in self._shown
        if fresh:
            self._shown[words] = now + seconds
        return fresh

    def _notify(self, words: str, title: str, severity: Any, seconds: float) -> None:
        self._app.notify(words, title=title, severity=severity, timeout=seconds, markup=False)
