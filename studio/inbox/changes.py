"""Hints from the file system that something in the inbox changed. What changed, a look at the folder tells."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

from studio.inbox.groups import is_ignored

_REASONS = {
    errno.ENOSPC: "the limit of watched folders is reached (fs.inotify.max_user_watches)",
    errno.EMFILE: "the limit of watchers or open files is reached (fs.inotify.max_user_instances, ulimit -n)",
    errno.ENFILE: "the system's limit of open files is reached",
}


class Hints:
    """Watches a folder and all below it. `hint` is called from another thread, often many times for one change."""

    def __init__(self, folder: Path, hint: Callable[[], None]) -> None:
        """Starts to watch. Raises OSError, also when the system has no watches left."""
        # watchdog starts its threads and loads ctypes on import; only the engine's process should pay for it.
        from watchdog import events
        from watchdog.observers import Observer

        class Handler(events.FileSystemEventHandler):  # type: ignore[misc]  # watchdog is imported as Any
            def on_any_event(self, event: Any) -> None:
                names = (str(event.src_path), str(event.dest_path))
                if any(name and not is_ignored(Path(name).name) for name in names):
                    hint()

        # Openings and readings are left out: our own reading would wake us without end.
        wanted = [
            events.FileCreatedEvent,
            events.FileModifiedEvent,
            events.FileClosedEvent,
            events.FileDeletedEvent,
            events.FileMovedEvent,
            events.DirCreatedEvent,
            events.DirDeletedEvent,
            events.DirMovedEvent,
        ]
        self._observer = Observer()
        try:
            self._observer.schedule(Handler(), str(folder), recursive=True, event_filter=wanted)
            self._observer.start()
        except BaseException:
            self.stop()
            raise

    @property
    def alive(self) -> bool:
        """Whether every thread of it still runs. It ends on its own when the folder is deleted."""
        return bool(self._observer.is_alive()) and all(emitter.is_alive() for emitter in self._observer.emitters)

    def stop(self) -> None:
        """Stops and waits for its threads. Blocks; safe to call twice."""
        self._observer.stop()
        if self._observer.is_alive():
            self._observer.join(5)


def why_not(error: OSError) -> str:
    """The reason of a failed watch, for people."""
    return _REASONS.get(error.errno or 0, error.strerror or str(error))
