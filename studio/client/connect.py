"""Finding the engine of a workspace, and starting one."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from studio.client.client import Client
from studio.client.transport import Address
from studio.core import codec
from studio.core.errors import Denied, InvalidInput, StudioError, Unavailable

START_SECONDS = 60.0
PROBE_SECONDS = 10.0
POLL_SECONDS = 0.05
LOG_LINES = 12


@dataclass(frozen=True, kw_only=True)
class EngineInfo:
    """What an engine publishes in `run/engine.json`; the URLs are empty while it starts."""

    pid: int
    control_url: str = ""
    serving_url: str = ""


def default_workspace() -> Path:
    """`$STUDIO_WORKSPACE`, else `~/Studio`; absolute."""
    named = os.environ.get("STUDIO_WORKSPACE", "")
    return absolute(Path(named) if named else Path("~/Studio"))


def absolute(path: Path) -> Path:
    """Absolute, `~` expanded, links kept as the user wrote them."""
    return Path(os.path.abspath(path.expanduser()))  # noqa: PTH100 - resolve() would follow links


def read_info(workspace: Path) -> EngineInfo | None:
    """What the newest engine of the workspace published, whether or not it still runs."""
    try:
        return codec.decode((workspace / "run" / "engine.json").read_bytes(), EngineInfo, "engine.json")
    except (OSError, InvalidInput):
        return None


def locate(workspace: Path) -> Address | None:
    """Where the workspace's engine says that it answers; None while none does. Denied when the token is unreadable."""
    info = read_info(workspace)
    if info is None or not info.control_url:
        return None
    try:
        token = (workspace / "run" / "token").read_text().strip()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Denied(
            f"The token {workspace / 'run' / 'token'} can not be read.",
            f"{error.strerror}. A workspace can be used by its owner alone.",
            "Name your own with --workspace.",
        ) from error
    return Address(info.control_url, token)


def attach(workspace: Path, actor: str = "sdk") -> Client | None:
    """A client of the engine that runs for this workspace; None if none does.

    Raises Denied when the workspace's token can not be read.
    """
    address = locate(workspace)
    if address is None:
        return None
    try:
        with Client(address.url, address.token, actor, timeout=PROBE_SECONDS) as probe:
            status = probe.status()
    except (Unavailable, Denied):
        return None  # it is gone, and perhaps another program has its port by now
    if not _same(Path(status.workspace), workspace):
        return None
    return Client(address.url, address.token, actor, locate=lambda: locate(workspace))


def connect(
    workspace: Path | str | None = None,
    start: bool = True,
    actor: str = "sdk",
    timeout: float = START_SECONDS,
) -> Client:
    """A client of the workspace's engine (default: `default_workspace()`), which is started if none runs and `start`.

    Raises Unavailable when none runs, or when one does not come up within `timeout` seconds; the error then carries
    the last lines of its log.
    """
    root = default_workspace() if workspace is None else absolute(Path(workspace))
    client = attach(root, actor)
    if client is not None:
        return client
    if not start:
        raise Unavailable(
            f"No engine runs for {root}.",
            "Only `studio` and `studio up` start one.",
            f"Start it with: studio{option(root)} up --detach",
        )
    return _start(root, actor, timeout)


def option(workspace: Path) -> str:
    """The option that names this workspace on a command line; empty for the default one."""
    return "" if workspace == default_workspace() else f" --workspace {workspace}"


def engine_command(workspace: Path) -> list[str]:
    """The command line of an engine for a workspace."""
    return [sys.executable, "-m", "studio.engine.main", "--workspace", str(workspace)]


def engine_environment() -> dict[str, str]:
    """The environment of an engine: ours, with ONNX Runtime's telemetry switched off."""
    return {**os.environ, "ORT_DISABLE_TELEMETRY": "1"}


def _start(workspace: Path, actor: str, timeout: float) -> Client:
    log = workspace / "logs" / "engine.log"
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            begin = output.tell()
            process = subprocess.Popen(
                engine_command(workspace),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                env=engine_environment(),
            )
    except OSError as error:
        raise Unavailable(
            f"No engine can be started for {workspace}.",
            f"{error.strerror or error}: {error.filename}.",
            "Make the folder writable, or name another with --workspace.",
        ) from error
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        client = attach(workspace, actor)
        if client is not None:
            return client
        # Another engine may have taken the workspace first; then it is that one which soon answers.
        if process.poll() not in (None, 4):
            raise _died(workspace, log, begin, process.returncode)
        time.sleep(POLL_SECONDS)
    if process.poll() is not None:
        raise _died(workspace, log, begin, process.returncode)
    raise Unavailable(
        f"The engine did not answer within {timeout:.0f} s.",
        f"Process {process.pid} runs, and is still starting or stuck.",
        f"Look at {log}, or try again.",
    )


def _died(workspace: Path, log: Path, begin: int, code: int) -> StudioError:
    said = _tail(log, begin)
    why = f"It ended with exit code {code}" + (", saying:\n" + said if said else ", saying nothing.")
    return Unavailable(
        f"The engine for {workspace} did not start.", why, f"See {log}, or run `studio{option(workspace)} doctor`."
    )


def _tail(log: Path, begin: int) -> str:
    """The last lines written to the log since `begin`, indented."""
    try:
        with log.open("rb") as file:
            file.seek(max(begin, log.stat().st_size - 8192))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    return "\n".join(f"  {line}" for line in lines[-LOG_LINES:])


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False
