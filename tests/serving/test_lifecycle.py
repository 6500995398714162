"""The server as a process: swaps under load, failures, signals, crashes, backpressure, and what it reports."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from studio.core.routing import RoutingTable
from studio.core.settings import ServingSettings
from tests.serving import graphs
from tests.serving.harness import WAIT, Child, listen, receive_all, running, spawn

FOUR = {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 1, 1, 1]}]}
LONG = 8000
"""The input of `graphs.slow` for a run of about a second: others come while it lasts."""


def value_of(server: Child, name: str = "m") -> float:
    status, answer = server.infer(name, FOUR)
    assert status == 200, answer
    return float(answer["outputs"][0]["data"][0])


def slow_request(milliseconds: int, **parameters: Any) -> bytes:
    value = {
        "inputs": [{"name": "n", "shape": [1], "datatype": "INT64", "data": [milliseconds]}],
        "parameters": parameters,
        "outputs": [{"name": "y", "parameters": {"classification": 1}}],
    }
    body = json.dumps(value).encode()
    return b"POST /v2/models/slow/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)


def start_slow(server: Child, milliseconds: int = LONG, **parameters: Any) -> socket.socket:
    """A connection whose request has reached the server when this returns."""
    sock = socket.create_connection(("127.0.0.1", server.port), timeout=WAIT)
    sock.sendall(slow_request(milliseconds, **parameters))
    # Later connections are served later: when these are answered, the one before has been read.
    for _ in range(3):
        assert server.json("GET", "/v2/health/live")[0] == 200
    return sock


@pytest.fixture
def one_worker(tmp_path: Path) -> Iterator[Child]:
    """A server with a slow model, one worker, and room for two requests."""
    table = graphs.table(graphs.slow(tmp_path, model="slow"), graphs.scaled(tmp_path, 1.0, model="m"))
    with running(tmp_path, table, ServingSettings(run_threads=1, queue=2)) as child:
        yield child


def test_swaps_under_load_lose_nothing(tmp_path: Path) -> None:
    versions = [graphs.scaled(tmp_path, float(n), model="m", version=n) for n in range(1, 21)]
    failed: list[Any] = []
    answered = threading.Semaphore(0)
    stop = threading.Event()
    with running(tmp_path, graphs.table(versions[0])) as server:

        def client() -> None:
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=WAIT)
            try:
                while not stop.is_set():
                    connection.request("POST", "/v2/models/m/infer", json.dumps(FOUR))
                    response = connection.getresponse()
                    body = response.read()
                    if response.status != 200:
                        failed.append(body)
                    answered.release()
            except Exception as error:
                failed.append(error)

        clients = [threading.Thread(target=client) for _ in range(4)]
        for each in clients:
            each.start()
        for generation, version in enumerate(versions[1:], start=2):
            assert answered.acquire(timeout=WAIT)
            assert server.apply(graphs.table(version, generation=generation)) == {}
            assert value_of(server) == version.version
        stop.set()
        for each in clients:
            each.join()
        assert failed == []
        # What was replaced is gone.
        server.wait_for(lambda: server.said("tick") and server.said("tick")[-1]["tick"]["loaded"] == 1)
        assert server.infer("m:1", FOUR)[0] == 404


def test_a_target_that_does_not_load_leaves_the_old_one_serving(tmp_path: Path) -> None:
    one = graphs.scaled(tmp_path, 1.0, model="m", version=1)
    two = graphs.broken(tmp_path, model="m", version=2)
    three = graphs.scaled(tmp_path, 3.0, model="m", version=3)
    other = graphs.scaled(tmp_path, 7.0, model="other")
    with running(tmp_path, graphs.table(one, aliases={"production": "1-fp32", "latest": "1-fp32"})) as server:
        bad = graphs.table(
            one,
            two,
            other,
            generation=2,
            primary="",
            aliases={"production": "2-fp32", "latest": "2-fp32", "new": "2-fp32", "old": "1-fp32"},
            pinned=("m:2-fp32", "other:1-fp32"),
        )
        bad.models["m"] = type(bad.models["m"])(
            model="m", primary="2-fp32", aliases=bad.models["m"].aliases, targets=bad.models["m"].targets
        )
        bad.models["other"] = type(bad.models["m"])(
            model="other", primary="1-fp32", aliases={}, targets=bad.models["other"].targets
        )
        errors = server.apply(bad)
        assert list(errors) == ["m:2-fp32"]
        assert "could not be loaded" in errors["m:2-fp32"]
        for name in ("m", "m:production", "m:latest", "m:old", "m:1"):
            assert value_of(server, name) == 1.0
        # Names that are new with the table have nothing to fall back to, and say so.
        for name in ("m:2", "m:new"):
            status, answer = server.infer(name, FOUR)
            assert status == 503
            assert "could not be loaded" in answer["error"]
        assert value_of(server, "other") == 7.0
        assert server.apply(graphs.table(three, generation=3)) == {}
        assert value_of(server) == 3.0
        assert server.infer("m:1", FOUR)[0] == 404


def test_a_missing_file_is_a_reason_and_not_a_crash(tmp_path: Path) -> None:
    gone = graphs.scaled(tmp_path, 1.0, model="m")
    Path(gone.path).unlink()
    with running(tmp_path) as server:
        errors = server.apply(graphs.table(gone, generation=2))
        assert "missing" in errors["m:1-fp32"]
        assert str(tmp_path) not in errors["m:1-fp32"]


def test_a_first_use_by_many_is_one_load(tmp_path: Path) -> None:
    target = graphs.scaled(tmp_path, 5.0, model="m")
    with running(tmp_path, graphs.table(target, pinned=())) as server:
        values: list[float] = []
        clients = [threading.Thread(target=lambda: values.append(value_of(server))) for _ in range(8)]
        for each in clients:
            each.start()
        for each in clients:
            each.join()
        assert values == [5.0] * 8


@pytest.mark.parametrize("how", ["signal", "message", "owner gone"])
def test_draining_finishes_what_is_under_way(one_worker: Child, how: str) -> None:
    idle = socket.create_connection(("127.0.0.1", one_worker.port), timeout=WAIT)
    idle.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert receive_all(idle).startswith(b"HTTP/1.1 200")
    running_one = start_slow(one_worker)
    queued_one = start_slow(one_worker, 1)
    if how == "signal":
        one_worker.process.send_signal(signal.SIGTERM)
    elif how == "message":
        one_worker.send("drain")
    else:
        one_worker.control.shutdown(socket.SHUT_RDWR)
    # A connection that asks for nothing is closed, and not waited for.
    assert idle.recv(1) == b""
    for sock in (running_one, queued_one):
        answer = receive_all(sock)
        assert answer.startswith(b"HTTP/1.1 200"), answer
        assert b"connection: close" in answer.lower()
        sock.close()
    assert one_worker.process.wait(WAIT) == 0
    idle.close()


def test_the_interrupt_of_a_terminal_is_not_for_the_server(one_worker: Child) -> None:
    one_worker.process.send_signal(signal.SIGINT)
    assert value_of(one_worker) == 1.0
    assert one_worker.process.poll() is None


def test_a_killed_server_is_replaced_without_refusing_anyone(tmp_path: Path) -> None:
    table = graphs.table(graphs.scaled(tmp_path, 4.0, model="m"))
    body = json.dumps(FOUR).encode()
    sent = b"POST /v2/models/m/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    with listen() as listening:
        first = spawn(listening, tmp_path / "server.log")
        first.apply(table)
        assert value_of(first) == 4.0
        first.process.kill()
        first.process.wait()
        with socket.create_connection(listening.getsockname(), timeout=WAIT) as waiting:
            waiting.sendall(sent)
            second = spawn(listening, tmp_path / "server.log")
            try:
                second.wait_for(lambda: second.said("ready"))
                second.apply(table)
                answer = receive_all(waiting)
            finally:
                assert second.close() == 0
        assert answer.startswith(b"HTTP/1.1 200"), answer
        assert b'"data":[4.0,4.0,4.0,4.0]' in answer


def test_nobody_is_answered_before_the_first_routes(tmp_path: Path) -> None:
    with listen() as listening:
        server = spawn(listening, tmp_path / "server.log")
        server.wait_for(lambda: server.said("ready"))
        with socket.create_connection(listening.getsockname(), timeout=0.2) as early:
            early.sendall(b"GET /v2/health/ready HTTP/1.1\r\nHost: localhost\r\n\r\n")
            with pytest.raises(TimeoutError):
                early.recv(1)
            early.settimeout(WAIT)
            server.apply(RoutingTable())
            assert receive_all(early).startswith(b"HTTP/1.1 200")
        assert server.close() == 0


def test_each_model_answers_as_soon_as_it_is_loaded(tmp_path: Path) -> None:
    """Loading a model runs it, and this one runs long."""
    table = graphs.table(graphs.slow(tmp_path, least=LONG // 2, model="slow"), graphs.scaled(tmp_path, 4.0, model="m"))
    with listen() as listening:
        server = spawn(listening, tmp_path / "server.log")
        server.send("routes", table=table)
        assert value_of(server) == 4.0
        assert server.json("GET", "/v2/health/ready")[0] == 503
        assert server.json("GET", "/v2/models/m/ready")[0] == 503
        assert not server.said("routes_applied")
        server.wait_for(lambda: server.said("routes_applied"))
        assert server.json("GET", "/v2/health/ready")[0] == 200
        assert server.json("GET", "/v2/models/m/ready")[0] == 200
        assert server.close() == 0


def test_a_full_queue_says_when_to_come_back(one_worker: Child) -> None:
    busy = [start_slow(one_worker), start_slow(one_worker, 1)]
    status, headers, body = one_worker.request("POST", "/v2/models/m/infer", json.dumps(FOUR).encode())
    assert (status, headers["retry-after"]) == (503, "1"), body
    assert "busy" in json.loads(body)["error"]
    for sock in busy:
        assert receive_all(sock).startswith(b"HTTP/1.1 200")
        sock.close()
    assert value_of(one_worker) == 1.0


def test_a_request_that_waited_too_long_is_not_run(one_worker: Child) -> None:
    busy = start_slow(one_worker)
    late = start_slow(one_worker, 1, timeout=1000)
    answer = receive_all(late)
    assert answer.startswith(b"HTTP/1.1 503"), answer
    assert b"Request timeout expired" in answer
    assert receive_all(busy).startswith(b"HTTP/1.1 200")
    late.close()
    busy.close()


def test_a_client_that_went_away_is_not_worked_for(one_worker: Child) -> None:
    busy = start_slow(one_worker)
    start_slow(one_worker, LONG).close()
    assert receive_all(busy).startswith(b"HTTP/1.1 200")
    busy.close()
    one_worker.wait_for(lambda: 499 in [line["status"] for line in lines(one_worker)], "the line of the lost request")
    (row,) = one_worker.json("GET", "/v2/models/slow/stats")[1]["model_stats"]
    assert row["execution_count"] == 1
    # Its place in the queue is free again.
    for sock in [start_slow(one_worker, 1), start_slow(one_worker, 1)]:
        assert receive_all(sock).startswith(b"HTTP/1.1 200")
        sock.close()


def lines(server: Child) -> list[dict[str, Any]]:
    return [line for said in server.said("requests") for line in said["lines"]]


def samples(server: Child, target: str) -> list[dict[str, Any]]:
    return [s for said in server.said("tick") for s in said["tick"]["samples"] if s["target"] == target]


def test_what_it_reports(tmp_path: Path) -> None:
    with running(tmp_path, graphs.table(graphs.scaled(tmp_path, 1.0, model="m"))) as server:
        two = {"inputs": [{"name": "x", "shape": [2, 4], "datatype": "FP32", "data": [1] * 8}]}
        for _ in range(60):
            assert server.infer("m", two)[0] == 200
        for _ in range(3):
            assert server.infer("m", {})[0] == 400
        assert server.infer("nobody", {})[0] == 404
        server.wait_for(lambda: sum(s["requests"] for s in samples(server, "m:1-fp32")) == 63, "all in ticks")
        seen = samples(server, "m:1-fp32")
        assert sum(s["errors"] for s in seen) == 3
        assert sum(s["rows"] for s in seen) == 120
        assert sum(s["executions"] for s in seen) == 60
        assert sum(sum(s["histogram"]["counts"].values()) for s in seen) == 60
        assert all(s["run_us"] > 0 and s["seconds"] == 1.0 for s in seen if s["executions"])
        server.wait_for(lambda: 404 in [line["status"] for line in lines(server)])
        assert all(len(said["lines"]) <= 20 for said in server.said("requests"))
        assert {line["status"] for line in lines(server)} == {200, 400, 404}
        last = server.said("tick")[-1]["tick"]
        assert last["loaded"] == 1
        assert last["memory"] > 1_000_000
        # Each second is told once, and then there is silence.
        times = [said["tick"]["at"] for said in server.said("tick")]
        assert times == sorted(set(times))


def test_an_unreadable_message_ends_the_server_with_a_word(tmp_path: Path) -> None:
    with listen() as listening:
        server = spawn(listening, tmp_path / "server.log")
        server.apply(RoutingTable())
        server.control.sendall(b'{"type": "routes", "table": 7}\n')
        assert server.process.wait(WAIT) == 0
        assert "control channel broke" in (tmp_path / "server.log").read_text()
        server.control.close()
