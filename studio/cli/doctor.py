"""What `studio doctor` looks at. Each check is a function that gives findings and changes nothing."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from studio.client.connect import attach
from studio.core.errors import StudioError

DISTRIBUTION = "ort-studio"
PROJECT = Path(__file__).resolve().parents[2] / "pyproject.toml"
FREE_BYTES = 2_000_000_000
WATCHES = 8192
INSTANCES = 64
REQUIREMENT = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[^\]]*\])?")
EXTRA = re.compile(r"extra\s*==\s*['\"]([^'\"]+)['\"]")
# What an extra that is missing costs, where that is not a model.
WITHOUT = {
    "tf": "TensorFlow models are converted in an environment of its own, which is made when one comes.",
    "text": "Models that take tokens are served without preparing texts for them.",
    "image": "Models that take pixels are served without reading pictures for them.",
}
PROBE_SECONDS = 90
NAMESPACES = (
    "Permit namespaces to users (kernel.unprivileged_userns_clone=1; on Ubuntu "
    "kernel.apparmor_restrict_unprivileged_userns=0), or to the container that Studio runs in."
)
LANDLOCK = "Use Linux 5.13 or newer, with Landlock switched on (landlock among the kernel's lsm=)."
# What a worker tells of its sandbox: how it is called here, and what would mend it.
SANDBOX = {
    "network": ("network", NAMESPACES),
    "reading": ("files to read", LANDLOCK),
    "writing": ("files to write", LANDLOCK),
    "syscalls": (
        "system calls",
        "Permit seccomp filters; on processors other than x86-64 and 64-bit ARM there are none.",
    ),
    "processes": ("processes", NAMESPACES),
    "limits": ("limits", ""),
}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """`state`: `ok`, `note` (works, with less) or `problem`. `fix` says what to do."""

    name: str
    state: Literal["ok", "note", "problem"]
    detail: str
    fix: str = ""


def examine(workspace: Path, environment: Mapping[str, str]) -> Iterator[Finding]:
    """All checks, one after the other."""
    yield python()
    yield from packages()
    yield folder(workspace)
    yield disk(workspace)
    found = engine(workspace)
    yield found
    if found.fix:
        yield port(workspace)
    yield from sandbox()
    yield inotify()
    yield terminal(environment)


def python() -> Finding:
    words = f"{platform.python_implementation()} {platform.python_version()}, {platform.system()} {platform.machine()}"
    return Finding(name="python", state="ok", detail=words)


def packages() -> Iterator[Finding]:
    """Whether what Studio needs is installed, and which extras are not."""
    required = _required()
    if required is None:
        yield Finding(
            name="packages",
            state="problem",
            detail=f"{DISTRIBUTION} itself is not installed: Studio runs from a bare checkout.",
            fix="Run: pip install -e .",
        )
        return
    for extra, lines in required.items():
        matches = [match for line in lines if "sys_platform" not in line and (match := REQUIREMENT.match(line))]
        names = [match[1] for match in matches]
        if extra == "dev" or not names:
            continue
        versions = {name: _version(name) for name in names}
        missing = [name for name, version in versions.items() if version is None]
        label = f"extra {extra}" if extra else "packages"
        if not missing:
            yield Finding(name=label, state="ok", detail=", ".join(f"{name} {versions[name]}" for name in names))
        elif extra:
            without = WITHOUT.get(extra, "Models that need it are refused.")
            yield Finding(
                name=label,
                state="note",
                detail=f"not installed: {', '.join(missing)}. {without}",
                fix=f"pip install '{DISTRIBUTION}[{extra}]'",
            )
        else:
            yield Finding(
                name=label,
                state="problem",
                detail=f"missing: {', '.join(missing)}",
                fix=f"pip install --force-reinstall {DISTRIBUTION}",
            )


def _required() -> dict[str, list[str]] | None:
    """Requirements of Studio itself (under '') and of its extras; None where it is not installed.

    A checkout that is installed as it stands says so in pyproject.toml: what was noted at its installation is older.
    """
    try:
        noted = importlib.metadata.requires(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    try:
        project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]
        if project["name"] == DISTRIBUTION:
            return {"": list(project["dependencies"]), **project["optional-dependencies"]}
    except (OSError, ValueError, KeyError):
        pass  # an ordinary installation has none
    found: dict[str, list[str]] = {"": []}
    for line in noted:
        belongs = EXTRA.search(line)
        found.setdefault(belongs[1] if belongs else "", []).append(line)
    return found


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def folder(workspace: Path) -> Finding:
    """Whether the workspace can be written, or made."""
    place = workspace
    while not place.exists() and place != place.parent:
        place = place.parent
    state = str(workspace) if place == workspace else f"{workspace} (not made yet)"
    try:
        with tempfile.TemporaryFile(dir=place):
            return Finding(name="workspace", state="ok", detail=state)
    except OSError as error:
        fix = "Make it writable, or name another with --workspace."
        return Finding(name="workspace", state="problem", detail=f"{place}: {error.strerror}", fix=fix)


def disk(workspace: Path) -> Finding:
    place = workspace
    while not place.exists() and place != place.parent:
        place = place.parent
    free = shutil.disk_usage(place).free
    words = f"{free / 1e9:.1f} GB free"
    if free < FREE_BYTES:
        return Finding(name="disk", state="note", detail=words, fix="Conversions need room: free 2 GB or more.")
    return Finding(name="disk", state="ok", detail=words)


def engine(workspace: Path) -> Finding:
    """Whether an engine runs for the workspace."""
    try:
        client = attach(workspace, "cli")
        status = client.status() if client else None
    except StudioError as error:
        return Finding(name="engine", state="problem", detail=f"{error.what} {error.why}", fix=error.fix)
    if status is None:
        return Finding(name="engine", state="note", detail="none runs", fix="studio up --detach")
    words = f"process {status.pid}, version {status.version}, endpoint {status.server.url} ({status.server.state})"
    if status.server.state not in ("ready", "starting"):
        log = workspace / "logs" / "server.log"
        return Finding(name="engine", state="problem", detail=words, fix=f"Look at {log}.")
    if status.notices:
        # What the engine repaired, or could not, when it opened the store.
        return Finding(name="engine", state="note", detail=f"{words}. {' '.join(status.notices)}")
    return Finding(name="engine", state="ok", detail=words)


def port(workspace: Path) -> Finding:
    """Whether the endpoint's port is free."""
    host, number = "127.0.0.1", 8080
    try:
        serving = tomllib.loads((workspace / "studio.toml").read_text()).get("serving", {})
        host, number = str(serving.get("host", host)), int(serving.get("port", number))
    except FileNotFoundError:
        pass
    except (OSError, ValueError, AttributeError, TypeError) as error:
        file = workspace / "studio.toml"
        return Finding(name="port", state="problem", detail=f"{file}: {error}", fix="Correct the file.")
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        socket.create_server((host, number), family=family).close()
    except OSError as error:
        return Finding(
            name="port",
            state="note",
            detail=f"{host}:{number}: {error.strerror}. The engine will take one of the next.",
            fix="To fix another: [serving] port = 9000 in studio.toml.",
        )
    return Finding(name="port", state="ok", detail=f"{host}:{number} is free")


