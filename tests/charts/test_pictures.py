from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "assets" / "pictures.py"
SVG = '<svg viewBox="0 0 120 60.4" xmlns="http://www.w3.org/2000/svg"><rect width="120" height="60" fill="red"/></svg>'


def run(*arguments: str, path: str = os.environ.get("PATH", "")) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, env=os.environ | {"PATH": path}
    )


def test_a_missing_chromium_is_named_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "a.svg").write_text(SVG)
    done = run(str(tmp_path / "a.svg"), str(tmp_path / "a.png"), path=str(tmp_path))
    assert done.returncode == 1
    assert "No Chromium found" in done.stderr and "apt-get install chromium" in done.stderr
    assert "Traceback" not in done.stderr


def test_what_is_no_screenshot_is_said_so(tmp_path: Path) -> None:
    browser = tmp_path / "chromium"
    browser.write_text("#!/bin/sh\nexit 3\n")
    browser.chmod(0o755)
    (tmp_path / "a.svg").write_text("not an image")
    done = run(str(tmp_path / "a.svg"), str(tmp_path / "a.png"), "--browser", str(browser))
    assert done.returncode == 1 and "is not an SVG screenshot" in done.stderr
    (tmp_path / "a.svg").write_text(SVG)
    done = run(str(tmp_path / "a.svg"), str(tmp_path / "a.png"), "--browser", str(browser))
    assert done.returncode == 1 and "did not draw" in done.stderr


@pytest.mark.slow
def test_a_picture_has_the_size_of_its_screenshot(tmp_path: Path) -> None:
    assert shutil.which("chromium"), "this proof needs Chromium"
    (tmp_path / "a.svg").write_text(SVG)
    done = run(str(tmp_path), str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    head = (tmp_path / "out" / "a.png").read_bytes()[:24]
    assert head[:4] == b"\x89PNG"
    assert (int.from_bytes(head[16:20]), int.from_bytes(head[20:24])) == (120, 60)
