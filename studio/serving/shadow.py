"""Shadows: copies of answered requests on another version, to see what it would have answered.

A copy must never cost the callers anything. It starts after the answer has left; one runs at a time, on a thread of its
own, while fewer requests are under way than this process has `cores`; one that meets more work than that is stopped
between two nodes of its graph; and after each the thread rests for three times as long as it worked, so that shadows
take a quarter of a core at most. What can not be run so is dropped, and counted. The shadow's answer is compared and
thrown away.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import numpy as np

from studio.core.errors import StudioError
from studio.core.metrics import ShadowFigures
from studio.core.routing import Target

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from studio.serving.batching import Ticket
    from studio.serving.executor import Executor
    from studio.serving.loaded import Array, LoadedModel
    from studio.serving.router import Router

MAX_WAITING = 32
"""Copies that wait for their turn."""
MAX_WAITING_BYTES = 64 * 1024 * 1024
"""Inputs and outputs that they hold."""
MAX_AGE = 5.0
"""Seconds after which a copy that still waits is dropped."""
REST = 3.0
"""How often the time that a copy took is kept free after it."""
TELL_SECONDS = 0.2
"""What was dropped is told so often: under load that is most copies, and each is to cost next to nothing."""
LOOK_SECONDS = 0.005
"""How often a server that has other work is looked at, while copies wait or one runs."""


@dataclass(slots=True)
class Copy:
    """One answered request. `names`: outputs that were computed, with their `arrays`; `since` is `time.monotonic()`."""

    target: Target
    shadow: Target
    inputs: Mapping[str, Array]
    names: tuple[str, ...]
    arrays: Sequence[Array]
    rows: int
    run_ns: int
    size: int
    since: float


class Shadows:
    """Takes copies from the event loop and gives figures back to it. All public methods belong to the loop."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        router: Router,
        executor: Executor,
        tell: Callable[[ShadowFigures], None],
        cores: int,
    ) -> None:
        self._loop, self._router, self._executor, self._tell = loop, router, executor, tell
        self._cores = cores
        self._waiting: deque[Copy] = deque()
        self._bytes = 0
        self._running: Any = None
        self._free_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._dropped: dict[tuple[str, str], int] = {}
        self._loads: set[asyncio.Task[None]] = set()
        self._queue: SimpleQueue[tuple[Copy, LoadedModel, Any]] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def copy(self, target: Target, shadow: Target, ticket: Ticket) -> None:
        """Run a request that was answered once more, on `shadow`, when there is time."""
        if target.name == shadow.name or ticket.cached or not isinstance(ticket.result, list):
            return
        if len(self._waiting) >= MAX_WAITING:
            self._drop(target, shadow)
            return
        arrays = ticket.result
        size = sum(array.nbytes for array in (*ticket.inputs.values(), *arrays))
        copy = Copy(
            target=target,
            shadow=shadow,
            inputs=ticket.inputs,
            names=ticket.outputs or tuple(spec.name for spec in target.signature.outputs),
            arrays=arrays,
            rows=ticket.rows,
            run_ns=ticket.ended_ns - ticket.ran_ns,
            size=size,
            since=time.monotonic(),
        )
        if self._bytes + size > MAX_WAITING_BYTES:
            self._drop(target, shadow)
            return
        self._waiting.append(copy)
        self._bytes += size
        self._next()

    def _next(self) -> None:
        """Start the oldest copy that may still run, if there is time for it."""
        if self._running is not None:
            return
        now = time.monotonic()
        while self._waiting and now - self._waiting[0].since > MAX_AGE:
            old = self._taken()
            self._drop(old.target, old.shadow)
        if not self._waiting:
            return
        if now < self._free_at or self._executor.pending >= self._cores:
            if self._timer is None:
                self._timer = self._loop.call_later(max(LOOK_SECONDS, self._free_at - now), self._look)
            return
        copy = self._taken()
        model = self._router.model(copy.shadow)
        if model is None:  # the next copy finds it loaded
            self._drop(copy.target, copy.shadow)
            self._load(copy)
            self._next()
            return
        self._running = model.run_options()
        self._queue.put((copy, model, self._running))
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="shadow", daemon=True)
            self._thread.start()
        if self._timer is None:
            self._timer = self._loop.call_later(LOOK_SECONDS, self._look)

    def _look(self) -> None:
        self._timer = None
        if self._running is None:
            self._next()
            return
        if self._executor.pending >= self._cores:
            self._running.terminate = True
        else:
            self._timer = self._loop.call_later(LOOK_SECONDS, self._look)

    def _taken(self) -> Copy:
        copy = self._waiting.popleft()
        self._bytes -= copy.size
        return copy

    def _drop(self, target: Target, shadow: Target) -> None:
        if not self._dropped:
            self._loop.call_later(TELL_SECONDS, self._tell_dropped)
        pair = target.name, shadow.name
        self._dropped[pair] = self._dropped.get(pair, 0) + 1

    def _tell_dropped(self) -> None:
        for (target, shadow), count in self._dropped.items():
            model = target.partition(":")[0]
            self._tell(ShadowFigures(model=model, target=target, shadow=shadow, dropped=count))
        self._dropped.clear()

    def _load(self, copy: Copy) -> None:
        async def load() -> None:
            try:
                await self._router.loaded_model(copy.shadow)
            except StudioError as error:
                figures = _figures(copy)
                figures.error = str(error)
                self._tell(figures)

        if not self._loads:
            task = self._loop.create_task(load())
            self._loads.add(task)
            task.add_done_callback(self._loads.discard)

    def _work(self) -> None:
        while True:
            copy, model, options = self._queue.get()
            started = time.perf_counter()
            figures = run(copy, model, options)
            seconds = time.perf_counter() - started
            with contextlib.suppress(RuntimeError):  # the loop is closed: the process is on its way out
                self._loop.call_soon_threadsafe(self._landed, figures, seconds)
            # Without this the thread would keep the last model alive until its next copy.
            del copy, model, options, figures

    def _landed(self, figures: ShadowFigures, seconds: float) -> None:
        self._running = None
        self._free_at = time.monotonic() + REST * seconds
        self._tell(figures)
        self._next()


