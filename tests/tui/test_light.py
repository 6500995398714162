"""What the terminal must not import before it paints."""

from __future__ import annotations

import subprocess
import sys

HEAVY = {"numpy", "duckdb", "onnxruntime", "onnx", "torch", "plotext", "fastapi", "uvicorn", "studio.engine"}


def test_starting_imports_nothing_heavy() -> None:
    code = "import sys, studio.tui.start, studio.tui.screens.models; print(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "textual" in done.stdout.split()
    assert HEAVY & set(done.stdout.split()) == set()
