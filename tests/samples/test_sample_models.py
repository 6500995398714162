"""The sample models load, are small, and are as accurate on their held-out rows as their README says."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import numpy as np
import pytest

SAMPLES = Path(__file__).resolve().parents[2] / "sample_models"
MODELS = {"1/digits": "1/digits.pt2", "2/digits": "2/digits.pt2", "3/cancer": "3/cancer.onnx"}
CLAIM = re.compile(r"^\| `(?P<key>\d/\w+)\.\*` .*\| (?P<rows>\d+) \| (?P<accuracy>[\d.]+) % \|$", re.MULTILINE)


def claims() -> dict[str, tuple[int, float]]:
    text = (SAMPLES / "README.md").read_text(encoding="utf-8")
    return {found["key"]: (int(found["rows"]), float(found["accuracy"]) / 100) for found in CLAIM.finditer(text)}


def predicted(key: str, inputs: dict[str, np.ndarray]) -> np.ndarray:
    path = SAMPLES / MODELS[key]
    if path.suffix == ".onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        label, scores = session.run(["label", "probabilities"], inputs)
        assert (scores.argmax(1) == label).all()
        return np.asarray(label)
    torch = pytest.importorskip("torch")
    module = torch.export.load(path).module()
    with torch.no_grad():
        return np.asarray(module(*(torch.from_numpy(rows) for rows in inputs.values())).argmax(1))


@pytest.mark.parametrize("key", MODELS)
def test_accuracy_is_what_the_readme_claims(key: str) -> None:
    rows, claimed = claims()[key]
    with np.load(SAMPLES / f"{key}.npz") as archive:
        inputs = {name: archive[name] for name in archive.files if name != "labels"}
        labels = archive["labels"]
    assert len(labels) == rows
    assert all(len(array) == rows for array in inputs.values())
    # The claim is rounded to a tenth of a percent.
    assert (predicted(key, inputs) == labels).mean() == pytest.approx(claimed, abs=0.0006)


def test_the_second_digits_model_is_the_better_one() -> None:
    found = claims()
    assert set(found) == set(MODELS)
    assert 0.94 <= found["1/digits"][1] < 0.98
    assert found["2/digits"][1] >= 0.99


@pytest.mark.parametrize("key", MODELS)
def test_settings_name_every_class(key: str) -> None:
    about = tomllib.loads((SAMPLES / f"{key}.toml").read_text(encoding="utf-8"))
    assert set(about) == {"title", "description", "tags", "class_labels"}
    with np.load(SAMPLES / f"{key}.npz") as archive:
        assert set(archive["labels"].tolist()) == set(range(len(about["class_labels"])))


def test_every_file_is_below_a_megabyte() -> None:
    files = [path for path in SAMPLES.glob("*/*") if path.is_file() and path.parent.name in {"1", "2", "3"}]
    assert len(files) == 9
    assert max(path.stat().st_size for path in files) < 1_000_000


def test_onnx_sample_is_old_enough_for_every_supported_runtime() -> None:
    import onnx

    model = onnx.load(SAMPLES / MODELS["3/cancer"])
    assert model.ir_version <= 10
    assert {entry.domain: entry.version for entry in model.opset_import}[""] <= 17
