"""How much memory this process took at its peak, between two moments, and how much it may still take."""

from __future__ import annotations

import gc
import resource
import sys
from pathlib import Path

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


class PeakMemory:
    """Counts from its creation on. `bytes` is the peak of the resident set above what it was then, never negative.

    On Linux the kernel's peak is reset first (proc(5): writing 5 to /proc/pid/clear_refs resets VmHWM). Elsewhere the
    peak of the whole process life stands in for it, which is the same in a fresh process and too low in a used one.
    """

    def __init__(self) -> None:
        gc.collect()
        try:
            _CLEAR.write_text("5")
            self._start = _status("VmRSS")
            self._exact = True
        except OSError:
            self._start = _life_peak()
            self._exact = False

    @property
    def bytes(self) -> int:
        return max(0, (_status("VmHWM") if self._exact else _life_peak()) - self._start)


def free_memory() -> int:
    """Bytes that this process could take: what the machine has left, and its limit of address space leaves."""
    import psutil

    left = int(psutil.virtual_memory().available)
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return left
    return max(0, min(left, limit - (_status("VmSize") if _STATUS.exists() else 0)))


def _status(field: str) -> int:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"{_STATUS} has no {field}")


def _life_peak() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # getrusage(2): bytes on macOS, kilobytes on Linux
