"""What the processor can not do."""

from __future__ import annotations

import platform
from pathlib import Path


def saturates(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether 8-bit products overflow their 16-bit sums here, so that weights must keep to 7 bits.

    x86 processors without VNNI add pairs of u8·s8 products with saturation (VPMADDUBSW).
    """
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    try:
        return "vnni" not in cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return True
