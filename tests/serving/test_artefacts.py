"""Serving artefacts: made, used, shared; refused when they are not what was written or do not answer the same."""

from __future__ import annotations

import http.client
import json
import os
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from onnx import helper, numpy_helper

from studio.core.routing import Target
from studio.core.settings import ServingSettings
from studio.core.tensors import TensorSpec
from studio.serving import artefact, sessions
from studio.serving.artefact_maker import Order, make
from tests.serving import graphs
from tests.serving.harness import WAIT, Child, listen, running, spawn

SIDE = 1024
LAYERS = 4
BYTES = LAYERS * SIDE * SIDE * 4


@pytest.fixture(scope="module")
def heavy(tmp_path_factory: pytest.TempPathFactory) -> Target:
    """Four matrix products, 17 MB of weights."""
    x, y = TensorSpec("x", "FP32", ("batch", SIDE)), TensorSpec("y", "FP32", ("batch", SIDE))
    rng = np.random.default_rng(5)
    scale = np.float32(1 / np.sqrt(SIDE))
    weights = [
        numpy_helper.from_array(rng.normal(size=(SIDE, SIDE)).astype(np.float32) * scale, f"w{n}")
        for n in range(LAYERS)
    ]
    names = ["x", "a", "b", "c", "y"]
    nodes = [helper.make_node("MatMul", [names[n], f"w{n}"], [names[n + 1]]) for n in range(LAYERS)]
    path = graphs.save(tmp_path_factory.mktemp("heavy") / "heavy.onnx", nodes, [x], [y], weights)
    return graphs.target(path, [x], [y], model="m", batchable=True)


def made_in(folder: Path, target: Target, most_bytes: int = 1 << 30) -> artefact.Made:
    folder.mkdir(exist_ok=True)
    return make(Order(target=target, folder=str(folder), most_bytes=most_bytes, most=4, typical_ns=123_456))


@pytest.fixture
def cache(tmp_path: Path, heavy: Target) -> Path:
    """A cache that holds the artefact."""
    folder = tmp_path / "cache"
    assert made_in(folder, heavy).files.keys() == {artefact.GRAPH, artefact.WEIGHTS}
    return folder


def place(cache: Path, target: Target) -> Path:
    return artefact.place_of(cache, target.sha256)


def until(condition: Callable[[], Any], what: str) -> None:
    end = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < end, f"waited too long for {what}"
        time.sleep(0.02)


def ones(rows: int = 1) -> dict[str, Any]:
    return {"inputs": [{"name": "x", "shape": [rows, SIDE], "datatype": "FP32", "data": [1.0] * (rows * SIDE)}]}


def test_it_answers_as_the_original_and_carries_its_measurements(cache: Path, heavy: Target) -> None:
    original = sessions.load(heavy, threads=1)
    mapped = sessions.from_artefact(heavy, 1, cache)
    assert mapped is not None
    assert (mapped.typical_ns, mapped.rules.most) == (123_456, 4)
    x = np.random.default_rng(0).normal(size=(3, SIDE)).astype(np.float32)
    np.testing.assert_allclose(mapped.run({"x": x})[0], original.run({"x": x})[0], rtol=1e-5, atol=1e-5)


def test_only_its_owner_can_change_it(cache: Path, heavy: Target) -> None:
    assert stat.S_IMODE(place(cache, heavy).stat().st_mode) == 0o700
    for file in place(cache, heavy).iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o444


def _flip(path: Path) -> None:
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x40
    path.write_bytes(data)


def _other_graph(path: Path) -> None:
    """A graph that loads, takes and gives the same, and answers other numbers: sealed as if it had been made so."""
    x = [TensorSpec("x", "FP32", ("batch", SIDE))]
    y = [TensorSpec("y", "FP32", ("batch", SIDE))]
    one = numpy_helper.from_array(np.ones(1, np.float32), "one")
    path.chmod(0o644)
    graphs.save(path, [helper.make_node("Add", ["x", "one"], ["y"])], x, y, [one])
    told = path.with_name(artefact.MADE)
    told.chmod(0o644)
    made = json.loads(told.read_bytes())
    made["files"][artefact.GRAPH]["size"] = path.stat().st_size
    made["files"][artefact.GRAPH]["changed_ns"] = path.stat().st_ctime_ns
    told.write_text(json.dumps(made))


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        (artefact.WEIGHTS, _flip),
        (artefact.GRAPH, _flip),
        (artefact.GRAPH, lambda path: path.unlink()),
        (artefact.MADE, lambda path: (path.chmod(0o644), path.write_text("{"))),
        (artefact.WEIGHTS, lambda path: (path.rename(path.with_name("w")), path.symlink_to("w"))),
        (artefact.GRAPH, _other_graph),
    ],
    ids=["weights", "graph", "missing", "words", "link", "other answers"],
)
def test_what_is_not_as_it_was_made_is_dropped(
    cache: Path, heavy: Target, name: str, damage: Callable[[Path], object]
) -> None:
    damage(place(cache, heavy) / name)
    assert sessions.from_artefact(heavy, 1, cache) is None
    assert not place(cache, heavy).exists()


def test_a_copy_of_the_workspace_keeps_it(cache: Path, heavy: Target, tmp_path: Path) -> None:
    elsewhere = tmp_path / "copy"
    elsewhere.mkdir()
    there = elsewhere / place(cache, heavy).name
    there.mkdir()
    for file in place(cache, heavy).iterdir():
        (there / file.name).write_bytes(file.read_bytes())
    assert sessions.from_artefact(heavy, 1, elsewhere) is not None


