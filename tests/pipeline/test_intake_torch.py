"""PyTorch programs, and what must not get out of a worker, through a real worker."""

from __future__ import annotations

import contextlib
import socket
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import onnx
import psutil
import pytest
import torch

from studio.core.errors import NeedsExtra, NeedsTrust, Refused, StepFailed
from studio.formats.base import ArrivalFiles
from studio.formats.registry import recognise
from tests.formats import programs
from tests.formats.graphs import repacked
from tests.formats.networks import Encoder, Fixed, seeded
from tests.pipeline.conftest import Runner
from tests.pipeline.torch_intake import check, inputs, recorded, sha256, take


async def test_a_worker_makes_a_static_program_take_any_batch(runner: Runner, tmp_path: Path) -> None:
    module = programs.SmallNet()
    result = await runner.intake(programs.save(module, torch.randn(1, 1, 8, 8), tmp_path / "net.pt2", free=False))
    assert result.format == "torch-export"
    assert inputs(result) == ["image FP32 [batch × 1 × 8 × 8]"]
    assert result.signature.outputs[0].shape == ("batch", 3)
    assert result.signature.batchable
    assert result.parity.batch_sizes == (1, 2, 5)
    assert result.parity.worst is not None and result.parity.worst.max_rel < 1e-4
    assert any("batch was made free" in note for note in result.notes)
    assert result.tools["torch"] == torch.__version__
    check(result, module.eval(), torch.rand(7, 1, 8, 8))
    kept = onnx.load(result.graph_path)
    assert not any(prop.key for node in kept.graph.node for prop in node.metadata_props)  # folders of the author


def test_a_free_batch_is_kept(tmp_path: Path, format_row: Callable[..., None]) -> None:
    module = programs.SmallNet()
    path = programs.save(module, torch.randn(2, 1, 8, 8), tmp_path / "net.pt2", free=True)
    result = recorded(format_row, "PyTorch torch.export (.pt2)", "CNN, free batch", path)
    assert inputs(result) == ["image FP32 [batch × 1 × 8 × 8]"]
    assert result.parity.batch_sizes == (1, 2, 3, 5)
    assert result.notes == ()
    check(result, module.eval(), torch.rand(7, 1, 8, 8))


def test_free_lengths_are_kept_and_named(tmp_path: Path, format_row: Callable[..., None]) -> None:
    network = seeded(Encoder)
    example = torch.randint(0, 50, (2, 7)), torch.tensor([[1] * 7, [1] * 4 + [0] * 3])
    free = {0: torch.export.Dim("n", min=1), 1: torch.export.Dim.AUTO}
    torch.export.save(torch.export.export(network, example, dynamic_shapes=(free, free)), tmp_path / "net.pt2")
    result = recorded(
        format_row, "PyTorch torch.export (.pt2)", "Transformer with a mask, free length", tmp_path / "net.pt2"
    )
    assert inputs(result) == ["tokens INT64 [batch × sequence]", "mask INT64 [batch × sequence]"]
    mask = torch.ones(3, 12, dtype=torch.int64)
    mask[0, 9:] = 0
    check(result, network, torch.randint(0, 50, (3, 12)), mask)


def test_inputs_by_name_and_outputs_in_a_dictionary(tmp_path: Path, format_row: Callable[..., None]) -> None:
    network = seeded(Fixed)
    program = torch.export.export(network, (), {"image": torch.randn(3, 1, 28, 28)})
    torch.export.save(program, tmp_path / "net.pt2")
    tried = "CNN exported for a fixed batch, dictionary"
    result = recorded(format_row, "PyTorch torch.export (.pt2)", tried, tmp_path / "net.pt2")
    assert inputs(result) == ["image FP32 [batch × 1 × 28 × 28]"]
    assert any("exported for 3 rows at a time" in note for note in result.notes)
    check(result, network, image=torch.randn(5, 1, 28, 28))


def test_a_batch_that_can_not_be_freed_stays_as_it_was(tmp_path: Path) -> None:
    module = programs.Mixing()
    result = take(programs.save(module, torch.randn(2, 4), tmp_path / "mix.pt2", free=False))
    assert result.signature.inputs[0].shape == (2, 4)
    assert not result.signature.batchable
    assert any("exactly 2 rows" in note for note in result.notes)
    check(result, module, torch.rand(2, 4))


