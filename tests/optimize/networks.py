"""Torch networks to prune and to distil, with the shapes that make it hard; and one that was trained on digits."""

from __future__ import annotations

import torch
from torch import nn

FACTORY = """
from torch import nn

def model(width=32):
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3, padding=1), nn.BatchNorm2d(2 * width), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(32 * width, 64), nn.ReLU(), nn.Linear(64, 10),
    )
"""
IMAGES = (2, 1, 8, 8)


def digits_network() -> nn.Module:
    """What FACTORY makes."""
    found: dict[str, object] = {}
    exec(FACTORY, found)
    return found["model"]()  # type: ignore[operator,no-any-return]


def trained(images: torch.Tensor, labels: torch.Tensor, epochs: int = 8) -> nn.Module:
    torch.manual_seed(0)
    network = digits_network()
    optimiser = torch.optim.Adam(network.parameters(), 1e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(images)).split(32):
            optimiser.zero_grad()
            nn.functional.cross_entropy(network(images[rows]), labels[rows]).backward()
            optimiser.step()
    return network.eval()


class Residual(nn.Module):
    """Branches that are added, with a convolution a channel, and a flattening written with a size of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.second, self.each = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.last = nn.Linear(16 * 64, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.first(x)))
        x = self.each(x + torch.relu(self.second(x)))
        return self.last(x.view(-1, 1024))


class Joined(nn.Module):
    """Channels put side by side, a convolution in groups, a transposed one, and two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(1, 16, 1)
        self.groups, self.up = nn.Conv2d(32, 32, 3, padding=1, groups=4), nn.ConvTranspose2d(32, 24, 2, stride=2)
        self.act, self.one, self.two = nn.PReLU(24), nn.Linear(24, 10), nn.Linear(24, 3)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.relu(torch.cat([self.left(x), self.right(x)], 1))
        x = self.act(self.up(torch.relu(self.groups(x)))).mean((2, 3))
        return self.one(x), self.two(x)


class Encoder(nn.Module):
    """A transformer layer: attention is cut into heads."""

    def __init__(self) -> None:
        super().__init__()
        self.into = nn.Linear(8, 32)
        self.layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
        self.last = nn.Linear(32, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.layer(self.into(x[:, 0])).mean(1))


def layered_network() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 48), nn.LayerNorm(48), nn.GELU(), nn.Linear(48, 32), nn.ReLU(), nn.Linear(32, 1)
    )
