"""A clock for every single load or run of a model: what never ends is ended, long before the arrival's own time is up.

A model may loop for ever on its first inputs already, in ONNX Runtime or in the framework that it comes from.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

_seconds = 0.0


def limit_runs(seconds: float) -> None:
    """How long one load or run may take in this process from now on; 0 for as long as it likes."""
    global _seconds
    _seconds = seconds


@contextmanager
def running() -> Iterator[None]:
    """Around one load or run: when it takes too long, this process ends by SIGALRM. An inner one leaves the outer be.

    The default action of a signal, because a handler would wait for native code to return.
    """
    if _seconds <= 0 or signal.getitimer(signal.ITIMER_REAL)[0] > 0:
        yield
        return
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, _seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
