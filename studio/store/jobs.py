"""Job documents: `store/jobs/<job id>.json`, replaced atomically with each step."""

from __future__ import annotations

import re
from pathlib import Path

from studio.core import codec
from studio.core.errors import InvalidInput, NotFound, Problem
from studio.core.jobs import Job
from studio.store.files import clean_temps, write_atomic

KEEP = 1000
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class JobStore:
    """The folder `store/jobs`. `problems` lists documents that could not be read when last listed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.problems: list[Problem] = []

    def save(self, job: Job) -> None:
        """Writes or replaces a job. Raises InvalidInput for a malformed id, Unavailable."""
        write_atomic(self._path(job.id), codec.encode_pretty(job))

    def load(self, job: str) -> Job:
        """Raises NotFound, or InvalidInput for a damaged document."""
        path = self._path(job)
        try:
            return codec.decode(path.read_bytes(), Job, f"job document {path.name}")
        except FileNotFoundError as error:
            raise NotFound(
                f"There is no job {job!r}.",
                f"Only the newest {KEEP} finished jobs are kept.",
                "See: studio jobs",
            ) from error

    def load_all(self, limit: int | None = None) -> list[Job]:
        """Jobs, newest first. Damaged documents are reported in `problems` and left alone."""
        found: list[Job] = []
        self.problems = []
        for path in self.folder.glob("*.json"):
            if not _ID.fullmatch(path.stem):
                continue
            try:
                found.append(self.load(path.stem))
            except NotFound:
                continue
            except InvalidInput as error:
                self.problems.append(error.problem)
        found.sort(key=lambda job: (job.created, job.id), reverse=True)
        return found[:limit]

    def prune(self, keep: int = KEEP) -> list[str]:
        """Removes the oldest finished jobs beyond `keep`. Returns their ids, so that their logs can go too."""
        gone = [job.id for job in self.load_all()[keep:] if job.finished]
        for job in gone:
            self._path(job).unlink(missing_ok=True)
        return gone

    def delete(self, job: str) -> None:
        """Removes a job's document, if there is one."""
        self._path(job).unlink(missing_ok=True)

    def clean(self) -> int:
        """Removes files that a crash left half written. Only for the owner of the workspace, when it starts."""
        return clean_temps(self.folder)

    def _path(self, job: str) -> Path:
        if not _ID.fullmatch(job):
            raise InvalidInput(f"{job[:120]!r} is not a job id.", "A job id has letters, digits, '.', '_' and '-'.")
        return self.folder / f"{job}.json"
