"""One tick a second of a server of several processes, put together from theirs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import replace

from studio.core.metrics import Sample, ShadowFigures, Tick

LATE_SECONDS = 0.25
"""How long after a second has ended its ticks are waited for."""


class Ticks:
    """`add` each process' tick; `on_tick` gets one of all for each second. Belongs to the event loop.

    Of a process that is silent, what it had loaded when it last spoke goes on counting, until `forget`.
    """

    def __init__(self, on_tick: Callable[[Tick], None]) -> None:
        self._on_tick = on_tick
        self._waiting: dict[float, dict[object, list[Tick]]] = {}
        self._newest: dict[object, Tick] = {}
        self._told = 0.0

    def add(self, process: object, tick: Tick) -> None:
        self._newest[process] = tick
        # One that comes late counts for the second that is being put together.
        at = tick.at if tick.at > self._told else self._told + 1.0
        if at not in self._waiting:
            self._waiting[at] = {}
            pause = max(0.0, at + 1.0 + LATE_SECONDS - time.time())
            asyncio.get_running_loop().call_later(pause, self._tell, at)
        self._waiting[at].setdefault(process, []).append(tick)

    def forget(self, process: object) -> None:
        """A process has ended, and with it what it had loaded."""
        self._newest.pop(process, None)

    def _tell(self, at: float) -> None:
        parts = [tick for ticks in self._waiting.pop(at).values() for tick in ticks]
        self._told = max(self._told, at)
        loaded, memory = standing(self._newest.values())
        self._on_tick(replace(summed(at, parts), loaded=loaded, memory=memory))


def standing(newest: Iterable[Tick]) -> tuple[int, int]:
    """Models that are loaded, and memory in bytes, of processes that last said this: shared pages count once."""
    ticks = list(newest)
    private = sum(tick.memory - tick.shared for tick in ticks)
    return (
        max((tick.loaded for tick in ticks), default=0),
        private + max((tick.shared for tick in ticks), default=0),
    )


def summed(at: float, parts: list[Tick]) -> Tick:
    """The samples and the figures of shadows of several ticks as of one."""
    samples: dict[str, Sample] = {}
    shadows: dict[tuple[str, str], ShadowFigures] = {}
    for part in parts:
        for sample in part.samples:
            known = samples.get(sample.target)
            if known is None:
                samples[sample.target] = replace(sample, at=at)
                continue
            known.requests += sample.requests
            known.errors += sample.errors
            known.rows += sample.rows
            known.executions += sample.executions
            known.queue_us += sample.queue_us
            known.run_us += sample.run_us
            known.histogram.merge(sample.histogram)
        for figures in part.shadows:
            seen = shadows.get((figures.target, figures.shadow))
            if seen is None:
                shadows[figures.target, figures.shadow] = figures
            else:
                seen.add(figures)
    return Tick(at=at, samples=tuple(samples.values()), shadows=tuple(shadows.values()))
