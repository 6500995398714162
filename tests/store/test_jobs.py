"""Job documents."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from studio.core.errors import InvalidInput, NotFound
from studio.core.jobs import Job, Step
from studio.store.jobs import JobStore


def job(number: int, state: str = "done") -> Job:
    return Job(id=f"job-{number:04}", stem="digits", state=state, created=float(number), files=("/in/digits.onnx",))  # type: ignore[arg-type]


def test_a_job_is_saved_replaced_and_read_back(tmp_path: Path) -> None:
    jobs = JobStore(tmp_path)
    first = job(1, "running")
    jobs.save(first)
    second = replace(first.with_step(Step(name="settled", state="done", started=1.0, ended=2.0)), state="done")
    jobs.save(second)
    assert jobs.load("job-0001") == second
    jobs.delete("job-0001")
    with pytest.raises(NotFound):
        jobs.load("job-0001")


def test_newest_come_first_and_damage_is_reported(tmp_path: Path) -> None:
    jobs = JobStore(tmp_path)
    for number in (2, 3, 1):
        jobs.save(job(number))
    (tmp_path / "job-0009.json").write_text("{")
    assert [found.id for found in jobs.load_all()] == ["job-0003", "job-0002", "job-0001"]
    assert [found.id for found in jobs.load_all(limit=1)] == ["job-0003"]
    assert len(jobs.problems) == 1
    assert (tmp_path / "job-0009.json").exists()


def test_pruning_keeps_the_newest_and_all_unfinished(tmp_path: Path) -> None:
    jobs = JobStore(tmp_path)
    for number in range(6):
        jobs.save(job(number, "running" if number == 0 else "failed"))
    assert sorted(jobs.prune(keep=2)) == ["job-0001", "job-0002", "job-0003"]
    assert [found.id for found in jobs.load_all()] == ["job-0005", "job-0004", "job-0000"]


@pytest.mark.parametrize("name", ["../x", "", ".hidden", "a/b", "x" * 101])
def test_ids_do_not_lead_out_of_the_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidInput):
        JobStore(tmp_path).load(name)
