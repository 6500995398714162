"""The base install, in an environment of its own: no torch, and everything else works."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.journeys.engines import SAMPLES, RunningEngine

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.environment
@pytest.mark.timeout(420)
def test_the_base_install_runs_without_torch_and_says_what_a_pt2_needs(tmp_path: Path) -> None:
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*install, "-c", str(ROOT / "constraints.txt"), str(ROOT)], check=True, timeout=400)
    assert subprocess.run([python, "-c", "import torch"], capture_output=True).returncode != 0

    engine = RunningEngine(tmp_path / "workspace", python=str(python))
    engine.start()
    try:
        engine.drop(SAMPLES / "1")
        job = engine.finished_job("digits")
        assert job.state == "failed"
        assert job.problem is not None
        assert job.problem.code == "needs_extra"
        assert "pip install 'ort-studio[torch]'" in job.problem.fix
        engine.drop(SAMPLES / "3")
        assert engine.registered_version("cancer") == 1
        assert engine.finished_job("cancer").state == "done"
        listed = subprocess.run(
            [str(python.with_name("studio")), "-w", str(engine.workspace), "ls"],
            capture_output=True,
            text=True,
            check=True,
        )
        assert "cancer:1" in listed.stdout
    finally:
        assert engine.stop() == 0
