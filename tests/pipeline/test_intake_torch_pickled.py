"""Pickled networks and checkpoints that hold more than tensors run nothing before the user said yes."""

from __future__ import annotations

import pickle
import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from studio.core.errors import NeedsTrust, Refused, StudioError
from studio.pipeline.intake import run_intake
from studio.pipeline.messages import IntakeTask
from tests.formats.networks import Mlp, code, seeded
from tests.formats.programs import Payload
from tests.pipeline.torch_intake import check, inputs, recorded, sha256, take

Row = Callable[..., None]


@pytest.mark.parametrize("how", ["zip", "old", "pickle.dump"])
def test_a_pickled_network_with_its_class_beside_it(tmp_path: Path, format_row: Row, how: str) -> None:
    folder = tmp_path / "made"
    folder.mkdir()
    network = elsewhere(Mlp, "models.nets")
    path = folder / "net.pt"
    if how == "pickle.dump":
        path.write_bytes(pickle.dumps(network))
    else:
        torch.save(network, path, _use_new_zipfile_serialization=how == "zip")
    forget("models.nets")
    with pytest.raises(Refused, match=r"class models\.nets\.Mlp, which is not found") as caught:
        take(path)  # before anybody is asked: a yes would not help
    assert "defines Mlp" in caught.value.fix and "net.py" in caught.value.fix
    beside = code(Mlp, folder / "net.py", "class_alone = True\n")
    with pytest.raises(NeedsTrust) as asked:
        take(path, beside)
    assert {file.name for file in asked.value.code_files} == {"net.pt", "net.py"}
    assert "models.nets.Mlp" in asked.value.code_files[0].imports
    result = recorded(format_row, "PyTorch pickled module", f"MLP ({how})", path, beside, trusted=True)
    check(result, seeded(Mlp), torch.randn(2, 20))


def elsewhere(kind: type[nn.Module], module: str) -> nn.Module:
    """A network whose class seems to live in a module of the user's."""
    parent, _, own = module.rpartition(".")
    for name in (parent, module):
        sys.modules[name] = types.ModuleType(name)
    copy = type(kind.__name__, (nn.Module,), {**dict(vars(kind)), "__module__": module})
    setattr(sys.modules[module], kind.__name__, copy)
    setattr(sys.modules[parent], own, sys.modules[module])
    torch.manual_seed(0)
    network = copy.__new__(copy)
    nn.Module.__init__(network)
    network.layers = seeded(Mlp).layers
    return network.eval()


def forget(module: str) -> None:
    for name in (module, module.rpartition(".")[0]):
        sys.modules.pop(name, None)


def test_networks_of_pytorch_itself_need_a_yes_as_well(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).half().eval()
    torch.save({"epoch": 3, "model": network}, path)
    with pytest.raises(NeedsTrust) as caught:
        take(path)
    assert "torch.nn.modules.linear.Linear" in caught.value.code_files[0].imports
    result = take(path, trusted=True)
    assert inputs(result) == ["input FP32 [batch × 4]"]
    assert "Its weights in float16 are computed with in 32 bits." in result.notes
    check(result, network.float(), torch.randn(3, 4))


@pytest.mark.parametrize("old", [False, True])
def test_a_payload_waits_for_trust_and_never_runs_without(tmp_path: Path, old: bool) -> None:
    mark = tmp_path / "ran"
    torch.save({**seeded(Mlp).state_dict(), "x": Payload(mark)}, tmp_path / "net.pt",
               _use_new_zipfile_serialization=not old)  # fmt: skip
    for files in ((tmp_path / "net.pt",), (tmp_path / "net.pt", code(Mlp, tmp_path / "net.py"))):
        with pytest.raises(NeedsTrust) as caught:
            take(*files)
        assert [file.imports for file in caught.value.code_files if file.name == "net.pt"] == [("io.open",)]
        assert not mark.exists()


def test_trusting_the_python_is_not_trusting_the_weights(tmp_path: Path) -> None:
    mark, path, factory = tmp_path / "ran", tmp_path / "net.pt", code(Mlp, tmp_path / "net.py")
    torch.save({**seeded(Mlp).state_dict(), "x": Payload(mark)}, path)
    task = IntakeTask(files=(str(path), str(factory)), out=str(tmp_path / "out"), trusted=(sha256(factory),))
    with pytest.raises(NeedsTrust):
        run_intake(task, lambda *_: None)
    assert not mark.exists()


def test_damaged_files_are_told_in_words(tmp_path: Path) -> None:
    torch.save(seeded(Mlp).state_dict(), tmp_path / "whole.pt")
    whole = (tmp_path / "whole.pt").read_bytes()
    torch.save(seeded(Mlp).state_dict(), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    old = (tmp_path / "old.pth").read_bytes()
    factory = code(Mlp, tmp_path / "net.py")
    spoiled = [whole[:-2000], old[:300], old[: len(old) // 2], whole.replace(b"layers.0.weight", b"layers.0.weighx")]
    for number, data in enumerate(spoiled):
        path = tmp_path / f"net{number}.pt"
        path.write_bytes(data)
        with pytest.raises(StudioError) as caught:
            take(path, factory, trusted=True)
        assert caught.value.what
