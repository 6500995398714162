"""The benchmark's own honesty: what it calls met, how it pairs rounds, that it ends what it starts."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from tests.bench_serve import contenders, environments, models, report, servers, targets, trees
from tests.bench_serve.environments import Missing
from tests.bench_serve.loads import Sample
from tests.bench_serve.rounds import Results
from tests.bench_serve.servers import RAW_ONE


def sample(rate: float, cpu_us: float = 50.0, failed: int = 0) -> Sample:
    return Sample(rate, cpu_us, p50_us=100.0, p99_us=900.0, failed=failed, others=0.2)


def results_of(ours: list[float], loop: list[float]) -> Results:
    results = Results(loads=["1.0, 1.0, 1.0"])
    for name, rates in ((targets.JSON, ours), (RAW_ONE, loop)):
        for rate in rates:
            results.samples["tiny", name, 16].append(sample(rate))
        results.started[name], results.memory[name] = [0.5], (50.0, 70.0)
    return results


def judged(results: Results, what: str) -> targets.Target:
    return next(row for row in targets.judge(results, None) if row.what.startswith(what))


def test_rounds_are_compared_with_themselves() -> None:
    # The machine was ten times slower in the second round, for both.
    results = results_of([600, 60, 620], [1000, 100, 1000])
    assert results.ratio("tiny", targets.JSON, RAW_ONE, 16) == pytest.approx(0.6)
    assert results.median("tiny", targets.JSON, 16, "rate") == 600


def test_a_target_is_met_or_not_or_not_measured() -> None:
    loop = "tiny, JSON, 16 at once: of the raw loop"
    assert judged(results_of([600], [1000]), loop).met
    assert not judged(results_of([500], [1000]), loop).met
    missing = judged(results_of([600], [1000]), "tiny, JSON, 64 at once: of the raw loop")
    assert not missing.reached
    text = report.render(results_of([500], [1000]), None, targets.judge(results_of([500], [1000]), None), (16,), "once")
    assert "| ≥ 55 % | 50 % | **not met** |" in text
    assert "| ≥ 55 % | – | not measured |" in text


def test_the_better_of_studios_settings_is_held_against_a_peer() -> None:
    results = results_of([600], [1000])
    for name, rate in ((servers.PROCESSES, 900), ("mosec", 300), ("mosec, batching", 200)):
        results.samples["tiny", name, 16].append(sample(rate))
    row = judged(results, "tiny, JSON, 16 at once: req/s against mosec")
    assert row.reached == "3.0 × (a process a core, mosec, which takes 1.0 × the CPU)"


def test_processes_of_studio_share_the_load(tmp_path: Path) -> None:
    model = models.make("tiny", tmp_path)
    with servers.processes(model, tmp_path / "processes") as row:
        row.warm()
        assert len(row.tree.members()) == 1 + contenders.CORES


def test_the_report_names_who_is_missing_and_what_failed() -> None:
    results = results_of([500], [1000])
    results.samples["tiny", targets.JSON, 16][0] = sample(500, failed=3)
    results.missing["Ray Serve, HAProxy"] = "does not install: no | wheel"
    text = report.render(results, None, [], (16,), "once")
    assert f"{targets.JSON} (3 failed)" in text
    assert "- Ray Serve, HAProxy: does not install: no \\| wheel" in text


@pytest.fixture
def adopting() -> Iterator[None]:
    trees.adopt_orphans()
    yield
    trees.adopt_orphans(False)  # other tests let processes go on purpose


def test_a_tree_is_paused_resumed_and_ended_to_the_last_process(tmp_path: Path, adopting: None) -> None:
    # A server that starts a worker in a session of its own and leaves it behind.
    sleep = "import time; time.sleep(600)"
    worker = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {sleep!r}], start_new_session=True)"
    tree = trees.start([sys.executable, "-c", f"{worker}; {sleep}"], {}, tmp_path)
    until = time.monotonic() + 30
    while len(tree.members()) < 2 and time.monotonic() < until:
        time.sleep(0.02)
    members = tree.members()
    assert len(members) == 2
    assert tree.memory()[0] > 1
    tree.pause()
    while any(each.status() != psutil.STATUS_STOPPED for each in members) and time.monotonic() < until:
        time.sleep(0.02)
    assert [each.status() for each in members] == [psutil.STATUS_STOPPED] * 2
    tree.root.kill()
    tree.root.wait()
    assert len(tree.members()) == 1  # the orphan is still known as one of its processes
    tree.end(1)
    assert not [each for each in members if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]


def test_every_protocol_of_the_server_gives_the_answer_of_the_runtime(tmp_path: Path) -> None:
    model = models.make("small", tmp_path)
    with servers.studio(model, tmp_path / "studio") as rows:
        assert [row.name for row in rows] == [*servers.PROTOCOLS, servers.GRPC]
        for row in rows:
            row.warm()
        assert rows[0].tree.cpu_seconds() > 0


def test_another_answer_than_the_runtimes_is_refused(tmp_path: Path) -> None:
    model = models.make("tiny", tmp_path)
    servers.check(model.answer.copy(), model, "it")
    with pytest.raises(Missing, match="other numbers"):
        servers.check(model.answer + np.float32(0.01), model, "it")


def test_who_can_not_be_installed_is_told_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STUDIO_BENCH_ENVIRONMENTS", str(tmp_path))
    needy = environments.Environment(("x==1",), needs=("no-such-program",))
    monkeypatch.setitem(environments.ENVIRONMENTS, "mosec", needy)
    with pytest.raises(Missing, match="needs no-such-program"):
        environments.make("mosec")
    with pytest.raises(Missing, match="needs no-such-program"):
        environments.find("mosec")
    with pytest.raises(Missing, match="not installed"):
        environments.find("fastapi")


def test_every_peer_is_pinned() -> None:
    assert {peer.environment for peer in contenders.ALL} == set(environments.ENVIRONMENTS)
    for environment in environments.ENVIRONMENTS.values():
        assert all("==" in requirement for requirement in environment.requirements)


def test_what_a_server_wrote_last_names_no_folder_of_this_machine(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    log.write_text(
        "started\n6# 0x7F in /home/someone/.cache/a b/libserver.so 7# in '/opt/x/y.so': http://127.0.0.1:1/v2\n"
    )
    words = trees.Tree(None, log).last_words()  # type: ignore[arg-type]
    assert words == "started 6# 0x7F in a b/libserver.so 7# in 'y.so': http://127.0.0.1:1/v2"
