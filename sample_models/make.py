"""Makes the sample models: `python sample_models/make.py`. Takes less than a minute.

Needs torch, scikit-learn and skl2onnx.

1/digits.*   a small convolutional net for handwritten digits, barely trained (torch.export)
2/digits.*   the same net, well trained: dropped second, it becomes version 2
3/cancer.*   a scaler and a logistic regression on a table of 30 measurements (ONNX)

Both data sets come with scikit-learn. The rows in each `.npz` are held out: no model saw them in training.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

HERE = Path(__file__).resolve().parent
HELD_OUT = 300


class DigitsNet(nn.Module):
    """Scores of the ten digits, float32 [batch, 10], for 8 × 8 pixels of 0 to 16, float32 [batch, 1, 8, 8]."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
        )
        self.head = nn.Sequential(nn.Linear(512, 256), nn.ReLU(), nn.Dropout(0.3), nn.Linear(256, 10))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(image / 16.0))


def shifted(images: torch.Tensor) -> torch.Tensor:
    """Each image moved by up to one pixel in each direction."""
    padded = nn.functional.pad(images, (1, 1, 1, 1))
    down, right = torch.randint(0, 3, (2, len(images)))
    return torch.stack(
        [padded[row, :, y : y + 8, x : x + 8] for row, (y, x) in enumerate(zip(down, right, strict=True))]
    )


def train_digits(images: torch.Tensor, labels: torch.Tensor, *, steps: int, augment: bool, rate: float) -> DigitsNet:
    torch.manual_seed(7)
    net = DigitsNet()
    optimiser = torch.optim.AdamW(net.parameters(), lr=rate, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    net.train()
    for _ in range(steps):
        rows = torch.randint(0, len(images), (64,))
        batch = shifted(images[rows]) if augment else images[rows]
        loss = nn.functional.cross_entropy(net(batch), labels[rows])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return net.eval()


def write_companions(folder: Path, stem: str, arrays: dict[str, np.ndarray], about: dict[str, object]) -> None:
    np.savez_compressed(folder / f"{stem}.npz", **arrays)
    # A JSON string or list of strings is also valid TOML.
    lines = [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in about.items()]
    (folder / f"{stem}.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_digits(
    folder: Path, net: DigitsNet, images: np.ndarray, labels: np.ndarray, about: dict[str, object]
) -> float:
    folder.mkdir(exist_ok=True)
    batch = torch.export.Dim("batch", min=1, max=1024)
    program = torch.export.export(net, (torch.from_numpy(images[:2]),), dynamic_shapes={"image": {0: batch}})
    # Stack traces name the folders of the machine that made the file.
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    torch.export.save(program, folder / "digits.pt2")
    write_companions(folder, "digits", {"image": images, "labels": labels}, about)
    with torch.no_grad():
        return float((net(torch.from_numpy(images)).argmax(1).numpy() == labels).mean())


def make_digits() -> None:
    data = load_digits()
    images = data.images.astype(np.float32)[:, None]
    train_x, held_x, train_y, held_y = train_test_split(
        images, data.target.astype(np.int64), test_size=HELD_OUT, random_state=3, stratify=data.target
    )
    pixels, targets = torch.from_numpy(train_x), torch.from_numpy(train_y)
    for number, word, options in (
        ("1", "a first, hasty training", {"steps": 130, "augment": False, "rate": 1e-3}),
        ("2", "a longer training on shifted images", {"steps": 2500, "augment": True, "rate": 2e-3}),
    ):
        net = train_digits(pixels, targets, **options)
        about = {
            "title": "Handwritten digits",
            "description": "Which digit an 8 × 8 grey image shows (pixels 0 to 16). "
            f"A small convolutional net: {word}.",
            "tags": ["vision", "classification", "sample"],
            "class_labels": [str(digit) for digit in range(10)],
        }
        accuracy = write_digits(HERE / number, net, held_x, held_y, about)
        print(f"{number}/digits: accuracy {accuracy:.4f} on {HELD_OUT} held-out images")


def make_cancer() -> None:
    from skl2onnx import to_onnx
    from skl2onnx.common.data_types import FloatTensorType

    data = load_breast_cancer()
    table = data.data.astype(np.float32)
    train_x, held_x, train_y, held_y = train_test_split(
        table, data.target.astype(np.int64), test_size=HELD_OUT, random_state=3, stratify=data.target
    )
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(C=0.5, max_iter=2000)).fit(train_x, train_y)
    model = to_onnx(
        pipeline,
        initial_types=[("features", FloatTensorType([None, table.shape[1]]))],
        options={"zipmap": False},
        target_opset={"": 17, "ai.onnx.ml": 3},
    )
    model.ir_version = min(model.ir_version, 10)
    folder = HERE / "3"
    folder.mkdir(exist_ok=True)
    (folder / "cancer.onnx").write_bytes(model.SerializeToString())
    about = {
        "title": "Breast cancer, Wisconsin",
        "description": "Whether a tumour is malignant or benign, from 30 measurements of cell nuclei. "
        "A scaler and a logistic regression. A sample to try Studio with, never for diagnosis.",
        "tags": ["tabular", "classification", "sample"],
        "class_labels": [str(name) for name in data.target_names],
    }
    write_companions(folder, "cancer", {"features": held_x, "labels": held_y}, about)
    print(f"3/cancer: accuracy {pipeline.score(held_x, held_y):.4f} on {HELD_OUT} held-out rows")


if __name__ == "__main__":
    torch.set_num_threads(1)
    make_digits()
    make_cancer()
