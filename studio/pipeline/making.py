"""Making a converter environment: venv and pip in a process of their own, watched, and told in words.

It happens outside of the sandbox, since it has to reach the package index; no byte of an arrival is seen there. Only
wheels are installed, so that no package runs code of its own meanwhile. Sources: PEP 405, `site`, pip 23-26.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import importlib.metadata
import os
import re
import secrets
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from studio.core.errors import Conflict, Refused, StepFailed, StudioError, Unavailable
from studio.pipeline.environments import Environment, base_packages, find, interpreter_in, mark, place_of

Tell = Callable[[float | None, str], None]
"""How far it is (0 to 1, None where that is not known), and what is done just now."""

_LAYER = "studio-base.pth"
_LOCK_SECONDS = 0.3
_KEPT_LINES = 200
_DOWNLOADED = 0.8  # of the whole, when everything is downloaded
_UNWANTED = ("PYTHONPATH", "PYTHONHOME", "PIP_USER", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_REQUIRE_VIRTUALENV")

# A process that begins with this ends, with all its children, when the engine does: its end of stdin closes then.
_FOLLOW = """
import os, runpy, signal, threading
def follow():
    while os.read(0, 4096):
        pass
    os.killpg(os.getpgrp(), signal.SIGKILL)
threading.Thread(target=follow, daemon=True).start()
"""
_PIP = f"{_FOLLOW}runpy.run_module('pip', run_name='__main__', alter_sys=True)"

_DOWNLOADING = re.compile(r"^\s*Downloading (?P<file>\S+) \((?P<size>[\d.]+) (?P<unit>[kMG]?B)\)")
_COLLECTING = re.compile(r"^\s*(?:Collecting|Processing) (?P<name>[^\s;<>=!~@]+)")
_INSTALLING = re.compile(r"^Installing collected packages: (?P<names>.*)")
_RAW = re.compile(r"^Progress (?P<done>\d+) of (?P<whole>\d+)$")
_UNITS = {"B": 1, "kB": 1_000, "MB": 1_000_000, "GB": 1_000_000_000}
_OFFLINE = (
    *("Failed to establish a new connection", "NewConnectionError", "NameResolutionError", "ConnectTimeoutError"),
    *("Temporary failure in name resolution", "Network is unreachable", "ReadTimeoutError", "ProxyError"),
    *("ConnectionResetError", "IncompleteRead", "Could not fetch URL", "SSLError"),
)


async def make(environment: Environment, tell: Tell, log: Path | None = None) -> Path:
    """The interpreter of an environment, made first where there is none. Several may ask at once: one of them makes it.

    `log`: a file that gets what pip said. Raises Unavailable without a network, StepFailed or Refused with pip's own
    reason, Conflict when the folder can not be used; a later call tries again. Cancelling stops it and leaves nothing.
    """
    ready = find(environment)
    if ready is not None:
        return ready
    place = place_of(environment)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        _check_space(environment, place.parent)
        async with _locked(place.with_name(f".{place.name}.lock"), environment, tell):
            ready = find(environment)
            if ready is not None:
                return ready
            for left in place.parent.glob(f".{place.name}.*.part"):
                await asyncio.to_thread(shutil.rmtree, left, True)
            draft = place.with_name(f".{place.name}.{secrets.token_hex(4)}.part")
            try:
                await _fill(environment, draft, tell, log)
                await asyncio.to_thread(mark, environment, draft)
                shutil.rmtree(place, ignore_errors=True)  # one whose Python is gone
                draft.rename(place)
            finally:
                shutil.rmtree(draft, ignore_errors=True)
    except OSError as error:
        raise Conflict(
            f"The converter environment '{environment.name}' can not be made in {place.parent}.",
            f"{error.strerror or error}.",
            "Make room there, or name another folder in STUDIO_ENVIRONMENTS; then retry.",
        ) from error
    return interpreter_in(place)


def _check_space(environment: Environment, folder: Path) -> None:
    free, wanted = shutil.disk_usage(folder).free, environment.installed + environment.download
    if free < wanted:
        raise Refused(
            f"There is too little room for the converter environment '{environment.name}'.",
            f"It takes about {wanted / 1e9:.1f} GB while it is made; {folder} has {free / 1e9:.1f} GB.",
            "Make room, or name a folder elsewhere in STUDIO_ENVIRONMENTS; then retry.",
        )


@asynccontextmanager
async def _locked(path: Path, environment: Environment, tell: Tell) -> AsyncIterator[None]:
    """One maker at a time, over all engines. The kernel drops the lock with the process that holds it."""
    with path.open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                tell(None, f"waiting: the environment '{environment.name}' is being made already")
                await asyncio.sleep(_LOCK_SECONDS)
        yield


async def _fill(environment: Environment, draft: Path, tell: Tell, log: Path | None) -> None:
    tell(0.0, f"making the environment '{environment.name}'")
    with (log or Path(os.devnull)).open("a") as record:
        talk = Talk(environment, tell, record, f" All that was said is in {log}." if log else "")
        # Without pip: Studio's own is found through the layer.
        await _step(talk, [sys.executable, "-m", "venv", "--without-pip", str(draft)], _no_venv)
        python = str(interpreter_in(draft))
        _layer_over(draft)
        if not any((folder / "pip").is_dir() for folder in base_packages()):
            await _step(talk, [python, "-m", "ensurepip"], _no_pip)
        pins = draft / "constraints.txt"
        pins.write_text("".join(f"{name}=={version}\n" for name, version in _pins(environment).items()))
        options = ["--only-binary", ":all:", "--no-input", "--disable-pip-version-check", "--no-warn-script-location"]
        # What Studio has beside it may ask for other versions; reading all of that takes pip longer than the rest.
        options.append("--no-warn-conflicts")
        bar = "raw" if _pip_version() >= (24, 1) else "off"
        install = [python, "-c", _PIP, "install", *options, "--progress-bar", bar]
        await _step(talk, [*install, "-c", str(pins), *environment.requirements], _no_packages)
        if environment.alone:
            await _step(talk, [*install, "--no-deps", *environment.alone], _no_packages)
        tell(0.95, f"trying the environment '{environment.name}'")
        await _step(talk, [python, "-c", f"{_FOLLOW}import {', '.join(environment.modules)}"], _no_import)


def _layer_over(draft: Path) -> None:
    """Studio's packages behind the environment's own, with what their own .pth files add."""
    packages = next(draft.glob("lib/python*/site-packages"), draft / "Lib" / "site-packages")
    lines = [f"import site; site.addsitedir({str(folder)!r})\n" for folder in base_packages()]
    (packages / _LAYER).write_text("".join(lines))


def _pins(environment: Environment) -> dict[str, str]:
    """Versions that must stay as they are: of what Studio itself needs in a worker."""
    try:
        wanted = importlib.metadata.requires("ort-studio") or []
    except importlib.metadata.PackageNotFoundError:
        wanted = ["numpy", "onnx", "onnxruntime", "msgspec", "ml_dtypes", "psutil"]
    names = [re.split(r"[^\w.-]", text, maxsplit=1)[0] for text in wanted if "extra ==" not in text]
    found: dict[str, str] = {}
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            if name not in environment.replaces:
                found[name] = importlib.metadata.version(name).partition("+")[0]
    return found


@dataclass
class Talk:
    """What is said while an environment is made, turned into progress. `whole`: where all of it can be read."""

    environment: Environment
    tell: Tell
    record: IO[str]
    whole: str = ""
    lines: list[str] = field(default_factory=list)
    _done: int = 0
    _now: int = 0
    _doing: str = ""

    def hear(self, line: str) -> None:
        """One line of output."""
        raw = _RAW.match(line)
        if raw:
            self._share(self._done + int(raw["done"]))
            return
        self.record.write(f"{line}\n")
        self.record.flush()
        self.lines = [*self.lines, line][-_KEPT_LINES:]
        if found := _DOWNLOADING.match(line):
            self._done += self._now
            self._now = int(float(found["size"]) * _UNITS[found["unit"]])
            self._doing = f"downloading {package_of(found['file'])}, {found['size']} {found['unit']}"
            self._share(self._done)
        elif found := _COLLECTING.match(line):
            name = package_of(Path(found["name"]).name)
            self.tell(self._fraction(self._done), f"looking for {name}")
        elif found := _INSTALLING.match(line):
            self.tell(_DOWNLOADED, f"installing {len(found['names'].split(', '))} packages")

    def _share(self, done: int) -> None:
        self.tell(self._fraction(done), self._doing)

    def _fraction(self, done: int) -> float:
        return min(done / max(1, self.environment.download), 1.0) * _DOWNLOADED


def _pip_version() -> tuple[int, ...]:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return tuple(int(part) for part in re.findall(r"\d+", importlib.metadata.version("pip"))[:2])
    return (0,)


def package_of(file: str) -> str:
    """`tensorflow_cpu-2.21.0-cp311-….whl` is tensorflow-cpu."""
    return file.partition("-")[0].replace("_", "-") if file.endswith((".whl", ".metadata")) else file


Failure = Callable[["Talk"], StudioError]


async def _step(talk: Talk, command: list[str], failure: Failure) -> None:
    talk.lines = []
    if await _status(talk, command):
        raise failure(talk)


async def _status(talk: Talk, command: list[str]) -> int:
    """Run a command to its end, and all its children; the exit status."""
    outer = {name: value for name, value in os.environ.items() if name not in _UNWANTED}
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
        limit=1024 * 1024,
        env={**outer, "PYTHONUNBUFFERED": "1", "NO_COLOR": "1"},
    )
    assert process.stdout is not None
    try:
        while line := await process.stdout.readline():
            talk.hear(line.decode(errors="replace").rstrip())
        return await process.wait()
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


def _no_venv(talk: Talk) -> StudioError:
    return StepFailed(
        f"Python can not make the converter environment '{talk.environment.name}'.",
        _last(talk.lines),
        "Install Python's venv module (on Debian: apt install python3-venv), then retry.",
    )


def _no_pip(talk: Talk) -> StudioError:
    return StepFailed(
        f"There is no pip to fill the converter environment '{talk.environment.name}' with.",
        _last(talk.lines),
        f"Install pip for {sys.executable}, then retry.",
    )


def _no_packages(talk: Talk) -> StudioError:
    text = "\n".join(talk.lines)
    what = f"The converter environment '{talk.environment.name}' could not be installed."
    if any(mark in text for mark in _OFFLINE):
        return Unavailable(
            what,
            "The package index could not be reached.",
            "Connect this machine, then retry. Nothing was kept of this try.",
        )
    if "No space left on device" in text:
        return Unavailable(what, "The disk is full.", "Make room, then retry.")
    reasons = [
        line.removeprefix("ERROR: ")
        for line in talk.lines
        if line.startswith("ERROR: ") and line != "ERROR: Exception:"
    ]
    return StepFailed(
        what,
        f"pip says: {(reasons or [_last(talk.lines)])[0][:400].rstrip('.')}.",
        f"Retry once that is mended; nothing was kept of this try.{talk.whole}",
    )


def _no_import(talk: Talk) -> StudioError:
    return StepFailed(
        f"The converter environment '{talk.environment.name}' was installed, and does not work on this machine.",
        _last(talk.lines),
        f"Nothing was kept of it.{talk.whole}",
    )


def _last(lines: list[str]) -> str:
    said = [line.strip() for line in lines if line.strip()]
    return f"{said[-1][:400].rstrip('.')}." if said else "It did not say why."
