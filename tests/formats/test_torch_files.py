"""Files of PyTorch are told by their content, and what loading one would run is named without running it."""

from __future__ import annotations

import json
import pickle
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from studio.core.errors import InvalidInput, Refused
from studio.formats.base import ArrivalFiles
from studio.formats.registry import recognise
from studio.formats.torch.archive import beyond, imports_of
from studio.formats.torch.safetensors import entries
from tests.formats.networks import Cnn, seeded
from tests.formats.programs import Payload

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")

TENSOR = {"w": torch.arange(6.0).reshape(2, 3)}


def write(folder: Path, kind: str) -> Path:
    """A file of each kind, under a name that says nothing of it."""
    path = folder / "file.bin"
    network = seeded(Cnn)
    match kind:
        case "TorchScript":
            torch.jit.script(network).save(path)
        case "traced TorchScript":
            torch.jit.trace(network, torch.zeros(2, 3, 8, 8)).save(path)
        case "state_dict":
            torch.save(network.state_dict(), path)
        case "old state_dict":
            torch.save(network.state_dict(), path, _use_new_zipfile_serialization=False)
        case "checkpoint":
            torch.save({"epoch": np.int64(3), "state_dict": network.state_dict(), "loss": np.float64(0.5)}, path)
        case "module":
            torch.save(network, path)
        case "old module":
            torch.save(network, path, _use_new_zipfile_serialization=False)
        case "pickle.dump of a module":
            path.write_bytes(pickle.dumps(network))
        case "safetensors":
            save_file(network.state_dict(), path)
    return path


KINDS = {
    "TorchScript": ("torchscript", "TorchScript", None),
    "traced TorchScript": ("torchscript", "TorchScript", None),
    "state_dict": ("torch-checkpoint", "PyTorch checkpoint", False),
    "old state_dict": ("torch-checkpoint", "PyTorch checkpoint", False),
    "checkpoint": ("torch-checkpoint", "PyTorch checkpoint", False),
    "module": ("torch-checkpoint", "PyTorch module (tests.formats.networks.Cnn)", True),
    "old module": ("torch-checkpoint", "PyTorch module (tests.formats.networks.Cnn)", True),
    "pickle.dump of a module": ("torch-checkpoint", "PyTorch module (tests.formats.networks.Cnn)", True),
    "safetensors": ("safetensors", "safetensors weights", None),
}


@pytest.mark.parametrize("kind", KINDS)
def test_files_are_told_by_their_content(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path, kind)
    name, detail, code = KINDS[kind]
    found, recognition = recognise(ArrivalFiles.of((path,)))
    assert (found.name, recognition.detail, recognition.model) == (name, detail, path)
    if name == "torchscript":
        assert beyond(imports_of(path, script=True), script=True) == ()
    elif code is not None:
        named = beyond(imports_of(path))
        assert ("tests.formats.networks.Cnn" in named) is code
        assert bool(named) is code


def test_a_name_alone_makes_no_pytorch_file(tmp_path: Path) -> None:
    for name, data in {"a.pt": b"\x80\x02}.", "b.pth": b"PK\x05\x06" + bytes(18), "c.safetensors": b"{}"}.items():
        path = tmp_path / name
        path.write_bytes(data)
        with pytest.raises(Refused):
            recognise(ArrivalFiles.of((path,)))


def test_two_models_are_not_one_arrival(tmp_path: Path) -> None:
    for name in ("a.pt", "b.pt"):
        torch.save(TENSOR, tmp_path / name)
    with pytest.raises(InvalidInput, match=r"2 PyTorch files in this arrival: a\.pt, b\.pt"):
        recognise(ArrivalFiles.of((tmp_path,)))


@pytest.mark.parametrize("old", [False, True])
def test_what_a_pickle_would_run_is_named_and_not_run(tmp_path: Path, old: bool) -> None:
    mark, path = tmp_path / "ran", tmp_path / "evil.pt"
    torch.save({**TENSOR, "more": Payload(mark)}, path, _use_new_zipfile_serialization=not old)
    assert beyond(imports_of(path)) in (("io.open",), ("_io.open",))
    assert not mark.exists()


def test_names_of_pytorch_itself_are_no_free_pass(tmp_path: Path) -> None:
    """torch.hub.load and the like are PyTorch's own, and run whatever they are given."""

    class Evil:
        def __reduce__(self) -> Any:
            return (torch.hub.load, ("somebody/else", "model"))

    path = tmp_path / "evil.pt"
    torch.save(Evil(), path)
    assert beyond(imports_of(path)) == ("torch.hub.load",)


