"""A server of two processes: one port, one set of figures, one routing table, and no answer lost when one is killed."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import signal
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from tritonclient.grpc import InferenceServerClient

from studio.core.errors import InvalidInput
from studio.core.histogram import Histogram
from studio.core.metrics import Sample, Tick
from studio.core.recording import RecordingPlan
from studio.core.settings import ServingSettings
from studio.core.views import ServerStatus
from studio.engine.server_process import pause_after
from studio.engine.supervisor import Supervisor, listen, shared_out
from studio.engine.ticks import Ticks, summed
from studio.store.recordings import recorded
from tests.serving import graphs
from tests.serving.harness import WAIT

FOUR = {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 1, 1, 1]}]}


class Pair:
    """A supervisor of two processes, and what it has said."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.statuses: list[ServerStatus] = []
        self.ticks: list[Tick] = []
        self.log: list[str] = []
        self.supervisor = Supervisor(
            ServingSettings(port=0, workers=2, **settings),
            folder / "server.log",
            folder / "cache",
            self.statuses.append,
            self.ticks.append,
            lambda lines: None,
            lambda level, text: self.log.append(f"{level}: {text}"),
        )

    @property
    def pids(self) -> tuple[int, ...]:
        return self.supervisor.status.pids

    async def until(self, condition: Callable[[], Any], what: str) -> None:
        end = time.monotonic() + WAIT
        while not condition():
            assert time.monotonic() < end, f"waited too long for {what}: {self.log}"
            await asyncio.sleep(0.005)

    async def all_ready(self) -> None:
        await self.until(lambda: sum(s.state == "ready" for s in self.statuses) >= 2 and len(self.pids) == 2, "both")

    def connections(self, count: int = 2) -> list[http.client.HTTPConnection]:
        """Kept-alive connections; as each process has as many as the other, one to each where there are two."""
        made = [http.client.HTTPConnection("127.0.0.1", self.supervisor.port, timeout=WAIT) for _ in range(count)]
        for connection in made:
            assert ask(connection, "GET", "/v2/health/ready")[0] == 200
        return made


def ask(connection: http.client.HTTPConnection, method: str, path: str, value: Any = None) -> tuple[int, bytes]:
    connection.request(method, path, None if value is None else json.dumps(value))
    response = connection.getresponse()
    return response.status, response.read()


def infer(connection: http.client.HTTPConnection, name: str = "m") -> float:
    status, body = ask(connection, "POST", f"/v2/models/{name}/infer", FOUR)
    assert status == 200, body
    return float(json.loads(body)["outputs"][0]["data"][0])


def server_of(connection: http.client.HTTPConnection, pids: tuple[int, ...]) -> int:
    """The process at the other end."""
    own = connection.sock.getsockname()[1]
    for pid in pids:
        if any(other.raddr and other.raddr.port == own for other in psutil.Process(pid).net_connections("tcp")):
            return pid
    raise AssertionError("no process has this connection")


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    pair = Pair(tmp_path)
    await pair.supervisor.start()
    await pair.all_ready()
    yield pair
    await pair.supervisor.stop()


async def test_connections_are_shared_and_figures_are_of_both(pair: Pair, tmp_path: Path) -> None:
    table = graphs.table(graphs.scaled(tmp_path, 3.0, model="m"), generation=2)
    assert await pair.supervisor.apply(table) == {}
    connections = await asyncio.to_thread(pair.connections, 4)
    held = [server_of(connection, pair.pids) for connection in connections]
    assert sorted(held.count(pid) for pid in pair.pids) == [2, 2]

    def work() -> None:
        for connection in connections:
            for _ in range(5):
                assert infer(connection) == 3.0
        for connection in connections:
            stats = json.loads(ask(connection, "GET", "/v2/models/m/stats")[1])["model_stats"][0]
            assert stats["inference_count"] == 20
            assert stats["inference_stats"]["success"]["count"] == 20
            text = ask(connection, "GET", "/metrics")[1].decode()
            assert 'nv_inference_count{model="m",version="1",variant="fp32"} 20' in text
            assert 'studio_requests_total{model="m",version="1",variant="fp32",protocol="v2",status="200"} 20' in text
            assert "studio_server_processes 2" in text
            assert "studio_models_loaded 1\n" in text

    await asyncio.to_thread(work)
    await pair.until(lambda: sum(s.requests for tick in pair.ticks for s in tick.samples) == 20, "the ticks")
    times = [tick.at for tick in pair.ticks]
    assert times == sorted(set(times))
    assert pair.supervisor.status.loaded == 1


