"""Workers forked from warm processes: one task each, nothing left of it, and as good as fresh ones."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest
import torch

from studio.core.errors import StepFailed
from studio.core.settings import WorkerSettings
from studio.pipeline.forkservers import ForkServers
from studio.pipeline.messages import IntakeResult, IntakeTask
from studio.pipeline.process import Worker, spawn_worker
from tests.formats import programs
from tests.formats.graphs import linear, save
from tests.pipeline.conftest import content
from tests.pipeline.test_workers import until

LEAVING = """
import builtins, os
from pathlib import Path

class Leaving:
    name, title, extra = "leaving", "Leaves things behind (.leave)", None

    def recognise(self, files):
        if files.content[0].suffix != ".leave":
            return None
        print("found", getattr(builtins, "left", "nothing"), sorted(os.listdir()), flush=True)
        builtins.left = "something"
        Path("left").touch()
        os.environ["LEFT"] = "yes"

    def convert(self, *_):
        raise AssertionError

FORMAT = Leaving()
"""


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    return tmp_path / "scratch"


@asynccontextmanager
async def forked(servers: ForkServers, scratch: Path) -> AsyncIterator[Worker]:
    await asyncio.to_thread(scratch.mkdir, exist_ok=True)
    log = scratch.parent / "log"
    async with spawn_worker(WorkerSettings(), scratch, log, "onnx", fork_servers=servers) as worker:
        yield worker


async def taken_in(servers: ForkServers, scratch: Path, path: Path) -> IntakeResult:
    async with forked(servers, scratch) as worker:
        return await worker.run(IntakeTask(files=(str(path),), out=str(scratch / "out")))


def servers_of_this_process(name: str) -> list[psutil.Process]:
    """Fork servers of a kind that this process has started, by the name that process lists show."""
    return [child for child in psutil.Process().children() if child.name() == name]


def server_of(worker: Worker) -> psutil.Process:
    """The fork server that a worker comes from: above it, and a child of this process."""
    while True:
        try:
            return next(one for one in psutil.Process(worker.pid).parents() if one.ppid() == os.getpid())
        except psutil.NoSuchProcess:
            continue  # what stood between them for a moment is gone


async def test_workers_are_forked_one_for_each_task(tmp_path: Path, scratch: Path) -> None:
    servers = ForkServers(tmp_path / "warm")
    graph = save(linear(), tmp_path / "linear.onnx")
    before = {child.pid for child in servers_of_this_process("studio-onnx")}
    try:
        pids = []
        for _ in range(3):
            async with forked(servers, scratch) as worker:
                pids.append(worker.pid)
                [server] = [one for one in servers_of_this_process("studio-onnx") if one.pid not in before]
                assert server_of(worker) == server
                result = await worker.run(IntakeTask(files=(str(graph),), out=str(scratch / "out")))
                assert result.format == "onnx"
                with pytest.raises(StepFailed, match="done its task"):
                    await worker.run(IntakeTask(files=(str(graph),), out=str(scratch / "out")))
        assert len(set(pids)) == 3
    finally:
        servers.close()
    assert not server.is_running()
    assert not list((tmp_path / "warm").iterdir())


async def test_nothing_of_a_task_is_left_for_the_next(plugin: Callable[[str, str], Path], tmp_path: Path) -> None:
    plugin(LEAVING, "[studio.formats]\nleaving = odd_package:FORMAT\n")
    servers = ForkServers(tmp_path / "warm")
    arrival = tmp_path / "arrival.leave"
    arrival.write_bytes(b"?")
    try:
        for number in range(3):
            with pytest.raises(Exception, match="leave"):
                await taken_in(servers, tmp_path / f"scratch{number}", arrival)
    finally:
        servers.close()
    told = [line for line in content(tmp_path / "log").decode().splitlines() if line.startswith("found")]
    assert told == ["found nothing ['out']"] * 3


async def test_an_arrival_goes_on_where_its_framework_waits(
    fork_servers: ForkServers, tmp_path: Path, scratch: Path
) -> None:
    path = programs.save(programs.SmallNet(), torch.randn(2, 1, 8, 8), tmp_path / "net.pt2", free=True)
    seen: list[tuple[str, int]] = []
    async with forked(fork_servers, scratch) as worker:
        await worker.ready()
        first = worker.pid

        def progress(step: str, _: float | None, detail: str) -> None:
            seen.append((server_of(worker).name(), worker.pid))

        task = IntakeTask(files=(str(path),), out=str(scratch / "out"))
        result = await worker.run(task, progress)
    assert result.format == "torch-export"
    assert seen[0] == ("studio-onnx", first)
    assert seen[-1][0] == "studio-torch"
    assert not psutil.pid_exists(first), "what has read the arrival is gone"
    # Once it has practised, it still can be forked.
    [server] = servers_of_this_process("studio-torch")
    practised = Path(server.cwd()) / "out" / "samples.npz"
    await until(practised.exists)
    again = await taken_in(fork_servers, scratch, path)
    assert again.parity.worst == result.parity.worst
    assert again.graph.file.sha256 == result.graph.file.sha256
    assert servers_of_this_process("studio-torch") == [server]
    assert server.num_threads() == 1


async def test_one_that_waits_idly_ends_and_the_next_task_starts_another(tmp_path: Path, scratch: Path) -> None:
    servers = ForkServers(tmp_path / "warm", idle_seconds=0.2)
    before = {child.pid for child in servers_of_this_process("studio-onnx")}
    graph = save(linear(), tmp_path / "linear.onnx")
    try:
        for _ in range(2):
            assert (await taken_in(servers, scratch, graph)).format == "onnx"
            await until(lambda: not [c for c in servers_of_this_process("studio-onnx") if c.pid not in before])
            # Its folder goes after it, once it was reaped.
            await until(lambda: not list((tmp_path / "warm").iterdir()))
    finally:
        servers.close()


async def test_one_is_replaced_after_many_forks_and_when_it_was_killed(tmp_path: Path, scratch: Path) -> None:
    servers = ForkServers(tmp_path / "warm", forks=2)
    graph = save(linear(), tmp_path / "linear.onnx")
    parents = []
    try:
        for number in range(6):
            async with forked(servers, scratch) as worker:
                parents.append(server_of(worker).pid)
                if number == 4:
                    # The worker does not depend on it any more.
                    os.kill(parents[-1], signal.SIGKILL)
                result = await worker.run(IntakeTask(files=(str(graph),), out=str(scratch / "out")))
                assert result.format == "onnx"
    finally:
        servers.close()
    assert parents[0] == parents[1] != parents[2] == parents[3] != parents[4] != parents[5]


async def test_only_so_many_frameworks_are_kept(tmp_path: Path) -> None:
    servers = ForkServers(tmp_path / "warm", most=1)
    try:
        servers.warm("onnx")
        servers.warm("torch")
        [torch_server] = servers_below(tmp_path, "torch")
        servers.warm("catboost")
        await until(lambda: not torch_server.is_running())
        assert len(servers_below(tmp_path, "catboost")) == len(servers_below(tmp_path, "onnx")) == 1
    finally:
        servers.close()
    assert ForkServers(tmp_path, most=0).serves("onnx") is False


def servers_below(folder: Path, kind: str) -> list[psutil.Process]:
    """Fork servers whose home lies below a folder, imported or not."""
    found = []
    for child in psutil.Process().children():
        if Path(child.cwd()).is_relative_to(folder) and kind in child.cmdline():
            found.append(child)
    return found


DYING = """
import os, sys
if "studio.pipeline.forkserver" in sys.orig_argv:
    {act}
