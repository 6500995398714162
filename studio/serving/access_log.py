"""The access log: one JSON line for each inference request, where the user asked for it.

Lines are kept for a moment and written together, so that a request pays for making its line and not for the disk. A
full file is renamed (`access.jsonl.1` … `.5`), the oldest one goes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

import orjson

MAX_BYTES = 16 * 1024 * 1024
KEPT = 5
FLUSH_SECONDS = 0.5
_log = logging.getLogger("studio.serving")


class _File(RotatingFileHandler):
    """Tells once that it can not be written, instead of a traceback for every line."""

    told = False

    def handleError(self, record: logging.LogRecord) -> None:
        if not self.told:
            self.told = True
            _log.exception("the access log can not be written")


class AccessLog:
    """Belongs to the event loop. `close` writes what is left. A disk that fails is told once, and serving goes on."""

    def __init__(self, path: Path, loop: asyncio.AbstractEventLoop) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = _File(path, maxBytes=MAX_BYTES, backupCount=KEPT, delay=True, encoding="utf-8")
        self._file.setFormatter(logging.Formatter("%(message)s"))
        self._file.terminator = ""
        self._loop = loop
        self._lines: list[bytes] = []
        self._timer: asyncio.TimerHandle | None = None

    def add(self, **fields: Any) -> None:
        """One request. `at` (Unix seconds) is added."""
        self._lines.append(orjson.dumps({"at": time.time(), **fields}, option=orjson.OPT_APPEND_NEWLINE))
        if self._timer is None:
            self._timer = self._loop.call_later(FLUSH_SECONDS, self._flush)

    def close(self) -> None:
        self._flush()
        with contextlib.suppress(OSError):  # told already
            self._file.close()

    def _flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        lines, self._lines = self._lines, []
        if lines:
            text = b"".join(lines).decode()
            self._file.emit(logging.LogRecord("access", logging.INFO, "", 0, text, None, None))
