"""A clock for one load or run of a model: what never ends is ended, long before the clock of the whole arrival."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def clock(seconds: float) -> Iterator[None]:
    """End this process by SIGALRM when the block takes longer; 0 for as long as it likes. Not to be nested.

    The default action of a signal, because a handler would wait for native code to return.
    """
    if seconds <= 0:
        yield
        return
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
