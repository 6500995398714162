"""Serving artefacts of one server: made in a process of their own, once a model has been loaded the long way.

A model answers from the session that it was loaded with; when its artefact is there and answers the same, an equal
session of that takes the other's place, and the memory of the first is given back.
"""

from __future__ import annotations

import contextlib
import logging
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path
from queue import SimpleQueue

from studio.core import codec
from studio.core.errors import StudioError
from studio.serving import artefact, sessions
from studio.serving.artefact import Made
from studio.serving.artefact_maker import Order
from studio.serving.loaded import LoadedModel
from studio.serving.memory import give_back

WORTH_SECONDS = 0.02
"""A model that loads faster has nothing to gain, unless it is large."""
WORTH_BYTES = 1 << 20
QUIET_SECONDS = 1.0
"""How long after a load the work begins: first answers come first."""
MAKE_SECONDS = 600.0
NEEDED = 6
"""Memory that making one may take for a moment, in sizes of its graph."""
_log = logging.getLogger("studio.serving")


class Artefacts:
    """The cache in `folder`, at most `most_bytes` large. `want` may be called from any thread. `threads` as for
    `sessions.load`.

    Raises OSError where the folder can not be made.
    """

    def __init__(self, folder: Path, most_bytes: int, threads: int) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.folder = folder
        self._most_bytes, self._threads = most_bytes, threads
        self._wanted: SimpleQueue[weakref.ref[LoadedModel]] = SimpleQueue()
        self._maker: subprocess.Popen[bytes] | None = None
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()

    def want(self, model: LoadedModel) -> None:
        """Ask for the artefact of a model that was loaded without one."""
        path = Path(model.target.path)
        size = path.stat().st_size
        worth = model.load_seconds >= WORTH_SECONDS or size >= WORTH_BYTES
        if not worth or sessions.is_ort_file(path) or self._closed.is_set():
            return
        self._wanted.put(weakref.ref(model))
        with self._starting:
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="artefacts", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """Make no more, and stop what is being made."""
        self._closed.set()
        if self._maker is not None:
            with contextlib.suppress(OSError):
                self._maker.kill()

    def _work(self) -> None:
        while True:
            wanted = self._wanted.get()
            if self._closed.wait(QUIET_SECONDS):
                return
            model = wanted()
            if model is None:
                continue
            try:
                self._provide(model)
            except (OSError, StudioError, subprocess.SubprocessError) as error:
                _log.warning("no serving artefact of %s: %s", model.target.name, error)
            del model

    def _provide(self, model: LoadedModel) -> None:
        target = model.target
        made = artefact.read(self.folder, target.sha256)
        if made is None:
            import psutil

            if NEEDED * Path(target.path).stat().st_size > psutil.virtual_memory().available:
                return
            made = self._make(model)
        if made.refused:
            _log.info("%s is served without an artefact: %s", target.name, made.refused)
            return
        mapped = sessions.from_artefact(target, self._threads or 1, self.folder)
        if mapped is None:
            return
        model.shared.session = mapped.shared.session
        model.shared.mapped = True
        if not self._threads:
            sessions.widen(model, self)
        give_back()

    def _make(self, model: LoadedModel) -> Made:
        """Raises OSError, SubprocessError, InvalidInput."""
        order = Order(
            target=model.target,
            folder=str(self.folder),
            most_bytes=self._most_bytes,
            most=model.shared.most,
            typical_ns=model.shared.typical_ns,
        )
        started = time.monotonic()
        self._maker = subprocess.Popen(
            [sys.executable, "-m", "studio.serving.artefact_maker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        with self._maker as maker:
            try:
                out, errors = maker.communicate(codec.encode(order), MAKE_SECONDS)
            except BaseException:
                maker.kill()
                raise
        if maker.returncode:
            raise subprocess.SubprocessError(errors.decode(errors="replace")[-300:].strip() or maker.returncode)
        _log.info("made the serving artefact of %s in %.1f s", model.target.name, time.monotonic() - started)
        return codec.decode(out, Made, "serving artefact")