"""


@pytest.mark.parametrize(
    "act",
    [
        'sys.exit("this system is broken")',
        "import threading, time; threading.Thread(target=time.sleep, args=(60,), daemon=True).start()",
    ],
    ids=["dies", "has threads"],
)
async def test_where_forking_can_not_be_workers_start_afresh(
    act: str, tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    hook = tmp_path / "hook"
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(DYING.format(act=act))
    monkeypatch.setenv("PYTHONPATH", str(hook))
    servers = ForkServers(tmp_path / "warm")
    graph = save(linear(), tmp_path / "linear.onnx")
    try:
        for _ in range(2):
            assert (await taken_in(servers, scratch, graph)).format == "onnx"
        await until(lambda: not servers.serves("onnx"))
    finally:
        servers.close()
    assert [record.message.partition("(")[0] for record in caplog.records] == ["No workers are kept warm for onnx "]


ENGINE = """
import asyncio, os, sys
from pathlib import Path
from studio.core.settings import WorkerSettings
from studio.pipeline.forkservers import ForkServers
from studio.pipeline.process import start_worker

async def main(folder):
    servers = ForkServers(folder / "warm")
    (folder / "scratch").mkdir()
    worker = await start_worker(WorkerSettings(), folder / "scratch", folder / "log", "onnx", fork_servers=servers)
    servers.warm("torch")  # still importing when the end comes
    print(worker.pid, flush=True)
    os.kill(os.getpid(), 9)

asyncio.run(main(Path(sys.argv[1])))
"""


def test_all_end_with_their_engine(tmp_path: Path) -> None:
    engine = subprocess.Popen([sys.executable, "-c", ENGINE, str(tmp_path)], stdout=subprocess.PIPE)
    assert engine.stdout is not None
    guard = int(engine.stdout.readline())
    engine.wait()

    def left() -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            try:
                if process.pid == guard or Path(process.cwd()).is_relative_to(tmp_path):
                    found.append(process)
            except psutil.Error:
                continue
        return [one for one in found if one.status() != psutil.STATUS_ZOMBIE]

    asyncio.run(until(lambda: not left()))
