"""Storms: versions, routes and loads that change at random under mixed load, servers that are killed. Nobody gets an
error that he did not ask for, and nobody another's answer."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import random
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from studio.core.route import Arm
from studio.core.routing import RoutingTable
from studio.core.settings import ServingSettings
from studio.serving.grpc.oip_messages import inference
from tests.serving import graphs
from tests.serving.harness import Child, listen, running, spawn
from tests.serving.test_grpc import free_port, grpc_port
from tests.serving.test_routes import with_route

FACTORS = (1.0, 2.0, 3.0, 5.0)
"""Version n multiplies by the n-th."""
SHORT = pytest.param(2.0, id="short")
LONG = pytest.param(60.0, id="long", marks=(pytest.mark.slow, pytest.mark.timeout(400)))


class Crossed(AssertionError):
    """An answer that belongs to another request, or to a version that it does not name."""


def check(rows: np.ndarray, answer: Any, version: int) -> None:
    if not np.array_equal(np.asarray(answer, np.float32).reshape(rows.shape), rows * np.float32(FACTORS[version - 1])):
        raise Crossed(f"version {version} answered {answer} to {rows}")


def version_of(name: str) -> int:
    return int(name.partition(":")[2].partition("-")[0])


class Caller:
    """One client on one connection, that asks again and again in one protocol."""

    def __init__(self, server: Child, seed: int) -> None:
        self.server, self.random = server, random.Random(seed)
        self.connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)

    def rows(self) -> np.ndarray:
        """Numbers that no other request sends, and that multiply without rounding."""
        count = self.random.choice((1, 1, 1, 2, 5))
        return np.array([[self.random.randrange(1 << 20) for _ in range(4)] for _ in range(count)], np.float32)

    def post(self, path: str, body: bytes, headers: dict[str, str] | None = None) -> tuple[bytes, int]:
        """The answer, and the version that gave it."""
        key = {"X-Studio-Key": str(self.random.randrange(50))} if self.random.random() < 0.5 else {}
        self.connection.request("POST", path, body, {**key, **(headers or {})})
        response = self.connection.getresponse()
        answer = response.read()
        assert response.status == 200, answer
        return answer, version_of(response.headers["x-studio-reference"])

    def ask(self) -> None:
        raise NotImplementedError


class Json(Caller):
    def ask(self) -> None:
        rows = self.rows()
        tensor = {"name": "x", "shape": rows.shape, "datatype": "FP32", "data": rows.ravel().tolist()}
        answer, version = self.post("/v2/models/m/infer", json.dumps({"inputs": [tensor], "id": "i"}).encode())
        document = json.loads(answer)
        assert document["model_version"] == str(version)
        check(rows, document["outputs"][0]["data"], version)


class Binary(Caller):
    def ask(self) -> None:
        rows = self.rows()
        raw = rows.tobytes()
        parameters = {"binary_data_size": len(raw)}
        tensor = {"name": "x", "shape": rows.shape, "datatype": "FP32", "parameters": parameters}
        head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
        answer, version = self.post(
            "/v2/models/m/infer", head + raw, {"Inference-Header-Content-Length": str(len(head))}
        )
        check(rows, np.frombuffer(answer[-len(raw) :], np.float32), version)


class Columns(Caller):
    def ask(self) -> None:
        rows = self.rows()
        answer, version = self.post("/v1/models/m:predict", json.dumps({"instances": rows.tolist()}).encode())
        check(rows, json.loads(answer)["predictions"], version)


class Person(Caller):
    def ask(self) -> None:
        rows = self.rows()
        answer, version = self.post("/predict/m", json.dumps({"x": rows.tolist()}).encode())
        document = json.loads(answer)
        assert document["version"] == version
        check(rows, document["outputs"]["y"], version)


class Named(Caller):
    """Asks for versions by their number, which no route may touch."""

    def ask(self) -> None:
        rows, wanted = self.rows(), self.random.choice((1, 2))
        answer, version = self.post(
            f"/v1/models/m/versions/{wanted}:predict", json.dumps({"inputs": rows.tolist()}).encode()
        )
        assert version == wanted
        check(rows, json.loads(answer)["outputs"], version)


class Wrong(Caller):
    """Sends what fails, alone: its neighbours in a batch must not notice."""

    def ask(self) -> None:
        tensor = {"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}
        self.connection.request("POST", "/v2/models/m/infer", json.dumps({"inputs": [tensor]}))
        response = self.connection.getresponse()
        assert response.status == 400, response.status
        assert json.loads(response.read())["error"]


class Grpc(Caller):
    def __init__(self, server: Child, seed: int) -> None:
        super().__init__(server, seed)
        channel = grpc.insecure_channel(f"127.0.0.1:{grpc_port(server)}")
        answer = inference()["ModelInferResponse"].FromString
        path = "/inference.GRPCInferenceService/ModelInfer"
        self.call = channel.unary_unary(path, lambda message: message.SerializeToString(), answer)

    def ask(self) -> None:
        rows = self.rows()
        request = inference()["ModelInferRequest"](model_name="m")
        request.inputs.add(name="x", datatype="FP32", shape=rows.shape)
        request.raw_input_contents.append(rows.tobytes())
        answer = self.call(request, timeout=30)
        check(rows, np.frombuffer(answer.raw_output_contents[0], np.float32), int(answer.model_version))


@dataclass
class Load:
    """Callers of every kind, each on a thread of its own. `allowed` are errors that the storm itself explains."""

    callers: list[Caller]
    allowed: tuple[type[Exception], ...] = ()
    count: int = 0
    lost: int = 0
    failures: list[Exception] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    def work(self, caller: Caller) -> None:
        while not self.over.is_set():
            try:
                caller.ask()
                self.count += 1
            except self.allowed:
                self.lost += 1
                caller.connection.close()
            except Exception as error:
                self.failures.append(error)
                return

    @contextlib.contextmanager
    def running(self) -> Iterator[Load]:
        threads = [threading.Thread(target=self.work, args=(caller,)) for caller in self.callers]
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            self.over.set()
            for thread in threads:
                thread.join(60)
        assert not self.failures, self.failures[:3]
        assert not any(thread.is_alive() for thread in threads)


def tables(folder: Path, seed: int) -> Iterator[RoutingTable]:
    """One table after the other, each other than the last: versions come and go, routes split and end."""
    chance = random.Random(seed)
    versions = [graphs.scaled(folder, factor, version=number) for number, factor in enumerate(FACTORS, 1)]
    for generation in itertools.count(2):
        there = [*versions[:2], *(each for each in versions[2:] if chance.random() < 0.6)]
        primary, candidate, shadow = (chance.choice(there).key for _ in range(3))
        aliases = {"production": primary, "candidate": candidate}
        pinned = tuple(each.name for each in there if chance.random() < 0.5)
        table = graphs.table(*there, generation=generation, primary=primary, aliases=aliases, pinned=pinned)
        weight = chance.uniform(1, 99)
        arms = (
            Arm(name="production", key=primary, weight=100 - weight),
            Arm(name="candidate", key=candidate, weight=weight),
        )
        yield with_route(
            table,
            split=arms if chance.random() < 0.7 else (),
            shadow=Arm(name="shadow", key=shadow, weight=0.5) if chance.random() < 0.5 else None,
        )


@pytest.mark.parametrize("seconds", [SHORT, LONG])
def test_swaps_splits_and_unloads_under_mixed_load(tmp_path: Path, seconds: float) -> None:
    changing = tables(tmp_path, seed=7)
    settings = ServingSettings(grpc_port=free_port(), cache_bytes=200_000)
    kinds: tuple[type[Caller], ...] = (Json, Json, Binary, Columns, Person, Named, Wrong, Grpc)
    with running(tmp_path, next(changing), settings) as server:
        load = Load([kind(server, seed) for seed, kind in enumerate(kinds)])
        changes = 0
        with load.running():
            until = time.monotonic() + seconds
            while time.monotonic() < until and not load.failures:
                assert server.apply(next(changing)) == {}
                for action in ("unload", "load"):
                    assert server.json("POST", f"/v2/repository/models/m/{action}", {})[0] == 200
                changes += 1
    assert changes > 3
    assert load.count > 100


@pytest.mark.parametrize("seconds", [SHORT, LONG])
def test_kills_under_mixed_load(tmp_path: Path, seconds: float) -> None:
    """What a killed server was working on is lost; nothing is answered wrong, and the next one goes on at once."""
    kinds: tuple[type[Caller], ...] = (Json, Binary, Columns, Person, Named)
    lost = (ConnectionError, http.client.HTTPException, TimeoutError, OSError)
    table = next(tables(tmp_path, seed=3))
    with listen() as listening:
        child = spawn(listening, tmp_path / "server.log")
        child.apply(table)
        load = Load([kind(child, seed) for seed, kind in enumerate(kinds)], allowed=lost)
        kills = 0
        try:
            with load.running():
                until = time.monotonic() + seconds
                while (time.monotonic() < until or kills < 2) and not load.failures:
                    time.sleep(0.3)
                    child.process.send_signal(signal.SIGKILL)
                    child.process.wait()
                    child.control.close()
                    child = spawn(listening, tmp_path / "server.log")
                    child.apply(replace(table, generation=kills))
                    kills += 1
                before = load.count
                child.wait_for(lambda: load.count > before + 20 or load.failures, "answers after the last kill")
        finally:
            child.close()
    # Each caller loses what was under way on its connection, and what it sent to a server that was dying.
    assert load.lost <= 3 * kills * len(kinds)
    assert load.count > 50


@pytest.mark.parametrize("seconds", [SHORT, LONG])
def test_more_load_than_there_is_room_for(tmp_path: Path, seconds: float) -> None:
    """A queue that is too short for all: each request is answered right, or told to come back later."""
    asked = [0, 0]

    class Crowd(Json):
        def post(self, path: str, body: bytes, headers: dict[str, str] | None = None) -> tuple[bytes, int]:
            while True:
                self.connection.request("POST", path, body)
                response = self.connection.getresponse()
                answer = response.read()
                asked[response.status == 503] += 1
                if response.status == 200:
                    return answer, version_of(response.headers["x-studio-reference"])
                assert response.status == 503, answer
                assert "busy" in json.loads(answer)["error"]
                assert response.headers["retry-after"] == "1"

    table = graphs.table(graphs.scaled(tmp_path, 1.0, version=1), graphs.slow(tmp_path, model="slow"))
    with running(tmp_path, table, ServingSettings(queue=6, run_threads=2)) as server:
        load = Load([Crowd(server, seed) for seed in range(8)])

        def slow() -> None:
            with contextlib.suppress(OSError):
                server.infer("slow", {"inputs": [{"name": "n", "shape": [1], "datatype": "INT64", "data": [300]}]})

        with load.running():
            until = time.monotonic() + seconds
            while time.monotonic() < until and not load.failures:
                threads = [threading.Thread(target=slow) for _ in range(6)]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join(60)
    assert all(asked), asked
