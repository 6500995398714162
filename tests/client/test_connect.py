from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest

from studio.client import connect, default_workspace
from studio.client import connect as package_connect
from studio.client.connect import attach
from studio.core.errors import Denied, Unavailable
from tests.client import values
from tests.client.fake_engine import TOKEN, FakeEngine

STUB = """
import sys, time
sys.path.insert(0, {root!r})
from pathlib import Path
from tests.client.fake_engine import FakeEngine
from tests.client import values
workspace = Path(sys.argv[1])
engine = FakeEngine()
engine.on("GET", "/api/status", values.status(str(workspace), engine.url))
print("stub engine", flush=True)
engine.publish(workspace)
deadline = time.monotonic() + 60
while not (workspace / "stop").exists() and time.monotonic() < deadline:
    time.sleep(0.02)
(workspace / "stopped").touch()
"""


def stub_command(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Start this text instead of the engine: what is under test is the starting."""
    program = text.replace("{root!r}", repr(str(Path.cwd())))
    monkeypatch.setattr(
        sys.modules["studio.client.connect"],
        "engine_command",
        lambda workspace: [sys.executable, "-c", program, str(workspace)],
    )


def test_attaches_to_the_engine_that_runs(engine: FakeEngine, tmp_path: Path) -> None:
    client = connect(tmp_path, start=False, actor="cli")
    assert client.url == engine.url
    assert client.actor == "cli"


def test_the_environment_names_the_workspace(
    engine: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STUDIO_WORKSPACE", str(tmp_path))
    assert default_workspace() == tmp_path
    assert package_connect(start=False).url == engine.url
    monkeypatch.delenv("STUDIO_WORKSPACE")
    assert default_workspace() == Path.home() / "Studio"


def test_none_running_is_unavailable_with_the_command_that_helps(tmp_path: Path) -> None:
    with pytest.raises(Unavailable) as caught:
        connect(tmp_path / "w s", start=False)
    assert caught.value.fix.startswith("Start it with: studio --workspace ")
    assert caught.value.fix.endswith(" up --detach")
    assert not (tmp_path / "w s").exists()


def test_a_dead_engines_file_is_not_believed(engine: FakeEngine, tmp_path: Path) -> None:
    engine.close()
    assert attach(tmp_path) is None


def test_an_engine_of_another_workspace_is_not_ours(engine: FakeEngine, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    engine.on("GET", "/api/status", values.status(str(other), engine.url))
    assert attach(tmp_path) is None


def test_a_token_that_can_not_be_read_is_denied(engine: FakeEngine, tmp_path: Path) -> None:
    (tmp_path / "run" / "token").unlink()
    (tmp_path / "run" / "token").mkdir()
    with pytest.raises(Denied):
        connect(tmp_path, start=False)


def test_a_program_that_took_the_port_is_not_an_engine(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        (tmp_path / "run").mkdir()
        url = f"http://127.0.0.1:{other.getsockname()[1]}"
        (tmp_path / "run" / "engine.json").write_text(f'{{"pid": 1, "control_url": "{url}", "serving_url": ""}}')
        (tmp_path / "run" / "token").write_text(TOKEN)
        other.settimeout(10)

        import threading

        def rude() -> None:
            connection, _ = other.accept()
            connection.recv(100)
            connection.sendall(b"SSH-2.0-OpenSSH\r\n")
            connection.close()

        thread = threading.Thread(target=rude)
        thread.start()
        assert attach(tmp_path) is None
        thread.join()


def test_starts_a_detached_engine_and_waits_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stub_command(monkeypatch, STUB)
    client = connect(tmp_path, timeout=30)
    try:
        assert client.status().workspace == str(tmp_path)
        assert "stub engine" in (tmp_path / "logs" / "engine.log").read_text()
        assert connect(tmp_path, start=False).url == client.url
    finally:
        (tmp_path / "stop").touch()


def test_an_engine_that_dies_at_start_shows_what_it_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "engine.log").write_text("an old line\n")
    stub_command(monkeypatch, 'import sys; sys.exit("error: studio.toml is wrong in line 3")')
    with pytest.raises(Unavailable) as caught:
        connect(tmp_path, timeout=30)
    assert "line 3" in caught.value.why
    assert "exit code 1" in caught.value.why
    assert "an old line" not in caught.value.why
    assert "doctor" in caught.value.fix


def test_an_engine_that_never_answers_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stub_command(monkeypatch, "import sys; sys.stdin.read(); import time; time.sleep(1)")
    with pytest.raises(Unavailable, match="did not answer within"):
        connect(tmp_path, timeout=0.3)


def test_a_workspace_that_can_not_be_written_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Unavailable, match="No engine can be started"):
        connect(tmp_path / "file")
