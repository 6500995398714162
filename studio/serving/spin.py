"""Looking for the next request instead of sleeping, for a moment, while requests follow each other closely.

Going to sleep and being woken up costs a core about as much time as a small request, and its client twice as much. A
client that asks again as soon as it has its answer is met awake; one that takes longer is waited for asleep.
"""

from __future__ import annotations

import asyncio
import time

SPIN_NS = 60_000
"""The next request is looked for no longer than this after an answer, and only if it is likely to come by then."""


class Spin:
    """Belongs to the event loop, which goes round without sleeping while this has something to look for."""

    __slots__ = ("_gap_ns", "_looking", "_loop", "_since_ns")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._gap_ns = float(2 * SPIN_NS)
        self._since_ns = 0
        self._looking = False

    def arrived(self, now_ns: int) -> None:
        """A request is here."""
        if self._since_ns:
            self._gap_ns += (min(now_ns - self._since_ns, 4 * SPIN_NS) - self._gap_ns) * 0.125
            self._since_ns = 0

    def answered(self, now_ns: int) -> None:
        """Nothing is left to do."""
        self._since_ns = now_ns
        if self._gap_ns < SPIN_NS and not self._looking:
            self._looking = True
            self._loop.call_soon(self._look)

    def _look(self) -> None:
        if self._since_ns and time.perf_counter_ns() - self._since_ns < SPIN_NS:
            self._loop.call_soon(self._look)
        else:
            self._looking = False
