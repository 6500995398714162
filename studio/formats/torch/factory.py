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
    return torch.zeros(1, 3, 224, 224)  # or a tuple, or a dictionary by the names of forward's arguments
""".replace("from torch import nn", "import torch\nfrom torch import nn").strip()


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
    return Refused(
        f"'{path.name}' holds weights, and not the network that they belong to.",
        f"There are {len(best)} tensors: {', '.join(shown)}{' …' if len(best) > 3 else ''}.{beside}",
        f"Write {stem}.py and drop it with the weights:\n\n{_SNIPPET}\n\n{EXPORT_FIX}",
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
