"""Where models run: in the event loop while they are quick, else on worker threads.

A run that takes less than a hop to another thread is worth waiting for in the loop: everything that was parsed in one
turn of it runs as one batch. Slower models run on threads; each takes what waits for the same model, up to the number
of rows that still gains something, and one `call_soon_threadsafe` brings all answers back. A client that has the server
for itself is spared the hops for somewhat slower models too: nobody waits meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from studio.serving.batching import Run, Ticket, run_together, take
from studio.serving.problems import Busy
from studio.serving.spin import SPIN_NS, Spin

if TYPE_CHECKING:
    from studio.serving.loaded import Array, LoadedModel

INLINE_NS = 300_000
"""A model whose runs take less is run in the loop."""
THREADED_NS = 450_000
"""A model whose runs take more leaves the loop; in between it stays where it is."""
LONE_NS = 2_000_000
"""A model whose runs take less is run in the loop for a lone client."""
LONE_AFTER = 8
"""Requests of one client, each after the answer to the last, that make it a lone one."""
SWEEPS = 20
"""How often in the time that requests have by default it is looked for those whose is over; once a second at least."""


class Lane:
    """One loaded model's waiting tickets: `turn` for the loop, `pending` for the threads. Not the model itself, which
    holds this: it has to be gone with its last ticket.

    `typical_ns` is a moving average over its runs. A model whose time depends on more than the number of rows never
    runs in the loop, however quick it was so far: one long run would keep every other request waiting.
    """

    __slots__ = ("brief", "inline", "lock", "pending", "rules", "running", "steady", "turn", "typical_ns")

    def __init__(self, model: LoadedModel) -> None:
        self.rules = model.rules
        self.pending: deque[Ticket] = deque()
        self.lock = threading.Lock()
        self.turn: deque[Ticket] = deque()
        self.running = 0
        self.steady = model.rules.steady and not model.target.varies
        self.typical_ns = float(model.typical_ns)
        self.inline = self.steady and self.typical_ns < INLINE_NS
        self.brief = self.steady and self.typical_ns < LONE_NS

    def learn(self, ns: int) -> None:
        # One run that lost its core to other work of the machine says nothing of the model; several in a row do.
        self.typical_ns += (min(ns, max(2 * THREADED_NS, 2 * self.typical_ns)) - self.typical_ns) * 0.1
        self.inline = self.steady and self.typical_ns < (THREADED_NS if self.inline else INLINE_NS)
        self.brief = self.steady and self.typical_ns < LONE_NS


class Company:
    """Whether a client has the server for itself."""

    __slots__ = ("_client", "_times")

    def __init__(self) -> None:
        self._client: object = None
        self._times = 0

    def lone(self, client: object, others: bool) -> bool:
        """`client` asks for a run, while those of `others` are under way or none. None is nobody that is known."""
        if others or client is None or client is not self._client:
            self._client, self._times = client, 0
            return False
        self._times += 1
        return self._times >= LONE_AFTER


def add(waiting: deque[Ticket], ticket: Ticket) -> None:
    """Behind all that are as urgent: a priority of 1 is the highest, 0 means none."""
    if not ticket.priority:
        waiting.append(ticket)
        return
    place = 0
    for other in waiting:
        if other.priority == 0 or other.priority > ticket.priority:
            break
        place += 1
    waiting.insert(place, ticket)


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Executor:
    """`run_threads` threads (0 = one a core) and at most `limit` tickets queued or running.

    `seconds` is the time that a request without a time-out of its own has, 0 = any; `parallel` the runs of one model
    at a time, 0 = as many as there are threads. All methods belong to the event loop.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, run_threads: int, limit: int, seconds: float = 0.0, parallel: int = 0
    ) -> None:
        self._loop = loop
        # A single core is the client's too.
        self._spin = Spin(loop, SPIN_NS if cores() > 1 else 0)
        self._company = Company()
        self._limit = limit
        self._default_ns = int(seconds * 1e9)
        self._sweep_seconds = min(seconds / SWEEPS, 1.0)
        self._parallel = parallel or 1 << 30
        self._busy: set[int] = set()
        self._open: set[Ticket] = set()
        self._sweeping: asyncio.TimerHandle | None = None
        self._queue: SimpleQueue[Lane | None] = SimpleQueue()
        self._threads = [
            threading.Thread(target=self._work, name=f"run-{n}", daemon=True) for n in range(run_threads or cores())
        ]
        for thread in self._threads:
            thread.start()

    @property
    def pending(self) -> int:
        """Tickets queued or running."""
        return len(self._open)

    def submit(
        self,
        model: LoadedModel,
        inputs: Mapping[str, Array],
        outputs: tuple[str, ...] | None,
        done: Callable[[Ticket], None],
        timeout_us: int = 0,
        priority: int = 0,
        client: object = None,
    ) -> Ticket:
        """Queue a run; `done(ticket)` is called when it has ended, never from in here. `outputs` None = all. `client`
        is one and the same for all requests of a connection.

        Raises Busy when the queue is full.
        """
        if len(self._open) >= self._limit:
            raise Busy(
                "The server is busy.",
                f"{self._limit} requests are waiting or running already.",
                "Try again in a second, or raise queue under [serving] in studio.toml.",
            )
        ticket = Ticket(model, inputs, outputs, done, priority=priority)
        if timeout_us:
            ticket.deadline_ns = ticket.queued_ns + timeout_us * 1000
            ticket.timer = self._loop.call_later(timeout_us / 1e6, self._expire, ticket)
        elif self._default_ns:
            ticket.deadline_ns = ticket.queued_ns + self._default_ns
        lone = self._company.lone(client, bool(self._open))
        self._open.add(ticket)
        lane = model.lane
        if lane is None:
            lane = model.lane = Lane(model)
        if (lane.inline or (lone and lane.brief)) and ticket.rows <= model.rules.most:
            if not lane.turn:
                self._loop.call_soon(self._flush, lane, lone)
                if lone:
                    self._spin.arrived(ticket.queued_ns)
            add(lane.turn, ticket)
            return ticket
        with lane.lock:
            add(lane.pending, ticket)
        self._queue.put(lane)
        if self._sweeping is None and self._default_ns:
            self._sweeping = self._loop.call_later(self._sweep_seconds, self._sweep)
        return ticket

    def answered(
        self,
        model: LoadedModel,
        inputs: Mapping[str, Array],
        outputs: tuple[str, ...] | None,
        done: Callable[[Ticket], None],
        arrays: list[Array],
    ) -> Ticket:
        """A ticket whose answer is known already; `done` is called as for any other."""
        ticket = Ticket(model, inputs, outputs, done)
        ticket.result, ticket.cached, ticket.leader = arrays, True, False
        ticket.started_ns = ticket.ran_ns = ticket.ended_ns = ticket.queued_ns
        self._open.add(ticket)
        self._loop.call_soon(self._deliver, [ticket])
        return ticket

    def cancel(self, ticket: Ticket) -> None:
        """Nobody waits for it any more: a run that has not started will not, one that has is stopped if it can be."""
        ticket.cancelled = True
        ticket.settle()
        self._give_up(ticket)

    def close(self) -> None:
        """Let the threads end after what is queued."""
        for _ in self._threads:
            self._queue.put(None)

    def _flush(self, lane: Lane, lone: bool) -> None:
        """Run everything that this turn of the loop brought, in as few runs as its kinds allow."""
        while lane.turn:
            if not (lane.inline or lone):  # it has become slow: the threads take the rest
                with lane.lock:
                    lane.pending.extend(lane.turn)
                for _ in range(len(lane.turn)):
                    self._queue.put(lane)
                lane.turn.clear()
                return
            tickets = take(lane.turn, lane.rules.most)
            run_together(tickets, alone=lone and not self._busy)
            self._learn(lane, tickets)
            self._deliver(tickets)
        if lone:
            self._spin.answered(time.perf_counter_ns())

    def _learn(self, lane: Lane, tickets: list[Ticket]) -> None:
        for ticket in tickets:
            if ticket.leader and ticket.ended_ns:
                lane.learn(ticket.ended_ns - ticket.started_ns)

    def _work(self) -> None:
        options: Any = None
        while True:
            lane = self._queue.get()
            if lane is None:
                return
            with lane.lock:
                # One entry of the queue for each ticket: what others took leaves entries behind for nothing.
                tickets = take(lane.pending, lane.rules.most) if self._may_run(lane) else []
                lane.running += bool(tickets)
            if not tickets:
                del lane
                continue
            options = tickets[0].model.run_options()
            run = Run(tickets, options)
            for ticket in tickets:
                ticket.run = run
            self._busy.add(threading.get_ident())
            # A guess is enough: others may begin or end at this very moment.
            run_together(tickets, options, alone=len(self._busy) == 1 and not lane.pending)
            self._busy.discard(threading.get_ident())
            with lane.lock:
                lane.running -= 1
                if lane.pending and self._parallel < len(self._threads):
                    self._queue.put(lane)
            try:
                self._loop.call_soon_threadsafe(self._landed, lane, tickets)
            except RuntimeError:  # the loop is closed: the process is on its way out
                return
            # Without this the thread would keep the last model alive until its next ticket.
            del lane, tickets, run, ticket, options

    def _may_run(self, lane: Lane) -> bool:
        return bool(lane.pending) and lane.running < self._parallel

    def _landed(self, lane: Lane, tickets: list[Ticket]) -> None:
        self._learn(lane, tickets)
        self._deliver(tickets)

    def _deliver(self, tickets: list[Ticket]) -> None:
        for ticket in tickets:
            ticket.run = None
            if ticket.cancelled or ticket.finished:
                continue
            ticket.finished = True
            self._open.discard(ticket)
            ticket.settle()(ticket)

    def _expire(self, ticket: Ticket) -> None:
        if ticket.finished or ticket.cancelled:
            return
        ticket.expire()
        ticket.finished = True
        self._give_up(ticket)
        ticket.settle()(ticket)

    def _give_up(self, ticket: Ticket) -> None:
        """Nobody waits for it any more. Its inputs are not kept until a thread comes by, which may be long."""
        self._open.discard(ticket)
        if ticket.run is not None:
            ticket.run.abandon()
        lane = ticket.model.lane
        if lane is not None:
            with lane.lock, contextlib.suppress(ValueError):  # it runs, or is about to
                lane.pending.remove(ticket)

    def _sweep(self) -> None:
        """Time-outs that no client asked for need no timer each: a look now and then will do."""
        self._sweeping = None
        now = time.perf_counter_ns()
        for ticket in [ticket for ticket in self._open if ticket.expired(now)]:
            self._expire(ticket)
        if self._open:
            self._sweeping = self._loop.call_later(self._sweep_seconds, self._sweep)
