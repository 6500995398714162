"""Recorded requests as samples: what fits, once each, of the commonest sizes."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from studio.core.recording import part_name
from studio.core.tensors import Signature, TensorSpec
from studio.verify.captured import captured_samples
from studio.verify.inputs import load_samples

SIGNATURE = Signature(
    inputs=(TensorSpec("x", "FP32", ("batch", "n")), TensorSpec("limit", "FP32", ())),
    outputs=(TensorSpec("y", "FP32", ("batch", "n")),),
)


def part(folder: Path, number: int, rows: np.ndarray, limit: float = 0.5, **more: np.ndarray) -> None:
    folder.mkdir(exist_ok=True)
    name = part_name(number, os.getpid(), 1, len(rows))
    np.savez(folder / name, x=rows.astype(np.float32), limit=np.float32(limit), **more)


def random(rows: int, width: int = 4, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((rows, width)).astype(np.float32)


def test_files_become_one_with_every_row_once(tmp_path: Path) -> None:
    folder = tmp_path / "digits"
    part(folder, 1, random(20), limit=0.1)
    part(folder, 2, np.concatenate([random(20)[:5], random(10, seed=1)]), limit=0.2)
    part(folder, 3, random(12, width=7, seed=2))  # fewer rows of another size
    part(folder, 4, random(40, seed=3), other=np.zeros(3))  # of a version with other inputs
    (folder / "000005-1-v1-9.npz").write_bytes(b"torn")
    (folder / "rows-v1.npz").write_bytes(b"what was put together before")
    out = tmp_path / "rows.npz"
    assert captured_samples(folder, SIGNATURE, out) == 30
    found = load_samples(out, SIGNATURE)
    assert found.inputs["x"].shape == (30, 4)
    assert len(np.unique(found.inputs["x"], axis=0)) == 30
    assert found.inputs["limit"] == np.float32(0.2)  # as in the newest
    assert out.stat().st_mode & 0o077 == 0


def test_too_few_rows_are_no_samples(tmp_path: Path) -> None:
    part(tmp_path / "digits", 1, random(15))
    assert captured_samples(tmp_path / "digits", SIGNATURE, tmp_path / "rows.npz") == 0
    assert not (tmp_path / "rows.npz").exists()
    assert captured_samples(tmp_path / "nowhere", SIGNATURE, tmp_path / "rows.npz") == 0


def test_texts_are_samples_too(tmp_path: Path) -> None:
    words = Signature(inputs=(TensorSpec("text", "BYTES", ("n",)),), outputs=SIGNATURE.outputs)
    folder = tmp_path / "words"
    folder.mkdir()
    np.savez(folder / part_name(1, 1, 1, 20), text=np.array([f"wort {n} ü" for n in range(20)]))
    assert captured_samples(folder, words, tmp_path / "rows.npz") == 20
    assert load_samples(tmp_path / "rows.npz", words).inputs["text"][0] == "wort 0 ü"


def test_runs_of_a_model_without_a_batch_are_its_rows(tmp_path: Path) -> None:
    vector = Signature((TensorSpec("x", "FP32", (64,)),), (TensorSpec("y", "FP32", (10,)),))
    folder = tmp_path / "vector"
    folder.mkdir()
    for number, rows in enumerate((random(12, 64), random(10, 64))):  # ten of them twice
        np.savez(folder / part_name(number + 1, 1, 1, len(rows)), x=rows.ravel())
    assert captured_samples(folder, vector, tmp_path / "rows.npz") == 0
    np.savez(folder / part_name(3, 1, 1, 8), x=random(8, 64, seed=1).ravel())
    assert captured_samples(folder, vector, tmp_path / "rows.npz") == 20
    assert load_samples(tmp_path / "rows.npz", vector).inputs["x"].shape == (20 * 64,)
