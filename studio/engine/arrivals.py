"""From what the inbox reports to jobs: one job for each settled content of a stem."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from studio.core.errors import Refused
from studio.core.jobs import Job
from studio.engine.intake import Intake
from studio.engine.jobs import LEFT, Jobs
from studio.engine.keep import Keep
from studio.engine.logs import Logs
from studio.inbox.events import Arrived, Changed, Claimed, Emptied, Gone, InboxEvent, Left, Noticed, Settled, Unclaimed
from studio.inbox.groups import Group, Skipped
from studio.inbox.reading import Arrival
from studio.inbox.unclaimed import needs_model
from studio.inbox.watcher import Inbox
from studio.store.workspace import Workspace


class Arrivals:
    """Watches the inbox for an engine. Methods belong to its event loop."""

    def __init__(self, workspace: Workspace, jobs: Jobs, keep: Keep, intake: Intake, logs: Logs) -> None:
        self._jobs, self._keep, self._intake, self._logs = jobs, keep, intake, logs
        self._folder = workspace.inbox
        self._waiting: dict[str, str] = {}  # group key -> job that waits for its arrival to settle
        self._unclaimed: dict[str, str] = {}  # group key -> job that waits for a model to come
        self._inbox = Inbox(workspace.inbox, workspace.settings.inbox, self._on_event, known=jobs.worked_through)

    @property
    def watching(self) -> bool:
        return self._inbox.watching

    @property
    def notices(self) -> tuple[str, ...]:
        return tuple(self._inbox.notices)

    async def start(self) -> None:
        self._recover()
        await self._inbox.start()

    def _recover(self) -> None:
        """Jobs of an earlier run go on waiting for what they waited for."""
        for job in self._jobs.waiting():
            if job.asks_for("needs_model"):
                self._unclaimed[f"{job.stem}/" if Path(job.files[0]).is_dir() else job.stem] = job.id

    async def stop(self) -> None:
        await self._inbox.stop()
        await self._intake.stop()

    def _on_event(self, event: InboxEvent) -> None:
        match event:
            case Arrived() | Changed():
                self._arrived(event.group)
            case Settled():
                self._settled(event.arrival)
            case Gone():
                self._gone(event.group)
            case Left():
                self._left(event.skipped)
            case Emptied():
                self._emptied(event.group, event.name)
            case Unclaimed():
                self._alone(event.group)
            case Claimed():
                self._claimed(event.group)
            case Noticed():
                for notice in event.notices:
                    self._logs.add("engine", "warning", notice)

    def _arrived(self, group: Group) -> None:
        key = group.key
        if key not in self._waiting and not self._jobs.is_working_on(group.fingerprint):
            names = tuple(stamp.name for stamp in group.files)
            waited = self._waited_for(key)
            job = self._jobs.begin_again(waited, names) if waited else self._jobs.create(group.stem, names)
            self._waiting[key] = job.id
            self._intake.expect(names)  # its imports run while the file settles

    def _settled(self, arrival: Arrival) -> None:
        key = self._waiting.pop(arrival.key, "")
        if self._jobs.is_working_on(arrival.fingerprint):  # taken up again after a restart, before the inbox saw it
            if key:
                self._jobs.finish(key, "cancelled", "a job works on this content already")
            return
        files = tuple(str(path) for path in arrival.files)
        job = self._jobs.get(key) if key else self._jobs.create(arrival.stem, files)
        detail = f"{len(files)} file{'s' if len(files) > 1 else ''}, {arrival.size:,} bytes"
        if not arrival.complete:
            detail += ", looks cut short"
        settled = self._jobs.step(job.id, "settled", "done", detail)
        job = self._jobs.update(replace(settled, files=files, digest=arrival.digest, fingerprint=arrival.fingerprint))
        self._supersede(arrival, job.id)
        self._jobs.submit(job.id)

    def _supersede(self, arrival: Arrival, key: str) -> None:
        """An older job of the same files that has registered nothing yet works on content that is no longer there."""
        for other in self._jobs.unfinished(arrival.stem):
            same = other.id != key and self._in_folder(other) == bool(arrival.folder)
            if same and other.digest and other.version is None:
                self._jobs.cancel_soon(other.id, "replaced by newer content")

    def _gone(self, group: Group) -> None:
        key = self._waiting.pop(group.key, "")
        if key:
            self._logs.add("job", "info", f"{group.key} left the inbox before it had settled", key)
            self._jobs.finish(key, "cancelled", "left the inbox before it had settled")
        # A job that runs has its own copy of the files; one that waits for the user has not, and asks for nothing now.
        for job in self._jobs.waiting():
            same = job.stem == group.stem and self._in_folder(job) == bool(group.folder)
            if same and not job.asks_for("needs_model"):
                self._jobs.cancel_soon(job.id, LEFT)

    # -- what is no arrival, or none yet

    def _left(self, skipped: Skipped) -> None:
        """Tell of what is never read: with the arrival that it is part of, else as one that is refused."""
        said = f"{skipped.reason} {skipped.fix}".rstrip()
        self._logs.add("engine", "warning", f"left alone: {said}", skipped.name)
        name = skipped.name.rstrip("/")
        beside = [job for job in self._jobs.unfinished(skipped.stem) if not job.asks_for("needs_model")]
        for job in beside:
            self._jobs.note(job.id, f"'{name}' was left out. {said}")
        if not beside and not self._jobs.worked_through(skipped.fingerprint):
            why = f"{skipped.reason[:1].lower()}{skipped.reason[1:]}"
            problem = Refused(f"'{name}' was not taken in: {why}", fix=skipped.fix).problem
            self._jobs.turn_away(skipped.stem, (str(self._folder / name),), skipped.fingerprint, problem)

    def _emptied(self, group: Group, name: str) -> None:
        problem = Refused(
            f"'{name}' begins with nothing but zeros, as no model does.",
            "It may be a copy or a download that has reserved its place and was not finished. It was not read further.",
            "Copy it again, wholly: the inbox sees that, and takes it up.",
        ).problem
        files = tuple(str(self._folder / stamp.name) for stamp in group.files)
        self._jobs.turn_away(group.stem, files, group.fingerprint, problem, self._waiting.pop(group.key, ""))

    def _alone(self, group: Group) -> None:
        """Tell that a model is missing, in one job however often its companions change."""
        waited = self._waited_for(group.key)
        if waited or not self._jobs.worked_through(group.fingerprint):
            files = tuple(str(self._folder / stamp.name) for stamp in group.files)
            job = self._jobs.ask(group.stem, files, group.fingerprint, needs_model(group), waited)
            self._unclaimed[group.key] = job.id

    def _claimed(self, group: Group) -> None:
        waited = self._waited_for(group.key)
        if waited:
            self._jobs.cancel_soon(waited, "a model came for it, or it left the inbox")

    def _waited_for(self, key: str) -> str:
        """The job that waits for a model of this key, which then is spoken for; '' where none does."""
        waited = self._unclaimed.pop(key, "")
        return waited if waited and self._jobs.get(waited).asks_for("needs_model") else ""

    def _in_folder(self, job: Job) -> bool:
        """Whether a sub-folder was dropped; a loose file may have the same stem."""
        return any(Path(file).parent != self._folder for file in job.files)
