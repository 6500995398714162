from __future__ import annotations

import subprocess
import sys

HEAVY = {"numpy", "onnx", "onnxruntime", "torch", "duckdb", "textual", "fastapi", "plotext", "asyncio"}


def test_importing_the_sdk_is_light() -> None:
    code = "import sys, studio.client; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not HEAVY & set(done.stdout.split())