async def test_what_one_loads_or_drops_all_do(pair: Pair, tmp_path: Path) -> None:
    table = graphs.table(graphs.scaled(tmp_path, 3.0, model="m"), generation=2, pinned=())
    assert await pair.supervisor.apply(table) == {}
    one, other = await asyncio.to_thread(pair.connections)

    def states() -> list[str]:
        rows = [json.loads(ask(c, "POST", "/v2/repository/index")[1])[0] for c in (one, other)]
        return [row["state"] for row in rows]

    def ready() -> list[int]:
        return [ask(connection, "GET", "/v2/models/m/ready")[0] for connection in (one, other)]

    def loaded_by() -> list[int]:
        return [len(process.loaded) for process in pair.supervisor._processes]

    assert await asyncio.to_thread(states) == ["UNAVAILABLE"] * 2
    assert (await asyncio.to_thread(ask, one, "POST", "/v2/repository/models/m/load"))[0] == 200
    await pair.until(lambda: loaded_by() == [1, 1], "the load in both")
    assert await asyncio.to_thread(states) == ["READY"] * 2
    assert (await asyncio.to_thread(ask, other, "POST", "/v2/repository/models/m/unload"))[0] == 200
    await pair.until(lambda: loaded_by() == [0, 0], "the unload in both")
    assert await asyncio.to_thread(states) == ["UNAVAILABLE"] * 2
    assert await asyncio.to_thread(ready) == [503, 503]
    # Loaded by a request in one of them, it is shown by both.
    assert await asyncio.to_thread(infer, one) == 3.0
    await pair.until(lambda: sorted(loaded_by()) == [0, 1], "the load in one")
    await asyncio.sleep(0.05)
    assert await asyncio.to_thread(states) == ["READY"] * 2
    assert await asyncio.to_thread(ready) == [200, 200]


