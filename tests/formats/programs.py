"""PyTorch programs for tests, saved with torch.export.save, and ways to make one run code when it is loaded."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import torch

from tests.formats.graphs import Change, edit_json

SAMPLE_INPUTS = "data/sample_inputs/model.pt"
WEIGHTS = "data/weights/model_weights_config.json"
CONSTANTS = "data/constants/model_constants_config.json"
PROGRAM = "models/model.json"


class SmallNet(torch.nn.Module):
    """8 × 8 grey images to 3 scores."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = torch.nn.Conv2d(1, 4, 3)
        self.head = torch.nn.Linear(4, 3)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.conv(image)).mean((2, 3)))


class Mixing(torch.nn.Module):
    """Rows that depend on each other: freeing its batch would change what it answers."""

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return rows - rows.mean(dim=0, keepdim=True) + rows.sum()


def save(module: torch.nn.Module, example: torch.Tensor, path: Path, free: bool) -> Path:
    shapes = ({0: torch.export.Dim("n", min=1, max=4096)},) if free else None
    program = torch.export.export(module.eval(), (example,), dynamic_shapes=shapes)
    torch.export.save(program, path)
    return path


class Payload:
    """A pickle that makes an empty file."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> Any:
        return (open, (str(self._mark), "w"))


def pickled(*marks: Path) -> bytes:
    buffer = io.BytesIO()
    torch.save((*(Attempt(mark) for mark in marks[:-1]), Payload(marks[-1])), buffer)
    return buffer.getvalue()


class Attempt(Payload):
    """The same, and goes on when that is not allowed."""

    def __reduce__(self) -> Any:
        return (exec, (f"try: open({str(self._mark)!r}, 'w')\nexcept OSError: pass",))


def attacks(mark: Path, *more: Path) -> dict[str, Change]:
    """Ways to run code while a .pt2 file loads or is converted, by name. `more`: marks of the first one alone."""
    touch = f"open({str(mark)!r}, 'w')"

    def sample_inputs(members: dict[str, bytes]) -> None:
        members[SAMPLE_INPUTS] = pickled(*more, mark)

    def old_weights(members: dict[str, bytes]) -> None:
        members["data/weights/model.pt"] = pickled(mark)

    def pickled_weight(members: dict[str, bytes]) -> None:
        members["data/weights/weight_0"] = pickled(mark)
        edit_json(WEIGHTS, lambda table: next(iter(table["config"].values())).update(use_pickle=True))(members)

    def opaque_constant(members: dict[str, bytes]) -> None:
        members["data/constants/opaque_obj_0"] = pickle.dumps(Payload(mark))
        entry = {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True, "tensor_meta": None}
        edit_json(CONSTANTS, lambda table: table["config"].update(evil=entry))(members)

    def unmarked_opaque_constant(members: dict[str, bytes]) -> None:
        members["data/constants/opaque_obj_0"] = pickle.dumps(Payload(mark))
        meta = {"dtype": 7, "sizes": [], "requires_grad": False, "device": {"type": "cpu", "index": None}}
        meta |= {"strides": [], "storage_offset": {"as_int": 0}, "layout": 7}
        entry = {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": False, "tensor_meta": meta}
        edit_json(CONSTANTS, lambda table: table["config"].update(evil=entry))(members)

    def size(table: Any) -> None:
        values = table["graph_module"]["graph"]["tensor_values"]
        first = next(iter(values.values()))
        first["sizes"][0] = {"as_expr": {"expr_str": touch, "hint": None}}

    def node_name(table: Any) -> None:
        nodes = table["graph_module"]["graph"]["nodes"]
        nodes[-1]["name"] = f"x = {touch}; y"

    def parameter_name(table: Any) -> None:
        specs = table["graph_module"]["signature"]["input_specs"]
        specs[0]["parameter"]["parameter_name"] = f'a" + str({touch}) + "'

    def operator(table: Any) -> None:
        table["graph_module"]["graph"]["nodes"][0]["target"] = "torch.serialization.os.system"

    def library(table: Any) -> None:
        table["graph_module"]["graph"]["nodes"][0]["target"] = "torch.ops.load_library"

    return {
        "sample inputs": sample_inputs,
        "old weights": old_weights,
        "pickled weight": pickled_weight,
        "opaque constant": opaque_constant,
        "opaque constant that denies it": unmarked_opaque_constant,
        "size": edit_json(PROGRAM, size),
        "node name": edit_json(PROGRAM, node_name),
        "parameter name": edit_json(PROGRAM, parameter_name),
        "operator": edit_json(PROGRAM, operator),
        "library": edit_json(PROGRAM, library),
    }
