"""A server and all processes that it started: their CPU time, their memory, their end. Linux only (`/proc`)."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import secrets
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

MARK = "STUDIO_BENCH_SERVER"
"""An environment variable that tells the processes of one server from those of another, whoever their parent is."""
_TICKS = os.sysconf("SC_CLK_TCK")
_PR_SET_CHILD_SUBREAPER = 36


def adopt_orphans(adopt: bool = True) -> None:
    """Make this process the parent of descendants whose own parent ends, or no longer: servers that detach stay within
    reach."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, int(adopt), 0, 0, 0)


@dataclass
class Tree:
    """The processes of one server. `log` has what they wrote."""

    root: subprocess.Popen[bytes]
    log: Path
    mark: str = ""
    stopped: bool = field(default=False, repr=False)

    def members(self) -> list[psutil.Process]:
        """All living processes of the server."""
        found: dict[int, psutil.Process] = {}
        with contextlib.suppress(psutil.NoSuchProcess):
            root = psutil.Process(self.root.pid)
            found = {each.pid: each for each in (root, *root.children(recursive=True))}
        for each in psutil.Process().children(recursive=True) if self.mark else ():
            with contextlib.suppress(psutil.Error, OSError):
                if each.pid not in found and each.environ().get(MARK) == self.mark:
                    found[each.pid] = each
        return [each for each in found.values() if _alive(each)]

    def cpu_seconds(self) -> float:
        """User and system time of all members, and of those that ended and were waited for."""
        total = 0
        for fields in self._read("stat"):
            total += sum(map(int, fields.rpartition(")")[2].split()[11:15]))
        return total / _TICKS

    def memory(self) -> tuple[float, float]:
        """PSS and RSS of all members together, in MB (10^6 bytes). PSS counts a shared page once."""
        pss = rss = 0
        for rollup in self._read("smaps_rollup"):
            sizes = {line.split(":")[0]: line.split()[1] for line in rollup.splitlines()[1:]}
            pss += int(sizes["Pss"])
            rss += int(sizes["Rss"])
        return pss * 1024 / 1e6, rss * 1024 / 1e6

    def _read(self, name: str) -> Iterator[str]:
        for each in self.members():
            with contextlib.suppress(OSError):
                yield Path(f"/proc/{each.pid}/{name}").read_text()

    def pause(self) -> None:
        """Stop all members, so that what they do while nobody asks them costs the others nothing."""
        self._signal(signal.SIGSTOP)
        self.stopped = True

    def resume(self) -> None:
        if self.stopped:
            self._signal(signal.SIGCONT)
            self.stopped = False

    def _signal(self, number: int) -> None:
        for each in self.members():
            with contextlib.suppress(psutil.NoSuchProcess):
                each.send_signal(number)

    def end(self, seconds: float = 10.0) -> None:
        """Ask the root to end, then kill what is left, each by its own process id."""
        self.resume()
        members = self.members()
        self.root.terminate()
        _, alive = psutil.wait_procs([psutil.Process(each.pid) for each in members if _alive(each)], timeout=seconds)
        for each in [*alive, *self.members()]:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
        psutil.wait_procs(alive, timeout=5)
        self.root.wait()
        for each in members:  # orphans that came to us are ours to bury
            with contextlib.suppress(ChildProcessError, OSError):
                os.waitpid(each.pid, os.WNOHANG)

    def last_words(self, lines: int = 3) -> str:
        """What it wrote last, without the folders of this machine."""
        text = self.log.read_text(errors="replace").strip().splitlines()
        return _FOLDERS.sub("", " ".join(line.strip() for line in text[-lines:]))[-300:]


_FOLDERS = re.compile(r"(?:/[^\s/:'\"]+)+/")


def _alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running()) and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def start(command: list[str], environment: dict[str, str], folder: Path) -> Tree:
    """Start a server in `folder`, in a session of its own."""
    mark = secrets.token_hex(8)
    log = folder / "server.log"
    with log.open("ab") as out:
        root = subprocess.Popen(
            command,
            env={**os.environ, **environment, MARK: mark},
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return Tree(root, log, mark)


def machine_seconds() -> float:
    """CPU time of everything that runs on this machine, since it started."""
    user, nice, system, _, _, irq, softirq = map(int, Path("/proc/stat").read_text().split(maxsplit=8)[1:8])
    return (user + nice + system + irq + softirq) / _TICKS


def load_average() -> str:
    return ", ".join(f"{value:.1f}" for value in os.getloadavg())


def wait_for_quiet(below: float, seconds: float) -> None:
    """Wait until the load average of the last minute is below, at most so long."""
    until = time.monotonic() + seconds
    while os.getloadavg()[0] > below and time.monotonic() < until:
        time.sleep(5)
