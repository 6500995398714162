"""Workers that crash, hang, starve, or try to get out: the engine's side stays whole and says what happened."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch

from studio.core.errors import Cancelled, InvalidInput, Refused, StepFailed
from studio.core.settings import WorkerSettings
from studio.pipeline.messages import IntakeTask
from studio.pipeline.process import spawn_worker, start_worker
from tests.formats.graphs import linear, save
from tests.hostile.onnx_attacks import laughs
from tests.journeys.test_odd_files import endless
from tests.pipeline.conftest import Runner

MISBEHAVING = """
import ctypes, os, signal, time
from pathlib import Path

class Odd:
    name, title, extra = "odd", "Odd (.odd)", None

    def recognise(self, files):
        word, _, rest = files.content[0].read_text(errors="replace").partition(" ")
        act = getattr(self, f"do_{word}", None)
        return act(rest) if act else None

    def convert(self, *_):
        raise AssertionError

    def do_segfault(self, rest):
        ctypes.string_at(0)

    def do_abort(self, rest):
        os.abort()

    def do_exit(self, rest):
        print("leaving early", flush=True)
        os._exit(3)

    def do_hang(self, rest):
        # Three generations, each in a session of its own, the middle one gone at once.
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                os.setsid()
                signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 32))
                Path(rest).touch()
                time.sleep(600)
            os._exit(0)
        signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 32))
        time.sleep(600)

    def do_stall(self, rest):
        Path(rest).touch()
        # Holds the interpreter's lock: no thread of the worker can notice anything.
        ctypes.PyDLL(None).sleep(600)

    def do_spin(self, rest):
        while True:
            pass

    def do_eat(self, rest):
        kept = []
        while True:
            kept.append(bytearray(64 << 20))

    def do_write(self, rest):
        with open("large", "wb") as file:
            while True:
                file.write(bytes(1 << 20))

    def do_wonder(self, rest):
        {}["nothing of that name"]

    def do_shout(self, rest):
        print("SECRET" in os.environ, sorted(os.environ), os.getcwd(), flush=True)
        return None

FORMAT = Odd()
"""


@pytest.fixture
def odd(plugin: Callable[[str, str], Path], tmp_path: Path) -> Callable[[str], Path]:
    plugin(MISBEHAVING, "[studio.formats]\nodd = odd_package:FORMAT\n")

    def arrival(text: str) -> Path:
        path = tmp_path / "arrival.odd"
        path.write_text(text)
        return path

    return arrival


@pytest.mark.parametrize(
    ("act", "words"),
    [
        ("segfault", "crashed (SIGSEGV)"),
        ("abort", "crashed (SIGABRT)"),
        ("exit", "ended without a result (exit code 3). Last line of its log: leaving early"),
        ("wonder", "KeyError: 'nothing of that name'"),
    ],
)
async def test_an_end_without_a_result_is_told(runner: Runner, odd, tmp_path: Path, act: str, words: str) -> None:
    with pytest.raises(StepFailed) as caught:
        await runner.intake(odd(act))
    assert words in str(caught.value)
    assert "The step 'recognised'" in caught.value.what
    assert caught.value.fix
    assert ("leaving early" if act == "exit" else "odd_package.py") in runner.log
    # The next worker is as good as ever.
    assert (await runner.intake(save(linear(), tmp_path / "linear.onnx"))).format == "onnx"


async def test_a_worker_that_hangs_is_stopped_with_its_children(runner: Runner, odd) -> None:
    runner.settings = WorkerSettings(wall_seconds=4)
    mark = runner.root / "scratch1" / "mark"
    running = asyncio.create_task(runner.intake(odd(f"hang {mark}")))
    tree = await family(mark)
    with pytest.raises(StepFailed, match=r"took longer than 4 s.*workers\.wall_seconds"):
        await running
    assert not alive(tree)


async def test_cancelling_kills_the_whole_tree(runner: Runner, odd) -> None:
    scratch = runner.root / "scratch"
    scratch.mkdir()
    mark = scratch / "mark"
    task = IntakeTask(files=(str(odd(f"hang {mark}")),), out=str(scratch / "out"))
    async with spawn_worker(runner.settings, scratch, runner.root / "job.log") as worker:
        running = asyncio.create_task(worker.run(task))
        tree = await family(mark)
        worker.cancel()
        with pytest.raises(Cancelled):
            await running
    assert not alive(tree)


async def test_a_cancelled_caller_leaves_nothing_behind(runner: Runner, odd) -> None:
    mark = runner.root / "scratch1" / "mark"
    running = asyncio.create_task(runner.intake(odd(f"hang {mark}")))
    tree = await family(mark)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert not alive(tree)


async def test_what_a_crashed_worker_has_left_running_ends_too(runner: Runner, odd) -> None:
    mark = runner.root / "scratch1" / "mark"
    running = asyncio.create_task(runner.intake(odd(f"hang {mark}")))
    tree = await family(mark)
    next(process for process in tree if process.name() == "studio-worker").kill()
    with pytest.raises(StepFailed, match="SIGKILL"):
        await running
    assert not alive(tree)


async def test_processor_time_is_limited(runner: Runner, odd) -> None:
    runner.settings = WorkerSettings(cpu_seconds=3)
    with pytest.raises(StepFailed, match=r"more than 3 s of processor time.*workers\.cpu_seconds"):
        await runner.intake(odd("spin"))


@pytest.mark.parametrize("graph", [endless().SerializeToString(), laughs()], ids=["runs", "loads"])
async def test_a_model_that_never_ends_has_a_clock_of_its_own(runner: Runner, tmp_path: Path, graph: bytes) -> None:
    runner.settings = WorkerSettings(first_run_seconds=1)
    path = tmp_path / "endless.onnx"
    path.write_bytes(graph)
    words = r"The step 'converted' loaded or ran the model for longer than 1 s .*workers\.first_run_seconds"
    with pytest.raises(StepFailed, match=words):
        await runner.intake(path)
    # A clock that was stopped stays so: this one takes longer altogether.
    runner.settings = WorkerSettings(first_run_seconds=0.5)
    assert (await runner.intake(save(linear(), tmp_path / "linear.onnx"))).format == "onnx"


class Endless(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        while bool(x.sum() < 1e30):
            x = x * 1.0
        return x


async def test_a_source_that_never_ends_is_stopped_too(runner: Runner, tmp_path: Path) -> None:
    runner.settings = WorkerSettings(first_run_seconds=2)
    path = tmp_path / "endless.pt"
    torch.jit.script(Endless()).save(path)
    (tmp_path / "endless.toml").write_text('[inputs.x]\nshape = ["batch", 3]\ndatatype = "FP32"\n')
    with pytest.raises(StepFailed, match="for longer than 2 s"):
        await runner.intake(path, tmp_path / "endless.toml")


async def test_memory_is_limited(runner: Runner, odd) -> None:
    runner.settings = WorkerSettings(memory_bytes=1 << 30)
    with pytest.raises(StepFailed, match=r"ran out of memory.*workers\.memory_bytes"):
        await runner.intake(odd("eat"))


async def test_file_sizes_are_limited(runner: Runner, odd) -> None:
    runner.settings = WorkerSettings(file_bytes=8 << 20)
    with pytest.raises(StepFailed, match=r"file beyond the limit.*workers\.file_bytes"):
        await runner.intake(odd("write"))
    assert (runner.scratch / "large").stat().st_size <= 8 << 20


async def test_the_environment_is_scrubbed(runner: Runner, odd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "token")
    with pytest.raises(Refused):
        await runner.intake(odd("shout"))
    line = next(line for line in runner.log.splitlines() if "ORT_DISABLE_TELEMETRY" in line)
    assert line.startswith("False ")
    assert line.endswith(str(runner.scratch))
    assert os.environ["HOME"] not in line


ENGINE = """
import asyncio, os, sys
from pathlib import Path
from studio.core.settings import WorkerSettings
from studio.pipeline.messages import IntakeTask
from studio.pipeline.process import start_worker

