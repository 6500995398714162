"""The engine's side of the fork servers: processes that have imported a framework and fork workers.

One for each kind, started when first needed. Every one ends by itself when idle; after many forks another takes its
place, and of those with a large framework only so many are kept at a time, so that memory goes back.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from studio.core import codec
from studio.pipeline.forkserver import HAS_THREADS, READY
from studio.pipeline.guard import Handles
from studio.pipeline.kinds import FRAMEWORKS, server_of
from studio.pipeline.sandbox import environment
from studio.pipeline.worker import Launch

_HELD_BACK = ("HOME", "TMPDIR")
_LOG_TAIL = 2000

_log = logging.getLogger(__name__)


@dataclass
class _Server:
    kind: str
    process: subprocess.Popen[bytes]
    control: socket.socket
    environment: dict[str, str]
    home: Path
    forks: int = 0
    used: float = field(default_factory=time.monotonic)
    retired: bool = False
    attendant: threading.Thread | None = None

    @property
    def alive(self) -> bool:
        return not self.retired and self.process.returncode is None

    def retire(self) -> None:
        """Let it end when its last worker has. One that still imports, for nothing, is ended at once."""
        if not self.retired:
            self.retired = True
            # Not closed: what it may have sent and nobody has read would then cost it what it has not read itself.
            with contextlib.suppress(OSError):
                self.control.shutdown(socket.SHUT_WR)
            if not self.forks and not self.is_ready():
                self.process.kill()

    def is_ready(self) -> bool:
        """Whether it has imported everything."""
        try:
            return self.control.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == READY
        except OSError:
            return False


class ForkServers:
    """Keeps at most `most` framework fork_servers beside the plain one; 0 keeps none, and every worker starts afresh.

    `idle_seconds`: how long one waits for work. `forks`: after how many workers it is replaced. `folder`: where they
    have their homes, and only they. Belongs to one thread.
    """

    def __init__(self, folder: Path, most: int = 2, idle_seconds: float = 300.0, forks: int = 200) -> None:
        self._folder, self._most, self._idle, self._forks = folder, most, idle_seconds, forks
        self._servers: dict[str, _Server] = {}
        self._ending: list[_Server] = []
        self._broken: set[str] = set()

    def clear(self) -> None:
        """Remove what an engine that was killed has left of its own."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def kinds(self) -> tuple[str, ...]:
        """Extras whose frameworks can wait in a fork server of their own."""
        return tuple(kind for kind in FRAMEWORKS if self.serves(kind))

    def serves(self, preload: str) -> bool:
        """Whether a worker of this kind can be forked."""
        return bool(preload) and self._most > 0 and sys.platform.startswith("linux") and self._sound(preload)

    def _sound(self, preload: str) -> bool:
        return server_of(preload) not in self._broken

    def warm(self, preload: str) -> None:
        """Start a fork server, so that it has imported its framework when it is needed."""
        if self.serves(preload):
            self._server(server_of(preload))

    def launch(self, preload: str, launch: Launch, handles: Handles) -> bool:
        """Ask for a worker. It is started as soon as the fork server has imported everything: its status pipe tells.

        False when there is no fork server for it, or none could be started.
        """
        if not self.serves(preload):
            return False
        packet = codec.encode(launch)
        for _ in range(2):  # one may just have ended for being idle
            try:
                server = self._server(server_of(preload))
                socket.send_fds(server.control, [packet], list(handles.all()))
            except OSError:
                self._forget(server_of(preload))
                continue
            server.forks += 1
            server.used = time.monotonic()
            if server.forks >= self._forks:
                self._forget(server.kind)
            return True
        return False

    def _server(self, kind: str) -> _Server:
        # One thread each, whatever its workers use: a process with more can not be forked.
        outer = environment(self._folder, 1, os.environ)
        wanted = {name: value for name, value in outer.items() if name not in _HELD_BACK}
        server = self._servers.get(kind)
        if server is not None and server.alive and server.environment == wanted:
            return server
        self._forget(kind)
        if kind in FRAMEWORKS:
            self._make_room()
        server = self._servers[kind] = self._start(kind, wanted)
        return server

    def _make_room(self) -> None:
        kept = sorted((one for one in self._servers.values() if one.kind in FRAMEWORKS), key=lambda one: one.used)
        for server in kept[: max(0, len(kept) - self._most + 1)]:
            self._forget(server.kind)

    def _forget(self, kind: str) -> None:
        server = self._servers.pop(kind, None)
        if server is not None:
            server.retire()
            self._ending = [one for one in (*self._ending, server) if one.attendant and one.attendant.is_alive()]

    def _start(self, kind: str, wanted: dict[str, str]) -> _Server:
        """Raises OSError."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        home = Path(tempfile.mkdtemp(prefix=f"{kind}-", dir=self._folder))
        own, others = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [
            *(sys.executable, "-P", "-m", "studio.pipeline.forkserver", "--kind", kind),
            *("--control", str(others.fileno()), "--parent", str(os.getpid()), "--idle", f"{self._idle:g}"),
        ]
        try:
            with others, (home / "log").open("wb") as log:
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=(others.fileno(),),
                    start_new_session=True,
                    cwd=home,
                    env={**wanted, "HOME": str(home), "TMPDIR": str(home)},
                )
        except OSError:
            own.close()
            shutil.rmtree(home, ignore_errors=True)
            raise
        server = _Server(kind, process, own, wanted, home)
        server.attendant = threading.Thread(target=self._see_off, args=(server,), name=f"attends {kind}", daemon=True)
        server.attendant.start()
        return server

    def _see_off(self, server: _Server) -> None:
        """Reap a fork server when it ends, whenever that is."""
        code = server.process.wait()
        if not server.retired and (not server.is_ready() or code == HAS_THREADS):
            # Another would fare no better.
            self._broken.add(server.kind)
            log = (server.home / "log").read_text(errors="replace")[-_LOG_TAIL:]
            _log.warning("No workers are kept warm for %s (exit code %s): %s", server.kind, code, log)
        server.control.close()
        shutil.rmtree(server.home, ignore_errors=True)

    def close(self) -> None:
        """End them all. Workers that still run are ended by whoever started them."""
        for kind in list(self._servers):
            self._forget(kind)
        for server in self._ending:
            if server.process.returncode is None:
                server.process.send_signal(signal.SIGKILL)
        for server in self._ending:
            if server.attendant is not None:
                server.attendant.join()
        self._ending.clear()
