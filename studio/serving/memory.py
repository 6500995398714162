"""Memory of this process."""

from __future__ import annotations

import ctypes
import functools
import os
import resource
import sys
from collections.abc import Callable
from pathlib import Path

LARGE_BYTES = 1 << 20
"""Loading and dropping a graph from this size frees memory that is worth giving back; that holds up other threads for a
moment."""


def machine_bytes() -> int:
    """Memory of the machine."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def resident_bytes() -> int:
    """Resident memory of this process; its peak where the system does not tell the present value."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def shared_bytes() -> int:
    """The part of resident memory that is of files, and so may be shared with other processes; 0 where none tells."""
    statm = Path("/proc/self/statm")
    if not statm.exists():
        return 0
    return int(statm.read_text().split()[2]) * os.sysconf("SC_PAGE_SIZE")


def give_back() -> None:
    """Return to the system what was freed and is kept for later: loading a model frees much that is not needed again.

    Does nothing where the C library is not glibc.
    """
    trim = _trim()
    if trim is not None:
        trim(0)


@functools.cache
def _trim() -> Callable[[int], int] | None:
    if not sys.platform.startswith("linux"):
        return None
    return getattr(ctypes.CDLL(None), "malloc_trim", None)
