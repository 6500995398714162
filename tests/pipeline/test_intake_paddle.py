"""PaddlePaddle's models: told and looked through without it, and converted in its own, real environment."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from studio.core.errors import InvalidInput, NeedsEnvironment, NeedsTrust
from studio.formats.base import ArrivalFiles
from studio.formats.registry import recognise
from studio.pipeline.environments import ENVIRONMENTS, FOLDER_VARIABLE
from studio.pipeline.intake import run_intake
from studio.pipeline.making import make
from studio.pipeline.messages import IntakeTask
from tests.formats.tf_graphs import part
from tests.pipeline.conftest import Runner

WEIGHTS = bytes(16) + b"\x04\0\0\0\x08\x05\x10\x06" + bytes(24)


def program(*operations: str) -> bytes:
    """A program of PaddlePaddle 3."""
    ops = [{"#": "p", "A": []}, *({"#": f"1.{name}"} for name in operations)]
    whole = {"base_code": {"magic": "pir", "version": 4}, "program": {"regions": [{"blocks": [{"ops": ops}]}]}}
    return json.dumps(whole, separators=(",", ":")).encode()


def old_program(*operations: str) -> bytes:
    """A program of PaddlePaddle 2, as framework.proto lays it out."""
    ops = b"".join(part(4, part(3, name.encode())) for name in operations)
    return part(1, b"\x08\x00\x10" + b"\xff" * 9 + b"\x01" + ops)


def take(tmp_path: Path, *files: Path, trusted: tuple[str, ...] = ()) -> None:
    task = IntakeTask(files=tuple(map(str, files)), out=str(tmp_path / "work" / "out"), trusted=trusted)
    run_intake(task, lambda *_: None)


@pytest.mark.parametrize(("suffix", "make_program"), [(".json", program), (".pdmodel", old_program)])
def test_a_program_is_told_looked_through_and_needs_its_environment(
    tmp_path: Path, suffix: str, make_program: Any
) -> None:
    model, weights = tmp_path / f"net{suffix}", tmp_path / "net.pdiparams"
    model.write_bytes(make_program("conv2d", "relu"))
    with pytest.raises(InvalidInput, match=r"weights of .* are missing"):
        take(tmp_path, model)
    weights.write_bytes(WEIGHTS)
    assert recognise(ArrivalFiles.of((model, weights)))[0].name == "paddle"
    with pytest.raises(NeedsEnvironment) as caught:
        take(tmp_path, model, weights)
    assert caught.value.environment == "paddle"
    model.write_bytes(make_program("conv2d", "save_combine", "py_func"))
    with pytest.raises(NeedsTrust) as asked:
        take(tmp_path, model, weights)
    assert asked.value.code_files[0].imports == ("py_func", "save_combine")
    with pytest.raises(NeedsEnvironment):
        take(tmp_path, model, weights, trusted=(asked.value.code_files[0].sha256,))


def test_weights_alone_say_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "net.pdiparams").write_bytes(WEIGHTS)
    with pytest.raises(InvalidInput, match="weights of a PaddlePaddle model alone"):
        take(tmp_path, tmp_path / "net.pdiparams")


@pytest.fixture(scope="module")
def python(request: pytest.FixtureRequest) -> Path:
    """The interpreter of PaddlePaddle's environment."""
    with pytest.MonkeyPatch.context() as patch:
        if FOLDER_VARIABLE not in os.environ:
            assert request.config.cache is not None
            patch.setenv(FOLDER_VARIABLE, str(request.config.cache.mkdir("environments")))
        return asyncio.run(make(ENVIRONMENTS["paddle"], lambda *_: None))


@pytest.fixture(scope="module")
def models(python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    script = Path(__file__).parents[1] / "formats" / "paddle_models.py"
    subprocess.run([python, script, folder], check=True, capture_output=True)
    return folder


@pytest.mark.environment
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("name", "sent"),
    [
        ("convolutions", "image FP32 [batch × 3 × 12 × 12]"),
        ("recurrent", "rows FP32 [batch × length × 4]"),
        ("old", "image FP32 [batch × 3 × 12 × 12]"),
    ],
)
async def test_models_become_onnx(
    runner: Runner, python: Path, models: Path, format_row: Any, name: str, sent: str
) -> None:
    runner.python = python
    started = time.perf_counter()
    result = await runner.intake(models / name)
    format_row(format="PaddlePaddle", tried=name, result=result, seconds=time.perf_counter() - started)
    assert result.format == "paddle" and result.signature.batchable
    assert [spec.describe() for spec in result.signature.inputs] == [sent]
    assert result.parity.batch_sizes == (1, 2, 5)
    assert result.parity.worst is not None and result.parity.worst.max_rel < 1e-4
    with np.load(models / f"{name}.expected.npz") as kept:
        session = ort.InferenceSession(result.graph_path, providers=["CPUExecutionProvider"])
        (own,) = session.run(None, {session.get_inputs()[0].name: kept["rows"]})
        np.testing.assert_allclose(own, kept["answer"], atol=1e-5)
