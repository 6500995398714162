"""Taking PyTorch models in, in the test's own process: PyTorch is imported once, and not by a worker for each."""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch

from studio.pipeline.intake import run_intake
from studio.pipeline.messages import IntakeResult, IntakeTask


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def take(*files: Path, trusted: bool = False, stem: str = "") -> IntakeResult:
    """Take files in; `trusted`: as if the user had said yes to every one of them."""
    out = Path(tempfile.mkdtemp(dir=files[0].parent.parent, prefix="taken-")) / "out"
    hashes = tuple(sha256(path) for path in files if path.is_file()) if trusted else ()
    task = IntakeTask(files=tuple(map(str, files)), out=str(out), trusted=hashes, stem=stem)
    return run_intake(task, lambda *_: None)


def recorded(row: Callable[..., None], format: str, tried: str, *files: Path, trusted: bool = False) -> IntakeResult:
    """The same, with a line for docs/formats.md."""
    start = time.perf_counter()
    result = take(*files, trusted=trusted)
    row(format=format, tried=tried, result=result, seconds=time.perf_counter() - start)
    return result


def inputs(result: IntakeResult) -> list[str]:
    return [spec.describe() for spec in result.signature.inputs]


def outputs(result: IntakeResult) -> list[str]:
    return [spec.describe() for spec in result.signature.outputs]


def check(result: IntakeResult, network: Any, *tensors: torch.Tensor, **named: torch.Tensor) -> None:
    """The graph gives what the network gives, on inputs of the test's own."""
    session = ort.InferenceSession(result.graph_path, providers=["CPUExecutionProvider"])
    with torch.no_grad():
        answer = network(*tensors, **named)
    expected = [leaf.numpy() for leaf in torch.utils._pytree.tree_leaves(answer) if isinstance(leaf, torch.Tensor)]
    arrays = [tensor.numpy() for tensor in (*tensors, *named.values())]
    feed = dict(zip([one.name for one in session.get_inputs()], arrays, strict=True))
    for own, wanted in zip(session.run(None, feed), expected, strict=True):
        np.testing.assert_allclose(own, wanted, atol=2e-5)
