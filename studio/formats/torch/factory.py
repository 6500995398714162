"""Weights with the network that they belong to, and what to say when they come without it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from studio.core.errors import Refused
from studio.formats.sniff import head
from studio.formats.torch.common import EXPORT_FIX


@dataclass(frozen=True)
class LoadedNetwork:
    """An nn.Module with its weights, the Python beside it (studio.formats.torch._code.UserCode), and notes."""

    module: Any
    code: Any
    notes: tuple[str, ...] = ()


_SNIPPET = """
from torch import nn

def model():
    return nn.Sequential(…)  # the network that these weights were saved from

def example_inputs():
    # EXAMPLE.
    # Several inputs: a tuple, or a dictionary by the names of forward's arguments.
    return TENSOR
""".replace("from torch import nn", "import torch\nfrom torch import nn").strip()


def example_of(state: Mapping[str, Any]) -> tuple[str, str]:
    """An example input as Python, and why it: from the first weight that a layer multiplies its input with.

    PyTorch keeps weights as [out, in], those of convolutions as [out, in / groups, …sides], of tables as [entries, …].
    """
    for name, tensor in state.items():
        sizes = [int(size) for size in tensor.shape]
        if name.endswith("weight_ih_l0") and len(sizes) == 2:
            return (
                f"torch.zeros(1, 8, {sizes[1]})",
                f"{name} takes {sizes[1]} features a step; 8 steps stand for a length",
            )
        if not name.endswith("weight") or not 2 <= len(sizes) <= 5:
            continue
        if len(sizes) > 2:
            sides = {3: "1000", 4: "224, 224", 5: "16, 112, 112"}[len(sizes)]
            why = f"{name} takes {sizes[1]} channels (times its groups); put your own sizes in place of {sides}"
            return f"torch.zeros(1, {sizes[1]}, {sides})", why
        if any(part in name.lower() for part in ("emb", "wte", "token")):
            why = f"{name} is a table of {sizes[0]} entries; 8 whole numbers below that stand for a length"
            return "torch.zeros(1, 8, dtype=torch.long)", why
        return f"torch.zeros(1, {sizes[1]})", f"{name} takes {sizes[1]} features"
    return "torch.zeros(1, …)", "the weights do not tell what goes in: put the shape of one row of your input"


def no_factory(path: Path, stem: str, states: Mapping[str, Mapping[str, Any]], python: Sequence[Any] = ()) -> Refused:
    """The words for weights alone: what they are, and what to write. `states`: weights by their place in the file."""
    best = max(states.values(), key=len, default={})
    if not best:
        return Refused(
            f"'{path.name}' holds no weights.",
            "Neither it nor what it contains is a network, or a dictionary of tensors.",
            f"Save model.state_dict(). {EXPORT_FIX}",
        )
    shown = [f"{name[:80]} [{' × '.join(map(str, tensor.shape))}]" for name, tensor in list(best.items())[:3]]
    names = ", ".join(file.path.name for file in python)
    beside = f" {names} beside it defines no function 'model'." if names else ""
    tensor, why = example_of(best)
    snippet = _SNIPPET.replace("EXAMPLE", f"{why[:1].upper()}{why[1:]}").replace("TENSOR", tensor)
    return Refused(
        f"'{path.name}' holds weights, and not the network that they belong to.",
        f"There are {len(best)} tensors: {', '.join(shown)}{' …' if len(best) > 3 else ''}.{beside}",
        f"Write {stem}.py and drop it with the weights:\n\n{snippet}\n\n{EXPORT_FIX}",
    )


def hugging_face(content: Sequence[Path]) -> str:
    """Which class of the transformers library a folder is for, from its config.json; empty where there is none."""
    for file in content:
        if file.name == "config.json":
            try:
                table = json.loads(head(file, 256 * 1024))
            except (ValueError, RecursionError):
                return ""
            names = table.get("architectures") if isinstance(table, dict) else None
            return str(names[0])[:100] if isinstance(names, list) and names else ""
    return ""