def _figures(copy: Copy) -> ShadowFigures:
    return ShadowFigures(model=copy.target.model, target=copy.target.name, shadow=copy.shadow.name)


def run(copy: Copy, model: LoadedModel, options: Any) -> ShadowFigures:
    """What one copy came to. Blocks; never raises."""
    figures = _figures(copy)
    started = time.perf_counter_ns()
    try:
        arrays = model.run(copy.inputs, copy.names, options)
        took = time.perf_counter_ns() - started
        for name, given, shadowed in zip(copy.names, copy.arrays, arrays, strict=True):
            if given.shape != shadowed.shape:
                raise StudioError(
                    f"The output '{name}' was {list(given.shape)}, and is {list(shadowed.shape)} of the shadow."
                )
            compare(figures, given, shadowed)
    except Exception as error:
        figures = _figures(copy)
        if options.terminate:
            figures.dropped = 1
        else:
            figures.failed = 1
            figures.error = (str(error) if isinstance(error, StudioError) else type(error).__name__)[:300]
        return figures
    figures.compared = 1
    figures.rows = copy.rows
    figures.target_us.add(copy.run_ns / 1000)
    figures.shadow_us.add(took / 1000)
    return figures


def compare(figures: ShadowFigures, given: Array, shadowed: Array) -> None:
    """Add what two arrays of the same shape have in common, as `studio.verify.fidelity` defines it.

    Floats: cosine and largest difference of what is finite on both sides; two dimensions are scores, whose best is
    chosen by row. Anything else is the same or not, value by value.
    """
    if given.dtype.kind not in "fV" or shadowed.dtype.kind not in "fV":
        figures.ranked += given.size
        figures.same += int(np.count_nonzero(given == shadowed))
        return
    one, other = given.astype(np.float64), shadowed.astype(np.float64)
    good = np.isfinite(one) & np.isfinite(other)
    if one.ndim == 2 and one.shape[1] > 1:
        figures.ranked += len(one)
        best = np.where(np.isnan(one), -np.inf, one).argmax(axis=1) == np.where(np.isnan(other), -np.inf, other).argmax(
            axis=1
        )
        figures.same += int(np.count_nonzero(best & ~(np.isfinite(one) & ~np.isfinite(other)).any(axis=1)))
    a, b = one[good], other[good]
    figures.max_abs = max(figures.max_abs, float(np.abs(a - b).max(initial=0.0)))
    lengths = float(np.linalg.norm(a) * np.linalg.norm(b))
    if lengths > 0:
        cosine = min(1.0, float(a @ b) / lengths)
        figures.cosines += 1
        figures.cosine_sum += cosine
        figures.cosine_min = min(figures.cosine_min, cosine)
