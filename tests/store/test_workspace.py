"""The workspace folder, its settings file and its lock."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from studio.core.errors import Conflict, InvalidInput, NotFound
from studio.core.settings import Settings
from studio.store.workspace import Workspace, default_root


def test_open_makes_every_folder_and_keeps_run_private(tmp_path: Path) -> None:
    workspace = Workspace.open(tmp_path / "deep" / "Studio")
    folders = (workspace.inbox, workspace.blobs, workspace.models, workspace.jobs, workspace.job_logs, workspace.work)
    assert all(folder.is_dir() for folder in folders)
    assert workspace.run.stat().st_mode & 0o777 == 0o700
    workspace.run.chmod(0o755)
    assert Workspace.open(workspace.root).run.stat().st_mode & 0o777 == 0o700


def test_open_without_create_refuses_what_is_not_there_and_makes_nothing(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no workspace"):
        Workspace.open(tmp_path / "none", create=False)
    assert not (tmp_path / "none").exists()


def test_a_file_is_no_workspace(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(InvalidInput, match="not a folder"):
        Workspace.open(tmp_path / "file")


def test_default_root_is_named_by_the_environment() -> None:
    assert default_root({}) == Path("~/Studio")
    assert default_root({"STUDIO_WORKSPACE": "/data/w"}) == Path("/data/w")


def test_settings_are_read_and_defaults_fill_the_rest(tmp_path: Path) -> None:
    (tmp_path / "studio.toml").write_text('[serving]\nport = 9000\n[workers]\nrecipes = ["int8"]\n')
    settings = Workspace.open(tmp_path).settings
    assert (settings.serving.port, settings.workers.recipes) == (9000, ("int8",))
    assert settings.inbox == Settings().inbox


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[serving]\nprot = 1\n", ["serving.prot", "Did you mean 'port'"]),
        ("servings = 1\n", ["'servings'", "serving"]),
        ('[serving]\nport = "x"\n', ["serving.port", "int"]),
        ("[serving]\nport = 70000\n", ["serving.port", "65535"]),
        ("[gates]\nmin_cosine = 2.0\n", ["gates.min_cosine"]),
        ('[workers]\nrecipes = ["Not OK"]\n', ["workers.recipes"]),
        ("serving = 3\n", ["serving"]),
        ("[serving\n", ["TOML", "line 1"]),
        ("[history]\nseconds_hours = nan\n", ["history.seconds_hours"]),
        ("[serving]\ntimeout_seconds = inf\n", ["serving.timeout_seconds", "inf"]),
        ('[serving]\nhost = ""\n', ["serving.host", "127.0.0.1"]),
    ],
)
def test_wrong_settings_name_file_and_key(tmp_path: Path, text: str, words: list[str]) -> None:
    (tmp_path / "studio.toml").write_text(text)
    with pytest.raises(InvalidInput) as caught:
        Workspace.open(tmp_path)
    for word in [str(tmp_path / "studio.toml"), *words]:
        assert word in str(caught.value)


HOLDER = """
import sys
from studio.store.workspace import Workspace
lock = Workspace.open(sys.argv[1]).lock()
print("held", flush=True)
sys.stdin.read()
"""


def test_a_second_engine_is_told_who_holds_the_workspace_until_that_is_killed(tmp_path: Path) -> None:
    workspace = Workspace.open(tmp_path)
    assert workspace.engine() is None
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(Conflict, match=f"process id {holder.pid}"):
            workspace.lock()
        found = workspace.engine()
        assert found is not None
        assert found.pid == holder.pid
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    assert workspace.engine_file.exists()  # the killed engine could not remove it
    assert workspace.engine() is None
    with workspace.lock():
        workspace.announce(os.getpid(), "http://127.0.0.1:1", "http://127.0.0.1:2")
        found = workspace.engine()
        assert found is not None
        assert (found.pid, found.control_url) == (os.getpid(), "http://127.0.0.1:1")
        assert workspace.engine_file.stat().st_mode & 0o777 == 0o600
    assert workspace.engine() is None
    workspace.lock().release()
