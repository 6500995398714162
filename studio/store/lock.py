"""One engine a workspace: `run/engine.lock` is locked by the engine, `run/engine.json` says who that is."""

from __future__ import annotations

import fcntl
import os
import time
from dataclasses import dataclass
from pathlib import Path

from studio.core import codec
from studio.core.errors import Conflict, InvalidInput
from studio.store.files import not_written, write_atomic

LOCK = "engine.lock"
INFO = "engine.json"

# A client that looks whether an engine runs holds a shared lock for some microseconds.
_PATIENCE_SECONDS = 0.25


@dataclass(frozen=True, kw_only=True)
class EngineInfo:
    """Content of `run/engine.json`. The URLs are empty while the engine starts."""

    pid: int
    control_url: str = ""
    serving_url: str = ""


def read_engine(run: Path) -> EngineInfo | None:
    """What the engine published in the folder `run`; None if no engine holds the lock there.

    A file left behind by a killed engine is not believed: the lock is.
    """
    return published(run) if _held(run / LOCK) else None


def publish(run: Path, info: EngineInfo) -> None:
    """Replaces `run/engine.json`. Only for the holder of the lock. Raises Unavailable."""
    write_atomic(run / INFO, codec.encode_pretty(info), mode=0o600)


def published(run: Path) -> EngineInfo | None:
    """What `run/engine.json` says, whether or not it is still true."""
    try:
        return codec.decode((run / INFO).read_bytes(), EngineInfo, INFO)
    except (OSError, InvalidInput):
        return None


class WorkspaceLock:
    """Held by the engine for as long as it lives. The kernel drops it with the process, however that ends."""

    def __init__(self, run: Path, descriptor: int) -> None:
        self._run = run
        self._descriptor: int | None = descriptor

    @classmethod
    def acquire(cls, run: Path) -> WorkspaceLock:
        """Takes the lock in the folder `run` and publishes this process. Raises Conflict that names the holder."""
        path = run / LOCK
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise not_written(path, error) from error
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() < deadline:
                    time.sleep(0.01)
                    continue
                os.close(descriptor)
                raise _busy(run) from error
        lock = cls(run, descriptor)
        publish(run, EngineInfo(pid=os.getpid()))
        return lock

    def release(self) -> None:
        """Gives the workspace up; a second call does nothing. The lock file stays: removing it would be a race."""
        if self._descriptor is None:
            return
        (self._run / INFO).unlink(missing_ok=True)
        os.close(self._descriptor)
        self._descriptor = None

    def __enter__(self) -> WorkspaceLock:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def _held(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _busy(run: Path) -> Conflict:
    info = published(run)
    who = f"the engine with process id {info.pid}" if info else "another engine, which is just starting"
    return Conflict(
        f"The workspace {run.parent} is in use.",
        f"It is held by {who}.",
        "Attach to it with `studio`, or stop it with `studio down`.",
    )
