"""Whose turn it is: a few at a time, and of those that wait the one that came first, however late it asked."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Turns:
    """`places` may be taken at a time. Methods belong to one event loop."""

    def __init__(self, places: int) -> None:
        self._free = places
        self._waiting: list[tuple[float, int, asyncio.Future[None]]] = []
        self._count = itertools.count()

    @asynccontextmanager
    async def turn(self, came: float) -> AsyncIterator[None]:
        """Wait for a place, and keep it for the block. `came`: lower goes first."""
        await self._take(came)
        try:
            yield
        finally:
            self._give()

    async def _take(self, came: float) -> None:
        if self._free:
            self._free -= 1
            return
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (came, next(self._count), mine))
        try:
            await mine
        except asyncio.CancelledError:
            if mine.done() and not mine.cancelled():  # it was given a place in the same moment
                self._give()
            raise

    def _give(self) -> None:
        """Hand a place to the first that still waits."""
        while self._waiting:
            _, _, first = heapq.heappop(self._waiting)
            if not first.done():
                first.set_result(None)
                return
        self._free += 1
