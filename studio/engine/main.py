"""The engine process: `python -m studio.engine.main --workspace DIR`.

Takes the workspace's lock, opens the control API on loopback, and runs until SIGTERM, SIGINT or a shutdown request.
Exit codes are those of studio.core.errors: 4 when another engine holds the workspace.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import secrets
import signal
import socket
import sys
from pathlib import Path

import uvicorn

from studio.core.errors import StudioError
from studio.engine.api.app import create_app
from studio.engine.engine import Engine
from studio.store.files import write_atomic
from studio.store.workspace import Workspace


def ensure_token(path: Path) -> str:
    """The workspace's token, made on first use; readable by its owner alone."""
    if path.exists():
        path.chmod(0o600)
        token = path.read_text().strip()
        if token:
            return token
    token = secrets.token_urlsafe(32)
    write_atomic(path, token.encode() + b"\n", mode=0o600)
    return token


class ControlServer(uvicorn.Server):
    """uvicorn on our socket and in our loop; signals are the engine's, and an idle engine has no ticking clock."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.finished = asyncio.Event()
        self.answering = asyncio.Event()

    async def main_loop(self) -> None:
        """uvicorn's own wakes ten times a second; we only wait to be told."""
        self.answering.set()
        await self.finished.wait()

    async def run_on(self, listening: socket.socket) -> None:
        """Serve until `finished` is set, without uvicorn's signal handlers."""
        await self._serve([listening])


async def run(workspace: Workspace) -> None:
    """Run an engine until it is told to stop."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    engine = Engine(workspace)
    control = socket.create_server(("127.0.0.1", workspace.settings.control_port))
    control_url = f"http://127.0.0.1:{control.getsockname()[1]}"
    app = create_app(engine, ensure_token(workspace.token_file))
    config = uvicorn.Config(
        app,
        http="h11",  # bounds what it keeps of an unfinished head, which httptools does not
        log_config=None,
        access_log=False,
        lifespan="off",
        server_header=False,
        date_header=False,
        timeout_graceful_shutdown=2,
    )
    server = ControlServer(config)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, engine.request_stop, signal.Signals(number).name)
    serving: asyncio.Task[None] | None = None
    try:
        await engine.start(control_url)
        serving = asyncio.create_task(server.run_on(control), name="control API")
        await server.answering.wait()
        engine.announce()
        stopping = asyncio.create_task(engine.stopped())
        await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await engine.stop()
        server.finished.set()
        if serving is not None:
            await asyncio.wait({serving}, timeout=5)
        control.close()


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="studio.engine.main", description=__doc__)
    parser.add_argument("--workspace", type=Path, required=True)
    arguments = parser.parse_args(argv)
    try:
        workspace = Workspace.open(arguments.workspace)
        with workspace.lock():
            asyncio.run(run(workspace))
    except StudioError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201 - stderr is this process's only face
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
