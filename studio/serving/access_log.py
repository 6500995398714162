"""The access log: one JSON line for each inference request, where the user asked for it.

Requests are kept for a moment, and made into lines and written together, so that one pays for being noted and not for
the disk. A full file is renamed (`access.jsonl.1` … `.5`), the oldest one goes. Several processes write one file.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
from pathlib import Path

import orjson

MAX_BYTES = 16 * 1024 * 1024
KEPT = 5
FLUSH_SECONDS = 0.5
AT_ONCE = 64
"""Lines that are made in one go. More would keep requests waiting, and grow and shrink the heap each time: from 128 on
a line costs three times as much."""
_log = logging.getLogger("studio.serving")


Line = tuple[float, str, str, int, int, int, int, dict[bytes, bytes], str]
"""Unix seconds, protocol, target, status, nanoseconds it took, rows, bytes of the answer, headers, error."""


def _text(line: Line) -> bytes:
    """What is not there is left out: most requests carry no id and do not fail, and every byte is paid for."""
    at, protocol, target, status, took_ns, rows, size, headers, error = line
    value: dict[str, object] = {
        "at": at,
        "protocol": protocol,
        "target": target,
        "status": status,
        "latency_us": took_ns // 1000,
    }
    if rows:
        value["rows"] = rows
    if size:
        value["bytes"] = size
    for name, key in _CARRIED:
        if key in headers:
            value[name] = headers[key].decode("latin-1")[:256]
    if error:
        value["error"] = error[:300]
    return orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE)


_CARRIED = (("id", b"x-request-id"), ("traceparent", b"traceparent"))


class AccessLog:
    """Belongs to the event loop. `close` writes what is left. A disk that fails is told once, and serving goes on."""

    def __init__(self, path: Path, loop: asyncio.AbstractEventLoop) -> None:
        self._path = path
        self._file = -1
        self._told = False
        self._loop = loop
        self._lines: list[Line] = []
        self._timer: asyncio.TimerHandle | None = None

    def add(self, line: Line) -> None:
        """One request."""
        self._lines.append(line)
        if self._timer is None:
            self._timer = self._loop.call_later(FLUSH_SECONDS, self._flush)
        elif len(self._lines) >= AT_ONCE:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._forget()

    def _flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        lines, self._lines = self._lines, []
        if not lines:
            return
        text = b"".join([_text(line) for line in lines])
        try:
            self._write(text)
        except OSError:
            self._forget()
            if not self._told:
                self._told = True
                _log.exception("the access log can not be written")

    def _write(self, text: bytes) -> None:
        if self._file < 0 or not self._is_current():
            self._open()
        if os.fstat(self._file).st_size + len(text) > MAX_BYTES:
            self._turn_over()
        while text:
            # One call writes it whole, on disks that are not full: lines of several processes do not mix.
            text = text[os.write(self._file, text) :]

    def _is_current(self) -> bool:
        """Whether the file that is open still has the name; another process may have renamed it, or a user."""
        try:
            named = os.stat(self._path)  # noqa: PTH116
        except FileNotFoundError:
            return False
        ours = os.fstat(self._file)
        return (named.st_dev, named.st_ino) == (ours.st_dev, ours.st_ino)

    def _open(self) -> None:
        self._forget()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def _turn_over(self) -> None:
        """Rename the full file, unless another process was faster."""
        full = self._file
        fcntl.flock(full, fcntl.LOCK_EX)
        try:
            if self._is_current():
                for number in range(KEPT - 1, 0, -1):
                    with contextlib.suppress(FileNotFoundError):
                        self._numbered(number).replace(self._numbered(number + 1))
                self._path.replace(self._numbered(1))
        finally:
            fcntl.flock(full, fcntl.LOCK_UN)
        self._open()

    def _numbered(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")

    def _forget(self) -> None:
        if self._file >= 0:
            with contextlib.suppress(OSError):
                os.close(self._file)
            self._file = -1
