"""How well a worker is shut in, tried from inside one: what `studio doctor` shows.

    python -m studio.pipeline.probe

prints JSON: what is in force, what of it is left open, and which attempts to get out succeeded.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import socket
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from studio.core import codec
from studio.core.errors import StudioError
from studio.core.settings import WorkerSettings
from studio.pipeline.messages import ProbeResult, ProbeTask, Progress
from studio.pipeline.process import spawn_worker
from studio.pipeline.sandbox import OPEN

_PTRACE_SEIZE = 0x4206  # linux/ptrace.h: attaches without stopping
_SECONDS = 60.0


def run_probe(task: ProbeTask, report: Progress) -> ProbeResult:
    """Try to get out, in every way that has an answer here."""
    report("checked", 0.0, "trying to get out")
    outside = Path(task.outside)

    def read() -> bool:
        return bool(outside.read_bytes())

    def write() -> bool:
        with outside.open("ab") as file:
            return bool(file.write(b"!"))

    def change() -> bool:
        before = outside.stat().st_mode
        outside.chmod(0o777)
        return outside.stat().st_mode != before

    def connect() -> bool:
        socket.create_connection(("127.0.0.1", task.port), 5).close()
        return True

    def look() -> bool:
        return bool(Path(f"/proc/{task.pid}/cmdline").read_bytes())

    def kill() -> bool:
        os.kill(task.pid, 0)
        return True

    def trace() -> bool:
        return sys.platform.startswith("linux") and _trace(task.pid)

    attempts: dict[str, Callable[[], bool]] = {
        "read a file of yours": read,
        "write to a file of yours": write,
        "change the rights of a file of yours": change,
        "connect to a port of this machine": connect,
        "see another process": look,
        "signal another process": kill,
        "trace another process": trace,
    }
    return ProbeResult(escaped=tuple(name for name, attempt in attempts.items() if _succeeds(attempt)))


def _succeeds(attempt: Callable[[], bool]) -> bool:
    with contextlib.suppress(OSError):
        return attempt()
    return False


def _trace(pid: int) -> bool:
    """Whether another process can be traced; it is let go at once by the end of this one."""
    nothing = ctypes.c_void_p(0)
    found: int = ctypes.CDLL(None, use_errno=True).ptrace(
        ctypes.c_long(_PTRACE_SEIZE), ctypes.c_long(pid), nothing, nothing
    )
    return found == 0


async def probe(scratch: Path, outside: Path) -> tuple[dict[str, str], ProbeResult]:
    """What is in force in a worker, and what it could do nevertheless. Raises StudioError."""
    settings = WorkerSettings(wall_seconds=_SECONDS)
    with socket.create_server(("127.0.0.1", 0)) as server:
        task = ProbeTask(out=str(scratch / "out"), outside=str(outside), port=server.getsockname()[1], pid=os.getpid())
        async with spawn_worker(settings, scratch, scratch.parent / "log") as worker:
            result = await worker.run(task)
            return worker.sandbox, result


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        scratch, outside = Path(folder) / "scratch", Path(folder) / "outside"
        scratch.mkdir()
        outside.write_bytes(b"?")
        told: dict[str, object]
        try:
            in_force, result = asyncio.run(probe(scratch, outside))
            open_ = [name for name, words in OPEN.as_dict().items() if in_force.get(name, words) == words]
            told = {"in_force": in_force, "open": open_, "escaped": result.escaped}
        except StudioError as error:
            told = {"problem": error.problem.sentence()}
    sys.stdout.write(codec.encode(told).decode() + "\n")


if __name__ == "__main__":
    main()