async def main(scratch, arrival):
    worker = await start_worker(WorkerSettings(), scratch, scratch.parent / "log", "onnx")
    await worker.ready()
    print(worker.pid, flush=True)
    if arrival:
        task = IntakeTask(files=(arrival,), out=str(scratch / "out"))
        await worker.run(task)
    os.kill(os.getpid(), 9)

asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
"""


@pytest.mark.parametrize("busy", [False, True])
async def test_a_worker_ends_with_its_engine(odd, tmp_path: Path, busy: bool) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    arrival = str(odd(f"stall {scratch / 'pids'}")) if busy else ""
    command = [sys.executable, "-c", ENGINE, str(scratch), arrival]
    engine = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert engine.stdout is not None
    pid = int(await engine.stdout.readline())
    if busy:
        await until(lambda: (scratch / "pids").exists())
        engine.kill()
    await engine.wait()
    await until(lambda: not running(pid))


async def test_a_worker_writes_only_below_its_scratch(runner: Runner, tmp_path: Path) -> None:
    scratch = runner.root / "scratch"
    scratch.mkdir()
    worker = await start_worker(runner.settings, scratch, runner.root / "log")
    task = IntakeTask(files=(str(save(linear(), tmp_path / "m.onnx")),), out=str(tmp_path / "elsewhere"))
    try:
        with pytest.raises(InvalidInput, match="can not write"):
            await worker.run(task)
        with pytest.raises(StepFailed, match="done its task"):
            await worker.run(replace(task, out=str(scratch / "out")))
    finally:
        await worker.close()
    assert not worker.alive


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - other processes set no events
            await asyncio.sleep(0.02)


async def family(mark: Path) -> list[psutil.Process]:
    """Wait until the last of a hanging worker's children runs; the worker and all below it. Fork servers are no kin."""
    await until(mark.exists)
    below = psutil.Process().children(recursive=True)
    found = [one for one in below if one.name() == "studio-worker" or not one.name().startswith("studio-")]
    assert [process.name() for process in found].count("studio-worker") >= 2, "the worker and the one that got away"
    return found


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [process for process in processes if running(process.pid)]


def running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
