"""Intake in the test's own process: the same task, without the time that a worker of its own takes."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from studio.core.settings import GateSettings
from studio.pipeline.intake import run_intake
from studio.pipeline.messages import IntakeResult, IntakeTask


def take_in(*files: Path, gates: GateSettings | None = None) -> IntakeResult:
    """What becomes of files; raises what the worker would tell."""
    out = files[0].parent / f"out-{files[0].name}"
    task = IntakeTask(files=tuple(map(str, files)), out=str(out), gates=gates or GateSettings())
    return run_intake(task, lambda *_: None)


def timed(take: Callable[[], IntakeResult]) -> tuple[IntakeResult, float]:
    started = time.perf_counter()
    return take(), time.perf_counter() - started


def answers(graph: str | Path, feed: dict[str, np.ndarray]) -> dict[str, Any]:
    """What ONNX Runtime itself says, without any rewriting."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_outputs()]
    return dict(zip(names, session.run(names, feed), strict=True))
