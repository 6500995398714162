"""The command line and the client against a real engine, its server and its workers."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from studio.client import Client, connect
from studio.client.connect import read_info
from studio.core.errors import InvalidInput, NotFound, Unavailable

SAMPLES = Path(__file__).parents[2] / "sample_models"
TOML = "[serving]\nport = 0\n[workers]\nrecipes = []\nmeasure_seconds = 0.4\n[inbox]\nsettle_seconds = 0.1\n"


def make_workspace(root: Path) -> Path:
    root.mkdir()
    (root / "studio.toml").write_text(TOML)
    return root


def studio(workspace: Path, *arguments: str, code: int = 0, stdin: str = "") -> Any:
    """What a command prints as JSON."""
    done = subprocess.run(
        [sys.executable, "-m", "studio.cli.main", "-w", str(workspace), "--json", *arguments],
        input=stdin, capture_output=True, text=True, check=False, timeout=150,
    )  # fmt: skip
    assert done.returncode == code, (done.stdout, done.stderr)
    return json.loads(done.stdout) if done.stdout else json.loads(done.stderr)


def stop(workspace: Path) -> None:
    """End the engine, politely first."""
    info = read_info(workspace)
    try:
        studio(workspace, "down")
    except AssertionError:
        if info:
            os.kill(info.pid, signal.SIGKILL)
        raise


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A workspace whose engine runs, with two versions of `cancer`."""
    root = make_workspace(tmp_path_factory.mktemp("real") / "work space")
    try:
        assert studio(root, "up", "--detach")["server"]["state"] == "ready"
        for path in sample_folders(root.parent):
            (job,) = studio(root, "add", "--wait", *map(str, sorted(path.iterdir())))
            assert job["state"] == "done"
        yield root
    finally:
        stop(root)


def sample_folders(parent: Path) -> list[Path]:
    """The tabular sample, and the same once more under another title: another arrival, so another version."""
    root = parent / "samples"
    for number in ("1", "2"):
        shutil.copytree(SAMPLES / "3", root / number)
    settings = root / "2" / "cancer.toml"
    settings.write_text(settings.read_text() + "\n# once more\n")
    return [root / "1", root / "2"]


def test_what_was_added_is_listed_shown_and_answers(workspace: Path) -> None:
    rows = studio(workspace, "ls")["rows"]
    assert [(row["model"], row["version"]) for row in rows] == [("cancer", 2), ("cancer", 1)]
    assert studio(workspace, "show", "cancer:1")["row"]["state"] == "ready"
    assert studio(workspace, "show", "cancer")["aliases"]["latest"] == "2-fp32"
    label = studio(workspace, "predict", "cancer:1", "--sample")["outputs"]["label"]
    assert label in ([0], [1])
    rows = [[0.0] * 30, [1.0] * 30]
    assert len(studio(workspace, "predict", "cancer", stdin=json.dumps(rows))["outputs"]["label"]) == 2
    jobs = studio(workspace, "jobs")
    assert [job["state"] for job in jobs] == ["done", "done"]
    assert "text" in studio(workspace, "jobs", "--log", jobs[0]["id"])
    assert any("cancer:1" in line["text"] + line["subject"] for line in studio(workspace, "logs"))


def test_the_sdk_predicts_the_same_as_the_command_line(workspace: Path) -> None:
    with np.load(SAMPLES / "3" / "cancer.npz") as samples:
        rows = samples["features"][:5]
    with connect(workspace, start=False) as client:
        answer = client.predict("cancer:1-fp32", {"features": rows})
        assert answer["probabilities"].shape == (5, 2)
        assert answer["probabilities"].dtype == np.float32
        np.testing.assert_array_equal(answer["label"], client.predict("cancer:1", {"features": rows.tolist()})["label"])
        with pytest.raises(InvalidInput, match="features"):
            client.predict("cancer", {"features": np.zeros((1, 3), "f4")})
        with pytest.raises(NotFound):
            client.predict("cancer:9", {"features": rows})


def test_aliases_move_roll_back_and_undo(workspace: Path) -> None:
    assert studio(workspace, "promote", "cancer:1", "--why", "first")["after"] == "1-fp32"
    assert studio(workspace, "promote", "cancer:latest")["after"] == "2-fp32"
    assert studio(workspace, "rollback", "cancer")["after"] == "1-fp32"
    assert studio(workspace, "undo")["after"] == "2-fp32"
    assert studio(workspace, "alias", "cancer", "mine", "1")["alias"] == "mine"
    assert studio(workspace, "rm", "cancer:1", code=4)["error"]["code"] == "conflict"
    assert studio(workspace, "alias", "cancer", "mine", "--rm")["after"] == ""
    with connect(workspace, start=False) as client:
        assert client.model("cancer").aliases["production"] == "2-fp32"
        assert {entry.actor for entry in client.journal()} >= {"cli"}


