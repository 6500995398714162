"""The terminal interface as a user drives it, in tmux: from drop to promote, and the copied curl line run as it is."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from studio.client.connect import attach
from tests.journeys.engines import SAMPLES, until

STUDIO = Path(sys.executable).with_name("studio")


class Terminal:
    """A tmux server of its own with one window."""

    def __init__(self, folder: Path, command: list[str], columns: int = 130, rows: int = 40) -> None:
        self._socket = Path("/tmp") / f"studio-test-{uuid.uuid4().hex[:8]}"  # socket paths are short
        settings = folder / "tmux.conf"
        # Without a client attached, tmux would fall back to its default size at the first change.
        settings.write_text(f"set -g default-size {columns}x{rows}\nset -g set-clipboard on\n")
        self._tmux("-f", str(settings), "new-session", "-d", "-x", str(columns), "-y", str(rows), *command)

    def _tmux(self, *arguments: str) -> str:
        # These two would be believed before the terminal's own size.
        environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
        done = subprocess.run(
            ["tmux", "-S", str(self._socket), *arguments],
            check=True,
            capture_output=True,
            text=True,
            timeout=30,
            env=environment,
        )
        return done.stdout

    def press(self, *keys: str) -> None:
        self._tmux("send-keys", *keys)

    def screen(self) -> str:
        return self._tmux("capture-pane", "-p")

    def see(self, text: str, seconds: float = 60.0) -> str:
        """Wait until the screen shows a text; the whole screen."""
        try:
            return until(
                lambda: shown if text in (shown := self.screen()) else None, f"{text!r} on the screen", seconds
            )
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.screen()}") from None

    def clipboard(self) -> str:
        return self._tmux("show-buffer")

    def alive(self) -> bool:
        done = subprocess.run(["tmux", "-S", str(self._socket), "has-session"], capture_output=True, timeout=30)
        return done.returncode == 0

    def close(self) -> None:
        subprocess.run(["tmux", "-S", str(self._socket), "kill-server"], capture_output=True, timeout=30)
        self._socket.unlink(missing_ok=True)


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "workspace"
    folder.mkdir()
    (folder / "studio.toml").write_text("[serving]\nport = 0\n[workers]\nrecipes = []\nmeasure_seconds = 0.4\n")
    yield folder
    subprocess.run([STUDIO, "-w", folder, "down"], capture_output=True, timeout=60)


@pytest.fixture
def terminal(tmp_path: Path, workspace: Path) -> Iterator[Terminal]:
    window = Terminal(tmp_path, [str(STUDIO), "-w", str(workspace)])
    yield window
    window.close()


def drop(workspace: Path, sample: str) -> None:
    for file in sorted((SAMPLES / sample).iterdir()):
        shutil.copyfile(file, workspace / "inbox" / file.name)


@pytest.mark.timeout(300)
def test_from_drop_to_promote(terminal: Terminal, workspace: Path) -> None:
    # Nothing there yet: the empty screen names the inbox and the next key.
    terminal.see("inbox")
    client = until(lambda: attach(workspace), "the engine")
    until(lambda: client.status().server.state == "ready", "the server")

    # Arrivals are seen going through their steps.
    terminal.press("2")
    terminal.see("Inbox")
    drop(workspace, "1")
    terminal.see("digits:1", 90)
    until(lambda: not client.status().jobs_active, "the lab to be done with version 1", 90)
    drop(workspace, "2")
    terminal.see("digits:2", 90)
    until(lambda: not client.status().jobs_active, "the lab to be done with version 2", 90)

    # Two are marked, and compared live.
    terminal.press("1")
    terminal.see("Overview")
    terminal.press("g")
    terminal.press("Space")
    terminal.see("A  digits:2")
    terminal.press("j")
    terminal.press("Space")
    terminal.see("B  digits:1")
    terminal.press("c")
    terminal.see("Measuring", 30)
    terminal.see("labelled inputs", 60)
    until(lambda: client.comparisons() and client.comparisons()[0].state == "done", "the comparison", 60)
    terminal.see(client.comparisons()[0].verdict.split(",")[0][:30], 30)

    # One is promoted, after a look at what moves from where to where; then undone, and promoted again.
    terminal.press("1")
    terminal.see("Overview")
    terminal.press("g")
    terminal.press("p")
    terminal.see("Promote digits", 30)
    terminal.press("y")
    until(lambda: client.model("digits").aliases.get("production"), "the promotion")
    first = client.model("digits").aliases["production"]
    terminal.press("u")
    confirm_undo(terminal)
    until(lambda: not client.model("digits").aliases.get("production"), "the undo")
    terminal.press("p")
    terminal.see("Promote digits", 30)
    terminal.press("y")
    until(lambda: client.model("digits").aliases.get("production") == first, "the second promotion")

    # The curl line that was copied runs as it is.
    terminal.press("y")
    curl = until(
        lambda: text if "curl" in (text := clipboard(terminal)) else None, "the curl line on the clipboard", 30
    )
    answer = subprocess.run(curl, shell=True, capture_output=True, text=True, timeout=30, check=True).stdout
    assert '"outputs"' in answer
    assert '"digits"' in answer

    # Leaving asks once whether to keep serving.
    terminal.press("q")
    terminal.see("keep", 30)


def confirm_undo(terminal: Terminal) -> None:
    """Undo asks too when there is something to lose."""
    if "undo" in terminal.screen().lower():
        terminal.press("y")


def clipboard(terminal: Terminal) -> str:
    try:
        return terminal.clipboard()
    except subprocess.CalledProcessError:
        return ""


@pytest.mark.timeout(120)
def test_eighty_columns_show_every_tab_and_the_endpoint(tmp_path: Path, workspace: Path) -> None:
    window = Terminal(tmp_path, [str(STUDIO), "-w", str(workspace)], columns=80, rows=24)
    try:
        client = until(lambda: attach(workspace), "the engine")
        until(lambda: client.status().server.state == "ready", "the server")
        port = client.status().server.url.rpartition(":")[2]
        screen = window.see(port)
        for tab in ("Models", "Inbox", "Compare", "Serve", "Log"):
            assert tab in screen.splitlines()[0]
    finally:
        window.close()
