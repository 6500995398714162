"""studio init against an engine that answers with core values: what is written, and what never is."""

from __future__ import annotations

from pathlib import Path

import pytest

from studio.core.errors import CodeFile, Conflict, NeedsSettings, NeedsTrust, NotFound
from studio.core.views import SettingsTemplate
from tests.cli.conftest import Run
from tests.client.fake_engine import FakeEngine

TEXT = 'title = "Ünïcode"\n'


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "digits.onnx"
    path.write_bytes(b"model")
    return path


def answers(engine: FakeEngine, path: Path, **more: object) -> None:
    made = SettingsTemplate(path=str(path), text=TEXT, format="onnx", detail="ONNX, opset 17", **more)  # type: ignore[arg-type]
    engine.on("POST", "/api/template", made)


def test_the_file_is_written_where_it_belongs(engine: FakeEngine, run: Run, model: Path) -> None:
    target = model.with_suffix(".toml")
    answers(engine, target)
    ran = run("init", str(model))
    assert (ran.code, ran.out) == (0, f"{target}\n")
    assert "digits.onnx: ONNX, opset 17." in ran.err
    assert target.read_text(encoding="utf-8") == TEXT
    assert engine.asked("POST", "/api/template") == [{"path": str(model), "target": "", "force": False}]


def test_the_engine_is_told_an_absolute_path(
    engine: FakeEngine, run: Run, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(model.parent)
    answers(engine, model.parent / "other.toml")
    assert run("init", "digits.onnx", "-o", "other.toml").code == 0
    asked = {"path": str(model), "target": str(model.parent / "other.toml"), "force": False}
    assert engine.asked("POST", "/api/template") == [asked]


def test_a_file_that_is_there_stays_unless_forced(engine: FakeEngine, run: Run, model: Path) -> None:
    target = model.with_suffix(".toml")
    target.write_text("mine")
    answers(engine, target)  # as if it had just been made by somebody else
    ran = run("init", str(model))
    assert (ran.code, target.read_text()) == (4, "mine")
    assert "--force" in ran.err
    assert run("init", str(model), "--force").code == 0
    assert target.read_text(encoding="utf-8") == TEXT
    assert sorted(path.name for path in model.parent.glob("*.toml*")) == ["digits.toml"]


def test_what_the_engine_refuses_writes_nothing(engine: FakeEngine, run: Run, model: Path) -> None:
    engine.on("POST", "/api/template", Conflict("There is a file already."))
    assert run("init", str(model)).code == 4
    engine.on("POST", "/api/template", NotFound("There is no file."))
    assert run("init", str(model)).code == 3
    assert not model.with_suffix(".toml").exists()


def test_a_question_is_told_and_the_file_written(engine: FakeEngine, run: Run, model: Path) -> None:
    answers(engine, model.with_suffix(".toml"), problem=NeedsSettings("It does not tell its inputs.", ("x",)).problem)
    ran = run("init", str(model))
    assert ran.code == 0
    assert "It asks first: It does not tell its inputs." in ran.err
    assert model.with_suffix(".toml").exists()


def test_a_dash_prints_and_writes_nothing(engine: FakeEngine, run: Run, model: Path) -> None:
    model.with_suffix(".toml").write_text("mine")
    answers(engine, model.with_suffix(".toml"))
    ran = run("init", str(model), "--output", "-")
    assert (ran.code, ran.out) == (0, TEXT)
    assert model.with_suffix(".toml").read_text() == "mine"


def test_json_has_all_of_it(engine: FakeEngine, run: Run, model: Path) -> None:
    answers(engine, model.with_suffix(".toml"))
    found = run("init", str(model), "--json").json
    assert found["path"] == str(model.with_suffix(".toml"))
    assert found["text"] == TEXT
    assert found["problem"] is None


def test_a_place_that_can_not_be_written_is_told(engine: FakeEngine, run: Run, model: Path) -> None:
    answers(engine, model.parent / "gone" / "digits.toml")
    for force in ((), ("--force",)):
        ran = run("init", str(model), *force)
        assert ran.code == 2
        assert "could not be written" in ran.err


def test_who_has_to_trust_first_is_told_how(engine: FakeEngine, run: Run, model: Path) -> None:
    asked = NeedsTrust((CodeFile(name="digits.pt", sha256="0" * 64),), "It calls a program.")
    answers(engine, model.with_suffix(".toml"), problem=asked.problem)
    assert "studio init --force digits.onnx" in run("init", str(model)).err
