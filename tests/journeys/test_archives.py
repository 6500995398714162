"""Archives with settings dropped into a running engine's inbox, and settings files that the engine writes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from studio.core.errors import Conflict, InvalidInput, NotFound, Refused
from studio.formats.settings.file import parse_settings
from tests.formats.archives import tarred, zipped
from tests.formats.graphs import linear, outside, save, weights
from tests.journeys.engines import SAMPLES, RunningEngine, until
from tests.journeys.test_odd_files import endless

MANIFEST = {"model": {"modelName": "net", "serializedFile": "net.onnx", "handler": "handler.py"}}
HANDLER = b"import os\nos.abort()\n"


@pytest.fixture
def engine(module_studio: RunningEngine) -> RunningEngine:
    return module_studio


def infer(engine: RunningEngine, model: str, **inputs: Any) -> dict[str, Any]:
    """What the endpoint answers to rows of 32-bit floats."""
    tensors = [
        {"name": name, "shape": list(np.shape(rows)), "datatype": "FP32", "data": np.ravel(rows).tolist()}
        for name, rows in inputs.items()
    ]
    request = urllib.request.Request(
        f"{engine.url}/v2/models/{model}/infer", json.dumps({"inputs": tensors}).encode(), {}
    )
    with urllib.request.urlopen(request) as answer:
        return {one["name"]: one["data"] for one in json.load(answer)["outputs"]}


def test_a_zip_with_settings_inside_becomes_a_version(engine: RunningEngine, tmp_path: Path) -> None:
    members = {
        "inzip/model.onnx": outside("w.bin").SerializeToString(),
        "inzip/w.bin": weights().tobytes(),
        "inzip/any.toml": b"title = 'Inside'\nrecipes = []\noutputs = ['scores']\n",
    }
    archive = zipped(tmp_path / "inzip.zip", members)
    (engine.inbox / "inzip.zip").write_bytes(archive.read_bytes())
    job = engine.finished_job("inzip")
    assert (job.state, job.version) == ("done", 1), job.problem
    detail = engine.client.version("inzip", 1)
    assert (detail.manifest.title, detail.manifest.recipes) == ("Inside", ())
    assert [file.name for file in detail.manifest.source.files] == ["inzip.zip"]
    assert [variant.variant for variant in detail.variants] == ["fp32"]
    found = infer(engine, "inzip", x=[[1.0, 0.0, 0.0, 0.0]])
    np.testing.assert_allclose(found["scores"], weights()[0], rtol=1e-5)


def test_a_tar_with_settings_beside_it_becomes_a_version(engine: RunningEngine, tmp_path: Path) -> None:
    (engine.inbox / "intar.toml").write_text(
        "title = 'Beside'\nrecipes = ['int8']\nalias = 'candidate'\nclass_labels = ['a', 'b', 'c']\n"
        "[preprocessing.x]\nkind = 'tabular'\ncolumns = ['p', 'q', 'r', 's']\n[gates]\nmin_gain = 1.0\n"
    )
    members = {"net/net.onnx": linear().SerializeToString(), "net/any.toml": b"title = 'Inside'\n"}
    archive = tarred(tmp_path / "intar.tar.gz", members)
    (engine.inbox / "intar.tar.gz").write_bytes(archive.read_bytes())
    job = engine.finished_job("intar")
    assert (job.state, job.version) == ("done", 1), job.problem
    detail = engine.client.version("intar", 1)
    manifest = detail.manifest
    assert (manifest.title, manifest.class_labels) == ("Beside", ("a", "b", "c"))
    assert manifest.preprocessing["x"].columns == ("p", "q", "r", "s")
    assert sorted(file.name for file in manifest.source.files) == ["intar.tar.gz", "intar.toml"]
    assert {variant.variant for variant in detail.variants} == {"fp32", "int8"}
    int8 = next(variant for variant in detail.variants if variant.variant == "int8")
    # Its own threshold was asked: nothing can be 100 % smaller.
    assert int8.verdict.outcome in ("reject", "not applicable")
    assert engine.client.resolve("intar:candidate").version == 1


def test_a_torchserve_archive_with_settings_becomes_a_version(engine: RunningEngine, tmp_path: Path) -> None:
    members = {
        "MAR-INF/MANIFEST.json": json.dumps(MANIFEST).encode(),
        "net.onnx": linear().SerializeToString(),
        "handler.py": HANDLER,
        "index_to_name.json": b'{"0": "cat", "1": "dog", "2": "hen"}',
    }
    archive = zipped(tmp_path / "served.mar", members)
    (engine.inbox / "served.toml").write_text("recipes = []\noutputs = ['scores']\n")
    (engine.inbox / "served.mar").write_bytes(archive.read_bytes())
    job = engine.finished_job("served")
    assert (job.state, job.version) == ("done", 1), job.problem
    manifest = engine.client.version("served", 1).manifest
    assert manifest.class_labels == ("cat", "dog", "hen")
    assert any("handler.py" in note for note in manifest.notes)
    assert "scores" in infer(engine, "served", x=[[1.0, 0.0, 0.0, 0.0]])


def test_an_archive_that_is_copied_slowly_is_waited_for(engine: RunningEngine, tmp_path: Path) -> None:
    data = tarred(tmp_path / "slow.tar.gz", {"slow.onnx": linear().SerializeToString()}).read_bytes()
    target = engine.inbox / "slow.tar.gz"
    target.write_bytes(data[: len(data) // 2])
    job = until(lambda: next((one for one in engine.client.jobs() if one.stem == "slow"), None), "the arrival")
    time.sleep(1.2)  # longer than files have to be left alone for: it has not settled, because its end is missing
    assert engine.client.job(job.id).step("settled").state == "running"
    with target.open("ab") as file:
        file.write(data[len(data) // 2 :])
    assert engine.registered_version("slow") == 1
    assert len([one for one in engine.client.jobs() if one.stem == "slow"]) == 1


@pytest.mark.parametrize(
    ("name", "members", "words"),
    [
        ("out.zip", {"../out.onnx": b"x"}, "out of its folder"),
        ("none.zip", {"a.txt": b"x", "b.txt": b"y"}, "a.txt, b.txt"),
        ("two.zip", {"a.onnx": linear().SerializeToString(), "b.onnx": linear().SerializeToString()}, "ONNX models"),
    ],
)
def test_an_archive_that_can_not_work_says_why(
    engine: RunningEngine, tmp_path: Path, name: str, members: dict[str, bytes], words: str
) -> None:
    (engine.inbox / name).write_bytes(zipped(tmp_path / name, members).read_bytes())
    job = engine.finished_job(Path(name).stem)
    assert job.state == "failed"
    assert job.problem is not None
    assert words in job.problem.sentence()
    assert job.problem.fix


def test_a_mistake_in_a_settings_file_is_told_by_line_and_mended(engine: RunningEngine) -> None:
    (engine.inbox / "mend.toml").write_text("recipes = []\ntitel = 'x'\n")
    save(linear(), engine.inbox / "mend.onnx")
    job = engine.finished_job("mend")
    assert job.problem is not None
    assert job.problem.what == "mend.toml, line 2: there is no key 'titel'."
    (engine.inbox / "mend.toml").write_text("recipes = []\ntitle = 'x'\n")
    assert engine.registered_version("mend") == 1
    assert engine.client.version("mend", 1).manifest.title == "x"


def run(engine: RunningEngine, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "studio.cli.main", "-w", str(engine.workspace), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=150)


def test_init_writes_a_file_that_changes_nothing(engine: RunningEngine, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    for file in (SAMPLES / "3").iterdir():
        if file.suffix == ".onnx":
            (home / "cancer.onnx").write_bytes(file.read_bytes())
    before = len(engine.client.jobs())
    done = run(engine, "init", str(home / "cancer.onnx"))
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{home / 'cancer.toml'}\n"
    assert len(engine.client.jobs()) == before
    assert not list((engine.workspace / "run" / "work").glob("template-*"))
    text = (home / "cancer.toml").read_text(encoding="utf-8")
    said = parse_settings(text, "cancer.toml", ("fp16", "int8"))
    assert said.title == "Cancer"
    assert said.inputs and said.outputs
    assert run(engine, "init", str(home / "cancer.onnx")).returncode == 4
    assert (home / "cancer.toml").read_text(encoding="utf-8") == text
    (home / "cancer.toml").write_text(text.replace('"Cancer"', '"Mine"') + "\n", encoding="utf-8")
    assert run(engine, "init", "--force", str(home / "cancer.onnx")).returncode == 0
    kept = parse_settings((home / "cancer.toml").read_text(encoding="utf-8"), "cancer.toml")
    assert (kept.title, kept.inputs) == ("Mine", said.inputs)
    added = run(engine, "add", "--json", str(home / "cancer.onnx"))
    assert {Path(file).name for file in json.loads(added.stdout)["files"]} == {"cancer.onnx", "cancer.toml"}
    assert engine.registered_version("cancer") == 1
    assert engine.client.version("cancer", 1).manifest.title == "Mine"


def test_the_work_for_a_settings_file_ends_with_who_asked(engine: RunningEngine, tmp_path: Path) -> None:
    path = save(endless(), tmp_path / "endless.onnx")
    command = [sys.executable, "-m", "studio.cli.main", "-w", str(engine.workspace), "init", str(path)]
    asking = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    work = engine.workspace / "run" / "work"
    until(lambda: any(any(folder.rglob("model.onnx")) for folder in work.glob("template-*")), "the work")
    asking.send_signal(signal.SIGINT)
    assert asking.wait(30) != 0
    until(lambda: not list(work.glob("template-*")) and engine.child("studio.pipeline.worker") is None, "its end")
    assert not (tmp_path / "endless.toml").exists()


def test_init_of_what_can_not_work_writes_nothing(engine: RunningEngine, tmp_path: Path) -> None:
    client = engine.client
    (tmp_path / "text.txt").write_text("text")
    with pytest.raises(Refused):
        client.template(tmp_path / "text.txt")
    with pytest.raises(NotFound):
        client.template(tmp_path / "gone.onnx")
    with pytest.raises(InvalidInput, match="settings file already"):
        (tmp_path / "a.toml").write_text("")
        client.template(tmp_path / "a.toml")
    folder = tmp_path / "folder"
    folder.mkdir()
    save(linear(), folder / "net.onnx")
    assert client.template(folder).path == str(tmp_path / "folder.toml")
    (folder / "own.toml").write_text("")
    with pytest.raises(Conflict, match=r"folder/own.toml"):
        client.template(folder)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.toml", "folder", "text.txt"]
