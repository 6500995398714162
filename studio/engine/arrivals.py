"""From what the inbox reports to jobs: one job for each settled content of a stem."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from studio.core.jobs import Job
from studio.engine.intake import Intake
from studio.engine.jobs import LEFT, Jobs
from studio.engine.keep import Keep
from studio.engine.logs import Logs
from studio.inbox.events import Arrived, Changed, Gone, InboxEvent, Left, Noticed, Settled
from studio.inbox.groups import Group
from studio.inbox.reading import Arrival
from studio.inbox.watcher import Inbox
from studio.store.workspace import Workspace


class Arrivals:
    """Watches the inbox for an engine. Methods belong to its event loop."""

    def __init__(self, workspace: Workspace, jobs: Jobs, keep: Keep, intake: Intake, logs: Logs) -> None:
        self._jobs, self._keep, self._intake, self._logs = jobs, keep, intake, logs
        self._folder = workspace.inbox
        self._waiting: dict[str, str] = {}  # group key -> job that waits for its arrival to settle
        self._inbox = Inbox(workspace.inbox, workspace.settings.inbox, self._on_event, known=jobs.worked_through)

    @property
    def watching(self) -> bool:
        return self._inbox.watching

    @property
    def notices(self) -> tuple[str, ...]:
        return tuple(self._inbox.notices)

    async def start(self) -> None:
        await self._inbox.start()

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
                self._logs.add("engine", "warning", f"left alone: {event.skipped.reason}", event.skipped.name)
            case Noticed():
                for notice in event.notices:
                    self._logs.add("engine", "warning", notice)

    def _arrived(self, group: Group) -> None:
        key = group.key
        if key not in self._waiting and not self._jobs.is_working_on(group.fingerprint):
            job = self._jobs.create(group.stem, tuple(stamp.name for stamp in group.files))
            self._waiting[key] = job.id
            self._intake.expect(tuple(stamp.name for stamp in group.files))  # its imports run while the file settles

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
            if job.stem == group.stem and self._in_folder(job) == bool(group.folder):
                self._jobs.cancel_soon(job.id, LEFT)

    def _in_folder(self, job: Job) -> bool:
        """Whether a sub-folder was dropped; a loose file may have the same stem."""
        return any(Path(file).parent != self._folder for file in job.files)
