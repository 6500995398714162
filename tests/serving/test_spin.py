"""The event loop stays awake only for clients that ask again at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from studio.serving.spin import SPIN_NS, Spin
from tests.serving import graphs
from tests.serving.harness import running


class Loop:
    """Keeps what is to be called soon."""

    def __init__(self) -> None:
        self.soon: list[Callable[[], None]] = []

    def call_soon(self, callback: Callable[[], None]) -> None:
        self.soon.append(callback)


def looks(spin: Spin, loop: Any, gaps: list[int]) -> list[bool]:
    """Whether it looks for the next request after each answer; requests come so long after the last one."""
    found, now = [], 1
    for gap in gaps:
        spin.arrived(now)
        spin.answered(now)
        found.append(bool(loop.soon))
        now += gap
        spin.arrived(now)
        while loop.soon:
            loop.soon.pop()()
    return found


def test_it_learns_how_soon_requests_come() -> None:
    loop: Any = Loop()
    spin = Spin(loop)
    assert looks(spin, loop, [10_000] * 20)[-10:] == [True] * 10
    assert looks(spin, loop, [10 * SPIN_NS] * 40)[-10:] == [False] * 10
    assert looks(spin, loop, [10_000] * 40)[-10:] == [True] * 10


async def test_it_ends_by_itself() -> None:
    loop = asyncio.get_running_loop()
    spin = Spin(loop)
    for _ in range(20):
        spin.arrived(time.perf_counter_ns())
        spin.answered(time.perf_counter_ns())
    assert spin._looking
    deadline = time.monotonic() + 10
    while spin._looking:
        assert time.monotonic() < deadline
        await asyncio.sleep(0)


def test_a_server_that_was_busy_sleeps_when_it_is_not(tmp_path: Path) -> None:
    with running(tmp_path, graphs.table(graphs.mlp(tmp_path, model="m"))) as server:
        body = {"inputs": [{"name": "x", "shape": [1, 64], "datatype": "FP32", "data": [0.5] * 64}]}
        for _ in range(300):
            assert server.infer("m", body)[0] == 200
        process = psutil.Process(server.process.pid)
        before = sum(process.cpu_times()[:2])
        time.sleep(2)
        assert sum(process.cpu_times()[:2]) - before < 0.2
