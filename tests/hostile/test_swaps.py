"""Something else takes a settled file's place before it is copied: nothing waits for it, nothing follows it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from tests.hostile.place import SECRET
from tests.hostile.siege import besieged
from tests.journeys.engines import until


def pipe(path: Path, _: Path) -> None:
    os.mkfifo(path)


def link(path: Path, secret: Path) -> None:
    path.symlink_to(secret)


def other(path: Path, _: Path) -> None:
    path.write_bytes(b"something else")


# What the job may end with. Other content is also an arrival of its own: once that has settled, what still works on the
# content before is cancelled, so which of the two is first there is chance, and both say that the content changed.
SWAPS: dict[str, tuple[Callable[[Path, Path], None], set[tuple[str, str]]]] = {
    "pipe": (pipe, {("failed", "no plain file any more")}),
    "link": (link, {("failed", "no plain file any more")}),
    "other": (other, {("failed", "changed in the inbox"), ("cancelled", "replaced by newer content")}),
}


def test_a_file_that_is_tried_again_is_looked_at_again(tmp_path: Path) -> None:
    with besieged(tmp_path, 30) as siege:
        client = siege.engine.client
        for name in SWAPS:
            (siege.engine.inbox / f"{name}.onnx").write_bytes(b"this is no model")
        jobs = {name: siege.engine.finished_job(name) for name in SWAPS}
        for name, (swap, endings) in SWAPS.items():
            path = siege.engine.inbox / f"{name}.onnx"
            path.unlink()
            swap(path, siege.outside / "secret.bin")
            assert not client.retry_job(jobs[name].id).finished
            job = until(lambda key=jobs[name].id: (one := client.job(key)).finished and one, f"{name} to end")
            said = job.problem.sentence() if job.problem else ""
            assert any(job.state == state and words in said for state, words in endings), (job.state, said)
            assert SECRET.decode() not in client.job_log(job.id)
        siege.still_stands()
