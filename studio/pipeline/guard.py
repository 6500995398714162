"""Between the engine and a worker: a guard that has no part in the work, and ends all of a worker's processes.

    engine -> fork server or starter -> guard -> worker -> whatever it starts

Where the system permits a PID namespace, the guard is its first process: when it ends, the kernel ends all others,
whatever they did to get away. Elsewhere it inherits them as orphans, stops and kills them. It watches two things: the
worker, and the *lifeline*, a pipe whose other end only the engine holds: it closes when the engine wants the worker
gone, or is gone itself.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from studio.pipeline.namespaces import (
    Namespaces,
    adopt_orphans,
    end_with,
    name_process,
    separate,
    settle,
)

WORKER_NAME, GUARD_NAME = "studio-worker", "studio-guard"
_ROUNDS = 50


@dataclass(frozen=True)
class Handles:
    """File handles of one worker, in the order in which they travel to a fork server.

    `task`: its stdin. `result`: where its messages go. `log`: its stdout and stderr. `lifeline`: see above. `status`:
    two lines, `pid` of the guard, and `end` with how the worker ended: an exit code, or minus a signal's number.
    """

    task: int
    result: int
    log: int
    lifeline: int
    status: int

    def all(self) -> tuple[int, ...]:
        return self.task, self.result, self.log, self.lifeline, self.status


Work = Callable[[Namespaces, int], None]
"""What a worker does, given its namespaces and the handle for its messages."""


def guarded(handles: Handles, scratch: Path, work: Work) -> NoReturn:
    """Become a guard, and start a worker that may write below `scratch`.

    To be called in a process that was just forked for it, and has one thread.
    """
    try:
        got = separate()
        guard = os.fork()
        if guard == 0:
            _guard(handles, got, scratch, work)
        os.write(handles.status, f"pid {guard}\n".encode())
    except OSError as error:
        os.write(handles.log, f"The worker could not be started: {error}.\n".encode())
    os._exit(0)


def _guard(handles: Handles, got: Namespaces, scratch: Path, work: Work) -> NoReturn:
    try:
        name_process(GUARD_NAME)
        os.setsid()
        adopt_orphans()
        got = settle(got, scratch)
        woken, wake = os.pipe()
        os.set_blocking(wake, False)
        os.set_blocking(woken, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        guard = os.getpid()
        worker = os.fork()
        if worker == 0:
            for handle in (woken, wake):
                os.close(handle)
            _work(handles, got, work, guard)
        for handle in (handles.task, handles.result, handles.log, 0, 1, 2):
            with contextlib.suppress(OSError):
                os.close(handle)
        code = _watch(worker, handles.lifeline, woken)
        _end_all(worker)
        with contextlib.suppress(OSError):  # nobody may be left to be told
            os.write(handles.status, f"end {code}\n".encode())
    except OSError as error:
        os.write(handles.log, f"The worker could not be started: {error}.\n".encode())
    finally:
        os._exit(0)


def _watch(worker: int, lifeline: int, woken: int) -> int:
    """Wait until the worker has ended, or should."""
    poll = select.poll()
    poll.register(lifeline, select.POLLIN | select.POLLHUP)
    poll.register(woken, select.POLLIN)
    while True:
        ready = dict(poll.poll())
        if woken in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(woken, 4096)
            while (ended := _reap()) is not None:
                if ended[0] == worker:
                    return os.waitstatus_to_exitcode(ended[1])
        if lifeline in ready:
            return -signal.SIGKILL


def _reap() -> tuple[int, int] | None:
    try:
        found = os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return None
    return found if found[0] else None


def _end_all(worker: int) -> None:
    """Kill all below this process, and wait until they are gone."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(worker, signal.SIGKILL)
    if os.getpid() == 1 and sys.platform.startswith("linux"):
        with contextlib.suppress(ProcessLookupError):
            os.kill(-1, signal.SIGKILL)  # from the first process of a PID namespace: all others in it
    else:
        _hunt()
    with contextlib.suppress(ChildProcessError):
        while True:
            os.waitpid(-1, 0)


def _hunt() -> None:
    """Stop all descendants first: one that is stopped starts no others while we look for the rest."""
    seen: set[int] = set()
    for _ in range(_ROUNDS):
        found = _descendants(os.getpid())
        if found <= seen:
            break
        for pid in found - seen:
            _signal(pid, signal.SIGSTOP)
        seen |= found
    for pid in seen:
        _signal(pid, signal.SIGKILL)


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def _descendants(root: int) -> set[int]:
    """Process ids below one, from /proc; where there is none, from psutil."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            # proc(5): pid (name) state parent; the name may hold anything but ends at the last parenthesis.
            parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    if not parents:
        import psutil

        return {child.pid for child in psutil.Process(root).children(recursive=True)}
    found, grown = {root}, True
    while grown:
        more = {pid for pid, parent in parents.items() if parent in found} - found
        found |= more
        grown = bool(more)
    return found - {root}


def _work(handles: Handles, got: Namespaces, work: Work, guard: int) -> NoReturn:
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        end_with(guard)
        os.setsid()
        name_process(WORKER_NAME)
        for handle in (handles.lifeline, handles.status):
            os.close(handle)
        for handle, place in ((handles.task, 0), (handles.log, 1), (handles.log, 2)):
            os.dup2(handle, place)
        for handle in {handles.task, handles.log} - {0, 1, 2}:
            os.close(handle)
        os.set_inheritable(handles.result, False)
        work(got, handles.result)
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
            ctypes.CDLL(None).fflush(None)
        # Not the ordinary end: what else the process inherited at its fork is not its own to tear down.
        os._exit(code)
