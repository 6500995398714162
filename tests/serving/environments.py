"""Environments of their own for clients whose packages do not go together with Studio's, made on demand and kept."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

SECONDS = 900


def root() -> Path:
    """Where they are: `STUDIO_CLIENT_ENVIRONMENTS`, or the user's cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", "") or Path.home() / ".cache")
    return Path(os.environ.get("STUDIO_CLIENT_ENVIRONMENTS", "") or cache / "ort-studio" / "clients")


def interpreter(*requirements: str) -> Path:
    """The Python that has these packages, and of Studio's none. Raises AssertionError with what pip said."""
    folder = root() / hashlib.sha256(repr((requirements, sys.version)).encode()).hexdigest()[:12]
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        shutil.rmtree(folder, ignore_errors=True)
        _call(sys.executable, "-m", "venv", "--without-pip", str(folder))
        pip = (sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check", "install", "-q")
        _call(*pip, "--only-binary", ":all:", *requirements)
        (folder / "ready").touch()
    return python


def _call(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
