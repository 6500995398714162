"""Servers that run: started, checked once against ONNX Runtime's own answer, put under load."""

from __future__ import annotations

import http.client
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from studio.core.settings import ServingSettings
from tests.bench_serve import contenders, environments, trees
from tests.bench_serve.contenders import Peer, Place
from tests.bench_serve.environments import Missing
from tests.bench_serve.loads import Process, Request, Sample, ask, over_http, write_script
from tests.bench_serve.models import Array, Model
from tests.serving import graphs, harness

START_SECONDS = 120.0
WARM_REQUESTS = 10
OURS = {"PYTHONPATH": str(Path(__file__).parents[2])}
"""What a process that runs this package finds in its environment."""


@dataclass
class Running:
    """One row of the table while it runs. `started`: seconds from its process to its first right answer.

    `warm` sends a few requests, and raises OSError, HTTPException or ValueError when they are not answered.
    """

    name: str
    tree: trees.Tree
    load: Callable[[int, int], Sample]
    started: float = float("nan")
    pausable: bool = False
    warm: Callable[[], None] = lambda: None


def check(answer: Array, model: Model, name: str) -> None:
    """Raises Missing where the numbers are not those of ONNX Runtime."""
    if answer.shape != model.answer.shape or not np.allclose(answer, model.answer, rtol=1e-4, atol=1e-5):
        raise Missing(f"{name} answers other numbers")


def first_answer(tree: trees.Tree, port: int, request: Request) -> bytes:
    """Ask until there is an answer. Raises Missing when the server ends or takes too long."""
    until = time.monotonic() + START_SECONDS
    while True:
        try:
            return ask(port, request)
        except (OSError, ValueError, http.client.HTTPException) as error:
            if tree.root.poll() is not None:
                raise Missing(f"does not start: {tree.last_words()}") from error
            if time.monotonic() > until:
                raise Missing(f"no answer after {START_SECONDS:.0f} s ({error}): {tree.last_words()}") from error
        time.sleep(0.02)


@contextmanager
def peer(which: Peer, model: Model, folder: Path) -> Iterator[Running]:
    """A peer that answers right. Raises Missing."""
    programs = environments.find(which.environment) / "bin"
    folder.mkdir()
    http_port, *others = contenders.free_ports(5)
    place = Place(folder, programs, (http_port, *others), model, which.setting(model.name))  # type: ignore[arg-type]
    command, more = which.launch(place)
    request = which.request(model)
    began = time.perf_counter()
    tree = trees.start(command, {**contenders.variables(place), **more}, folder)
    try:
        answer = first_answer(tree, http_port, request)
        started = time.perf_counter() - began
        check(which.answer(answer, model), model, which.name)
        yield _over_http(which.name, tree, http_port, request, folder, started, pausable=True)
    finally:
        tree.end()


def _over_http(
    name: str, tree: trees.Tree, port: int, request: Request, folder: Path, started: float, pausable: bool = False
) -> Running:
    script = write_script(request, folder, name.replace(" ", "-").replace(":", ""))
    url = f"http://127.0.0.1:{port}{request.path}"

    def load(at_once: int, seconds: int) -> Sample:
        return over_http(tree, url, script, at_once, seconds)

    def warm() -> None:
        for _ in range(WARM_REQUESTS):
            ask(port, request)

    return Running(name, tree, load, started, pausable, warm)


PROTOCOLS = {
    "Studio, v2 JSON": (contenders.v2_json, contenders.v2_json_answer),
    "Studio, v2 binary": (contenders.v2_binary, contenders.v2_binary_answer),
    "Studio, :predict": (contenders.predict, contenders.predict_answer),
}
GRPC = "Studio, gRPC"
PROCESSES = "Studio, v2 JSON, a process a core"


