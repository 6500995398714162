"""Errors that Studio did not foresee: one line on the screen, the rest in a file."""

from __future__ import annotations

import os
import platform
import sys
import tempfile
import time
import traceback
from pathlib import Path

from studio import __version__


def write_crash(error: BaseException, workspace: Path) -> Path | None:
    """Write the traceback to `logs/` of the workspace, or to the temporary folder. None if neither can be written."""
    name = f"crash-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"
    trace = "".join(traceback.format_exception(error))
    text = f"studio {__version__}, Python {platform.python_version()}, {platform.platform()}\n{sys.argv}\n\n{trace}"
    for folder in (workspace / "logs", Path(tempfile.gettempdir())):
        try:
            descriptor = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except OSError:
            continue
        with open(descriptor, "w", encoding="utf-8") as file:  # noqa: PTH123 - a descriptor is no path
            file.write(text)
        return folder / name
    return None
