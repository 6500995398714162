"""One log for people: the engine, jobs, requests and the audit trail merged, on file and live."""

from __future__ import annotations

import logging
import time
from collections import deque
from logging.handlers import RotatingFileHandler
from pathlib import Path

from studio.core.views import Level, LogLine, LogSource
from studio.engine.bus import Bus

KEPT = 5000
_RANK: dict[str, int] = {"debug": 0, "info": 1, "warning": 2, "error": 3}


class Logs:
    """Keeps the newest lines in memory, publishes each as an event and writes it to `logs/engine.log`."""

    def __init__(self, file: Path, bus: Bus) -> None:
        self._lines: deque[LogLine] = deque(maxlen=KEPT)
        self._bus = bus
        self._file = RotatingFileHandler(file, maxBytes=8 * 1024 * 1024, backupCount=3, encoding="utf-8")
        self._file.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(message)s"))
        self._logger = logging.getLogger("studio.engine")
        self._logger.setLevel(logging.DEBUG)
        self._logger.propagate = False
        self._logger.handlers = [self._file]

    def add(self, source: LogSource, level: Level, text: str, subject: str = "", to_file: bool = True) -> None:
        """One line. Call from the engine's event loop."""
        line = LogLine(at=time.time(), source=source, level=level, text=text, subject=subject)
        self._lines.append(line)
        if to_file:
            prefix = f"[{source}] {subject}: " if subject else f"[{source}] "
            self._logger.log(getattr(logging, level.upper()), "%s%s", prefix, text)
        self._bus.publish("log", line)

    def failure(self, text: str, error: BaseException, subject: str = "") -> None:
        """A line for an unforeseen exception; the traceback goes to the file alone."""
        self.add("engine", "error", f"{text}: {type(error).__name__}: {error}", subject)
        self._logger.debug("traceback", exc_info=error)

    def read(self, source: str = "", level: str = "", limit: int = 500) -> list[LogLine]:
        """The newest `limit` lines, oldest first, of one source and of at least one level."""
        least = _RANK.get(level, 0)
        lines = [line for line in self._lines if (not source or line.source == source) and _RANK[line.level] >= least]
        return lines[-limit:]

    def close(self) -> None:
        self._logger.removeHandler(self._file)
        self._file.close()
