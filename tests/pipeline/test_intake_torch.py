"""PyTorch programs through a real worker."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

from studio.core.errors import NeedsExtra, NeedsTrust
from tests.formats import programs
from tests.formats.graphs import repacked
from tests.pipeline.conftest import Runner


def check_against_torch(graph_path: str, module: torch.nn.Module, x: np.ndarray) -> None:
    session = ort.InferenceSession(graph_path, providers=["CPUExecutionProvider"])
    with torch.no_grad():
        expected = module.eval()(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(session.run(None, {session.get_inputs()[0].name: x})[0], expected, atol=1e-5)


@pytest.mark.parametrize("free", [True, False])
async def test_a_program_becomes_onnx_with_a_free_batch(runner: Runner, tmp_path: Path, free: bool) -> None:
    module = programs.SmallNet()
    path = programs.save(module, torch.randn(2 if free else 1, 1, 8, 8), tmp_path / "net.pt2", free)
    result = await runner.intake(path)
    assert result.format == "torch-export"
    assert [spec.describe() for spec in result.signature.inputs] == ["image FP32 [batch × 1 × 8 × 8]"]
    assert result.signature.outputs[0].shape == ("batch", 3)
    assert result.signature.batchable
    assert result.parity.batch_sizes == (1, 2, 5)
    assert result.parity.worst is not None and result.parity.worst.max_rel < 1e-4
    assert any("batch was made free" in note for note in result.notes) is not free
    assert result.tools["torch"] == torch.__version__
    check_against_torch(result.graph_path, module, np.random.default_rng(0).random((7, 1, 8, 8), np.float32))
    kept = onnx.load(result.graph_path)
    assert not any("stack_trace" in prop.key for node in kept.graph.node for prop in node.metadata_props)


async def test_a_batch_that_can_not_be_freed_stays_as_it_was(runner: Runner, tmp_path: Path) -> None:
    module = programs.Mixing()
    result = await runner.intake(programs.save(module, torch.randn(2, 4), tmp_path / "mix.pt2", free=False))
    assert result.signature.inputs[0].shape == (2, 4)
    assert not result.signature.batchable
    assert any("exactly 2 rows" in note for note in result.notes)
    check_against_torch(result.graph_path, module, np.random.default_rng(0).random((2, 4), np.float32))


async def test_a_file_that_would_run_code_asks_first_and_runs_shut_in(runner: Runner, tmp_path: Path) -> None:
    plain = programs.save(programs.SmallNet(), torch.randn(2, 1, 8, 8), tmp_path / "net.pt2", free=True)
    inside, outside = runner.root / "scratch2" / "ran", tmp_path / "ran"
    for mark in (inside, outside):
        evil = repacked(plain, tmp_path / f"evil{mark.parent.name}.pt2", programs.attacks(mark)["sample inputs"])
        with pytest.raises(NeedsTrust, match="open"):
            await runner.intake(evil)
        assert not mark.exists()
        with pytest.raises(Exception):  # noqa: B017 - the payload's file is no program any more
            await runner.intake(evil, trusted=(hashlib.sha256(evil.read_bytes()).hexdigest(),))
        # With trust it runs; but what it writes outside of its scratch folder, the sandbox refuses.
        assert mark.exists() == (mark is inside or runner.sandbox["writing"] != "its scratch folder")


HIDE_TORCH = """
import sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "onnxscript"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Hidden())
"""


async def test_without_pytorch_the_extra_is_named(
    runner: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = programs.save(programs.SmallNet(), torch.randn(2, 1, 8, 8), tmp_path / "net.pt2", free=True)
    hook = tmp_path / "hook"
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(HIDE_TORCH)
    monkeypatch.setenv("PYTHONPATH", str(hook))
    with pytest.raises(NeedsExtra) as caught:
        await runner.intake(path)
    assert caught.value.what == "'net.pt2' is a PyTorch program."
    assert "pip install 'ort-studio[torch]'" in caught.value.fix
