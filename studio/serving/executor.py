"""Worker threads on one queue: where models run.

A `Ticket` is one run. The event loop submits it, a worker thread runs it, and one `call_soon_threadsafe` brings the
answer back. Batching has its place in `Executor._work`: a worker may take several tickets of one model off the queue
and run them as one.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Mapping, Sequence
from queue import SimpleQueue

from studio.core.errors import StudioError
from studio.serving.problems import Busy, Expired, ModelFailed
from studio.serving.sessions import Array, LoadedModel


class Ticket:
    """One run, from submission to answer. The `*_ns` are `time.perf_counter_ns()`; 0 where it did not come so far.

    It holds its model, so a model that was replaced lives until its last ticket is done.
    """

    __slots__ = (
        "cancelled",
        "deadline_ns",
        "ended_ns",
        "future",
        "inputs",
        "model",
        "outputs",
        "queued_ns",
        "started_ns",
    )

    def __init__(
        self,
        model: LoadedModel,
        inputs: Mapping[str, Array],
        outputs: Sequence[str] | None,
        future: asyncio.Future[list[Array]],
        deadline_ns: int = 0,
    ) -> None:
        self.model = model
        self.inputs = inputs
        self.outputs = outputs
        self.future = future
        self.deadline_ns = deadline_ns
        self.cancelled = False
        self.queued_ns = time.perf_counter_ns()
        self.started_ns = 0
        self.ended_ns = 0

    def cancel(self) -> None:
        """Called on the loop: a run that has not started will not; one that has started ends and is thrown away."""
        self.cancelled = True
        self.future.cancel()

    def run(self) -> list[Array]:
        """Called on a worker thread. Raises StudioError."""
        self.started_ns = time.perf_counter_ns()
        if self.deadline_ns and self.started_ns > self.deadline_ns:
            waited = (self.started_ns - self.queued_ns) / 1e6
            raise Expired("Request timeout expired.", f"It waited {waited:.0f} ms for a worker.")
        try:
            return self.model.run(self.inputs, self.outputs)
        finally:
            self.ended_ns = time.perf_counter_ns()


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Executor:
    """`workers` threads (0 = one a core) and at most `limit` tickets queued or running."""

    def __init__(self, loop: asyncio.AbstractEventLoop, workers: int, limit: int) -> None:
        self._loop = loop
        self._limit = limit
        self._pending = 0
        self._queue: SimpleQueue[Ticket | None] = SimpleQueue()
        self._threads = [
            threading.Thread(target=self._work, name=f"run-{n}", daemon=True) for n in range(workers or cores())
        ]
        for thread in self._threads:
            thread.start()

    @property
    def pending(self) -> int:
        """Tickets queued or running."""
        return self._pending

    def submit(
        self,
        model: LoadedModel,
        inputs: Mapping[str, Array],
        outputs: Sequence[str] | None = None,
        timeout_us: int = 0,
    ) -> Ticket:
        """Queue a run; await `ticket.future` for the outputs. Raises Busy when the queue is full."""
        if self._pending >= self._limit:
            raise Busy(
                "The server is busy.",
                f"{self._limit} requests are waiting or running already.",
                "Try again in a second, or raise queue under [serving] in studio.toml.",
            )
        deadline_ns = time.perf_counter_ns() + timeout_us * 1000 if timeout_us else 0
        ticket = Ticket(model, inputs, outputs, self._loop.create_future(), deadline_ns)
        self._pending += 1
        self._queue.put(ticket)
        return ticket

    def close(self) -> None:
        """Let the threads end after what is queued."""
        for _ in self._threads:
            self._queue.put(None)

    def _work(self) -> None:
        while True:
            ticket = self._queue.get()
            if ticket is None:
                return
            result: list[Array] | StudioError | None = None
            if not ticket.cancelled:
                try:
                    result = ticket.run()
                except StudioError as error:
                    result = error
                except Exception as error:  # a worker must outlive whatever a model does
                    result = ModelFailed(f"'{ticket.model.target.name}' failed.", f"{type(error).__name__}.")
            try:
                self._loop.call_soon_threadsafe(self._deliver, ticket, result)
            except RuntimeError:  # the loop is closed: the process is on its way out
                return
            # Without this the thread would keep the last model alive until its next ticket.
            del ticket, result

    def _deliver(self, ticket: Ticket, result: list[Array] | StudioError | None) -> None:
        self._pending -= 1
        if ticket.future.done():
            return
        if isinstance(result, StudioError):
            ticket.future.set_exception(result)
        elif result is not None:
            ticket.future.set_result(result)
        else:
            ticket.future.cancel()
