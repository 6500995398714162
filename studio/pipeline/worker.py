"""A worker: one task as a JSON line on stdin; progress and the result as JSON lines on a pipe. Then it is gone.

`work` is what it does, wherever it was forked: from a fork server that has imported a framework already (see
studio.pipeline.forkserver), or, started for this one worker, from

    python -P -m studio.pipeline.worker --launch JSON --handles RESULT,LIFELINE,STATUS

stdout and stderr belong to the job's log. A guard ends it when the engine is gone: see studio.pipeline.guard.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import faulthandler
import importlib
import os
import random
import sys
import tempfile
import threading
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path

from studio.core import codec
from studio.core.errors import Problem, StepFailed, StudioError
from studio.pipeline.guard import Handles, guarded
from studio.pipeline.kinds import import_all, warm_up
from studio.pipeline.messages import MEMORY_MARKS, Elsewhere, Message, decode_task
from studio.pipeline.namespaces import Namespaces, adopt_orphans
from studio.pipeline.sandbox import Limits, enter

_TASKS = {
    "intake": ("studio.pipeline.intake", "run_intake"),
    "template": ("studio.pipeline.template", "run_template"),
    "make": ("studio.pipeline.lab", "run_make"),
    "measure": ("studio.pipeline.lab", "run_measure"),
    "probe": ("studio.pipeline.probe", "run_probe"),
}
_LINES = 12


@dataclass(frozen=True, kw_only=True)
class Launch:
    """What a worker is started with. `preload`: a kind of studio.pipeline.kinds to import while it waits, or none."""

    scratch: str
    limits: Limits = field(default_factory=Limits)
    environment: dict[str, str] = field(default_factory=dict)
    preload: str = ""


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
    """Start one worker, and wait until it and its guard are gone."""
    parser = argparse.ArgumentParser(prog="studio.pipeline.worker")
    parser.add_argument("--launch", required=True)
    parser.add_argument("--handles", required=True)
    options = parser.parse_args(arguments)
    launch = codec.decode(options.launch, Launch, "launch")
    result, lifeline, status = map(int, options.handles.split(","))
    handles = Handles(task=0, result=result, log=1, lifeline=lifeline, status=status)
    adopt_orphans()
    if os.fork() == 0:
        guarded(handles, Path(launch.scratch), lambda got, messages: work(launch, got, messages))
    for handle in (0, result, lifeline, status):
        os.close(handle)
    with contextlib.suppress(ChildProcessError):
        while True:
            os.waitpid(-1, 0)


def work(launch: Launch, got: Namespaces, messages: int, imported: bool = False) -> None:
    """In the worker's own process: get ready, take the task, shut itself in, do it.

    `imported`: it was forked from a process that has imported everything.
    """
    os.environ.clear()
    os.environ.update(launch.environment)
    os.chdir(launch.scratch)
    # Forked workers would all draw the same names and numbers.
    tempfile.tempdir = None
    random.seed()
    faulthandler.enable(sys.stderr, all_threads=False)
    pipe = Pipe(messages)
    if launch.preload and not imported:
        import_all(launch.preload)
        warm_up()
    elif launch.preload == "lab":
        warm_up()  # a fork shares the libraries, but their pages must not be counted as the model's memory
    pipe.send(Message(type="ready"))
    with os.fdopen(0, "rb", closefd=False) as stdin:
        line = stdin.readline()
    if not line:
        return
    pipe.send(_work(line, pipe, launch, got))


def _work(line: bytes, pipe: Pipe, launch: Launch, got: Namespaces) -> Message:
    try:
        kind, task = decode_task(line)
        in_force = enter(Path(launch.scratch), task.inputs, launch.limits, got)
        pipe.send(Message(type="sandbox", sandbox=in_force.as_dict()))
        module, function = _TASKS[kind]
        result = getattr(importlib.import_module(module), function)(task, pipe.progress)
        return Message(type="result", kind=kind, value=codec.builtins(result))
    except Elsewhere as wanted:
        return Message(type="elsewhere", kind=wanted.kind)
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


if __name__ == "__main__":
    main()
