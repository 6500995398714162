"""Netron, the graph viewer, as a child process on loopback: one at a time, started when first asked for."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from pathlib import Path

from studio.core.errors import Unavailable
from studio.core.ort_format import HEAD, is_ort
from studio.core.routing import Target
from studio.store.workspace import Workspace

READY_SECONDS = 15.0


def _suffix(path: Path) -> str:
    with path.open("rb") as blob:
        return ".ort" if is_ort(blob.read(HEAD)) else ".onnx"


class Netron:
    """Shows one graph; asking for another replaces it."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._process: asyncio.subprocess.Process | None = None
        self._shown = ""
        self._url = ""

    async def open(self, target: Target) -> str:
        """Serve the target's graph. Raises Unavailable when Netron does not come up."""
        if self._process and self._process.returncode is None and self._shown == target.name:
            return self._url
        self.stop()
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port: int = probe.getsockname()[1]
        # Netron tells formats apart by extension, and blobs have none.
        link = self._workspace.run / f"{target.model}-{target.key}{_suffix(Path(target.path))}"
        link.unlink(missing_ok=True)
        link.symlink_to(target.path)
        with (self._workspace.logs / "netron.log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", "from netron import main; main()", str(link),
                "--host", "127.0.0.1", "--port", str(port),
                stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                env={**os.environ, "BROWSER": "true"},  # it would open one on the engine's machine
            )  # fmt: skip
        self._shown, self._url = target.name, f"http://127.0.0.1:{port}"
        deadline = asyncio.get_running_loop().time() + READY_SECONDS
        while asyncio.get_running_loop().time() < deadline and self._process.returncode is None:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.1)
                continue
            writer.close()
            return self._url
        self.stop()
        log_name = self._workspace.logs / "netron.log"
        raise Unavailable(
            "Netron did not start.", f"It gave no answer within {READY_SECONDS:.0f} s.", f"See {log_name}."
        )

    def stop(self) -> None:
        if self._process and self._process.returncode is None:
            os.killpg(self._process.pid, signal.SIGTERM)
        self._process = None
