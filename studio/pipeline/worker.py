"""The child's entry point: one task as a JSON line on stdin; progress and the result as JSON lines on a pipe.

    python -P -m studio.pipeline.worker --result-fd N --scratch DIR --parent PID [--limits JSON] [--preload onnx]

stdout and stderr belong to the job's log. The end of stdin means that the engine is gone: the worker ends with it.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import faulthandler
import importlib
import os
import signal
import sys
import threading
import time
import traceback
from pathlib import Path

from studio.core import codec
from studio.core.errors import Problem, StepFailed, StudioError
from studio.pipeline.messages import MEMORY_MARKS, Message, decode_task
from studio.pipeline.sandbox import Limits, enter

_PRELOAD = {"onnx": ("studio.pipeline.intake", "onnx"), "lab": ("studio.pipeline.lab", "onnx")}
_TASKS = {
    "intake": ("studio.pipeline.intake", "run_intake"),
    "template": ("studio.pipeline.template", "run_template"),
    "make": ("studio.pipeline.lab", "run_make"),
    "measure": ("studio.pipeline.lab", "run_measure"),
}
_LINES = 12


class Pipe:
    """Where messages go. One line each, written whole."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._lock = threading.Lock()
        self.step = ""
        self._told = ""

    def send(self, message: Message) -> None:
        data = codec.encode(message) + b"\n"
        with self._lock:
            while data:
                data = data[os.write(self._fd, data) :]

    def progress(self, step: str, progress: float | None, detail: str) -> None:
        if (step, detail) != (self.step, self._told):
            print(f"{time.strftime('%H:%M:%S')} {step}: {detail}", flush=True)  # noqa: T201 - stdout is the job's log
        self.step, self._told = step, detail
        self.send(Message(type="progress", step=step, progress=progress, detail=detail))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="studio.pipeline.worker")
    parser.add_argument("--result-fd", type=int, required=True)
    parser.add_argument("--scratch", type=Path, required=True)
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--limits", default="{}")
    parser.add_argument("--preload", choices=sorted(_PRELOAD), default=None)
    options = parser.parse_args(arguments)
    faulthandler.enable(all_threads=False)
    os.set_inheritable(options.result_fd, False)
    os.chdir(options.scratch)
    in_force = enter(options.scratch, codec.decode(options.limits, Limits, "limits"), options.parent)
    pipe = Pipe(options.result_fd)
    for name in _PRELOAD.get(options.preload, ()):
        importlib.import_module(name)
    if options.preload:
        _warm_up()
    pipe.send(Message(type="ready", sandbox=in_force.as_dict()))
    line = sys.stdin.buffer.readline()
    if not line:
        return
    threading.Thread(target=_end_with_engine, daemon=True).start()
    pipe.send(_work(line, pipe))


def _warm_up() -> None:
    """What the first session, the first comparison and the first listing of packages cost, paid while waiting."""
    from studio.formats.registry import formats
    from studio.verify.machine import this_machine, tool_versions
    from studio.verify.session import initialise

    initialise()
    formats()
    this_machine()
    tool_versions()


def _work(line: bytes, pipe: Pipe) -> Message:
    try:
        kind, task = decode_task(line)
        module, function = _TASKS[kind]
        result = getattr(importlib.import_module(module), function)(task, pipe.progress)
        return Message(type="result", kind=kind, value=codec.builtins(result))
    except StudioError as error:
        print(f"{time.strftime('%H:%M:%S')} {error}", flush=True)  # noqa: T201 - stdout is the job's log
        if error.__cause__ is not None:
            traceback.print_exception(error.__cause__, limit=-_LINES)
        memory = _short_of_memory(error)
        return Message(type="problem", problem=_out_of_memory(pipe.step) if memory else error.problem)
    except BaseException as error:  # whatever it was, the engine is told, and the log has the traceback
        return Message(type="problem", problem=_unforeseen(error, pipe.step))


def _short_of_memory(error: StudioError) -> bool:
    return isinstance(error.__cause__, MemoryError) or any(mark in error.why for mark in MEMORY_MARKS)


def _unforeseen(error: BaseException, step: str) -> Problem:
    with contextlib.suppress(MemoryError):
        traceback.print_exception(error, limit=-_LINES)
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, MemoryError) or any(mark in text for mark in MEMORY_MARKS):
        return _out_of_memory(step)
    if isinstance(error, OSError) and error.errno == errno.EFBIG:
        return StepFailed(
            f"{_during(step)} wrote a file beyond the limit.",
            "No file of a worker may grow beyond workers.file_bytes.",
            "Raise workers.file_bytes in studio.toml, then retry.",
        ).problem
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StepFailed(f"{_during(step)} found no space left on the disk.", fix="Free some, then retry.").problem
    if isinstance(error, RecursionError):
        return StepFailed(f"{_during(step)} met a model that is nested too deeply.", fix="Export it again.").problem
    if isinstance(error, PermissionError):
        why = f"{error.filename or 'A file'} can not be read or written: {error.strerror}."
        return StepFailed(f"{_during(step)} was refused by the system.", why, "Check who owns the file.").problem
    return StepFailed(
        f"{_during(step)} failed in a way that Studio did not foresee.",
        f"{text.splitlines()[0][:400]}.",
        "The job's log has the traceback. Retry; if it fails again, report it with that log.",
    ).problem


def _out_of_memory(step: str) -> Problem:
    return StepFailed(
        f"{_during(step)} ran out of memory.",
        "A worker may take no more than workers.memory_bytes.",
        "Raise workers.memory_bytes in studio.toml, close other programs, or use a smaller model; then retry.",
    ).problem


def _during(step: str) -> str:
    return f"The step '{step}'" if step else "The worker"


def _end_with_engine() -> None:
    while os.read(0, 4096):
        pass
    os.killpg(os.getpgrp(), signal.SIGKILL)


if __name__ == "__main__":
    main()
