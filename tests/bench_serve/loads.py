"""Load on a server: `wrk` for HTTP, a client process for gRPC, and the loop that uses ONNX Runtime without a server."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from tests.bench_serve.trees import Tree, machine_seconds

_LUA = """
local file = io.open("{body}", "rb")
wrk.method = "POST"
wrk.body = file:read("*a")
file:close()
{headers}
function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format('\\n{{"requests": %d, "us": %d, "failed": %d, "p50": %f, "p99": %f}}\\n',
    summary.requests, summary.duration, errors.connect + errors.read + errors.write + errors.status + errors.timeout,
    latency:percentile(50), latency:percentile(99)))
end
"""


@dataclass(frozen=True)
class Request:
    """What is sent: always the same bytes."""

    path: str
    body: bytes
    headers: tuple[tuple[str, str], ...] = (("Content-Type", "application/json"),)


@dataclass(frozen=True)
class Sample:
    """One measurement. `cpu_us`: of all processes of the server, a request. Times are in microseconds.

    `others` is the share of all cores that other processes of the machine took meanwhile.
    """

    rate: float
    cpu_us: float
    p50_us: float
    p99_us: float
    failed: int
    others: float


def check_tools() -> None:
    """Raises SystemExit with words when wrk is not there."""
    if shutil.which("wrk") is None:
        raise SystemExit("This needs wrk, a load generator: apt-get install wrk, dnf install wrk or brew install wrk.")


def ask(port: int, request: Request, seconds: float = 60.0) -> bytes:
    """The body of one answer. Raises OSError, HTTPException, and ValueError for an answer that is no 200."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=seconds)
    with contextlib.closing(connection):
        connection.request("POST", request.path, request.body, dict(request.headers))
        response = connection.getresponse()
        body = response.read()
        if response.status != 200:
            raise ValueError(f"answered {response.status}: {body[:200].decode(errors='replace')}")
        return body


def write_script(request: Request, folder: Path, name: str) -> Path:
    """The script that makes wrk send the request."""
    body = folder / f"{name}.body"
    body.write_bytes(request.body)
    headers = "\n".join(f'wrk.headers["{key}"] = "{value}"' for key, value in request.headers)
    script = folder / f"{name}.lua"
    script.write_text(_LUA.format(body=body, headers=headers))
    return script


def over_http(tree: Tree, url: str, script: Path, connections: int, seconds: int) -> Sample:
    """One run of wrk, with as many connections, each sending its next request when it has its answer."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "30s", "-s", str(script), url]
    watch = _Watch(tree)
    out = subprocess.run(command, capture_output=True, text=True, check=True, timeout=seconds + 60).stdout
    said = json.loads(next(line for line in out.splitlines() if line.startswith("{")))
    return watch.sample(said, said["us"] / 1e6)


class Process:
    """A process of ours that makes load on demand: a line in, a line out."""

    def __init__(self, module: str, *arguments: str, folder: Path) -> None:
        with (folder / f"{module}.log").open("wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", f"tests.bench_serve.{module}", *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        self.tree = Tree(self._process, folder / f"{module}.log")
        self._line()

    def load(self, server: Tree, at_once: int, seconds: float) -> Sample:
        """`server` is whose CPU time counts."""
        assert self._process.stdin is not None
        watch = _Watch(server, self.tree)
        self._process.stdin.write(f"{at_once} {seconds}\n")
        self._process.stdin.flush()
        said = self._line()
        return watch.sample(said, said["seconds"])

    def _line(self) -> dict[str, float]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.tree.log.name}: {self.tree.last_words(5)}")
        said: dict[str, float] = json.loads(line)
        return said

    def end(self) -> None:
        self.tree.end()


class _Watch:
    """CPU time since it was made: of the server, of this benchmark, of everything else."""

    def __init__(self, server: Tree, client: Tree | None = None) -> None:
        self._server, self._client = server, client
        self._before = self._now()

    def _now(self) -> tuple[float, float, float, float]:
        client = self._client.cpu_seconds() if self._client is not None and self._client is not self._server else 0.0
        return self._server.cpu_seconds(), client + sum(os.times()[:4]), machine_seconds(), time.perf_counter()

    def sample(self, said: dict[str, float], seconds: float) -> Sample:
        server, ours, machine, wall = (now - before for now, before in zip(self._now(), self._before, strict=True))
        done = said["requests"]
        return Sample(
            rate=done / seconds,
            cpu_us=1e6 * server / done if done else float("nan"),
            p50_us=said["p50"],
            p99_us=said["p99"],
            failed=int(said.get("failed", 0)),
            others=max(machine - server - ours, 0.0) / wall / (os.cpu_count() or 1),
        )
