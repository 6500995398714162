"""Static quantisation on nets of many shapes: gates, a U, one and three dimensions, recurrence, several outputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from studio.optimize.base import Evidence, Given, Work, recipes

from .conftest import Run

torch = pytest.importorskip("torch")
nn, relu = torch.nn, torch.relu


class Gated(nn.Module):
    """Squeeze and excitation: channels are scaled by what they hold."""

    shape, layers = (3, 16, 16), "4 of 4"

    def __init__(self) -> None:
        super().__init__()
        self.a, self.d = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 8, 3, groups=8)
        self.b, self.c = nn.Conv2d(16, 4, 1), nn.Conv2d(4, 16, 1)

    def forward(self, x):
        x = nn.functional.silu(self.a(x))
        return self.d(x * torch.sigmoid(self.c(relu(self.b(x.mean((2, 3), keepdim=True))))))


class Shaped(nn.Module):
    """A small U-Net; transposed convolutions have no 8-bit kernel and stay in 32 bits."""

    shape, layers = (3, 16, 16), "4 of 4"

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.up, self.o = nn.ConvTranspose2d(16, 8, 2, 2), nn.Conv2d(8, 1, 1)
        self.c = nn.Conv2d(16, 8, 3, padding=1, padding_mode="reflect")

    def forward(self, x):
        a = relu(self.a(x))
        return torch.sigmoid(self.o(relu(self.c(torch.cat([a, self.up(relu(self.b(a)))], 1)))))


class Split(nn.Module):
    """Pooling, resizing, dilation, splitting and a product of two halves."""

    shape, layers = (3, 16, 16), "3 of 3"

    def __init__(self) -> None:
        super().__init__()
        self.a, self.c = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 3)
        self.b = nn.Conv2d(8, 8, 3, padding=2, dilation=2)

    def forward(self, x):
        a = nn.functional.leaky_relu(self.a(x), 0.1)
        wide = nn.functional.interpolate(nn.functional.max_pool2d(a, 2), scale_factor=2, mode="nearest")
        left, right = torch.split(self.b(wide) + a, 4, 1)
        return self.c(torch.cat([left * right, right], 1)).flatten(1)


class Series(nn.Module):
    """One dimension, depthwise, and an LSTM behind."""

    shape, layers = (3, 40), "3 of 3"

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv1d(3, 16, 5), nn.Conv1d(16, 16, 3, groups=16)
        self.lstm, self.f = nn.LSTM(16, 8, batch_first=True), nn.Linear(8, 3)

    def forward(self, x):
        x = nn.functional.hardswish(self.b(nn.functional.relu6(self.a(x))))
        return self.f(self.lstm(x.transpose(1, 2))[0][:, -1])


class Volume(nn.Sequential):
    """Three dimensions with batch normalisation."""

    shape, layers = (1, 8, 8, 8), "2 of 2"

    def __init__(self) -> None:
        norm = nn.BatchNorm3d(8)
        super().__init__(nn.Conv3d(1, 8, 3), norm, nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(8, 4))


class Patches(nn.Module):
    """Convolutions beside attention: a vision transformer of one layer."""

    shape, layers = (3, 16, 16), "6 of 6"

    def __init__(self) -> None:
        super().__init__()
        self.p, self.h = nn.Conv2d(3, 32, 4, 4), nn.Linear(32, 5)
        self.t = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, dropout=0)

    def forward(self, x):
        return self.h(self.t(self.p(x).flatten(2).transpose(1, 2)).mean(1))


class Several(nn.Module):
    """Three outputs: two heads, one behind a softmax, and what they both read."""

    shape, layers = (3, 10, 10), "3 of 3"

    def __init__(self) -> None:
        super().__init__()
        self.c, self.f, self.g = nn.Conv2d(3, 8, 3), nn.Linear(8, 4), nn.Linear(8, 2)

    def forward(self, x):
        hidden = relu(self.c(x))
        top = hidden.amax((2, 3))
        return self.f(top), self.g(top).softmax(-1), hidden


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", [Gated, Shaped, Split, Series, Volume, Patches, Several])
def test_a_net_of_this_shape_is_quantised_and_agrees(kind, tmp_path: Path, outputs_of: Run) -> None:
    torch.manual_seed(0)
    src, out = tmp_path / "net.onnx", tmp_path / "variant.onnx"
    example, axes = torch.randn(2, *kind.shape), {"x": {0: "batch"}}
    torch.onnx.export(
        kind().eval(), (example,), src, dynamo=False, input_names=["x"], dynamic_axes=axes, opset_version=17
    )
    random = np.random.default_rng(0)
    rows = {"x": random.standard_normal((32, *kind.shape)).astype(np.float32)}
    recipe = recipes()["int8-static"]
    assert recipe.applies(onnx.load(src), Given(kind="samples", rows=32)) == ""
    real = Evidence(kind="samples", inputs=rows, runs=(rows,))
    parameters = recipe.apply(Work(src=src, out=out, options=recipe.settings({}), evidence=real))
    assert parameters["layers quantised"] == kind.layers
    test = {"x": random.standard_normal((16, *kind.shape)).astype(np.float32)}
    got = outputs_of(out, test)
    for name, reference in outputs_of(src, test).items():
        assert got[name].shape == reference.shape
        assert 10 * np.log10(np.sum(reference**2.0) / np.sum((reference - got[name]) ** 2.0)) > 25
