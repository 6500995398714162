"""How many connections each process of a server has, in memory that all of them see.

They accept from one socket, and whichever looks first would take all that came at once: with few clients and slow
models one process would work and the others watch. So a process that has more connections than another leaves a new one
to that for a moment.
"""

from __future__ import annotations

import mmap
import struct

ABSENT = -1
LEAVE_SECONDS = 0.002
"""How long a connection is left to others. One that waits still is taken by whoever looks first."""
_COUNT = struct.Struct("=i")


def size_for(processes: int) -> int:
    """Bytes of the memory for so many."""
    return _COUNT.size * processes


class Balance:
    """The counts of all processes in shared memory, `descriptor` is its file's; `place` the number of this one."""

    def __init__(self, descriptor: int, processes: int, place: int) -> None:
        self._memory = mmap.mmap(descriptor, size_for(processes))
        self._others = [number * _COUNT.size for number in range(processes) if number != place]
        self._own = place * _COUNT.size

    def tell(self, count: int) -> None:
        """This process has so many connections now, or is `ABSENT`."""
        _COUNT.pack_into(self._memory, self._own, count)

    def fewer_elsewhere(self, count: int) -> bool:
        """Whether another process that is there has fewer."""
        return any(0 <= _COUNT.unpack_from(self._memory, at)[0] < count for at in self._others)

    def close(self) -> None:
        self._memory.close()
