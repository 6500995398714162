"""The engine: wires store, registry, inbox, jobs, comparisons and the server into one long-running whole."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Coroutine
from dataclasses import replace
from pathlib import Path

from studio import __version__
from studio.core.errors import InvalidInput
from studio.core.journal import AliasMove, RouteChange
from studio.core.metrics import RequestLine, Tick
from studio.core.names import Reference, check_alias, check_model_name
from studio.core.route import Route
from studio.core.views import CallExample, LabState, RouteDetail, ServerStatus, Status, VersionRow
from studio.engine import wishes
from studio.engine.answers import Answers
from studio.engine.arrivals import Arrivals
from studio.engine.bus import Bus
from studio.engine.call import call_example
from studio.engine.captured import Captured
from studio.engine.comparisons import Comparisons
from studio.engine.environments import Environments
from studio.engine.folders import remove_folder
from studio.engine.intake import Intake
from studio.engine.jobs import Jobs
from studio.engine.keep import Keep
from studio.engine.lab import Lab
from studio.engine.lab_orders import LabOrders
from studio.engine.logs import Logs
from studio.engine.measure import Measure
from studio.engine.netron import Netron
from studio.engine.recordings import Recordings
from studio.engine.shadows import Shadows
from studio.engine.supervisor import Supervisor
from studio.engine.templates import Templates
from studio.inbox.add import add as add_to_inbox
from studio.pipeline.forkservers import ForkServers
from studio.store.jobs import JobStore
from studio.store.workspace import Workspace

ROLL_UP_TICKS = 60


class Engine:
    """Owns everything of one workspace. All methods belong to its event loop."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        settings = workspace.settings
        self.bus = Bus()
        self.logs = Logs(workspace.engine_log, self.bus)
        self.supervisor = Supervisor(
            replace(settings.serving, access_log=_below(workspace.root, settings.serving.access_log)),
            workspace.server_log,
            workspace.artefacts,
            on_status=self._server_changed,
            on_tick=self._tick,
            on_requests=self._requests,
            on_log=lambda level, text: self.logs.add("server", "error" if level == "error" else "info", text),
        )
        self.keep = Keep(workspace, self.bus, self.logs, self.supervisor)
        self.jobs = Jobs(JobStore(workspace.jobs), workspace.job_logs, self.bus, self.logs, settings.workers.parallel)
        self.environments = Environments(self.logs, workspace.logs, settings.workers.environments == "auto")
        self.fork_servers = ForkServers(workspace.run / "warm", settings.workers.warm, settings.workers.warm_seconds)
        self.intake = Intake(workspace, self.keep, self.environments, self.fork_servers)
        self.recordings = Recordings(
            workspace.recordings,
            self.logs,
            self.supervisor.record,
            signature=lambda model: self.keep.resolve(model).signature,
            on_change=lambda: self._later(self._tell_status()),
        )
        self.lab = Lab(
            workspace, self.keep, self.fork_servers, Captured(self.recordings.folder, self.supervisor.recorded)
        )
        self.lab_orders = LabOrders(self.keep, self.jobs, self.lab, self.logs, settings.workers.recipes)
        self.jobs.use(self._take_in, self.lab.run)
        self.answers = Answers(workspace, self.keep, self.jobs)
        self.templates = Templates(workspace, self.keep, self.environments, self.fork_servers)
        self.arrivals = Arrivals(workspace, self.jobs, self.keep, self.intake, self.logs)
        self.comparisons = Comparisons(
            self.keep, self.bus, self.logs, Measure(self.keep, self.supervisor, settings.serving).run
        )
        self.shadows = Shadows()
        self._netron = Netron(workspace)
        self._started = time.time()
        self._control_url = ""
        self._stop_asked = asyncio.Event()
        self._ticks = 0
        self._background: set[asyncio.Task[None]] = set()

    # -- lifecycle

    async def start(self, control_url: str) -> None:
        """Open what is kept, serve it, take up unfinished jobs, and watch the inbox."""
        self._control_url = control_url
        for notice in await self.keep.open():
            self.logs.add("engine", "warning", notice)
        await asyncio.to_thread(clear_folder, self.workspace.work)
        await asyncio.to_thread(self.fork_servers.clear)
        await self.recordings.open()
        await self.supervisor.start()
        self.logs.add("engine", "info", f"Engine {__version__} is up for {self.workspace.root}.")
        self.jobs.recover()
        await self.answers.go_on()
        wanted = self.workspace.settings.serving.port
        if wanted not in (0, self.supervisor.port):
            notice = f"Port {wanted} is taken; the endpoint is on {self.supervisor.port}."
            self.keep.notices = (*self.keep.notices, notice)
            self.logs.add("engine", "warning", notice)
        await self.arrivals.start()

    def announce(self) -> None:
        """Tell clients where the engine answers."""
        self.workspace.announce(os.getpid(), self._control_url, self.supervisor.url)

    def request_stop(self, why: str) -> None:
        self.logs.add("engine", "info", f"Stopping: {why}.")
        self._stop_asked.set()

    async def stopped(self) -> None:
        """Wait until someone asks for the end."""
        await self._stop_asked.wait()

    async def stop(self) -> None:
        """Stop taking in, stop the work, drain the server, close what is kept. Safe to call after a failed start."""
        await self.arrivals.stop()
        await self.comparisons.stop()
        await self.jobs.stop()
        await self.environments.stop()
        self.fork_servers.close()
        await self.supervisor.stop()
        self._netron.stop()
        await self.keep.close()
        self.bus.close()
        self.logs.close()

    async def _take_in(self, jobs: Jobs, key: str) -> None:
        """The intake lane: an endpoint, under the alias that its settings ask for."""
        await self.answers.attended(jobs, key, self.intake.run)
        await wishes.move_alias(self.keep, jobs, key)

    # -- what the server tells

    def _server_changed(self, status: ServerStatus) -> None:
        self.bus.publish("server", status)

    def _tick(self, tick: Tick) -> None:
        self.bus.publish("metrics", tick)
        for figures in tick.shadows:
            self.shadows.add(figures)
        if not tick.samples:
            return
        self._ticks += 1
        self._later(self.keep.record(tick, roll_up=self._ticks % ROLL_UP_TICKS == 0))

    def _requests(self, lines: list[RequestLine]) -> None:
        if self.bus.listened:
            self.bus.publish("requests", {"lines": lines})
        for line in lines:
            if line.status >= 500:
                self.logs.add("requests", "error", f"{line.protocol} {line.status} {line.error}", line.target)
            elif line.status >= 400:
                self.logs.add("requests", "warning", f"{line.protocol} {line.status} {line.error}", line.target, False)

    def _later(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._background.discard(task)
        if not task.cancelled() and (error := task.exception()):
            self.logs.failure("background work failed", error)

    async def _tell_status(self) -> None:
        if self.bus.listened:
            self.bus.publish("status", await self.status())

    # -- what a user asks

    async def status(self) -> Status:
        models, versions = await self.keep.counts()
        return Status(
            workspace=str(self.workspace.root),
            inbox=str(self.workspace.inbox),
            pid=os.getpid(),
            version=__version__,
            started=self._started,
            control_url=self._control_url,
            server=self.supervisor.status,
            watching=self.arrivals.watching,
            models=models,
            versions=versions,
            jobs_active=self.jobs.active(),
            jobs_failed=self.jobs.failed(),
            jobs_waiting=len(self.jobs.waiting()),
            lab_paused=self.lab.hold.on,
            notices=(*self.keep.notices, *self.arrivals.notices),
            recording=await self.recordings.active(),
        )

    async def add(self, path: Path, name: str | None) -> list[str]:
        """Copy into the inbox. Raises NotFound or InvalidInput."""
        files = await asyncio.to_thread(add_to_inbox, path, self.workspace.inbox, name)
        return [str(file) for file in files]

    async def move_alias(self, model: str, alias: str, target: str, why: str, actor: str) -> AliasMove:
        """Move an alias, or remove it when `target` is empty. The target loads and warms before it takes traffic."""
        check_model_name(model)
        check_alias(alias)
        if not target:
            return await self.keep.remove_alias(model, alias, why, actor)
        return await self.keep.move_alias(model, alias, target.removeprefix(f"{model}:"), why, actor)

    async def rollback(self, model: str, alias: str, why: str, actor: str) -> AliasMove:
        """Point an alias back at what it named before its newest move."""
        check_model_name(model)
        return await self.keep.rollback(model, alias, why, actor)

    async def undo(self, actor: str) -> AliasMove | RouteChange:
        """Take back the newest move of an alias or change of a route, of any model."""
        return await self.keep.undo(actor)

    def routes(self) -> list[RouteDetail]:
        """How requests are spread, of the models whose bare name is not the primary's alone."""
        return [self._figured(detail) for detail in self.keep.route_details()]

    def route(self, model: str) -> RouteDetail:
        """How requests for a model's bare name are spread, and what was seen of its shadow. Raises NotFound."""
        return self._figured(self.keep.route_detail(check_model_name(model)))

    def _figured(self, detail: RouteDetail) -> RouteDetail:
        return replace(detail, figures=self.shadows.of(detail.model))

    async def change_route(
        self,
        model: str,
        split: dict[str, float] | None,
        shadow: str | None,
        share: float | None,
        why: str,
        actor: str,
    ) -> RouteChange:
        """Say how requests for a model's bare name are spread; what is None stays as it is."""
        if split is None and shadow is None and share is None:
            raise InvalidInput("Nothing was asked for.", fix="Give a split, a shadow or a share.")

        def change(route: Route) -> Route:
            after = Route(
                split=route.split if split is None else split,
                shadow=route.shadow if shadow is None else shadow,
                share=route.share if share is None else share,
            )
            if share is not None and not after.shadow:
                raise InvalidInput("There is no shadow to give a share to.", fix="Name one: --shadow 4-int8")
            return after if after.shadow else replace(after, share=1.0)

        return await self.keep.change_route(check_model_name(model), change, why, actor)

    async def rollback_route(self, model: str, why: str, actor: str) -> RouteChange:
        """Give a model the route again that it had before its newest change."""
        return await self.keep.rollback_route(check_model_name(model), why, actor)

    async def archive(self, reference: str, actor: str) -> VersionRow:
        """Take a version out of service. Raises Conflict while an alias names it."""
        model, version = self._version(reference)
        return await self.keep.archive(model, version, actor)

    async def restore(self, reference: str, actor: str) -> VersionRow:
        model, version = self._version(reference)
        return await self.keep.restore(model, version, actor)

    async def purge(self, reference: str, confirm: str, actor: str) -> int:
        """Delete an archived version's manifests, and the blobs that nothing else uses. Returns the bytes freed."""
        model, version = self._version(reference)
        if confirm != f"{model}:{version}":
            raise InvalidInput(
                f"Type {model}:{version} to confirm.", "A purge deletes files for good and can not be undone."
            )
        freed = await self.keep.purge(model, version, actor)
        for job in self.jobs.of(model, version):
            if not job.finished:
                await self.jobs.cancel(job.id, f"{model}:{version} was deleted")
        return freed

    @staticmethod
    def _version(reference: str) -> tuple[str, int]:
        parsed = Reference.parse(reference)
        if parsed.version is None or parsed.variant is not None:
            raise InvalidInput(f"{reference!r} does not name a version.", "Versions look like digits:3.")
        return parsed.model, parsed.version

    async def call_example(self, reference: str) -> CallExample:
        """A request for a reference, from the version's own sample."""
        parsed = Reference.parse(reference)
        target = self.keep.resolve(reference)
        body, path = await self.keep.example(target)
        return call_example(self.supervisor.url, parsed, body, path)

    async def hold_lab(self, on: bool) -> LabState:
        """Stop the lab's work where it is, or let it go on."""
        state = self.lab_orders.pause() if on else self.lab_orders.resume()
        self.bus.publish("status", await self.status())
        return state

    async def netron(self, reference: str) -> str:
        """Open a graph in Netron on loopback; the URL to look at it."""
        return await self._netron.open(self.keep.resolve(reference))


def clear_folder(folder: Path) -> None:
    """Remove what workers of an engine that was killed have left behind."""
    for left in folder.iterdir():
        remove_folder(left)


def _below(root: Path, name: str) -> str:
    """A file of the settings as an absolute path; relative ones are meant from the workspace."""
    return str(root / Path(name).expanduser()) if name else ""
