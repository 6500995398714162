"""What the user says to jobs that wait: yes to running code, and what a model takes."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from studio.core.errors import CodeFile, Conflict, InvalidInput, NeedsTrust, NotFound, StepFailed, StudioError
from studio.core.jobs import Job
from studio.core.journal import TrustedCode
from studio.core.tensors import TensorSpec
from studio.core.views import TrustAnswer
from studio.engine.keep import Keep
from studio.inbox.describe import describe
from studio.store.workspace import Workspace

if TYPE_CHECKING:
    from studio.engine.jobs import Jobs, Lane

_HASH = re.compile(r"[0-9a-f]{64}")


class Answers:
    """Takes the user's word to the jobs that asked for it. Methods belong to the engine's event loop."""

    def __init__(self, workspace: Workspace, keep: Keep, jobs: Jobs) -> None:
        self._workspace, self._keep, self._jobs = workspace, keep, jobs

    # -- trust

    def _trusted(self) -> set[str]:
        return {one.sha256 for one in self._keep.trusted()}

    async def trust(self, hashes: Sequence[str], actor: str) -> TrustAnswer:
        """Say yes to running code, by the SHA-256 of the files that jobs ask about; those jobs go on by themselves.

        Raises NotFound for a hash that no job asks about: nobody has been shown yet what it would run.
        """
        for sha256 in hashes:
            if not _HASH.fullmatch(sha256):
                raise InvalidInput(f"{sha256[:80]!r} is no SHA-256.", "It has 64 digits, 0 to 9 and a to f.")
        asked = {file.sha256: file for job in self._asking() for file in code_of(job)}
        trusted = self._trusted()
        unknown = [sha256 for sha256 in hashes if sha256 not in asked and sha256 not in trusted]
        if unknown:
            raise NotFound(
                f"No job asks to run code of the hash {unknown[0]}.",
                "A yes answers a question: Studio looks into the file first, and shows what it would run.",
                "Add the file (studio add FILE), or try its job again (studio jobs --retry ID).",
            )
        await self._keep.trust([asked[sha256] for sha256 in dict.fromkeys(hashes) if sha256 not in trusted], actor)
        code = tuple(one for one in self._keep.trusted() if one.sha256 in hashes)
        return TrustAnswer(code=code, jobs=tuple(await self.go_on()))

    async def distrust(self, sha256: str, actor: str) -> TrustedCode:
        """Take a yes back: the next file of that content asks again. What was made of it stays. Raises NotFound."""
        return await self._keep.distrust(sha256, actor)

    def _asking(self) -> list[Job]:
        return [job for job in self._jobs.waiting() if job.asks_for("needs_trust")]

    async def go_on(self) -> list[Job]:
        """Start the jobs that wait for nothing any more, because all their code is trusted. Returns them."""
        trusted, started = self._trusted(), []
        for job in self._asking():
            if all(file.sha256 in trusted for file in code_of(job)):
                try:
                    started.append(await self._jobs.retry(job.id))
                except StudioError as error:  # its files have just left: it is being cancelled
                    self._jobs.note(job.id, error.what)
        return started

    async def attended(self, jobs: Jobs, key: str, lane: Lane) -> None:
        """Run a lane; when it asks for a yes that was given while it ran, run it again instead of waiting.

        Raises what the lane raises, and StepFailed when it asks for what it was allowed from the beginning.
        """
        while True:
            before = self._trusted()
            try:
                return await lane(jobs, key)
            except NeedsTrust as asking:
                wanted = {file.sha256 for file in asking.code_files}
                if wanted <= before:
                    raise StepFailed(
                        f"{asking.what} It was trusted, and asked again all the same.",
                        asking.why,
                        "This is a fault in Studio: please report it, with the job's log.",
                    ) from asking
                if not wanted <= self._trusted():
                    raise

    # -- settings

    async def describe(self, key: str, inputs: Sequence[TensorSpec]) -> Path:
        """Write what the inputs of a waiting job's model are into its settings file; where it lies.

        The inbox then reports a changed arrival, whose job takes the place of the one that waits. Raises NotFound,
        Conflict when the job asks for nothing of the kind, InvalidInput for what is no shape or datatype.
        """
        job = self._jobs.get(key)
        if not job.asks_for("needs_settings"):
            raise Conflict(f"Job {key} does not ask about inputs.", f"Its state: {job.standing}.")
        names = job.problem.missing_inputs if job.problem else ()
        odd = [spec.name for spec in inputs if names and spec.name not in names]
        if odd or not inputs:
            said = f"The job does not ask about an input {odd[0][:80]!r}." if odd else "Nothing was said of any input."
            raise InvalidInput(said, f"It asks about: {', '.join(names)}.")
        files = [Path(file) for file in job.files]
        return await asyncio.to_thread(describe, self._workspace.inbox, job.stem, files, inputs, self._workspace.work)


def code_of(job: Job) -> tuple[CodeFile, ...]:
    """The files that a job asks about."""
    return job.problem.code_files if job.problem else ()
