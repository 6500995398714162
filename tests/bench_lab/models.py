"""The models of the benchmark, trained or built here in seconds, with the samples that they are judged on.

Everything comes from seeds and from the data sets that scikit-learn ships. No model saw its samples in training, except
the shapes with random weights, whose samples have no labels.
"""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

Array = np.ndarray[Any, Any]
SAMPLES = Path(__file__).parents[2] / "sample_models"


@dataclass(frozen=True)
class Model:
    """`write(folder)` leaves the model's file and its samples there, all with the stem `name`."""

    name: str
    about: str
    write: Callable[[Path], None]


def digits_cnn(folder: Path) -> None:
    for path in (SAMPLES / "2").iterdir():
        if path.suffix != ".toml":  # the benchmark writes its own, which asks for every recipe
            shutil.copyfile(path, folder / f"digits-cnn{path.suffix}")


class _Separable(nn.Sequential):
    """A depthwise and a pointwise convolution, each with its normalisation, as in MobileNet."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__(
            nn.Conv2d(inside, inside, 3, stride, 1, groups=inside, bias=False),
            nn.BatchNorm2d(inside),
            nn.ReLU6(),
            nn.Conv2d(inside, outside, 1, bias=False),
            nn.BatchNorm2d(outside),
            nn.ReLU6(),
        )


def mobile_cnn(folder: Path) -> None:
    torch.manual_seed(0)
    sizes = [(24, 32, 1), (32, 64, 2), (64, 64, 1), (64, 128, 2), (128, 128, 1), (128, 192, 2)]
    stem = [nn.Conv2d(3, 24, 3, 1, 1, bias=False), nn.BatchNorm2d(24), nn.ReLU6()]
    blocks = [_Separable(*size) for size in sizes]
    net = nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(192, 10))
    images, labels = _pictures(32)
    train, held = slice(0, 1200), slice(1200, None)
    _train(net, images[train], labels[train], steps=120, rate=4e-3)
    _export(net, images[:2], folder / "mobile-cnn.pt2")
    np.savez(folder / "mobile-cnn.npz", x=images[held].numpy(), labels=labels[held].numpy())


class _Residual(nn.Module):
    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.one = nn.Sequential(nn.Conv2d(inside, outside, 3, stride, 1, bias=False), nn.BatchNorm2d(outside))
        self.two = nn.Sequential(nn.Conv2d(outside, outside, 3, 1, 1, bias=False), nn.BatchNorm2d(outside))
        plain = stride == 1 and inside == outside
        self.past = (
            nn.Identity()
            if plain
            else nn.Sequential(nn.Conv2d(inside, outside, 1, stride, bias=False), nn.BatchNorm2d(outside))
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.two(torch.relu(self.one(x))) + self.past(x))


def resnet18(folder: Path) -> None:
    """The shape of ResNet-18 (He et al., 2015, table 1) with random weights, on patches of two photographs."""
    from sklearn.datasets import load_sample_images

    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    layers.append(nn.MaxPool2d(3, 2, 1))
    inside = 64
    for outside in (64, 128, 256, 512):
        layers += [_Residual(inside, outside, 1 if outside == 64 else 2), _Residual(outside, outside, 1)]
        inside = outside
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 1000))
    rng, photographs = np.random.default_rng(0), load_sample_images().images
    patches = []
    for number in range(48):
        photograph = photographs[number % 2]
        down, right = (int(rng.integers(0, size - 224)) for size in photograph.shape[:2])
        patch = photograph[down : down + 224, right : right + 224].astype(np.float32) / 127.5 - 1
        patches.append(patch.transpose(2, 0, 1))
    images = torch.tensor(np.stack(patches))
    net.train()
    with torch.no_grad():  # so that the normalisations fit what comes in
        for _ in range(8):
            net(images[:24])
    _export(net, images[:2], folder / "resnet18.pt2")
    np.savez(folder / "resnet18.npz", x=images.numpy())


class _Encoder(nn.Module):
    """Token ids, int64 [batch, length], to class scores or, without classes, to a mean-pooled unit vector."""

    def __init__(self, vocabulary: int, width: int, layers: int, classes: int | None) -> None:
        super().__init__()
        self.words = nn.Embedding(vocabulary, width)
        self.places = nn.Embedding(128, width)
        layer = nn.TransformerEncoderLayer(width, width // 32, 4 * width, 0.0, "gelu", batch_first=True)
        self.layers = nn.ModuleList([_copy(layer) for _ in range(layers)])
        self.head = nn.Linear(width, classes) if classes else None

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.words(ids) + self.places(torch.arange(ids.shape[1]))
        for layer in self.layers:
            x = layer(x)
        pooled = x.mean(dim=1)
        return self.head(pooled) if self.head else nn.functional.normalize(pooled, dim=1)


def _copy(layer: nn.Module) -> nn.Module:
    """Of the same kind, with weights of its own."""
    import copy

    fresh = copy.deepcopy(layer)
    for parameter in fresh.parameters():
        if parameter.dim() > 1:
            nn.init.xavier_uniform_(parameter)
    return fresh


def text_classifier(folder: Path) -> None:
    """A small encoder that tells which of four topics a made-up sentence is about: words of a topic among noise."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    count, length, vocabulary = 2400, 24, 2000
    labels = rng.integers(0, 4, count)
    ids = rng.integers(400, vocabulary, (count, length))
    for row, topic in enumerate(labels):
        places = rng.choice(length, 4, replace=False)
        ids[row, places] = 100 * topic + rng.integers(0, 100, 4)
        ids[row, rng.integers(0, length)] = 100 * int(rng.integers(0, 4)) + int(rng.integers(0, 100))
    net = _Encoder(vocabulary, 192, 3, 4)
    inputs, answers = torch.tensor(ids), torch.tensor(labels)
    _train(net, inputs[:1800], answers[:1800], steps=180, rate=1e-3)
    _export(net, inputs[:2], folder / "text-classifier.pt2", "ids")
    np.savez(folder / "text-classifier.npz", ids=ids[1800:], labels=labels[1800:])


