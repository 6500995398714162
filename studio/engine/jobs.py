"""Jobs: arrivals become versions, one step at a time, and none is lost.

Two lanes. *Intake* takes an arrival to a registered, serving reference variant. *Lab* makes and judges the other
variants afterwards, so that a slow quantisation never keeps the next arrival from its endpoint. Every change of a job
is on disk before it is told; after a crash each unfinished job starts again from its last finished lane.
"""

from __future__ import annotations

import asyncio
import shlex
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

from studio.core.errors import Cancelled, Conflict, NotFound, Problem, StudioError, Waiting
from studio.core.jobs import LAB_STEPS, STEPS, Job, Step
from studio.core.manifest import VersionManifest
from studio.core.printable import printable_problem
from studio.core.recipe import Plan
from studio.engine.bus import Bus
from studio.engine.logs import Logs
from studio.engine.turns import Turns
from studio.inbox.groups import is_companion
from studio.store.jobs import JobStore

MAX_ATTEMPTS = 10
LANES: tuple[Literal["intake", "lab"], ...] = ("intake", "lab")
TELL_SECONDS = 0.2
LEFT = "its files left the inbox"

Lane = Callable[["Jobs", str], Awaitable[None]]


class Jobs:
    """All jobs, newest last. Methods belong to the engine's event loop."""

    def __init__(self, store: JobStore, log_folder: Path, bus: Bus, logs: Logs, parallel: int) -> None:
        self._store, self._log_folder, self._bus, self._logs = store, log_folder, bus, logs
        self._jobs: dict[str, Job] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._room = {"intake": Turns(parallel), "lab": Turns(1)}
        self._lanes: dict[str, Lane] = {}
        self._told: dict[str, float] = {}
        self._cancelling: set[asyncio.Task[None]] = set()

    def use(self, intake: Lane, lab: Lane) -> None:
        """What each lane does with a job."""
        self._lanes = {"intake": intake, "lab": lab}

    # -- reading

    def newest(self, limit: int = 200) -> list[Job]:
        """The newest jobs, newest first. One that waits for the user is among them however old it is, as far as there
        is room.
        """
        ordered = sorted(self._jobs.values(), key=lambda job: (job.state != "waiting", -job.created))[:limit]
        return sorted(ordered, key=lambda job: -job.created)

    def get(self, key: str) -> Job:
        if key not in self._jobs:
            raise NotFound(f"There is no job {key!r}.", fix="List them: studio jobs.")
        return self._jobs[key]

    def active(self) -> int:
        return sum(not job.resting for job in self._jobs.values())

    def waiting(self) -> list[Job]:
        """Jobs that wait for a word of the user, oldest first."""
        return sorted((job for job in self._jobs.values() if job.state == "waiting"), key=lambda job: job.created)

    def failed(self) -> int:
        return sum(job.state == "failed" for job in self._jobs.values())

    def log_path(self, key: str) -> Path:
        return self._log_folder / f"{key}.log"

    def log_text(self, key: str) -> str:
        """What the workers of a job wrote, at most the last 256 kB."""
        self.get(key)
        path = self.log_path(key)
        return path.read_bytes()[-256 * 1024 :].decode(errors="replace") if path.exists() else ""

    def worked_through(self, fingerprint: str) -> bool:
        """Whether a finished or waiting job has dealt with exactly these files, unchanged since."""
        return any(job.resting and job.fingerprint == fingerprint for job in self._jobs.values())

    def is_working_on(self, fingerprint: str) -> bool:
        """Whether an unfinished job has exactly these files."""
        return any(not job.finished and job.fingerprint == fingerprint for job in self._jobs.values())

    def made(self, model: str, key: str) -> Job | None:
        """The newest job but this one that has made a version of a model."""
        others = [
            job for job in self._jobs.values() if job.model == model and job.version is not None and job.id != key
        ]
        return max(others, key=lambda job: (job.version or 0, job.created), default=None)

    def of(self, model: str, version: int) -> list[Job]:
        """All jobs of a version, whatever has become of them; oldest first."""
        found = (job for job in self._jobs.values() if (job.model, job.version) == (model, version))
        return sorted(found, key=lambda job: job.created)

    def unfinished(self, stem: str) -> list[Job]:
        return [job for job in self._jobs.values() if job.is_arrival and job.stem == stem and not job.finished]

    # -- changing

    def update(self, job: Job, durable: bool = True) -> Job:
        """Remember and tell. Progress alone (`durable=False`) is not written, and told at most five times a second."""
        now = time.time()
        job = replace(job, updated=now)
        self._jobs[job.id] = job
        if durable:
            self._store.save(job)
        elif now - self._told.get(job.id, 0.0) < TELL_SECONDS:
            return job
        self._told[job.id] = now
        self._bus.publish("job", job)
        return job

    def step(
        self,
        key: str,
        name: str,
        state: Literal["pending", "running", "done", "failed", "skipped"],
        detail: str | None = None,
        progress: float | None = None,
    ) -> Job:
        """Move one step. Steps before it that still run are done by that; a repeated state is progress alone."""
        job = self.get(key)
        old = job.step(name)
        now = time.time()
        same = old.state == state
        if state in ("running", "done") and not same:
            for earlier in job.steps[: STEPS.index(name)]:
                if earlier.state == "running" and not (name in LAB_STEPS and earlier.name in LAB_STEPS):
                    job = job.with_step(replace(earlier, state="done", ended=now, progress=None))
        new = replace(
            old,
            state=state,
            started=old.started or now,
            ended=now if state in ("done", "failed", "skipped") else None,
            progress=progress if state == "running" else None,
            detail=old.detail if detail is None else detail,
        )
        return self.update(job.with_step(new), durable=not same)

    def note(self, key: str, words: str) -> Job:
        """Something that the user should know of a job that goes on."""
        job = self.get(key)
        self._logs.add("job", "warning", f"{job.stem}: {words}", key)
        before = f"{job.note} " if job.note.endswith(".") else f"{job.note}; " if job.note else ""
        return self.update(replace(job, note=f"{before}{words}"))

    def create(self, stem: str, files: tuple[str, ...]) -> Job:
        """A job for something that was just seen in the inbox; it waits until the arrival has settled."""
        now = time.time()
        key = self._new_key(now)
        job = Job(id=key, stem=stem, state="queued", created=now, files=files)
        job = job.with_step(Step(name="arrived", state="done", started=now, ended=now))
        job = job.with_step(Step(name="settled", state="running", started=now))
        self._logs.add("job", "info", f"{stem} arrived", key)
        return self.update(job)

    def create_lab(self, version: VersionManifest, plans: tuple[Plan, ...], again: bool) -> Job:
        """A job that makes variants of a version that there is."""
        now = time.time()
        done = tuple(Step(name=name, state="pending" if name in LAB_STEPS else "skipped") for name in STEPS)
        job = Job(
            id=self._new_key(now),
            stem=f"{version.model}:{version.version}",
            state="queued",
            created=now,
            files=(),
            steps=done,
            format=version.source.format,
            model=version.model,
            version=version.version,
            kind="lab",
            plans=plans,
            again=again,
        )
        self._logs.add("job", "info", f"the lab was asked for {job.stem}", job.id)
        return self.update(job)

    @staticmethod
    def _new_key(now: float) -> str:
        return f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime(now))}-{uuid.uuid4().hex[:6]}"

    def submit(self, key: str) -> None:
        """Run a settled job through its lanes."""
        self._tasks[key] = asyncio.create_task(self._run(key), name=f"job {key}")

    def finish(self, key: str, state: Literal["done", "failed", "cancelled"], note: str = "") -> Job:
        """End a job; whatever still ran is marked by how it ended."""
        now = time.time()
        job = self.get(key)
        ended: dict[str, Literal["done", "failed", "skipped"]] = {"done": "done", "failed": "failed"}
        for step in job.steps:
            if step.state == "running":
                job = job.with_step(replace(step, state=ended.get(state, "skipped"), ended=now, progress=None))
            elif step.state == "pending" and state == "done":
                job = job.with_step(replace(step, state="skipped"))
        level: Literal["info", "error"] = "error" if state == "failed" else "info"
        said = job.problem.sentence() if job.problem else note
        self._logs.add("job", level, f"{job.stem}: {state}. {said}".rstrip(), key)
        return self.update(replace(job, state=state, note=note))

    async def _run(self, key: str) -> None:
        try:
            for lane in LANES if self.get(key).is_arrival else LANES[1:]:
                async with self._room[lane].turn(self.get(key).created):
                    if self.get(key).finished:
                        return
                    if self.get(key).state == "queued":
                        self.update(replace(self.get(key), state="running"))
                    await self._lanes[lane](self, key)
            if not self.get(key).finished:
                self.finish(key, "done", self.get(key).note)
        except asyncio.CancelledError:
            return  # whoever cancelled says why: the user through `cancel`, or the engine by stopping
        except Waiting as error:
            self._wait(key, error.problem)
        except StudioError as error:
            self._fail(key, error.problem)
        except Exception as error:  # the engine must outlive any fault in a job
            self._logs.failure("a job failed unexpectedly", error, key)
            what = "The engine failed on this arrival."
            self._fail(
                key, Problem(code="internal", what=what, why=f"{type(error).__name__}: {error}.", fix="Retry it.")
            )
        finally:
            self._tasks.pop(key, None)
            self._told.pop(key, None)

    def _wait(self, key: str, problem: Problem) -> None:
        """Put a job aside until the user has said what it asks for; `retry` goes on."""
        job = self.get(key)
        for step in job.steps:
            if step.state == "running":
                job = job.with_step(Step(name=step.name))
        problem = printable_problem(replace(problem, fix=way_out(job, problem)))
        job = replace(job, state="waiting", problem=problem)
        self._logs.add("job", "warning", f"{job.stem} {job.standing}. {problem.what}", key)
        self.update(job)

    def ask(self, stem: str, files: tuple[str, ...], fingerprint: str, problem: Problem, known: str = "") -> Job:
        """A job, new or known, for what can not begin until the user has done something: it waits from the outset."""
        job = self.get(known) if known else self.create(stem, files)
        job = self.update(replace(job, files=files, fingerprint=fingerprint), durable=False)
        self._wait(job.id, problem)
        return self.get(job.id)

    def begin_again(self, key: str, files: tuple[str, ...]) -> Job:
        """What a job has waited for lies in the inbox now: it goes on from there as if it had just arrived."""
        settling = Step(name="settled", state="running", started=time.time())
        job = replace(self.get(key), state="queued", problem=None, files=files, fingerprint="")
        return self.update(job.with_step(settling))

    def turn_away(self, stem: str, files: tuple[str, ...], fingerprint: str, problem: Problem, known: str = "") -> Job:
        """A job, new or known, for what is not taken in at all: it fails before it has begun."""
        job = self.get(known) if known else self.create(stem, files)
        self.update(replace(job, files=files, fingerprint=fingerprint), durable=False)
        self._fail(job.id, problem)
        return self.get(job.id)

    def _fail(self, key: str, problem: Problem) -> None:
        job = self.update(replace(self.get(key), problem=printable_problem(problem)), durable=False)
        self.finish(key, "failed", job.note)

    async def cancel(self, key: str, note: str = "cancelled") -> Job:
        """Stop a job and everything it runs. What it registered stays. Raises Conflict when it has ended."""
        job = self.get(key)
        if job.finished:
            raise Conflict(f"Job {key} has ended already: {job.state}.")
        await self._stop_task(key)
        if self.get(key).finished:  # it ended while we asked
            return self.get(key)
        return self.cancelled(key, note)

    def cancelled(self, key: str, note: str) -> Job:
        """End a job whose work has stopped already."""
        said = "It was cancelled." if note == "cancelled" else f"It was cancelled: {note}."
        self.update(replace(self.get(key), problem=Cancelled(said).problem), durable=False)
        return self.finish(key, "cancelled", note)

    def cancel_soon(self, key: str, note: str) -> None:
        """Cancel without waiting for the end of it."""
        task = asyncio.create_task(self._cancel_quietly(key, note), name=f"cancel {key}")
        self._cancelling.add(task)
        task.add_done_callback(self._cancelling.discard)

    async def _cancel_quietly(self, key: str, note: str) -> None:
        if not self.get(key).finished:
            await self.cancel(key, note)

    async def _stop_task(self, key: str) -> None:
        task = self._tasks.get(key)
        if task:
            task.cancel()
            await asyncio.wait({task})

    async def retry(self, key: str) -> Job:
        """Run a failed, cancelled or waiting job again from its first unfinished lane. Raises Conflict for others."""
        job = self.get(key)
        if job.state not in ("failed", "cancelled", "waiting"):
            raise Conflict(f"Job {key} is {job.state}; only a failed, cancelled or waiting one can be tried again.")
        if job.is_arrival and not job.digest:
            raise Conflict(
                f"Job {key} has nothing to try again: nothing of it was taken in.",
                job.problem.what if job.problem else "",
                job.problem.fix if job.problem else "Drop it again: that starts a new job.",
            )
        missing = gone(job)
        if missing and job.version is None:
            raise Conflict(
                f"{Path(missing[0]).name} is no longer in the inbox.", fix="Drop it again: that starts a new job."
            )
        return self._start_again(job, attempt=job.attempt + (job.state != "waiting"))

    def _start_again(self, job: Job, attempt: int) -> Job:
        now = time.time()
        kept = {"arrived", "settled"} | (set(STEPS[: STEPS.index("optimised")]) if job.version is not None else set())
        steps = tuple(step if step.name in kept else Step(name=step.name) for step in job.steps)
        fresh = replace(job, state="queued", steps=steps, problem=None, note="", attempt=attempt)
        if job.is_arrival:
            ended = fresh.step("settled").ended or now
            fresh = fresh.with_step(replace(fresh.step("settled"), state="done", ended=ended, progress=None))
        fresh = self.update(fresh)
        self.submit(fresh.id)
        return fresh

    # -- lifecycle

    def recover(self) -> None:
        """Read the jobs of earlier runs; unfinished ones start again, or fail when they have ended too many engines."""
        for job in self._store.load_all():
            self._jobs[job.id] = job
        for job in list(self._jobs.values()):
            if job.state == "waiting" and gone(job):
                self.cancelled(job.id, f"{LEFT} while the engine was down")
            elif job.resting:
                continue
            elif job.is_arrival and not job.digest:  # never settled: the inbox will report it afresh
                del self._jobs[job.id]
                self._store.delete(job.id)
            elif job.attempt >= MAX_ATTEMPTS:
                what = f"{job.stem} was given up after {job.attempt} attempts that ended with the engine."
                fix = "Look at its log, then retry it, or remove the file from the inbox."
                self._fail(job.id, Problem(code="step_failed", what=what, fix=fix))
            elif job.version is None and gone(job):
                self.finish(job.id, "cancelled", f"{LEFT} while the engine was down")
            else:
                self._logs.add("job", "info", f"{job.stem}: taken up again after a restart", job.id)
                self._start_again(job, attempt=job.attempt + 1)

    async def stop(self) -> None:
        """Stop what runs without marking it: the next engine takes it up again, as its first attempt."""
        for key in list(self._tasks):
            await self._stop_task(key)
            job = self._jobs[key]
            if not job.finished:
                self._store.save(replace(job, attempt=max(0, job.attempt - 1)))


def way_out(job: Job, problem: Problem) -> str:
    """What the user can do about a question, with the commands for this very job."""
    if problem.code == "needs_settings" and "studio init" not in problem.fix:
        model = next((file for file in job.files if not is_companion(Path(file).name)), job.files[0])
        init = f"The Inbox has a form for it (a); or begin the file with: studio init {shlex.quote(model)}"
        return "\n".join(part for part in (problem.fix, init) if part)
    return problem.fix.replace("trust JOB", f"trust {job.id}")


def gone(job: Job) -> list[str]:
    """Files of a job that are no longer in the inbox."""
    return [path for path in job.files if not Path(path).exists()]
