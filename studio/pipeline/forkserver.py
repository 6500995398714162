"""A fork server: a process that has imported a framework, and forks a worker of itself for every task.

    python -P -m studio.pipeline.forkserver --kind torch --control N --parent PID --idle SECONDS

It reads launches, never an arrival: what could be hostile is only ever seen by a forked worker, which does one task and
is gone. On its control socket (Unix, SOCK_SEQPACKET) a packet is one Launch as JSON with the handles of
studio.pipeline.guard.Handles; it answers once, a byte when everything is imported. It ends when nothing was asked of it
for a while, when the socket is closed, and with the engine.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import os
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from studio.core import codec
from studio.core.errors import InvalidInput
from studio.pipeline.guard import Handles, guarded
from studio.pipeline.kinds import FRAMEWORKS, PLAIN, import_all, practise, warm_up
from studio.pipeline.namespaces import adopt_orphans, end_with, name_process
from studio.pipeline.sandbox import threads
from studio.pipeline.worker import Launch, work

READY = b"r"
HAS_THREADS = 3
_LARGEST = 256 * 1024
_HANDLES = 5


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="studio.pipeline.forkserver")
    parser.add_argument("--kind", choices=(PLAIN, *FRAMEWORKS), required=True)
    parser.add_argument("--control", type=int, required=True)
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--idle", type=float, required=True)
    options = parser.parse_args(arguments)
    end_with(options.parent)
    adopt_orphans()
    name_process(f"studio-{options.kind}")
    import_all(options.kind)
    warm_up()
    if threads() > 1:
        sys.exit(HAS_THREADS)  # their locks would stay locked for ever in what is forked
    # What lives now is not looked at by the collector again, so that forks go on sharing it.
    gc.collect()
    gc.freeze()
    with socket.socket(fileno=options.control) as control:
        with contextlib.suppress(BrokenPipeError):  # it was asked to end before it had begun
            control.send(READY)
        serve(control, options.idle, lambda: _practise(options.kind))


def _practise(kind: str) -> None:
    """Do once what costs much only the first time. Those that are forked afterwards have it."""
    try:
        practise(kind, Path.cwd())
    except Exception:  # it is no worse a server for that
        traceback.print_exc()
    if threads() > 1:
        sys.exit(HAS_THREADS)
    gc.collect()
    gc.freeze()


def serve(control: socket.socket, idle_seconds: float, practise: Callable[[], None]) -> None:
    """Fork what is asked for, until the other end is closed or nothing was asked for `idle_seconds`.

    `practise` is called once, as soon as nobody waits and nothing runs that it would slow down.
    """
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    os.set_blocking(woken, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    poll = select.poll()
    poll.register(control, select.POLLIN)
    poll.register(woken, select.POLLIN)
    children, last, open_, practised = 0, time.monotonic(), True, False
    while open_ or children:
        rest = last + idle_seconds - time.monotonic()
        wait = None if children else max(0, rest) * 1000 if practised else 0
        ready = dict(poll.poll(wait))
        if not ready and not practised and not children:
            practise()
            practised, last = True, time.monotonic()
            continue
        if woken in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(woken, 4096)
            children, last = _reap(), time.monotonic()
        if open_ and control.fileno() in ready:
            packet, handles, _, _ = socket.recv_fds(control, _LARGEST, _HANDLES)
            last = time.monotonic()
            if packet:
                _fork(packet, handles, control, (woken, wake))
                children = 1
            else:
                poll.unregister(control)
                open_ = False
        elif not ready and not children:
            open_ = False


def _reap() -> int:
    """Take note of children that ended; whether there are others."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return 0
    return 1


def _fork(packet: bytes, handles: list[int], control: socket.socket, own: tuple[int, ...]) -> None:
    try:
        launch = codec.decode(packet, Launch, "launch")
        if os.fork() == 0:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            control.close()
            for handle in own:
                os.close(handle)
            guarded(
                Handles(*handles),
                Path(launch.scratch),
                lambda got, messages: work(launch, got, messages, imported=True),
            )
    except (InvalidInput, OSError, TypeError) as error:
        print(f"A worker could not be started: {error}", flush=True)  # noqa: T201 - stdout is this server's log
    finally:
        for handle in handles:
            os.close(handle)


if __name__ == "__main__":
    main()
