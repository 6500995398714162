"""Blocking calls off the UI thread, and the engine's events onto it.

Threads are daemons of our own rather than Textual's workers: leaving must never wait for a socket.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from textual.app import App
from textual.message import Message

from studio.core.errors import Problem, StudioError
from studio.core.events import Event
from studio.tui.ports import EngineClient

RETRY_SECONDS = 1.0


class Answered(Message, bubble=False):
    """A call ended: with a result for `then`, or with a problem for `failed`."""

    def __init__(self, deliver: Callable[[], None]) -> None:
        super().__init__()
        self.deliver = deliver


class EventsArrived(Message, bubble=False):
    """Events wait in the listener's queue."""

    def can_replace(self, message: Message) -> bool:
        return isinstance(message, EventsArrived)


class EngineLost(Message, bubble=False):
    """The event stream broke off; the listener tries again by itself."""

    def __init__(self, problem: Problem) -> None:
        super().__init__()
        self.problem = problem


def post(app: App[Any], message: Message) -> None:
    """Post from any thread; silently too late when the app is gone."""
    try:
        app.post_message(message)
    except RuntimeError:  # the event loop is closed
        return


def problem_of(error: Exception) -> Problem:
    if isinstance(error, StudioError):
        return error.problem
    return Problem(
        code="internal",
        what="Studio met an error that it did not foresee.",
        why=f"{type(error).__name__}: {error}",
        fix="Look at the log (5); the engine itself may be well.",
    )


class Asker:
    """Runs calls in threads. Within a group only the newest call is answered."""

    def __init__(self, app: App[Any]) -> None:
        self._app = app
        self._turns: dict[str, int] = {}

    def ask(
        self, call: Callable[[], Any], then: Callable[[Any], None], failed: Callable[[Problem], None], group: str = ""
    ) -> None:
        turn = self._turns[group] = self._turns.get(group, 0) + 1

        def current() -> bool:
            return not group or self._turns[group] == turn

        def run() -> None:
            try:
                result = call()
            except Exception as error:  # a thread's last frame: every error becomes words on the screen
                problem = problem_of(error)
                post(self._app, Answered(lambda: failed(problem) if current() else None))
            else:
                post(self._app, Answered(lambda: then(result) if current() else None))

        threading.Thread(target=run, name=f"studio-ask-{group}", daemon=True).start()


class Listener:
    """Reads the event stream for as long as the app lives."""

    def __init__(self, app: App[Any], client: EngineClient) -> None:
        self._app = app
        self._client = client
        self._queue: deque[Event] = deque()
        self._stop = threading.Event()

    def start(self) -> None:
        threading.Thread(target=self._run, name="studio-events", daemon=True).start()

    def stop(self) -> None:
        self._stop.set()

    def take(self) -> list[Event]:
        """The events that arrived since the last call."""
        taken = []
        while self._queue:
            taken.append(self._queue.popleft())
        return taken

    def _run(self) -> None:
        seen = 0
        while not self._stop.is_set():
            try:
                for event in self._client.events(seen, self._stop):
                    seen = event.seq
                    self._queue.append(event)
                    post(self._app, EventsArrived())
                    if self._stop.is_set():
                        return
            except Exception as error:  # as above
                post(self._app, EngineLost(problem_of(error)))
            self._stop.wait(RETRY_SECONDS)
