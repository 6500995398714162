"""`studio record` against an engine that answers with core values, and once against a real one."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from studio.client import connect
from studio.core.errors import NotFound
from studio.core.recording import Recording, RecordingPlan
from tests.cli.conftest import Run
from tests.cli.test_real import make_workspace, stop, studio
from tests.client.fake_engine import FakeEngine
from tests.client.values import status


def recording(**changes: object) -> Recording:
    now = time.time()
    plan = RecordingPlan(
        model="digits",
        folder="/w/recordings/digits",
        rows=1000,
        bytes=1 << 28,
        started=now,
        until=now + 3599,
    )
    return replace(Recording(plan=plan, state="recording", rows=312, bytes=80_000), **changes)


def test_switching_it_on_says_what_is_kept_where_and_how_to_delete_it(engine: FakeEngine, run: Run) -> None:
    engine.on("POST", "/api/recordings", recording(rows=0, bytes=0))
    ran = run("record", "digits", "--rows", "500", "--for", "2d")
    assert ran.code == 0
    assert "may be personal" in ran.err and "/w/recordings/digits, which only you can read" in ran.err
    assert "studio record digits --stop" in ran.err and "studio record digits --delete" in ran.err
    assert "0 of 1000 at most" in ran.out and "in 59 min" in ran.out
    assert engine.asked("POST", "/api/recordings")[-1] == {
        "model": "digits",
        "rows": 500,
        "seconds": 172800.0,
        "actor": "cli",
    }


def test_the_list_says_how_much_there_is_and_how_long_it_goes_on(engine: FakeEngine, run: Run) -> None:
    full = recording(state="full", rows=1000)
    engine.on("GET", "/api/recordings", (recording(), replace(full, plan=replace(full.plan, model="churn"))))
    head, digits, churn, _, hint = run("record").out.splitlines()
    assert head.split() == ["MODEL", "STATE", "ROWS", "SIZE", "LEFT", "FOLDER"]
    assert digits.split() == [
        "digits",
        "recording",
        "312",
        "of",
        "1000",
        "80",
        "kB",
        "59",
        "min",
        "/w/recordings/digits",
    ]
    assert churn.split()[:2] == ["churn", "full"] and "studio record MODEL --delete" in hint
    engine.on("GET", "/api/recordings", ())
    nothing = run("record")
    assert nothing.code == 0 and not nothing.out and "No requests are kept" in nothing.err
    assert run("record", "--json").json == []


def test_stop_and_delete(engine: FakeEngine, run: Run) -> None:
    engine.on("POST", "/api/recordings/stop", recording(state="stopped"))
    engine.on("POST", "/api/recordings/delete", {"rows": 312})
    stopped = run("record", "digits", "--stop")
    assert "stopped" in stopped.out and "may be personal" not in stopped.err
    assert run("record", "digits", "--delete").out.strip() == "312 recorded rows of digits are deleted."
    engine.on("POST", "/api/recordings/stop", NotFound("Nothing was recorded of 'other'."))
    assert run("record", "other", "--stop").code == NotFound.exit_code


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("digits", "--for", "soon"), "'soon' is no duration. For example: 90s, 30m, 1h, 7d."),
        (("digits", "--stop", "--delete"), "give one of --stop and --delete"),
        (("--delete",), "Which model?"),
    ],
)
def test_what_makes_no_sense_is_refused(run: Run, engine: FakeEngine, arguments: tuple[str, ...], words: str) -> None:
    ran = run("record", *arguments)
    assert ran.code == 2 and words in ran.err


def test_status_names_what_is_being_recorded(engine: FakeEngine, run: Run, tmp_path: Path) -> None:
    now = status(str(tmp_path), engine.url, engine.url)
    assert "recording" not in run("status").out
    engine.on("GET", "/api/status", replace(now, recording=(recording(),)))
    (line,) = [line for line in run("status").out.splitlines() if line.startswith("recording")]
    assert line.split(maxsplit=1)[1] == "requests for digits (312 of 1000 rows)"


def save_net(path: Path) -> None:
    weights = np.random.default_rng(0).standard_normal((16, 64)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 64])],
        [numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 17)])
    onnx.save(model, path)


def test_what_is_asked_of_the_endpoint_becomes_what_variants_are_judged_on(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path / "workspace")
    save_net(tmp_path / "net.onnx")
    try:
        studio(workspace, "up", "--detach")
        studio(workspace, "add", "--wait", str(tmp_path / "net.onnx"))
        assert studio(workspace, "record") == []
        begun = studio(workspace, "record", "net", "--rows", "50")
        folder = Path(begun["plan"]["folder"])
        rows = np.random.default_rng(1).standard_normal((60, 16)).astype(np.float32)
        with connect(workspace, start=False) as client:
            for row in rows:
                client.predict("net", {"x": row[None]})
            (kept,) = wait_for(client, 50)
            assert kept.state == "full"
            assert [one.plan.model for one in client.status().recording] == []
            studio(workspace, "lab", "net:1", "--recipe", "fp16", "--wait")
            half = next(one for one in client.version("net", 1).variants if one.variant == "fp16")
            assert half.fidelity is not None and (half.fidelity.inputs, half.fidelity.samples) == ("captured", 25)
            assert "recorded requests" in half.verdict.sentence
            assert client.version("net", 1).manifest.samples.kind == "synthetic"
        assert studio(workspace, "record", "net", "--delete") == {"rows": 50}
        assert not folder.exists()
    finally:
        stop(workspace)


def wait_for(client, rows: int) -> tuple[Recording, ...]:
    until = time.monotonic() + 20
    while (found := client.recordings())[0].rows < rows:
        assert time.monotonic() < until, found
        time.sleep(0.05)
    return found