def test_removal_and_return(workspace: Path) -> None:
    assert studio(workspace, "rm", "cancer:1")["state"] == "archived"
    assert len(studio(workspace, "ls")["rows"]) == 1
    assert len(studio(workspace, "ls", "--archived")["rows"]) == 2
    assert studio(workspace, "restore", "cancer:1")["state"] == "ready"
    assert studio(workspace, "rm", "cancer:1", "--purge", "--confirm", "cancer:1", code=5)["error"]["code"] == "refused"


def test_measurements(workspace: Path) -> None:
    bench = studio(workspace, "bench", "cancer:2", "--seconds", "1", "--clients", "2")
    assert bench["state"] == "done"
    assert bench["arms"][0]["requests"] > 0
    found = studio(workspace, "compare", "cancer:1", "cancer:2", "--seconds", "2")
    assert found["verdict"]
    assert [arm["label"] for arm in found["arms"]] == ["A", "B"]
    assert studio(workspace, "compare", "--show", found["id"])["id"] == found["id"]
    assert len(studio(workspace, "compare", "--list")) == 2


def test_ctrl_c_stops_a_comparison_in_the_engine_too(workspace: Path) -> None:
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "studio.cli.main",
            "-w",
            str(workspace),
            "compare",
            "cancer:1",
            "cancer:2",
            "--seconds",
            "60",
        ],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stderr
    assert "Measuring" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    with connect(workspace, start=False) as client:
        assert client.comparisons()[0].state == "cancelled"


def test_events_tell_what_the_command_line_did(workspace: Path) -> None:
    client = connect(workspace, start=False)
    stop_listening = threading.Event()
    source = client.events(stop=stop_listening)
    last = next(source).seq  # connected; the ring begins long before
    studio(workspace, "alias", "cancer", "seen", "1")
    moves = (event for event in source if event.kind == "alias" and event.seq > last and event.data["alias"] == "seen")
    (event,) = islice(moves, 1)
    assert event.data["after"] == "1-fp32"
    client.remove_alias("cancer", "seen")
    stop_listening.set()
    assert all(later.seq > event.seq for later in source)  # and it ends


def test_call_examples_and_netron_point_at_this_machine(workspace: Path) -> None:
    with connect(workspace, start=False) as client:
        example = client.call("cancer:1")
        assert example.url.startswith(client.status().server.url)
        assert "curl" in example.curl
        assert client.netron("cancer:1").startswith("http://127.0.0.1:")


def test_start_stop_and_a_client_that_lives_on(tmp_path: Path) -> None:
    """Two who start at once get one engine; a client finds the next engine; `down` is final."""
    root = make_workspace(tmp_path / "w")
    clients: list[Client] = []
    threads = [threading.Thread(target=lambda: clients.append(connect(root, timeout=60))) for _ in range(2)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len({client.status().pid for client in clients}) == 1
        first = clients[0].status().pid
        assert studio(root, "down") == {"stopped": True}
        assert studio(root, "status", code=6)["error"]["code"] == "unavailable"
        with pytest.raises(Unavailable):
            clients[0].status()
        studio(root, "up", "--detach")
        assert clients[0].status().pid != first
    finally:
        stop(root)


def test_up_runs_in_the_foreground_until_it_is_told(tmp_path: Path) -> None:
    root = make_workspace(tmp_path / "w")
    process = subprocess.Popen(
        [sys.executable, "-m", "studio.cli.main", "-w", str(root), "up"], stderr=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        from studio.client.client import wait_for
        from studio.client.connect import attach

        client = wait_for(lambda: attach(root), lambda found: found is not None, timeout=60)
        assert client is not None
        assert client.status().pid == process.pid  # signals of a service manager reach the engine itself
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out) == (0, b"")
        assert b"ctrl+c" in err
    finally:
        process.kill()


def test_the_demo_runs_from_nothing_to_an_answer(tmp_path: Path) -> None:
    root = make_workspace(tmp_path / "w")
    sample_folders(tmp_path)
    shown = studio(root, "demo", "--samples", str(tmp_path / "samples"), "--seconds", "1", "--stop")
    assert sorted(row["version"] for row in shown["versions"]) == [1, 2]
    assert shown["comparison"]["state"] == "done"
    assert shown["promoted"]["after"] == "2-fp32"
    assert shown["outputs"]["label"] in ([0], [1])
    assert studio(root, "status", code=6)["error"]["code"] == "unavailable"


def test_an_engine_that_can_not_start_says_why(tmp_path: Path) -> None:
    root = make_workspace(tmp_path / "w")
    (root / "studio.toml").write_text("[serving]\nport = 'many'\n")
    error = studio(root, "up", "--detach", code=6)["error"]
    assert "port" in error["why"]
    assert "exit code 2" in error["why"]