def test_another_runtime_or_machine_uses_another_and_the_old_one_goes(
    cache: Path, heavy: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = place(cache, heavy)
    monkeypatch.setattr(artefact, "runtime", lambda: "9.9")
    assert sessions.from_artefact(heavy, 1, cache) is None
    artefact.sweep(cache, 1 << 40)
    assert not old.exists()


def test_the_cache_stays_within_its_size(tmp_path: Path, heavy: Target) -> None:
    folder = tmp_path / "cache"
    refused = made_in(folder, heavy, BYTES)  # weights twice: as they are, and packed
    assert "larger than the cache" in refused.refused
    assert sum(file.stat().st_size for file in folder.rglob("*")) < 10_000
    # Refusals are remembered, and not tried again each time.
    assert made_in(folder, heavy, 1 << 30).refused == refused.refused
    artefact.drop(folder, heavy.sha256)
    room = 3 * BYTES
    made_in(folder, heavy, room)
    before = place(folder, heavy)
    os.utime(before, (1, 1))
    other = Path(heavy.path).with_name("other.onnx")
    other.write_bytes(Path(heavy.path).read_bytes() + b"\x32\x01x")  # another document string
    second = replace(heavy, path=str(other), sha256="5" * 64)
    assert made_in(folder, second, room).files
    assert place(folder, second).exists()
    assert not before.exists()


def test_a_model_that_rolls_dice_has_none(tmp_path: Path) -> None:
    x, y = TensorSpec("x", "FP32", ("batch", 4)), TensorSpec("y", "FP32", ("batch", 4))
    nodes = [helper.make_node("RandomNormalLike", ["x"], ["noise"]), helper.make_node("Add", ["x", "noise"], ["y"])]
    path = graphs.save(tmp_path / "dice.onnx", nodes, [x], [y])
    made = made_in(tmp_path / "cache", graphs.target(path, [x], [y]))
    assert "the same twice" in made.refused


@pytest.fixture
def shared_cache(tmp_path: Path, heavy: Target) -> Iterator[tuple[Child, Path]]:
    """A server that has loaded the model the long way, and its cache."""
    cache = tmp_path / "cache" / "serving"
    with running(tmp_path, graphs.table(heavy), cache=cache) as child:
        yield child, cache


def maps_weights(server: Child, cache: Path, target: Target) -> bool:
    """Whether the process has the artefact's weights mapped."""
    wanted = str(place(cache, target) / artefact.WEIGHTS)
    return any(mapped.path == wanted for mapped in psutil.Process(server.process.pid).memory_maps())


def test_a_server_makes_it_in_the_background_and_changes_over(
    shared_cache: tuple[Child, Path], heavy: Target, tmp_path: Path
) -> None:
    server, cache = shared_cache
    status, before = server.infer("m", ones())
    assert status == 200
    until(lambda: (place(cache, heavy) / artefact.MADE).exists(), "the artefact")
    until(lambda: maps_weights(server, cache, heavy), "the change over")
    status, after = server.infer("m", ones())
    assert status == 200
    got, expected = (np.array(answer["outputs"][0]["data"]) for answer in (after, before))
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
    # Another server maps the same weights: little of it is its own.
    with listen() as listening:
        second = spawn(listening, tmp_path / "second.log", cache=cache)
        light = graphs.scaled(tmp_path, 1.0, model="light")
        second.apply(graphs.table(light))
        nothing = psutil.Process(second.process.pid).memory_full_info().uss
        second.apply(graphs.table(light, heavy, generation=2))
        assert second.infer("m", ones())[0] == 200
        assert psutil.Process(second.process.pid).memory_full_info().uss - nothing < 0.15 * 2 * BYTES
        # Deleting it takes nothing from whoever has it mapped.
        artefact.drop(cache, heavy.sha256)
        assert second.infer("m", ones(2))[0] == 200
        assert second.close() == 0


def test_a_connection_that_is_kept_open_keeps_no_model(cache: Path, heavy: Target, tmp_path: Path) -> None:
    with running(tmp_path, graphs.table(heavy), cache=cache) as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=WAIT)
        for _ in range(3):  # by the second, its head is known
            connection.request("POST", "/v2/models/m/infer", json.dumps(ones()))
            assert connection.getresponse().read().startswith(b'{"model_name":"m"')
        assert maps_weights(server, cache, heavy)
        assert server.json("POST", "/v2/repository/models/m/unload", {})[0] == 200
        until(lambda: not maps_weights(server, cache, heavy), "the weights to be let go")
        connection.close()


def test_a_second_version_of_the_same_graph_shares_its_session(tmp_path: Path, heavy: Target) -> None:
    settings = ServingSettings(artefact_bytes=0)
    with running(tmp_path, graphs.table(), settings, tmp_path / "cache") as server:
        process = psutil.Process(server.process.pid)
        sizes = [process.memory_full_info().uss]
        for generation, targets in ((2, (heavy,)), (3, (heavy, replace(heavy, version=2)))):
            assert not server.apply(graphs.table(*targets, generation=generation))
            sizes.append(process.memory_full_info().uss)
        nothing, first, both = sizes
        assert both - first < 0.15 * (first - nothing)
        assert server.infer("m:2", ones())[0] == 200
        # Unloading one leaves the other.
        assert not server.apply(graphs.table(replace(heavy, version=2), generation=4))
        assert server.infer("m:2", ones())[0] == 200
    assert not (tmp_path / "cache").exists()


def test_of_deleted_models_nothing_stays(cache: Path, heavy: Target) -> None:
    artefact.keep_only(cache, lambda sha256: sha256 == heavy.sha256)
    assert place(cache, heavy).exists()
    artefact.keep_only(cache, lambda sha256: False)
    assert not place(cache, heavy).exists()
    artefact.keep_only(cache / "nowhere", lambda sha256: False)
