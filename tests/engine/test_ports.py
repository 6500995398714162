"""The ports where clients of TensorFlow Serving look, beside the common ones, with one process and with two."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
from pathlib import Path

import ovmsclient
import pytest

from studio.core.settings import ServingSettings
from studio.engine.supervisor import Supervisor
from tests.serving import graphs
from tests.serving.test_grpc import free_port

ROW = [1.0, 2.0, 3.0, 4.0]


def over_http(port: int) -> object:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("POST", "/v1/models/m:predict", json.dumps({"instances": [ROW]}))
    answer = json.loads(connection.getresponse().read())
    connection.close()
    return answer["predictions"][0]


def over_grpc(port: int) -> object:
    return ovmsclient.make_grpc_client(f"127.0.0.1:{port}").predict({"x": [ROW]}, "m").tolist()[0]


def supervised(folder: Path, log: list[str], settings: ServingSettings) -> Supervisor:
    return Supervisor(
        settings,
        folder / "server.log",
        folder / "cache",
        lambda status: None,
        lambda tick: None,
        lambda lines: None,
        lambda level, text: log.append(f"{level}: {text}"),
    )


async def ready(supervisor: Supervisor, log: list[str], grpc_ports: int) -> None:
    """Until all of it answers."""
    for _ in range(2000):
        if sum("Serving gRPC" in line for line in log) >= grpc_ports and supervisor.status.state == "ready":
            return
        await asyncio.sleep(0.01)
    raise AssertionError(log)


@pytest.mark.parametrize("workers", [1, 2])
async def test_every_port_answers(tmp_path: Path, workers: int) -> None:
    log: list[str] = []
    ports = {name: free_port() for name in ("grpc_port", "tfs_port", "tfs_grpc_port")}
    supervisor = supervised(tmp_path, log, ServingSettings(port=0, workers=workers, **ports))
    await supervisor.start()
    try:
        await ready(supervisor, log, 2 if workers == 1 else 1)
        assert await supervisor.apply(graphs.table(graphs.scaled(tmp_path, 2.0), generation=2)) == {}
        for port in (supervisor.port, ports["tfs_port"]):
            assert await asyncio.to_thread(over_http, port) == [2.0, 4.0, 6.0, 8.0]
        for name in ("grpc_port", "tfs_grpc_port"):
            assert await asyncio.to_thread(over_grpc, ports[name]) == [2.0, 4.0, 6.0, 8.0]
    finally:
        await supervisor.stop()
    for name in ("tfs_port", "tfs_grpc_port"):
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(("127.0.0.1", ports[name]), timeout=5)


@pytest.mark.parametrize("workers", [1, 2])
async def test_ports_that_are_taken_are_told_and_the_others_answer(tmp_path: Path, workers: int) -> None:
    log: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        taken = one.getsockname()[1], other.getsockname()[1]
        settings = ServingSettings(
            port=0, workers=workers, grpc_port=free_port(), tfs_port=taken[0], tfs_grpc_port=taken[1]
        )
        supervisor = supervised(tmp_path, log, settings)
        await supervisor.start()
        try:
            await ready(supervisor, log, 1)
            assert await supervisor.apply(graphs.table(graphs.scaled(tmp_path, 2.0), generation=2)) == {}
            assert await asyncio.to_thread(over_http, supervisor.port) == [2.0, 4.0, 6.0, 8.0]
            assert await asyncio.to_thread(over_grpc, settings.grpc_port) == [2.0, 4.0, 6.0, 8.0]
        finally:
            await supervisor.stop()
    errors = [line for line in log if line.startswith("error")]
    assert any(f"port {taken[0]} too" in line for line in errors), log
    assert any(f"gRPC can not be served on port {taken[1]}" in line for line in errors), log
