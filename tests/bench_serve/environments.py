"""An environment of its own for each peer, made on demand and kept for the next run."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from studio.core.errors import StudioError

ONNXRUNTIME = "onnxruntime==1.31.1"
"""The same in every environment, so that only the servers differ."""
SECONDS = 1200.0


class Missing(StudioError):
    """This peer can not be measured here; `what` is the reason that the table gives."""


@dataclass(frozen=True)
class Environment:
    """`python`: the interpreter that it is made from, empty = the one that runs this. `needs`: programs of the system.

    `borrows` are modules too large to install twice: those of this environment are looked at after its own.
    """

    requirements: tuple[str, ...]
    python: str = ""
    needs: tuple[str, ...] = ()
    borrows: tuple[str, ...] = ()


ENVIRONMENTS = {
    "fastapi": Environment(("fastapi==0.165.0", "uvicorn[standard]==0.54.0")),
    "mosec": Environment(("mosec==0.9.8", "msgspec==0.22.0")),
    "litserve": Environment(("litserve==0.2.19",)),
    "mlserver": Environment(("mlserver==1.7.1",)),
    "bentoml": Environment(("bentoml==1.4.39",)),
    # pytriton starts Triton with the libpython of the system, which other interpreters do not have.
    "pytriton": Environment(("nvidia-pytriton==0.7.0",), python="/usr/bin/python3.11"),
    "torchserve": Environment(("torchserve==0.12.0", "pyyaml==6.0.3"), needs=("java",), borrows=("torch",)),
    "ray": Environment(("ray[serve,haproxy]==2.60.0",), needs=("unshare",)),
}


def root() -> Path:
    """Where the environments are: `STUDIO_BENCH_ENVIRONMENTS`, or the user's cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", "") or Path.home() / ".cache")
    return Path(os.environ.get("STUDIO_BENCH_ENVIRONMENTS", "") or cache / "ort-studio" / "bench")


def ready(name: str) -> bool:
    return (_folder(name) / "ready").exists()


def find(name: str) -> Path:
    """The folder of an environment that is ready, with its `bin/python`. Raises Missing, with what hindered it from
    being made where that is known."""
    folder = _folder(name)
    if not ready(name):
        raise Missing(
            folder.with_suffix(".txt").read_text() if folder.with_suffix(".txt").exists() else "not installed"
        )
    return folder


def make(name: str) -> None:
    """Make an environment where it is not there yet. Raises Missing with the reason, and keeps it for `find`."""
    if ready(name):
        return
    reason = _folder(name).with_suffix(".txt")
    reason.unlink(missing_ok=True)
    try:
        _make(ENVIRONMENTS[name], _folder(name))
    except Missing as missing:
        root().mkdir(parents=True, exist_ok=True)
        reason.write_text(missing.what)
        raise


def _make(environment: Environment, folder: Path) -> None:
    for program in environment.needs:
        if shutil.which(program) is None:
            raise Missing(f"needs {program}, which is not installed")
    python = environment.python or sys.executable
    if not Path(python).exists():
        raise Missing(f"needs {python}, which is not there")
    shutil.rmtree(folder, ignore_errors=True)
    # pip of this environment installs into the new one, which needs none of its own (nor Debian's ensurepip).
    _call([python, "-m", "venv", "--without-pip", str(folder)])
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "install", "--quiet"]
    _call([*pip, "--disable-pip-version-check", "--only-binary", ":all:", ONNXRUNTIME, *environment.requirements])
    if environment.borrows:
        _borrow(folder, environment.borrows)
    (folder / "ready").touch()


def _folder(name: str) -> Path:
    """Named by what is in it: other requirements make another environment."""
    return root() / f"{name}-{hashlib.sha256(repr((ONNXRUNTIME, ENVIRONMENTS[name])).encode()).hexdigest()[:8]}"


def _borrow(folder: Path, modules: tuple[str, ...]) -> None:
    ours = Path(sysconfig.get_path("purelib"))
    for module in modules:
        if not (ours / module).exists():
            shutil.rmtree(folder)
            raise Missing(f"needs {module}, which the environment of this benchmark does not have")
    site = next(folder.glob("lib/python3*/site-packages"))
    (site / "borrowed.pth").write_text(f"{ours}\n")


def _call(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise Missing(f"was not installed after {SECONDS:.0f} s") from None
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()[
            -1:
        ]
        reason = errors[-1].removeprefix("ERROR: ") if errors else f"exit code {done.returncode}"
        raise Missing(f"does not install: {reason[:160]}")
