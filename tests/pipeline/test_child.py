"""A caller that stops waiting for its worker's start: nothing is left behind, and nothing is said in the log."""

from __future__ import annotations

import asyncio
import gc
import os
from pathlib import Path
from typing import Any

import pytest

from studio.pipeline.child import open_child
from studio.pipeline.guard import Handles


def _open_files() -> set[str]:
    return {path.name for path in Path("/proc/self/fd").iterdir()}


async def test_a_start_that_is_told_after_its_caller_has_gone_disturbs_nobody(tmp_path: Path) -> None:
    said: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: said.append(context))
    before = _open_files()
    kept: list[int] = []
    forked = asyncio.Event()

    def fork(theirs: Handles) -> bool:
        kept.extend((os.dup(theirs.status), os.dup(theirs.lifeline)))
        forked.set()
        return True

    opening = asyncio.create_task(open_child(tmp_path / "job.log", fork))
    await forked.wait()
    for _ in range(20):  # until it waits for the guard's word
        await asyncio.sleep(0)
    opening.cancel()
    await asyncio.sleep(0)
    status, lifeline = kept
    assert await asyncio.to_thread(os.read, lifeline, 1) == b""  # the guard is told to end
    os.write(status, b"pid 1073741824\nend -9\n")  # beyond the system's largest pid
    for handle in kept:
        os.close(handle)
    with pytest.raises(asyncio.CancelledError):
        await opening
    del opening
    await asyncio.sleep(0)
    gc.collect()
    assert said == []
    assert _open_files() - before == set()


async def test_a_caller_that_goes_at_once_leaves_no_pipe_open(tmp_path: Path) -> None:
    said: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: said.append(context))
    before = _open_files()
    for turns in range(1, 8):
        opening = asyncio.create_task(open_child(tmp_path / "job.log", lambda _: True))
        for _ in range(turns):
            await asyncio.sleep(0)
        opening.cancel()
        await asyncio.gather(opening, return_exceptions=True)
    await asyncio.sleep(0)
    gc.collect()
    assert said == []
    assert _open_files() - before == set()
