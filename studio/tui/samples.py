"""The built-in samples: added one after the other, the way a user would drop them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from studio.core.errors import StepFailed
from studio.core.jobs import Job
from studio.tui.ports import EngineClient

PATIENCE_SECONDS = 300.0
POLL_SECONDS = 0.3


def sample_folders(root: Path | None = None) -> list[Path]:
    """The numbered folders of `sample_models/`, in order; empty where an installation has none."""
    root = root or Path(__file__).resolve().parents[2] / "sample_models"
    found = [path for path in root.iterdir() if path.is_dir() and path.name.isdigit()] if root.is_dir() else []
    return sorted(found, key=lambda path: int(path.name))


def files_of(sample: Path) -> list[Path]:
    """The files of one sample: what goes with the model first, the model last, so that it settles complete."""
    if sample.is_file():
        return [sample]
    beside = {".toml", ".npz"}
    files = [path for path in sample.iterdir() if path.is_file() and path.suffix not in (".md", ".py")]
    return sorted(files, key=lambda path: (path.suffix not in beside, path.name))


def run_samples(
    client: EngineClient,
    samples: Sequence[Path],
    tell: Callable[[str], None],
    wait: Callable[[float], None] = time.sleep,
) -> int:
    """Add every sample; each waits until the one before is registered. Gives how many were added.

    Raises StepFailed when one does not become a version in five minutes; what was added before stays.
    """
    for number, sample in enumerate(samples, 1):
        known = {job.id for job in client.jobs()}
        for path in files_of(sample):
            client.add(str(path))
        tell(f"Sample {number} of {len(samples)} is in the inbox.")
        if number < len(samples):
            _await_registered(client, known, wait)
    return len(samples)


def _registered(job: Job) -> bool:
    return job.resting or job.version is not None or job.step("registered").state == "done"


def _await_registered(client: EngineClient, known: set[str], wait: Callable[[float], None]) -> None:
    started = time.monotonic()
    while time.monotonic() - started < PATIENCE_SECONDS:
        if any(_registered(job) for job in client.jobs() if job.id not in known):
            return
        wait(POLL_SECONDS)
    raise StepFailed(
        "The sample did not become a version in five minutes.",
        "Its job has not reached 'registered'.",
        "Look at it in the Inbox (2).",
    )