def test_compiled_packages_are_refused_when_they_are_recognised(tmp_path: Path) -> None:
    """The members that torch._inductor.aoti_compile_and_package writes."""
    path = tmp_path / "net.pt2"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("net/data/aotinductor/model/c.wrapper.so", b"\x7fELF")
        archive.writestr("net/archive_format", b"pt2")
        archive.writestr("net/archive_version", b"0")
    with pytest.raises(Refused, match="is an AOTInductor package") as caught:
        recognise(ArrivalFiles.of((path,)))
    assert "native code" in caught.value.why


async def test_a_file_that_would_run_code_asks_first_and_runs_shut_in(runner: Runner, tmp_path: Path) -> None:
    plain = programs.save(programs.SmallNet(), torch.randn(2, 1, 8, 8), tmp_path / "net.pt2", free=True)
    inside, outside = runner.root / "scratch2" / "ran", tmp_path / "ran"
    evil = repacked(plain, tmp_path / "evil.pt2", programs.attacks(inside, outside)["sample inputs"])
    with pytest.raises(NeedsTrust) as caught:
        await runner.intake(evil)
    assert "'exec' in data/sample_inputs/model.pt" in caught.value.code_files[0].imports
    assert not inside.exists() and not outside.exists()
    with pytest.raises(Exception):  # noqa: B017 - the payload's file is no program any more
        await runner.intake(evil, trusted=(sha256(evil),))
    # With trust it runs; but what it writes outside of its scratch folder, the sandbox refuses.
    assert inside.exists()
    assert outside.exists() == (runner.sandbox["writing"] != "its scratch folder")


HOSTILE = """
import os, socket, threading, time
from torch import nn

def attempt(name, act):
    try:
        act()
    except BaseException as error:
        print("TRIED", name, type(error).__name__, flush=True)
    else:
        print("DONE", name, flush=True)

def model():
    attempt("network", lambda: socket.create_connection(("127.0.0.1", PORT), 5))
    attempt("write", lambda: open(OUTSIDE, "w"))
    attempt("environment", lambda: [os.environ[name] for name in ("SECRET_OF_THE_USER",)])
    for _ in range(3):
        if os.fork() == 0:
            os.setsid()
            time.sleep(600)
    threading.Thread(target=time.sleep, args=(600,)).start()
    return nn.Linear(4, 2)
"""


async def test_a_factory_that_tries_to_get_out_is_shut_in_and_leaves_nothing_behind(
    runner: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_OF_THE_USER", "x")
    torch.save(torch.nn.Linear(4, 2).state_dict(), tmp_path / "net.pt")
    outside, listener = tmp_path / "outside", socket.create_server(("127.0.0.1", 0))
    with listener:
        text = HOSTILE.replace("PORT", str(listener.getsockname()[1])).replace("OUTSIDE", repr(str(outside)))
        (tmp_path / "net.py").write_text(text)
        files = tmp_path / "net.pt", tmp_path / "net.py"
        result = await runner.intake(*files, trusted=tuple(map(sha256, files)))
        listener.settimeout(0.01)
        with pytest.raises(TimeoutError) if runner.sandbox["network"] != "open" else contextlib.nullcontext():
            listener.accept()
    assert inputs(result) == ["input FP32 [batch × 4]"]  # what it made is served all the same: the user said yes
    assert "TRIED environment KeyError" in runner.log
    assert outside.exists() == (runner.sandbox["writing"] != "its scratch folder")
    left = [one for one in psutil.process_iter(["cmdline"]) if str(runner.root) in " ".join(one.info["cmdline"] or ())]
    assert left == []


@pytest.mark.slow
async def test_a_factory_that_hangs_is_ended_by_the_clock(runner: Runner, tmp_path: Path) -> None:
    runner.settings = replace(runner.settings, wall_seconds=15)
    torch.save(torch.nn.Linear(4, 2).state_dict(), tmp_path / "net.pt")
    (tmp_path / "net.py").write_text("def model():\n    while True: pass\n")
    files = tmp_path / "net.pt", tmp_path / "net.py"
    with pytest.raises(StepFailed, match="longer than 15 s"):
        await runner.intake(*files, trusted=tuple(map(sha256, files)))


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