@pytest.mark.parametrize("member", ["data.pkl", "constants.pkl", "traced_inputs.pkl"])
def test_every_pickle_of_a_script_is_looked_at(tmp_path: Path, member: str) -> None:
    good, evil = write(tmp_path, "traced TorchScript"), tmp_path / "evil.pt"
    replace_member(good, evil, {member: pickle.dumps(Payload(tmp_path / "ran"), protocol=2)})
    assert beyond(imports_of(evil, script=True), script=True) in (("io.open",), ("_io.open",))
    assert not (tmp_path / "ran").exists()


def replace_member(source: Path, target: Path, changed: dict[str, bytes]) -> None:
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        root = old.namelist()[0].partition("/")[0]
        assert {f"{root}/{name}" for name in changed} <= set(old.namelist())
        for name in old.namelist():
            new.writestr(name, changed.get(name.removeprefix(f"{root}/"), old.read(name)))


def test_of_two_members_with_one_name_the_one_that_loads_is_looked_at(tmp_path: Path) -> None:
    path, evil = tmp_path / "good.pt", tmp_path / "evil.pt"
    torch.save(OrderedDict(TENSOR), path)
    payload = pickle.dumps(Payload(tmp_path / "ran"), protocol=2)
    for first in (True, False):
        with zipfile.ZipFile(path) as old, zipfile.ZipFile(evil, "w") as new:
            for name in old.namelist():
                data = old.read(name)
                if name.endswith("data.pkl"):
                    with pytest.warns(UserWarning, match="Duplicate"):
                        for part in (payload, data) if first else (data, payload):
                            new.writestr(name, part)
                else:
                    new.writestr(name, data)
        seen = bool(beyond(imports_of(evil)))
        try:
            torch.load(evil, weights_only=False)
        except Exception:  # what is left over after the payload may be no tensors
            assert seen
        assert (tmp_path / "ran").exists() is seen
        (tmp_path / "ran").unlink(missing_ok=True)


# safetensors


def safetensors(path: Path, header: Any, data: bytes = bytes(24), length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def described(**more: Any) -> dict[str, Any]:
    return {"w": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24], **more}}


def test_what_the_library_writes_is_read(tmp_path: Path) -> None:
    kinds = [torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.bool, torch.float8_e4m3fn]
    state = {str(kind): torch.ones(2, 3).to(kind) for kind in kinds} | {"empty": torch.zeros(0, 3)}
    save_file(state, tmp_path / "a.safetensors", {"format": "pt"})
    found = entries(tmp_path / "a.safetensors")
    assert set(found) == set(state)
    assert all(found[name].shape == tuple(tensor.shape) for name, tensor in state.items())


LIES = {
    "a header beyond the file": (described(), {"length": 2**40}),
    "an enormous header": (described(), {"length": 2**63}),
    "no header": (b"", {"data": b"{"}),
    "no JSON": (b"{nonsense}", {}),
    "JSON nested without end": (b'{"a":' * 5000 + b"1" + b"}" * 5000, {}),
    "a list": (b"[1, 2]", {}),
    "numbers beyond the file": (described(data_offsets=[0, 2**40], shape=[2**38]), {}),
    "an offset before the file": (described(data_offsets=[-24, 0]), {}),
    "a shape that is too large": (described(shape=[2**62, 2**62]), {}),
    "a negative shape": (described(shape=[-2, -3]), {}),
    "a shape that is none": (described(shape="23"), {}),
    "another size than the shape": (described(shape=[2, 2]), {}),
    "an unknown type": (described(dtype="F31"), {}),
    "overlapping tensors": ({**described(), "v": described()["w"]}, {}),
    "a hole": ({"v": {"dtype": "F32", "shape": [1], "data_offsets": [20, 24]}}, {}),
    "numbers left over": (described(), {"data": bytes(30)}),
    "a name twice": (b'{"w":' + json.dumps(described()["w"]).encode() + b',"w":1}', {}),
    "no description": ({"w": 3}, {}),
}


@pytest.mark.parametrize("lie", LIES)
def test_headers_that_lie_are_refused_before_anything_is_read(tmp_path: Path, lie: str) -> None:
    header, more = LIES[lie]
    path = safetensors(tmp_path / "w.safetensors", header, **more)
    with pytest.raises(InvalidInput, match="damaged safetensors") as caught:
        entries(path)
    assert caught.value.why and caught.value.fix
    with pytest.raises(Exception):  # noqa: B017 - the library refuses the same files; this list is no stricter than it
        load_file(path)