def sandbox() -> Iterator[Finding]:
    """How a worker is shut in, tried by one: it asks for what it must not have, and tells what it got."""
    command = [sys.executable, "-m", "studio.pipeline.probe"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=PROBE_SECONDS)
        told = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        lines = str(getattr(error, "stderr", "") or error).strip().splitlines()
        told = {"problem": lines[-1] if lines else type(error).__name__}
    if "problem" in told:
        fix = "Send that to the authors of Studio, with what this machine is."
        yield Finding(name="sandbox", state="problem", detail=f"no worker could be started: {told['problem']}", fix=fix)
        return
    escaped = told["escaped"]
    if escaped:
        words = f"a worker was able to {', to '.join(escaped)}"
        yield Finding(name="sandbox", state="note", detail=words, fix="Convert only files that you trust.")
    else:
        yield Finding(name="sandbox", state="ok", detail="a worker tried to get out and could not")
    for key, words in told["in_force"].items():
        name, fix = SANDBOX[key]
        left = key in told["open"]
        fix = fix if sys.platform.startswith("linux") else "Only Linux has that. Convert only files that you trust."
        yield Finding(name=f"sandbox: {name}", state="note" if left else "ok", detail=words, fix=fix if left else "")


def inotify() -> Finding:
    """Whether the inbox can be watched without listing it again and again."""
    settings = Path("/proc/sys/fs/inotify")
    if not settings.is_dir():
        return Finding(name="inbox watch", state="ok", detail=f"by {platform.system()}'s own means")
    watches = int((settings / "max_user_watches").read_text())
    instances = int((settings / "max_user_instances").read_text())
    words = f"inotify: {watches} watches, {instances} instances"
    if watches < WATCHES or instances < INSTANCES:
        fix = f"sysctl fs.inotify.max_user_watches={WATCHES * 8} fs.inotify.max_user_instances={INSTANCES * 8}"
        return Finding(name="inbox watch", state="note", detail=words, fix=fix)
    return Finding(name="inbox watch", state="ok", detail=words)


def terminal(environment: Mapping[str, str]) -> Finding:
    """What the terminal can show."""
    kind = environment.get("TERM", "")
    encoding = (getattr(sys.stdout, "encoding", "") or "").lower().replace("-", "")
    if not os.isatty(1):
        return Finding(name="terminal", state="ok", detail="stdout is not a terminal")
    columns, lines = shutil.get_terminal_size()
    true_colour = environment.get("COLORTERM", "") in ("truecolor", "24bit")
    colours = "none (NO_COLOR)" if environment.get("NO_COLOR") else "16 million" if true_colour else "as TERM says"
    words = f"{kind or 'TERM is not set'}, {columns}x{lines}, colours: {colours}, {encoding}"
    if encoding != "utf8":
        return Finding(name="terminal", state="note", detail=words, fix="Charts need UTF-8: export LANG=C.UTF-8")
    if kind in ("", "dumb"):
        return Finding(name="terminal", state="note", detail=words, fix="export TERM=xterm-256color")
    if columns < 80 or lines < 24:
        return Finding(name="terminal", state="note", detail=words, fix="Make the window 80x24 or larger.")
    return Finding(name="terminal", state="ok", detail=words)
