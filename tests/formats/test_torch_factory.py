"""The example input that is suggested for weights without code, read off the weights themselves."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from studio.formats.torch.factory import example_of, no_factory

NETWORKS = {
    "linear": (nn.Sequential(nn.Linear(7, 3)), torch.float32),
    "image": (nn.Sequential(nn.BatchNorm2d(5), nn.Conv2d(5, 8, 3), nn.Flatten()), torch.float32),
    "sound": (nn.Sequential(nn.Conv1d(2, 4, 9)), torch.float32),
    "recurrent": (nn.LSTM(6, 4, batch_first=True), torch.float32),
    "tokens": (nn.ModuleDict({"embedding": nn.Embedding(50, 4)})["embedding"], torch.int64),
}


@pytest.mark.parametrize("kind", NETWORKS)
def test_the_network_takes_the_example(kind: str) -> None:
    network, dtype = NETWORKS[kind]
    prefix = "embedding." if kind == "tokens" else ""
    state = {f"{prefix}{name}": tensor for name, tensor in network.state_dict().items()}
    expression, why = example_of(state)
    example = eval(expression, {"torch": torch})
    assert example.dtype == dtype
    assert why
    network.eval()(example)


def test_what_the_weights_do_not_tell_is_left_open() -> None:
    expression, why = example_of({"scale": torch.ones(3)})
    assert "…" in expression and "do not tell" in why


def test_the_hint_names_the_weight_it_was_read_from() -> None:
    said = no_factory(Path("net.pt"), "net", {"": nn.Sequential(nn.Linear(7, 3)).state_dict()})
    assert "return torch.zeros(1, 7)" in said.fix and "# 0.weight takes 7 features." in said.fix
    assert "224" not in said.fix
