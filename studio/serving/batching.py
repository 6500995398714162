"""Running several requests of one model as one batch, and giving each its own rows back.

Requests go together when the model's rows were seen not to depend on each other (`Signature.batchable`), all inputs
carry the batch in front, and everything but the number of rows is equal. One that makes the batch fail fails alone.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from studio.core.errors import InvalidInput, StudioError
from studio.core.tensors import NAMELESS, Signature
from studio.serving.problems import Expired, ModelFailed

if TYPE_CHECKING:
    import asyncio

    from studio.serving.loaded import Array, LoadedModel

LOOK_AHEAD = 256
"""Waiting requests that are looked through for more of the same kind."""


class Ticket:
    """One request's run, from submission to answer. The `*_ns` are `time.perf_counter_ns()`, 0 where not reached:
    queued, started (taken, to be joined with others), ran (given to the runtime), ended.

    `done` is called on the event loop, once, with the ticket itself; `answer()` then gives the outputs. `timer` goes
    off at a deadline of its own. It holds its model, so one that was replaced lives until its last ticket is done.
    `leader` is true for one ticket of each run, `batch_rows` counts the rows that ran together. `cached`: it was
    answered without a run.
    """

    __slots__ = (
        "batch_rows",
        "cached",
        "cancelled",
        "deadline_ns",
        "done",
        "ended_ns",
        "finished",
        "inputs",
        "key",
        "late",
        "leader",
        "model",
        "outputs",
        "priority",
        "queued_ns",
        "ran_ns",
        "result",
        "rows",
        "run",
        "started_ns",
        "timer",
    )

    def __init__(
        self,
        model: LoadedModel,
        inputs: Mapping[str, Array],
        outputs: tuple[str, ...] | None,
        done: Callable[[Ticket], None],
        deadline_ns: int = 0,
        priority: int = 0,
    ) -> None:
        self.model = model
        self.inputs = inputs
        self.outputs = outputs
        self.done = done
        self.deadline_ns = deadline_ns
        self.priority = priority
        self.cached = False
        self.cancelled = False
        self.finished = False
        self.result: list[Array] | StudioError | None = None
        self.late: StudioError | None = None
        self.run: Run | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.leader = True
        self.queued_ns = time.perf_counter_ns()
        self.started_ns = 0
        self.ran_ns = 0
        self.ended_ns = 0
        self.rows, self.key = model.rules.place(inputs, outputs)
        self.batch_rows = self.rows

    def settle(self) -> Callable[[Ticket], None]:
        """Nothing will happen to it any more: what is to be called, which it forgets. Whoever waits for it holds it,
        and a circle of the two, inputs and all, would stay in memory until the collector looks for circles."""
        done, self.done = self.done, _nobody
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        return done

    def answer(self) -> list[Array]:
        """The outputs. Raises the StudioError that the run ended with."""
        if self.late is not None:
            raise self.late
        if isinstance(self.result, StudioError):
            raise self.result
        assert self.result is not None
        return self.result

    def expired(self, now_ns: int) -> bool:
        return bool(self.deadline_ns) and now_ns > self.deadline_ns

    def expire(self) -> None:
        """Answer with a time-out."""
        waited = (time.perf_counter_ns() - self.queued_ns) / 1e6
        where = "running" if self.started_ns else "waiting for its turn"
        self.late = Expired("Request timeout expired.", f"It was {where} after {waited:.0f} ms.")


def _nobody(ticket: Ticket) -> None:
    """Waits for a ticket that is settled."""


class Run:
    """One call of the runtime. `stop` ends it between two nodes, once nobody waits for it any more."""

    __slots__ = ("options", "tickets")

    def __init__(self, tickets: list[Ticket], options: Any) -> None:
        self.tickets = tickets
        self.options = options

    def abandon(self) -> None:
        """Called when one of its tickets was given up."""
        if self.options is not None and all(ticket.cancelled or ticket.finished for ticket in self.tickets):
            self.options.terminate = True


class Rules:
    """What of a model's requests may run together. `most` is the number of rows from which more gain nothing.

    `steady`: only the number of rows can differ between two requests, and with it the time that they take. `model` is
    the name that errors tell.
    """

    __slots__ = ("_first", "_model", "_names", "_one_batch", "most", "steady")

    def __init__(self, signature: Signature, most: int = 1, model: str = "") -> None:
        specs = (*signature.inputs, *signature.outputs)
        batches = (
            signature.batchable and bool(specs) and all(spec.shape and isinstance(spec.shape[0], str) for spec in specs)
        )
        self._names = [spec.name for spec in signature.inputs] if batches else []
        # Protocols check sizes that are fixed, so only free ones can differ.
        fixed = (spec.shape[1:] if batches else spec.shape for spec in signature.inputs)
        self.steady = all(isinstance(dim, int) for shape in fixed for dim in shape)
        self.steady &= not any(spec.datatype == "BYTES" for spec in signature.inputs)
        self._first = self._names[0] if self._names else ""
        called = {spec.shape[0] for spec in signature.inputs} if batches else set()
        self._one_batch = len(called) == 1 and called != {NAMELESS}
        self._model = model
        self.most = most

    def place(self, inputs: Mapping[str, Array], outputs: tuple[str, ...] | None) -> tuple[int, object]:
        """Rows of a request, and the key that all requests share which may run with it; None = alone.

        Raises InvalidInput where the inputs have different numbers of rows, and the model calls them the same.
        """
        if not self._first:
            return 1, None
        rows = inputs[self._first].shape[0]
        if len(self._names) > 1:
            other = next((name for name in self._names if inputs[name].shape[0] != rows), "")
            if other and self._one_batch:
                raise InvalidInput(
                    f"input '{other}' batch size does not match other inputs for '{self._model}'.",
                    f"Its first size is {inputs[other].shape[0]}, and that of '{self._first}' is {rows}.",
                )
            if other:
                return rows, None
        if self.most <= rows:
            return rows, None
        if self.steady:
            return rows, outputs or ()
        return rows, (outputs, *(inputs[name].shape[1:] for name in self._names))


def take(pending: deque[Ticket], most: int) -> list[Ticket]:
    """Take the first request and those behind it that may run with it, up to `most` rows. At least one."""
    first = pending.popleft()
    taken = [first]
    if first.key is None or not pending:
        return taken
    rows = first.rows
    passed: list[Ticket] = []
    for _ in range(min(len(pending), LOOK_AHEAD)):
        if rows >= most:
            break
        ticket = pending.popleft()
        if ticket.key == first.key and rows + ticket.rows <= most:
            taken.append(ticket)
            rows += ticket.rows
        else:
            passed.append(ticket)
    pending.extendleft(reversed(passed))
    return taken


def run_together(tickets: list[Ticket], options: Any = None, alone: bool = False) -> None:
    """Run the tickets of one `take`, and set each one's `result`. Blocks; never raises. `alone`: nothing else runs."""
    now = time.perf_counter_ns()
    live = []
    for ticket in tickets:
        ticket.started_ns = now
        if ticket.expired(now):
            ticket.expire()
        elif not ticket.cancelled:
            live.append(ticket)
    if not live:
        return
    if len(live) == 1:
        _single(live[0], options, alone)
    elif not _together(live, options, alone):
        for ticket in live:
            if not (ticket.cancelled or ticket.finished):
                ticket.started_ns = time.perf_counter_ns()
                ticket.leader, ticket.batch_rows = True, ticket.rows
                _single(ticket, options, alone)


