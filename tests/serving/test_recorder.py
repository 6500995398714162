"""Recording of requests in a real server: what is kept, how much of it, and that nothing is unless asked for."""

from __future__ import annotations

import stat
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from studio.core.recording import RecordingPlan, part_of
from studio.core.routing import RoutingTable
from tests.serving import graphs
from tests.serving.harness import Child, running


@pytest.fixture
def table(tmp_path: Path) -> RoutingTable:
    return graphs.table(
        graphs.mlp(tmp_path, model="digits", version=3),
        graphs.identity(tmp_path, "BYTES", ("n",), model="words"),
        graphs.identity(tmp_path, "FP32", ("n", "m"), model="ragged"),
        graphs.identity(tmp_path, "FP32", (200,), model="vector"),
    )


@pytest.fixture
def server(tmp_path: Path, table: RoutingTable) -> Iterator[Child]:
    with running(tmp_path, table) as child:
        yield child


def plan(tmp_path: Path, model: str, rows: int = 100, seconds: float = 60.0, size: int = 1 << 20) -> RecordingPlan:
    folder = tmp_path / "recordings" / model
    folder.mkdir(parents=True, exist_ok=True)
    now = time.time()
    return RecordingPlan(model=model, folder=str(folder), rows=rows, bytes=size, started=now, until=now + seconds)


def record(server: Child, table: RoutingTable, *plans: RecordingPlan) -> None:
    """Tell the server, and wait until it has heard: messages come in one order, and it answers the second."""
    server.send("recording", plans=plans)
    server.apply(replace(table, generation=1 + max(said["generation"] for said in server.said("routes_applied"))))


def ask(server: Child, rows: np.ndarray, **headers: str) -> None:
    value = {"inputs": [{"name": "x", "shape": list(rows.shape), "datatype": "FP32", "data": rows.ravel().tolist()}]}
    status, answer = server.infer("digits", value, headers)
    assert status == 200, answer


def parts(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if part_of(path.name))


def count(folder: Path) -> int:
    return sum((part_of(path.name) or (0, 0, 0))[2] for path in parts(folder))


def images(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((count, 64), np.float32)


def test_inputs_of_answered_requests_are_kept_each_once_and_for_the_owner_alone(
    server: Child, table: RoutingTable, tmp_path: Path
) -> None:
    ask(server, images(2))
    one = plan(tmp_path, "digits")
    folder = Path(one.folder)
    record(server, table, one)
    asked = images(5, seed=1)
    ask(server, asked[:3])
    ask(server, asked[:3])  # the same again says nothing new
    ask(server, asked)
    ask(server, images(4, seed=2), **{"x-studio-load": "1"})  # a measurement of Studio's own
    assert server.infer("digits", {"inputs": []})[0] == 400
    server.wait_for(lambda: count(folder) >= 5, "what was recorded")
    kept = np.concatenate([np.load(path)["x"] for path in parts(folder)])
    assert sorted(map(tuple, kept)) == sorted(map(tuple, asked))
    for path in parts(folder):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600 and set(np.load(path).files) == {"x"}
        assert part_of(path.name) is not None and part_of(path.name)[1] == 3  # type: ignore[index]


def test_rows_time_and_the_word_to_stop_are_kept_to(server: Child, table: RoutingTable, tmp_path: Path) -> None:
    short = plan(tmp_path, "digits", rows=10)
    record(server, table, short)
    ask(server, images(200))  # of one request at most 64 rows, and here no more than ten
    ask(server, images(5, seed=3))
    folder = Path(short.folder)
    server.wait_for(lambda: count(folder) >= 10, "ten rows")
    ask(server, images(5, seed=4))
    record(server, table)
    ask(server, images(5, seed=5))
    over = plan(tmp_path, "digits", seconds=-1)
    record(server, table, over)
    ask(server, images(5, seed=6))
    assert server.close() == 0  # what waited is written by now
    assert count(folder) == 10


def test_a_server_that_is_started_again_goes_on_where_the_last_one_stopped(table: RoutingTable, tmp_path: Path) -> None:
    one = plan(tmp_path, "digits", rows=10)
    for seed in (1, 2, 3):
        with running(tmp_path, table) as child:
            record(child, table, one)
            ask(child, images(4, seed=seed))
            child.close()
    assert count(Path(one.folder)) == 10
    assert len({(part_of(path.name) or (0,))[0] for path in parts(Path(one.folder))}) == 3


def test_texts_and_rows_of_many_sizes_are_kept_too(server: Child, table: RoutingTable, tmp_path: Path) -> None:
    words, ragged = plan(tmp_path, "words"), plan(tmp_path, "ragged")
    record(server, table, words, ragged)
    text = {"inputs": [{"name": "x", "shape": [2], "datatype": "BYTES", "data": ["grün", "\U0001f600"]}]}
    assert server.infer("words", text)[0] == 200
    for size in (3, 4, 3):
        data = np.arange(2 * size) + 10.0 * size
        value = {"inputs": [{"name": "x", "shape": [2, size], "datatype": "FP32", "data": data.tolist()}]}
        assert server.infer("ragged", value)[0] == 200
    server.wait_for(lambda: count(Path(words.folder)) and count(Path(ragged.folder)) >= 4, "both recordings")
    (only,) = parts(Path(words.folder))
    assert np.load(only)["x"].tolist() == ["grün", "\U0001f600"]
    assert {np.load(path)["x"].shape for path in parts(Path(ragged.folder))} == {(2, 3), (2, 4)}


def test_a_request_to_a_model_without_a_batch_is_one_row(server: Child, table: RoutingTable, tmp_path: Path) -> None:
    vector = plan(tmp_path, "vector", rows=3)
    record(server, table, vector)
    for number in range(5):
        value = {"inputs": [{"name": "x", "shape": [200], "datatype": "FP32", "data": [number / 2] * 200}]}
        assert server.infer("vector", value)[0] == 200
    assert server.close() == 0
    assert count(Path(vector.folder)) == 3
    kept = np.concatenate([np.load(path)["x"] for path in parts(Path(vector.folder))])
    assert kept.shape == (600,) and sorted(set(kept)) == [0.0, 0.5, 1.0]


def test_a_folder_that_was_deleted_meanwhile_stays_deleted(server: Child, table: RoutingTable, tmp_path: Path) -> None:
    one = plan(tmp_path, "digits")
    record(server, table, one)
    ask(server, images(3))
    for path in Path(one.folder).iterdir():
        path.unlink()
    Path(one.folder).rmdir()
    ask(server, images(3, seed=9))
    assert server.close() == 0
    assert not Path(one.folder).exists()
    assert "could not be written" not in server.log.read_text()
