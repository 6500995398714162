"""kill -9 of engine, server and worker at random moments; afterwards everything is consistent and serves."""

from __future__ import annotations

import json
import random
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from studio.core import codec
from studio.core.journal import GENESIS, Entry, entry_hash
from tests.journeys.engines import SAMPLES, RunningEngine, kills, until


def check_store(workspace: Path) -> None:
    """Every manifest parses, every blob that it names is there and is what its name says, the journal's chain holds."""
    import hashlib

    blobs = workspace / "store" / "blobs" / "sha256"
    for manifest in (workspace / "store" / "models").rglob("*.json"):
        named = json.loads(manifest.read_text())
        for sha in _hashes(named):
            assert hashlib.sha256((blobs / sha).read_bytes()).hexdigest() == sha, manifest
    prev = GENESIS
    journal = workspace / "store" / "journal.jsonl"
    lines = journal.read_bytes().split(b"\n") if journal.exists() else [b""]
    for line in lines[:-1]:  # what stands behind the last newline was being written when the kill came
        entry = codec.decode(line, Entry)
        assert entry.prev == prev
        assert entry_hash(entry) == entry.hash
        prev = entry.hash


def _hashes(value: object) -> list[str]:
    if isinstance(value, dict):
        own = [value["sha256"]] if isinstance(value.get("sha256"), str) else []
        return own + [sha for part in value.values() for sha in _hashes(part)]
    return [sha for part in value for sha in _hashes(part)] if isinstance(value, list) else []


def ask(studio: RunningEngine, reference: str = "cancer") -> int:
    body = studio.client.call(reference).body.encode()
    request = urllib.request.Request(f"{studio.url}/v2/models/{reference}/infer", body)
    with urllib.request.urlopen(request, timeout=30) as answer:
        json.load(answer)
        return int(answer.status)


def run_engine_kills(workspace: Path, rounds: int, seed: int) -> None:
    engine = RunningEngine(workspace)
    try:
        storm(engine, rounds, seed)
        assert engine.stop() == 0
    finally:
        if engine.process is not None and engine.process.poll() is None:
            engine.kill()
    check_store(workspace)


def storm(engine: RunningEngine, rounds: int, seed: int) -> None:
    chance = random.Random(seed)
    workspace = engine.workspace
    engine.start()
    sources = [SAMPLES / "3" / "cancer.onnx"]
    for number in range(rounds):
        content = sources[0].read_bytes() + b"\x12" + bytes([len(f"{seed}-{number}")]) + f"{seed}-{number}".encode()
        (engine.inbox / f"m{number}.onnx").write_bytes(content)
        if number % 3 == 2:
            # A change of names at the same time, so that the journal is hit as well.
            done = [job for job in engine.client.jobs() if job.version]
            if done:
                engine.client.move_alias(done[0].model, f"a{number}", "1", "storm")
        time.sleep(chance.uniform(0.0, 2.5))  # the moment is what is random here
        engine.kill()
        check_store(workspace)
        engine.start()
    for number in range(rounds):
        job = engine.finished_job(f"m{number}")
        assert job.state == "done", job.problem
    rows = engine.client.versions(limit=1000).rows
    assert sorted(row.model for row in rows) == sorted(f"m{number}" for number in range(rounds))
    assert all(row.version == 1 for row in rows), "an arrival was registered twice"
    assert all({variant.variant for variant in row.variants} == {"fp32", "fp16", "int8"} for row in rows)
    assert ask(engine, "m0") == 200
    until(lambda: not list((workspace / "run" / "work").iterdir()), "scratch to be cleared", 30)


def test_the_engine_killed_at_random_moments_loses_nothing(tmp_path: Path) -> None:
    run_engine_kills(tmp_path / "workspace", rounds=4, seed=1)


@pytest.mark.slow
def test_a_storm_of_kills(tmp_path: Path) -> None:
    for start in range(0, kills(40), 8):
        run_engine_kills(tmp_path / f"workspace-{start}", rounds=8, seed=start)


def test_a_killed_server_is_replaced_and_connections_wait(studio: RunningEngine) -> None:
    studio.drop(SAMPLES / "3")
    assert studio.registered_version("cancer") == 1
    assert ask(studio) == 200
    for _ in range(3):
        server = studio.child("studio.serving.child")
        assert server is not None
        body = studio.client.call("cancer").body.encode()
        url = f"{studio.url}/v2/models/cancer/infer"
        server.kill()
        server.wait(10)
        # Connected while no server runs: the engine's socket takes it, the next server answers it.
        with urllib.request.urlopen(urllib.request.Request(url, body), timeout=30) as answer:
            assert answer.status == 200
    assert studio.client.status().server.restarts == 3


def test_a_killed_worker_fails_its_step_and_a_retry_succeeds(studio: RunningEngine) -> None:
    studio.drop(SAMPLES / "1")
    until(
        lambda: any(job.step("converted").state == "running" for job in studio.client.jobs()),
        "the conversion to run",
    )
    # Only now: the one that was started ahead hands over to one that has the framework imported.
    until(studio.worker, "a worker").kill()
    job = studio.finished_job("digits")
    assert job.state == "failed"
    assert job.problem is not None
    assert "SIGKILL" in job.problem.sentence()
    studio.client.retry_job(job.id)
    assert studio.registered_version("digits") == 1


def test_a_running_job_can_be_cancelled(studio: RunningEngine) -> None:
    studio.drop(SAMPLES / "1")
    job = until(lambda: next((j for j in studio.client.jobs() if j.state == "running"), None), "a running job")
    cancelled = studio.client.cancel_job(job.id)
    assert cancelled.state == "cancelled"
    until(lambda: studio.worker() is None, "the worker to be gone")
    assert studio.client.versions().total == 0


def test_an_unknown_model_is_answered_in_the_protocols_words(studio: RunningEngine) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(f"{studio.url}/v2/models/nothing", timeout=30)
    assert caught.value.code == 404
    assert "is not found" in json.load(caught.value)["error"]
