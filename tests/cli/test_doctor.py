from __future__ import annotations

import importlib.metadata
import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from studio.cli import doctor
from tests.cli.conftest import Run
from tests.client.fake_engine import FakeEngine

REFUSING = Path(__file__).parents[1] / "pipeline" / "refusing.py"


def test_a_sound_machine_is_0(engine: FakeEngine, run: Run, tmp_path: Path) -> None:
    ran = run("doctor", "--json")
    assert ran.code == 0
    assert ran.json["ok"] is True
    found = {check["name"]: check for check in ran.json["checks"]}
    assert found["engine"]["state"] == "note", "this engine had something to repair"
    assert "The index was rebuilt." in found["engine"]["detail"]
    assert engine.url in found["engine"]["detail"]
    assert "duckdb" in found["packages"]["detail"]
    assert {"python", "workspace", "disk", "sandbox", "inbox watch", "terminal"} <= set(found)
    assert "→" not in run("doctor").out.split("workspace")[0].split("packages")[1].split("extra")[0]


def test_the_sandbox_is_tried_by_a_worker(tmp_path: Path) -> None:
    def told(refused: str) -> dict[str, dict[str, str]]:
        command = [sys.executable, "-m", "studio.cli.main", "--workspace", str(tmp_path), "doctor", "--json"]
        done = subprocess.run(
            [sys.executable, str(REFUSING), refused, "--", *command], capture_output=True, text=True, check=False
        )
        return {check["name"]: check for check in json.loads(done.stdout)["checks"]}

    found = told("")
    assert found["sandbox"]["detail"] == "a worker tried to get out and could not"
    lines = ("network", "files to read", "files to write", "system calls", "processes", "limits")
    assert [found[f"sandbox: {line}"]["state"] for line in lines] == ["ok"] * 6
    assert found["sandbox: network"]["detail"] == "none, in a namespace of its own; no sockets"
    less = told("unshare,landlock_create_ruleset")
    assert less["sandbox"]["state"] == "note"
    assert "a worker was able to read a file of yours" in less["sandbox"]["detail"]
    assert less["sandbox: network"]["detail"] == "no sockets"
    assert less["sandbox: files to read"]["state"] == "note"
    assert "Landlock" in less["sandbox: files to read"]["fix"]


def test_a_problem_is_1_with_the_way_out(run: Run, tmp_path: Path) -> None:
    (tmp_path / "studio.toml").write_text("serving = [")
    ran = run("doctor")
    assert ran.code == 1
    assert "problem  " in ran.out
    assert "Correct the file." in ran.out


def test_missing_packages_name_the_exact_command(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.metadata.version

    def version(name: str) -> str:
        if name in ("torch", "duckdb"):
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    found = {one.name: one for one in doctor.packages()}
    assert found["packages"].state == "problem"
    assert "duckdb" in found["packages"].detail
    assert found["extra torch"].state == "note"
    assert found["extra torch"].fix == "pip install 'ort-studio[torch]'"


def test_every_extra_is_listed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    extras = {"torch", "keras", "sklearn", "boosters", "catboost", "tf", "text", "image"}
    found = {one.name: one for one in doctor.packages()}
    assert {f"extra {extra}" for extra in extras} <= set(found)
    assert "extra dev" not in found
    monkeypatch.setattr(doctor, "PROJECT", tmp_path / "none.toml")  # as where it is installed from a wheel
    noted = ["click<9,>=8.1", "nowhere-to-be-found>=1; extra == 'image'"]
    monkeypatch.setattr(importlib.metadata, "requires", lambda _: noted)
    found = {one.name: one for one in doctor.packages()}
    assert set(found) == {"packages", "extra image"}
    assert found["extra image"].fix == "pip install 'ort-studio[image]'"
    assert "without reading pictures" in found["extra image"].detail


def test_the_port_is_looked_at_where_studio_toml_says(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        (tmp_path / "studio.toml").write_text(f"[serving]\nport = {number}\n")
        found = doctor.port(tmp_path)
        assert found.state == "note"
        assert str(number) in found.detail
    assert doctor.port(tmp_path).state == "ok"


def test_a_workspace_that_can_not_be_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert doctor.folder(tmp_path / "file" / "w").state == "problem"
    assert doctor.folder(tmp_path / "not" / "yet").state == "ok"
    assert not (tmp_path / "not").exists()


def test_no_engine_is_a_note(tmp_path: Path) -> None:
    found = doctor.engine(tmp_path)
    assert (found.state, found.fix) == ("note", "studio up --detach")
