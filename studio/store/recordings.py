"""Files of recordings: what a folder of them holds."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from studio.core.recording import part_of


def recorded(folder: Path) -> tuple[int, int]:
    """How many rows and bytes of a recording are written; none where there is no folder."""
    rows = size = 0
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            part = part_of(entry.name)
            if part is not None:
                rows += part[2]
                size += entry.stat().st_size
    return rows, size
