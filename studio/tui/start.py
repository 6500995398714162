"""Starting the terminal: what `studio` without a command does."""

from __future__ import annotations

from pathlib import Path

from studio.client.client import Client
from studio.client.connect import attach, connect
from studio.tui.app import StudioApp
from studio.tui.samples import sample_folders


def build(workspace: Path) -> StudioApp:
    """The app for a workspace: it attaches to its engine, and starts one where none runs."""
    started: list[bool] = []

    def reach() -> Client:
        client = attach(workspace, "tui")
        if client is None:
            client = connect(workspace, start=True, actor="tui")
            started.append(True)
        return client

    return StudioApp(reach, workspace=workspace, samples=sample_folders(), owns_engine=lambda: bool(started))


def run(workspace: Path) -> int:
    """Run the terminal until the user leaves. Gives the exit code."""
    app = build(workspace)
    app.run()
    return app.return_code or 0
