"""The access log as several processes write it: no line lost, torn or written twice, and never more files than kept."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
from pathlib import Path

import pytest

from studio.serving import access_log

LINES = 2000


def _write(path: Path, name: str, most: int) -> None:
    access_log.MAX_BYTES = most  # in a process of its own

    async def work() -> None:
        log = access_log.AccessLog(path, asyncio.get_running_loop())
        for number in range(LINES):
            log.add((0.0, name, "m:1-fp32", 200, 1000, number + 1, 7, {b"x-request-id": b"one"}, ""))
        log.close()

    asyncio.run(work())


def _apart(path: Path, names: str, most: int) -> None:
    """A process for each name."""
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write, args=(path, name, most)) for name in names]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0


@pytest.mark.parametrize("most", [1 << 30, 250_000], ids=["one file", "turned over"])
def test_processes_share_it(tmp_path: Path, most: int) -> None:
    path = tmp_path / "access.jsonl"
    _apart(path, "ab", most)
    files = list(tmp_path.iterdir())
    seen = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    assert sorted((line["protocol"], line["rows"]) for line in seen) == [(n, i + 1) for n in "ab" for i in range(LINES)]
    assert (len(files) > 1) == (most == 250_000)


def test_the_oldest_file_goes(tmp_path: Path) -> None:
    path = tmp_path / "access.jsonl"
    _apart(path, "a", 5_000)
    assert {file.name for file in tmp_path.iterdir()} == {path.name, *(f"{path.name}.{n}" for n in range(1, 6))}
    assert '"rows":2000' in path.read_text()
    # One that is taken away is made anew.
    path.unlink()
    _apart(path, "b", 1 << 30)
    assert len(path.read_text().splitlines()) == LINES


async def test_a_place_where_nothing_can_be_written_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    log = access_log.AccessLog(tmp_path / "file" / "access.jsonl", asyncio.get_running_loop())
    for _ in range(3 * access_log.AT_ONCE):
        log.add((0.0, "v2", "m:1-fp32", 200, 1000, 1, 7, {}, ""))
    log.close()
    assert caplog.text.count("the access log can not be written") == 1