def text_embedder(folder: Path) -> None:
    """An encoder of MiniLM's width and depth with random weights: half of its bytes are embeddings."""
    torch.manual_seed(1)
    net = _Encoder(12_000, 384, 6, None)
    ids = np.random.default_rng(1).integers(0, 12_000, (96, 32))
    _export(net, torch.tensor(ids[:2]), folder / "text-embedder.pt2", "ids")
    np.savez(folder / "text-embedder.npz", ids=ids)


def perceptron(folder: Path) -> None:
    torch.manual_seed(0)
    images, labels = _pictures(16, 1)
    flat = images.reshape(len(images), -1)
    net = nn.Sequential(nn.Linear(256, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 10))
    _train(net, flat[:1200], labels[:1200], steps=200, rate=1e-3)
    _export(net, flat[:2], folder / "perceptron.pt2")
    np.savez(folder / "perceptron.npz", x=flat[1200:].numpy(), labels=labels[1200:].numpy())


class _Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.recurrent = nn.LSTM(8, 96, batch_first=True)
        self.head = nn.Linear(96, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found, _ = self.recurrent(x)
        return self.head(found[:, -1])


def recurrent_regressor(folder: Path) -> None:
    """An LSTM that foretells the next value of a noisy sum of waves."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    at = np.arange(31)[None, :, None]
    speeds, shifts = rng.uniform(0.1, 0.6, (900, 1, 8)), rng.uniform(0, 6, (900, 1, 8))
    waves = (np.sin(speeds * at + shifts) + 0.05 * rng.standard_normal((900, 31, 8))).astype(np.float32)
    x, y = torch.tensor(waves[:, :30]), torch.tensor(waves[:, 30].mean(1, keepdims=True))
    net = _Recurrent()
    _train(net, x[:600], y[:600], steps=150, rate=5e-3, loss=nn.functional.mse_loss)
    _export(net, x[:2], folder / "recurrent.pt2")
    np.savez(folder / "recurrent.npz", x=x[600:].numpy(), labels=y[600:, 0].numpy())


def forest(folder: Path) -> None:
    from sklearn.datasets import load_breast_cancer
    from sklearn.ensemble import HistGradientBoostingClassifier

    table, labels = load_breast_cancer(return_X_y=True)
    table = table.astype(np.float32)
    model = HistGradientBoostingClassifier(random_state=0).fit(table[:369], labels[:369])
    (folder / "forest.pkl").write_bytes(pickle.dumps(model))
    np.savez(folder / "forest.npz", table[369:], labels=labels[369:])


def boosters(folder: Path) -> None:
    import xgboost
    from sklearn.datasets import load_digits

    table, labels = load_digits(return_X_y=True)
    model = xgboost.XGBClassifier(n_estimators=40, max_depth=4, random_state=0, n_jobs=1).fit(
        table[:1200], labels[:1200]
    )
    model.save_model(folder / "boosters.ubj")
    np.savez(folder / "boosters.npz", table[1200:].astype(np.float32), labels=labels[1200:])


def logistic(folder: Path) -> None:
    from sklearn.datasets import load_digits
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    table, labels = load_digits(return_X_y=True)
    table = table.astype(np.float32)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500)).fit(table[:1200], labels[:1200])
    (folder / "logistic.pkl").write_bytes(pickle.dumps(model))
    np.savez(folder / "logistic.npz", table[1200:], labels=labels[1200:])


ALL: Sequence[Model] = (
    Model("digits-cnn", "the sample model: two convolutions, 8 × 8 digits, labelled", digits_cnn),
    Model("mobile-cnn", "six separable convolutions, 32 × 32, trained on digits, labelled", mobile_cnn),
    Model("resnet18", "the shape of ResNet-18 at 224 × 224, random weights, unlabelled", resnet18),
    Model("text-classifier", "a transformer encoder, 3 layers of 192, trained here, labelled", text_classifier),
    Model("text-embedder", "MiniLM's shape, 6 layers of 384, random weights, unlabelled", text_embedder),
    Model("perceptron", "256-1024-1024-10, trained on digits, labelled", perceptron),
    Model("recurrent", "an LSTM of 96, regression, labelled", recurrent_regressor),
    Model("forest", "HistGradientBoosting of scikit-learn on a table, labelled", forest),
    Model("boosters", "XGBoost, 40 rounds of 10 trees on digits, labelled", boosters),
    Model("logistic", "a scaler and a logistic regression on digits, labelled", logistic),
)


def _pictures(side: int, channels: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """scikit-learn's 1,797 digits enlarged, float32 [1797, channels, side, side] of 0 to 1, in random order."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(images))
    small = torch.tensor(images[order].reshape(-1, 1, 8, 8) / 16, dtype=torch.float32)
    large = nn.functional.interpolate(small, (side, side), mode="bilinear")
    return large.expand(-1, channels, -1, -1).contiguous(), torch.tensor(labels[order])


def _train(
    net: nn.Module,
    inputs: torch.Tensor,
    answers: torch.Tensor,
    *,
    steps: int,
    rate: float,
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = nn.functional.cross_entropy,
) -> None:
    optimiser = torch.optim.AdamW(net.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps)
    net.train()
    for _ in range(steps):
        rows = torch.randint(0, len(inputs), (64,))
        optimiser.zero_grad()
        loss(net(inputs[rows]), answers[rows]).backward()
        optimiser.step()
        schedule.step()


def _export(net: nn.Module, example: torch.Tensor, path: Path, name: str = "x") -> None:
    """A `.pt2` with a free batch; token ids are of any length too."""
    net.eval()
    free = {0: torch.export.Dim("batch", min=1, max=1024)}
    if name == "ids":
        free[1] = torch.export.Dim("length", min=2, max=128)
    forward = net.forward.__code__.co_varnames[1]
    example = example.clone()  # a part would take the whole it was cut from into the file
    program = torch.export.export(net, (example,), dynamic_shapes={forward: free} if forward != "args" else (free,))
    torch.export.save(program, path)
