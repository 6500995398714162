"""A network with its samples goes in; a narrower one comes out, with figures of this machine, from its own source."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits

from tests.journeys.engines import RunningEngine, until
from tests.optimize.networks import FACTORY, trained

TAUGHT = 700


def drop(studio: RunningEngine, folder: Path) -> None:
    """Weights, the Python that makes their network, labelled samples, and the wish for a distilled one."""
    torch.set_num_threads(1)
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(images))
    images, labels = (images[order] / 16).astype(np.float32).reshape(-1, 1, 8, 8), labels[order]
    network = trained(torch.tensor(images[:TAUGHT]), torch.tensor(labels[:TAUGHT]))
    folder.mkdir()
    torch.save(network.state_dict(), folder / "net.pt")
    (folder / "net.py").write_text(FACTORY)
    (folder / "net.toml").write_text('recipes = ["distilled"]\n')
    np.savez(folder / "net.npz", images=images[TAUGHT:], labels=labels[TAUGHT:])
    studio.drop(folder)


def test_a_distilled_network_is_offered_with_figures_and_serves(studio: RunningEngine, tmp_path: Path) -> None:
    drop(studio, tmp_path / "dropped")
    waits = until(
        lambda: next((job for job in studio.client.jobs() if job.standing == "needs trust"), None), "the question"
    )
    assert waits.problem is not None
    (code,) = waits.problem.code_files
    assert code.name == "net.py"
    studio.client.trust(code.sha256)
    job = studio.finished_job("net", seconds=170)
    assert job.state == "done", job
    variants = {variant.variant: variant for variant in studio.client.version("net", 1).variants}
    made = variants["distilled"]
    assert made.verdict.outcome == "keep", made.verdict.sentence
    assert "x smaller" in made.verdict.sentence and "labelled samples" in made.verdict.sentence
    assert made.parameters["channels"] == "160 → 80 (−50%)" and made.tools["torch-pruning"]
    assert made.graph is not None and variants["fp32"].measurement is not None
    one = np.zeros((1, 1, 8, 8), np.float32)
    (scores,) = studio.client.predict("net:1-distilled", {"input": one}).values()
    assert scores.shape == (1, 10)