@contextmanager
def studio(model: Model, folder: Path, **settings: Any) -> Iterator[list[Running]]:
    """Studio's server as the engine starts it, a row for each protocol. `settings` are of ServingSettings."""
    folder.mkdir()
    (grpc_port,) = contenders.free_ports(1)
    with harness.listen() as listening:
        began = time.perf_counter()
        child = harness.spawn(listening, folder / "server.log", ServingSettings(grpc_port=grpc_port, **settings))
        tree = trees.Tree(child.process, child.log)
        try:
            child.send("routes", table=graphs.table(model.target))
            rows = []
            for name, (request, answer) in PROTOCOLS.items():
                body = first_answer(tree, child.port, request(model))
                check(answer(body, model), model, name)
                started = time.perf_counter() - began if not rows else rows[0].started
                rows.append(_over_http(name, tree, child.port, request(model), folder, started))
            with grpc_client(model, folder, grpc_port, child) as client:
                load = client.load
                rows.append(Running(GRPC, tree, lambda at_once, seconds: load(tree, at_once, seconds), started))
                yield rows
        finally:
            child.close()


@contextmanager
def processes(model: Model, folder: Path) -> Iterator[Running]:
    """Studio's server in as many processes as there are cores (`serving.workers`)."""
    folder.mkdir()
    request, (port,) = contenders.v2_json(model), contenders.free_ports(1)
    command = [sys.executable, "-m", "tests.bench_serve.a_process_a_core", str(port), model.name, str(folder)]
    began = time.perf_counter()
    tree = trees.start(command, OURS, folder)
    try:
        check(contenders.v2_json_answer(first_answer(tree, port, request), model), model, PROCESSES)
        yield _over_http(PROCESSES, tree, port, request, folder, time.perf_counter() - began, pausable=True)
    finally:
        tree.end()


@contextmanager
def grpc_client(model: Model, folder: Path, port: int, child: harness.Child) -> Iterator[Process]:
    """The process that calls ModelInfer, once its answer was right."""
    body = folder / "grpc.body"
    body.write_bytes(contenders.grpc_message(model))
    child.wait_for(lambda: child.said("grpc"), "gRPC")
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        check(contenders.grpc_answer(call(body.read_bytes()), model), model, GRPC)
    client = Process("grpc_load", str(port), str(body), folder=folder)
    try:
        yield client
    finally:
        client.end()


@contextmanager
def raw(model: Model, folder: Path) -> Iterator[list[Running]]:
    """ONNX Runtime in a loop: on one thread, and on as many as there are cores."""
    folder.mkdir()
    rows = folder / "rows.npy"
    np.save(rows, model.row)
    process = Process("raw_loop", str(model.path), str(rows), folder=folder)

    def on(threads: int) -> Callable[[int, int], Sample]:
        return lambda at_once, seconds: process.load(process.tree, threads, seconds)

    try:
        yield [Running(RAW_ONE, process.tree, on(1)), Running(RAW_ALL, process.tree, on(contenders.CORES))]
    finally:
        process.end()


@contextmanager
def bare(model: Model, folder: Path) -> Iterator[Running]:
    """The loop without a server: the cost of HTTP itself, with an answer as long as Studio's."""
    folder.mkdir()
    request, (port,) = contenders.v2_json(model), contenders.free_ports(1)
    output = {"name": "y", "datatype": "FP32", "shape": model.answer.shape, "data": model.answer.ravel().tolist()}
    body = json.dumps({"model_name": "m", "model_version": "1-fp32", "outputs": [output]}).encode()
    answer = folder / "answer"
    answer.write_bytes(
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)
    )
    command = [sys.executable, "-m", "tests.bench_serve.bare_http", str(port), str(answer), str(len(request.body))]
    tree = trees.start(command, OURS, folder)
    try:
        check(contenders.v2_json_answer(first_answer(tree, port, request), model), model, BARE)
        yield _over_http(BARE, tree, port, request, folder, float("nan"), pausable=True)
    finally:
        tree.end()


BARE = "bare HTTP, nothing run"
RAW_ONE = "raw loop, one thread"
RAW_ALL = "raw loop, a thread a core"