async def test_what_was_asked_until_now_is_recorded_when_it_is_waited_for(pair: Pair, tmp_path: Path) -> None:
    assert await pair.supervisor.apply(graphs.table(graphs.scaled(tmp_path, 3.0, model="m"), generation=2)) == {}
    folder, now = tmp_path / "m", time.time()
    folder.mkdir()
    pair.supervisor.record(
        (RecordingPlan(model="m", folder=str(folder), rows=99, bytes=1 << 20, started=now, until=now + 60),)
    )
    await pair.supervisor.recorded()
    connections = await asyncio.to_thread(pair.connections)

    def work() -> None:
        for number, connection in enumerate(connections):
            for row in range(20):
                data = [float(row), float(number), 1, 1]
                value = {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": data}]}
                assert ask(connection, "POST", "/v2/models/m/infer", value)[0] == 200

    await asyncio.to_thread(work)
    await pair.supervisor.recorded()
    assert recorded(folder)[0] == 40  # at once, of both processes
    assert not any("took long" in line for line in pair.log)
    victim = pair.supervisor._processes[0]
    os.kill(pair.pids[0], signal.SIGSTOP)
    await pair.supervisor.recorded(patience=0.05)  # one that hangs keeps nobody
    assert "took long to write" in pair.log[-1]
    assert victim.pid is not None
    os.kill(victim.pid, signal.SIGCONT)


async def test_one_killed_under_load_fails_only_its_own_connections(pair: Pair, tmp_path: Path) -> None:
    assert await pair.supervisor.apply(graphs.table(graphs.scaled(tmp_path, 3.0, model="m"), generation=2)) == {}
    connections = await asyncio.to_thread(pair.connections, 8)
    owners = [server_of(connection, pair.pids) for connection in connections]
    victim, survivor = pair.pids
    lost: list[tuple[int, BaseException]] = []
    answered: dict[int, int] = dict.fromkeys(range(8), 0)
    stop = threading.Event()

    def client(number: int) -> None:
        connection = connections[number]
        while not stop.is_set():
            try:
                assert infer(connection) == 3.0
                answered[number] += 1
            except (http.client.HTTPException, OSError) as error:
                lost.append((number, error))
                connection.close()  # the next request opens another one

    clients = [threading.Thread(target=client, args=(number,)) for number in range(8)]
    for each in clients:
        each.start()
    before = sum(answered.values())
    await pair.until(lambda: sum(answered.values()) > before + 100, "load")
    os.kill(victim, signal.SIGKILL)
    await pair.until(lambda: victim not in pair.pids, "the end to be seen")
    assert pair.supervisor.status.state == "ready"
    await pair.until(lambda: len(pair.pids) == 2 and all(p.ready for p in pair.supervisor._processes), "another one")
    before = sum(answered.values())
    await pair.until(lambda: sum(answered.values()) > before + 100, "load afterwards")
    stop.set()
    for each in clients:
        await asyncio.to_thread(each.join)
    # One request a connection of the killed one, and it is told as a connection that was cut.
    assert sorted(number for number, _ in lost) == [n for n in range(8) if owners[n] == victim]
    assert all(isinstance(error, http.client.RemoteDisconnected | ConnectionResetError) for _, error in lost)
    assert survivor in pair.pids
    assert pair.supervisor.status.restarts == 1
    assert any("SIGKILL" in line and "The others answer" in line for line in pair.log)


async def test_counters_never_fall_when_a_process_ends(pair: Pair, tmp_path: Path) -> None:
    assert await pair.supervisor.apply(graphs.table(graphs.scaled(tmp_path, 3.0, model="m"), generation=2)) == {}
    one, other = await asyncio.to_thread(pair.connections)

    def count(connection: http.client.HTTPConnection) -> int:
        stats = json.loads(ask(connection, "GET", "/v2/models/m/stats")[1])["model_stats"][0]
        return int(stats["inference_count"])

    for _ in range(5):
        await asyncio.to_thread(infer, one)
        await asyncio.to_thread(infer, other)
    # Asked of the one that will be gone: what it has told counts too.
    assert await asyncio.to_thread(count, one) == 10
    os.kill(server_of(one, pair.pids), signal.SIGKILL)
    await pair.until(lambda: pair.supervisor.status.restarts == 1, "the end to be seen")
    assert await asyncio.to_thread(count, other) == 10
    await asyncio.to_thread(infer, other)
    assert await asyncio.to_thread(count, other) == 11


async def test_a_swap_is_complete_when_both_have_it(pair: Pair, tmp_path: Path) -> None:
    versions = [graphs.scaled(tmp_path, float(n), model="m", version=n) for n in range(1, 11)]
    await pair.supervisor.apply(graphs.table(versions[0], generation=2))
    connections = await asyncio.to_thread(pair.connections)
    failed: list[Any] = []
    stop = threading.Event()

    def client() -> None:
        (connection,) = pair.connections(1)
        while not stop.is_set():
            status, body = ask(connection, "POST", "/v2/models/m/infer", FOUR)
            if status != 200:
                failed.append(body)

    clients = [threading.Thread(target=client) for _ in range(4)]
    for each in clients:
        each.start()
    for generation, version in enumerate(versions[1:], start=3):
        assert await pair.supervisor.apply(graphs.table(version, generation=generation)) == {}
        for connection in connections:
            assert await asyncio.to_thread(infer, connection) == version.version
    stop.set()
    for each in clients:
        await asyncio.to_thread(each.join)
    assert failed == []


async def test_what_fails_to_load_is_told_once(pair: Pair, tmp_path: Path) -> None:
    errors = await pair.supervisor.apply(graphs.table(graphs.broken(tmp_path, model="m"), generation=2))
    assert list(errors) == ["m:1-fp32"]
    assert sum("m:1-fp32" in line for line in pair.log) == 1


async def test_both_drain(pair: Pair, tmp_path: Path) -> None:
    assert await pair.supervisor.apply(graphs.table(graphs.slow(tmp_path, model="slow"), generation=2)) == {}
    answers: list[int] = []

    def client() -> None:
        (connection,) = pair.connections(1)
        value = {"inputs": [{"name": "n", "shape": [1], "datatype": "INT64", "data": [3000]}]}
        answers.append(ask(connection, "POST", "/v2/models/slow/infer", value)[0])

    clients = [threading.Thread(target=client) for _ in range(2)]
    for each in clients:
        each.start()
    (watch,) = await asyncio.to_thread(pair.connections, 1)

    def pending() -> bool:
        return b"nv_inference_pending_request_count 2\n" in ask(watch, "GET", "/metrics")[1]

    while not await asyncio.to_thread(pending):
        pass
    pids = pair.pids
    await pair.supervisor.stop()
    for each in clients:
        await asyncio.to_thread(each.join)
    assert answers == [200, 200]
    assert not any(psutil.pid_exists(pid) for pid in pids)


async def test_grpc_has_one_port_too(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    pair = Pair(tmp_path, grpc_port=port)
    await pair.supervisor.start()
    try:
        await pair.all_ready()
        await pair.supervisor.apply(graphs.table(graphs.scaled(tmp_path, 3.0, model="m"), generation=2))
        await pair.until(lambda: any(f"gRPC on port {port}" in line for line in pair.log), "gRPC")

        def live() -> list[bool]:
            # Channels of one process are one connection unless each has a pool of its own.
            options = [("grpc.use_local_subchannel_pool", 1)]
            return [InferenceServerClient(f"127.0.0.1:{port}", channel_args=options).is_server_ready() for _ in "1234"]

        assert await asyncio.to_thread(live) == [True] * 4
        assert sum("gRPC" in line for line in pair.log) == 1
    finally:
        await pair.supervisor.stop()


async def test_a_grpc_port_that_is_taken_is_told(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        pair = Pair(tmp_path, grpc_port=taken.getsockname()[1])
        await pair.supervisor.start()
        try:
            await pair.all_ready()
            assert sum("gRPC can not be served" in line for line in pair.log) == 1
            assert len(await asyncio.to_thread(pair.connections)) == 2
        finally:
            await pair.supervisor.stop()


def test_settings_are_shared_out() -> None:
    whole = ServingSettings(workers=3, run_threads=7, queue=100, memory_bytes=900, cache_bytes=30, model_runs=4)
    share = shared_out(whole)
    assert (share.run_threads, share.queue, share.memory_bytes) == (2, 34, 300)
    assert (share.cache_bytes, share.model_runs) == (10, 2)
    alone = ServingSettings()
    assert shared_out(alone) is alone


def _tick(at: float, requests: int, loaded: int = 1, memory: int = 0, shared: int = 0) -> Tick:
    histogram = Histogram()
    histogram.add(100.0, requests)
    sample = Sample(target="m:1-fp32", at=at, requests=requests, rows=2 * requests, run_us=5.0, histogram=histogram)
    return Tick(at=at, samples=(sample,), loaded=loaded, memory=memory, shared=shared)


def test_ticks_of_a_second_become_one() -> None:
    (sample,) = summed(7.0, [_tick(7.0, 3), _tick(7.0, 4)]).samples
    assert (sample.requests, sample.rows, sample.run_us, sample.histogram.total) == (7, 14, 10.0, 7)


async def test_a_late_tick_is_not_lost_and_a_silent_process_counts() -> None:
    seen: list[Tick] = []
    told = asyncio.Event()

    def tell(tick: Tick) -> None:
        seen.append(tick)
        told.set()

    ticks = Ticks(tell)
    at = float(int(time.time()) - 10)
    ticks.add("a", _tick(at, 3, loaded=2, memory=100, shared=60))
    ticks.add("b", _tick(at, 4, loaded=1, memory=90, shared=50))
    await told.wait()
    told.clear()
    assert (seen[0].loaded, seen[0].memory) == (2, 40 + 40 + 60)
    ticks.add("b", _tick(at, 5, memory=90, shared=50))
    await told.wait()
    told.clear()
    assert [(tick.at, tick.samples[0].requests) for tick in seen] == [(at, 7), (at + 1, 5)]
    assert seen[1].memory == 140
    ticks.forget("a")
    ticks.add("b", _tick(at + 2, 1, memory=90, shared=50))
    await told.wait()
    told.clear()
    assert seen[2].memory == 90


@pytest.mark.parametrize("host", ["nope.invalid", "192.0.2.1", "::ffff:192.0.2.1"])
def test_a_host_that_is_not_of_this_machine_is_refused_in_words(host: str) -> None:
    with pytest.raises(InvalidInput, match=f"can not listen on '{host}'") as caught:
        listen(host, 0)
    assert "host under [serving]" in str(caught.value)


def test_clients_of_a_server_that_answered_wait_for_the_next_no_longer_than_a_moment() -> None:
    assert pause_after(60.0, True, 0.0) == 0.0
    pauses = [0.0]
    for _ in range(10):
        pauses.append(pause_after(1.0, True, pauses[-1]))
    assert max(pauses) <= 0.2
    for _ in range(10):
        pauses.append(pause_after(1.0, False, pauses[-1]))
    assert pauses[-10:-4] == [0.4, 0.8, 1.6, 3.2, 6.4, 10.0]


async def test_one_that_answered_is_told_from_one_that_could_not_start(pair: Pair, tmp_path: Path) -> None:
    await pair.supervisor.apply(graphs.table(graphs.scaled(tmp_path, 3.0, model="m"), generation=2))
    processes = pair.supervisor._processes
    for turn in range(1, 3):
        await pair.until(lambda: len(pair.pids) == 2 and all(process._answered for process in processes), "both")
        for pid in pair.pids:
            os.kill(pid, signal.SIGKILL)
        await pair.until(lambda: pair.supervisor.status.restarts >= 2 * turn, "both ends")  # noqa: B023 - at once
        assert max(process._pause for process in processes) <= 0.2
    connection = http.client.HTTPConnection("127.0.0.1", pair.supervisor.port, timeout=WAIT)
    assert await asyncio.to_thread(infer, connection) == 3.0
    assert not any("could not be started" in line for line in pair.log)
