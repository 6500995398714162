"""The event bus: every change, in order, to everyone who listens.

Events are kept in a ring, so a client that lost its connection resumes where it was. A listener that does not keep up
loses its oldest events rather than slowing the engine; it sees the gap in `seq` and reads the state afresh.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

from studio.core import codec
from studio.core.events import Event, EventKind

KEPT = 2000
QUEUE = 1000


class Bus:
    """Publish from the engine's event loop only."""

    def __init__(self) -> None:
        self._seq = 0
        self._ring: deque[Event] = deque(maxlen=KEPT)
        self._listeners: set[asyncio.Queue[Event | None]] = set()

    @property
    def listened(self) -> bool:
        """Whether anyone listens: what only a screen would show need not be computed otherwise."""
        return bool(self._listeners)

    def publish(self, kind: EventKind, value: Any) -> Event:
        """Send a value to every listener; `value` is a dataclass or a dict."""
        self._seq += 1
        event = Event(seq=self._seq, at=time.time(), kind=kind, data=codec.builtins(value))
        self._ring.append(event)
        for queue in self._listeners:
            if queue.full():
                queue.get_nowait()
            queue.put_nowait(event)
        return event

    @contextmanager
    def _listening(self) -> Iterator[asyncio.Queue[Event | None]]:
        queue: asyncio.Queue[Event | None] = asyncio.Queue(QUEUE)
        self._listeners.add(queue)
        try:
            yield queue
        finally:
            self._listeners.discard(queue)

    async def listen(self, since: int | None = None) -> AsyncIterator[Event]:
        """Events after `since` (those still in the ring first), then live ones; None = live ones only.

        A `since` from before a restart of the engine is larger than any event here: then everything kept is sent.
        """
        with self._listening() as queue:
            last = self._seq if since is None or since == self._seq else since
            if last > self._seq:
                last = 0
            for event in list(self._ring):
                if event.seq > last:
                    last = event.seq
                    yield event
            while True:
                live = await queue.get()
                if live is None:
                    return
                if live.seq > last:
                    last = live.seq
                    yield live

    def close(self) -> None:
        """End every listener's stream."""
        for queue in self._listeners:
            if queue.full():
                queue.get_nowait()
            queue.put_nowait(None)