def _single(ticket: Ticket, options: Any, alone: bool) -> None:
    ticket.ran_ns = ticket.started_ns
    try:
        ticket.result = ticket.model.run(ticket.inputs, ticket.outputs, options, alone)
    except StudioError as error:
        ticket.result = error
    except Exception as error:  # whoever runs tickets must outlive whatever a model does
        ticket.result = ModelFailed(f"'{ticket.model.target.name}' failed.", f"{type(error).__name__}.")
    ticket.ended_ns = time.perf_counter_ns()


def _together(tickets: list[Ticket], options: Any, alone: bool) -> bool:
    """Whether it went well; nothing is set otherwise."""
    first = tickets[0]
    model = first.model
    rows = sum(ticket.rows for ticket in tickets)
    joined = {name: np.concatenate([ticket.inputs[name] for ticket in tickets]) for name in first.inputs}
    ran = time.perf_counter_ns()
    try:
        arrays = model.run(joined, first.outputs, options, alone)
    except Exception:  # one of them did it: each alone tells which
        return False
    if any(not array.ndim or array.shape[0] != rows for array in arrays):
        model.rules.most = 1  # it was seen to give a row for a row, and here it did not
        return False
    ended = time.perf_counter_ns()
    at = 0
    for ticket in tickets:
        ticket.result = [array[at : at + ticket.rows] for array in arrays]
        ticket.ran_ns = ran
        ticket.ended_ns = ended
        ticket.batch_rows = rows
        ticket.leader = ticket is first
        at += ticket.rows
    return True


def best_batch(run: Callable[[int], float], seconds: float, sizes: Sequence[int] = (2, 4, 8, 16, 32, 64)) -> int:
    """The largest number of rows that still makes a row at least 10 % cheaper. `run(rows)` gives seconds.

    Stops when the next size may take the sum of runs beyond `seconds`.
    """
    best, spent = 1, 0.0
    cost = min(run(1) for _ in range(3))
    for size in sizes:
        if spent + 3 * cost * size > seconds:
            break
        tried = [run(size) for _ in range(3)]
        spent += sum(tried)
        if min(tried) / size > 0.9 * cost:
            break
        best, cost = size, min(tried) / size
    return best
