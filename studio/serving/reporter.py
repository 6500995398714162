"""Sends the figures of each second in which something happened. When nothing happens there is no timer."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable

from studio.serving.control import Channel
from studio.serving.statistics import Statistics


class Reporter:
    """`touch` whenever there is something to report; it goes out when the second of the wall clock is over."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, channel: Channel, statistics: Statistics, loaded: Callable[[], int]
    ) -> None:
        self._loop = loop
        self._channel = channel
        self._statistics = statistics
        self._loaded = loaded
        self._timer: asyncio.TimerHandle | None = None
        self._at = 0.0

    def touch(self) -> None:
        if self._timer is None:
            now = time.time()
            self._at = math.floor(now)
            self._timer = self._loop.call_later(self._at + 1.0 - now, self.flush)

    def flush(self) -> None:
        """Send what there is now."""
        if self._timer is None:
            return
        self._timer.cancel()
        self._timer = None
        tick, lines = self._statistics.collect(self._at, 1.0, self._loaded())
        self._channel.send("tick", droppable=True, tick=tick)
        if lines:
            self._channel.send("requests", droppable=True, lines=lines)
