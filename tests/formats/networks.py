"""Small PyTorch networks for tests, and their code as the Python files that users drop beside weights."""

from __future__ import annotations

import inspect
from pathlib import Path

import torch
from torch import nn


class Mlp(nn.Module):
    """20 numbers to 5 probabilities."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(20, 32), nn.GELU(), nn.LayerNorm(32), nn.Linear(32, 5))

    def forward(self, x):
        return torch.softmax(self.layers(x), -1)


class Cnn(nn.Module):
    """Images of any size to 4 scores."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3)
        )
        self.head = nn.Linear(8, 4)

    def forward(self, image):
        return self.head(torch.relu(self.features(image)).mean((2, 3)))


class Fixed(nn.Module):
    """Grey images of 28 × 28 alone, to scores and their probabilities by name."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 5, stride=2)
        self.head = nn.Linear(4 * 12 * 12, 3)

    def forward(self, image):
        scores = self.head(torch.relu(self.conv(image)).flatten(1))
        return {"scores": scores, "probabilities": scores.softmax(-1)}


class Recurrent(nn.Module):
    """A sequence of 6 features, to 4 scores."""

    def __init__(self, kind: str = "LSTM") -> None:
        super().__init__()
        self.cells = getattr(nn, kind)(6, 8, 2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(16, 4)

    def forward(self, steps):
        states, _ = self.cells(steps)
        return self.head(states[:, -1])


class Encoder(nn.Module):
    """Tokens and a mask, of any length, through two layers of a transformer to 3 scores."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(50, 16)
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 2)
        self.head = nn.Linear(16, 3)

    def forward(self, tokens, mask):
        states = self.layers(self.table(tokens), src_key_padding_mask=mask == 0)
        weights = mask.unsqueeze(-1).to(states.dtype)
        return self.head((states * weights).sum(1) / weights.sum(1).clamp(min=1))


class Bag(nn.Module):
    """Tokens and a mask, of any length, to the mean of their vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(50, 16)

    def forward(self, tokens, mask):
        weights = mask.unsqueeze(-1).to(torch.float32)
        return (self.table(tokens) * weights).sum(1) / weights.sum(1).clamp(min=1)


class Pair(nn.Module):
    """Two inputs and one that may be left out; a tuple with a dictionary in it."""

    def __init__(self) -> None:
        super().__init__()
        self.user = nn.Linear(4, 8)
        self.item = nn.Linear(6, 8)

    def forward(self, user, item, scale: float = 1.0):
        left, right = self.user(user), self.item(item)
        return (left * right).sum(-1) * scale, {"left": left, "right": right}


class Deciding(nn.Module):
    """Its Python decides by values: what tracing takes for a constant, and capturing refuses."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        y = self.layer(x)
        return y + 1 if y.sum() > -1e9 else y - 1


class Stepping(nn.Module):
    """For TorchScript: a loop over a whole number, a branch on values, an optional tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x, steps: int, shift: torch.Tensor | None = None):
        for _ in range(steps):
            x = torch.tanh(self.layer(x))
        if bool(x.sum() > 0):
            x = x + 1
        if shift is not None:
            x = x + shift
        return x, x.sum(-1)


def seeded(kind: type[nn.Module], *arguments: object) -> nn.Module:
    """A network with weights that are always the same, in evaluation mode."""
    torch.manual_seed(0)
    return kind(*arguments).eval()


def code(kind: type[nn.Module], path: Path, more: str = "") -> Path:
    """Write the code of a network, with a factory unless `more` has one, as a user would."""
    text = f"import torch\nfrom torch import nn\n\n\n{inspect.getsource(kind)}\n\n"
    if "def model" not in more and "class_alone" not in more:
        text += f"def model():\n    return {kind.__name__}()\n\n\n"
    path.write_text(text + more)
    return path
