"""The keep: the one place that changes what is true. Store first, then the registry's index, then everyone is told.

All blocking work runs on one thread, so changes have one order. Routes are refreshed after every change that moves
them; an alias moves only after its new target was loaded and warmed by the server.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from studio.core.comparison import Comparison
from studio.core.errors import CodeFile, Conflict, InvalidInput, NotFound, Refused
from studio.core.events import EventKind, TrustChange
from studio.core.journal import AliasMove, Entry, RouteChange, TrustedCode
from studio.core.manifest import VariantManifest, VersionManifest
from studio.core.metrics import Point, Tick
from studio.core.names import REFERENCE_VARIANT, Reference, variant_key
from studio.core.route import Route, shares
from studio.core.routing import ModelRoutes, RoutingTable, Target
from studio.core.views import ArmRow, ModelDetail, RouteDetail, VersionDetail, VersionPage, VersionRow
from studio.engine.bus import Bus
from studio.engine.logs import Logs
from studio.engine.supervisor import Supervisor
from studio.registry import changes, comparisons, series, versions
from studio.registry.registry import Registry
from studio.registry.routes import routing_table
from studio.serving import artefact
from studio.store.store import Store
from studio.store.workspace import Workspace
from studio.verify.machine import this_machine

T = TypeVar("T")
M = TypeVar("M", AliasMove, RouteChange, AliasMove | RouteChange)
Change = Literal["added", "archived", "restored", "purged"]
MAX_EXAMPLE = 64 * 1024 * 1024


class Keep:
    """Store, registry and routes of the workspace. Public methods belong to the engine's event loop."""

    def __init__(self, workspace: Workspace, bus: Bus, logs: Logs, supervisor: Supervisor) -> None:
        self._workspace, self._bus, self._logs, self._supervisor = workspace, bus, logs, supervisor
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="keep")
        self._changing = asyncio.Lock()
        self._registry: Registry | None = None
        self._table = RoutingTable()
        self.notices: tuple[str, ...] = ()

    # -- lifecycle

    async def open(self) -> list[str]:
        """Open and repair store and registry. Returns what had to be repaired, in words."""

        self._registry = await self._run(lambda: Registry.open(self._workspace, machine=this_machine()))
        self.notices = tuple(self._registry.notices)
        await self._refresh_routes()
        return list(self.notices)

    async def close(self) -> None:
        def work() -> None:
            if self._registry is not None:
                self._registry.close()

        await self._run(work)
        self._thread.shutdown()

    @property
    def store(self) -> Store:
        return self.registry.store

    @property
    def registry(self) -> Registry:
        if self._registry is None:
            raise Conflict("The engine is still starting.")
        return self._registry

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    # -- routes

    async def _refresh_routes(self, warm: tuple[str, ...] = ()) -> dict[str, str]:
        """Send the current routes. Returns what failed to load of what it pins, and of `warm`."""
        generation = self._table.generation + 1
        table = await self._run(lambda: routing_table(self.registry, generation))
        self._table = replace(table, warm=warm)
        return await self._supervisor.apply(self._table)

    def resolve(self, reference: str) -> Target:
        """The target that a reference stands for now. Raises InvalidInput or NotFound."""
        parsed = Reference.parse(reference)
        target = self._table.resolve(parsed)
        if target is not None:
            return target
        routes = self._table.models.get(parsed.model)
        if routes is None:
            known = ", ".join(sorted(self._table.models)[:5]) or "none yet"
            raise NotFound(f"There is no model {parsed.model!r}.", f"Models: {known}.", "List them: studio ls.")
        keys = ", ".join([*routes.aliases, *sorted(routes.targets)][:12])
        raise NotFound(f"{reference!r} does not exist.", f"{parsed.model} has: {keys}.", f"studio show {parsed.model}")

    # -- adding

    async def find_digest(self, digest: str, model: str) -> int | None:
        """The version of `model` that was made from exactly this content, archived ones included."""
        return await self._run(lambda: versions.find_digest(self.registry, model, digest))

    async def find_content(self, content: str, variant: str) -> VariantManifest | None:
        """A variant of that name whose evidence rests on exactly this content."""
        return await self._run(lambda: versions.find_content(self.registry, content, variant))

    async def add_version(self, draft: VersionManifest) -> VersionManifest:
        """Register a version; its number is given here. The blobs that it names are stored already."""
        async with self._changing:

            def work() -> VersionManifest:
                manifest = replace(draft, version=self.store.next_version(draft.model))
                changes.add_version(self.registry, manifest)
                return manifest

            manifest = await self._run(work)
            # Loaded before anyone asks, and unloaded again like any other.
            await self._refresh_routes((f"{manifest.model}:{variant_key(manifest.version, REFERENCE_VARIANT)}",))
        self._told_version(manifest.model, manifest.version, "added")
        return manifest

    async def add_variant(self, manifest: VariantManifest) -> None:
        """Register a variant with its evidence."""
        async with self._changing:
            await self._run(lambda: changes.add_variant(self.registry, manifest))
            if manifest.graph is not None and not manifest.is_reference:
                await self._refresh_routes()
        change = {
            "model": manifest.model,
            "version": manifest.version,
            "variant": manifest.variant,
            "outcome": manifest.verdict.outcome,
        }
        self._tell("variant", change, f"variant added. {manifest.verdict.sentence}", f"{manifest.model}:{manifest.key}")

    def _told_version(
        self, model: str, version: int, change: Literal["added", "archived", "restored", "purged"]
    ) -> None:
        value = {"model": model, "version": version, "change": change}
        self._tell("version", value, f"version {change}", f"{model}:{version}")

    def _tell(self, kind: EventKind, value: Any, text: str, subject: str) -> None:
        self._bus.publish(kind, value)
        self._logs.add("audit", "info", text, subject)

    # -- aliases

    async def move_alias(self, model: str, alias: str, tail: str, why: str, actor: str) -> AliasMove:
        """Point an alias at `3`, `3-int8` or another alias.

        Raises InvalidInput, NotFound, Conflict; Refused when the server can not load the target, and nothing moved.
        """
        async with self._changing:
            await self._warm(self.resolve(str(Reference.of(model, tail))))
            return await self._moved(lambda: changes.move_alias(self.registry, model, alias, tail, why, actor))

    async def remove_alias(self, model: str, alias: str, why: str, actor: str) -> AliasMove:
        async with self._changing:
            return await self._moved(lambda: changes.remove_alias(self.registry, model, alias, why, actor))

    async def rollback(self, model: str, alias: str, why: str, actor: str) -> AliasMove:
        """Point an alias back at what it meant before its newest move."""
        async with self._changing:
            moves = await self._run(lambda: versions.alias_moves(self.registry, model, alias, limit=1))
            if moves and moves[0].before:
                await self._warm(self.resolve(f"{model}:{moves[0].before}"))
            return await self._moved(lambda: changes.rollback(self.registry, model, alias, why, actor))

    async def undo(self, actor: str) -> AliasMove | RouteChange:
        """Take back the newest move of an alias or change of a route, of any model."""
        async with self._changing:
            last = await self._run(lambda: versions.newest_change(self.registry))
            if isinstance(last, RouteChange):
                await self._warm_route(last.model, Route.parse(last.before))
            elif last is not None and last.before:
                await self._warm(self.resolve(f"{last.model}:{last.before}"))
            return await self._moved(lambda: changes.undo(self.registry, actor))

    async def alias_moves(self, model: str, alias: str) -> list[AliasMove]:
        """How an alias has moved, newest first."""
        return await self._run(lambda: versions.alias_moves(self.registry, model, alias))

    async def _warm(self, *targets: Target) -> None:
        names = tuple(target.name for target in targets)
        errors = await self._refresh_routes(warm=names)
        for name in names:
            if name in errors:
                raise Refused(
                    f"Nothing moved: {name} could not be loaded.",
                    errors[name],
                    "Look at the server's log: studio logs --source server.",
                )

    async def _moved(self, change: Callable[[], M]) -> M:
        move = await self._run(change)
        await self._refresh_routes()
        if isinstance(move, RouteChange):
            text = f"route {move.before or 'none'} → {move.after or 'none'}. {move.why}".strip()
            self._tell("route", move, text, move.model)
            return move
        text = f"{move.before or 'nothing'} → {move.after or 'removed'}. {move.why}".strip()
        self._tell("alias", move, text, f"{move.model}:{move.alias}")
        return move

    # -- splits and shadows

    def route_detail(self, model: str) -> RouteDetail:
        """How requests for a model's bare name are spread now. Raises NotFound."""
        self.resolve(model)
        return _route_detail(self._table.models[model])

    def route_details(self) -> list[RouteDetail]:
        """The same for every model whose requests are not the primary's alone."""
        return [_route_detail(routes) for routes in self._table.models.values() if not routes.plain]

    async def change_route(self, model: str, change: Callable[[Route], Route], why: str, actor: str) -> RouteChange:
        """Give a model the route that `change` makes of its present one; what it names is warm before.

        Raises InvalidInput, NotFound, Conflict; Refused when the server can not load what it names, or versions that
        are to share requests do not take the same.
        """
        async with self._changing:
            self.resolve(model)
            wanted = change(Route.parse(self.store.journal.history.routes.get(model, "")))
            await self._warm_route(model, wanted)
            return await self._moved(lambda: changes.set_route(self.registry, model, wanted, why, actor))

    async def rollback_route(self, model: str, why: str, actor: str) -> RouteChange:
        """Give a model the route again that it had before its newest change."""
        async with self._changing:
            changed = await self._run(lambda: versions.route_changes(self.registry, model, limit=1))
            if changed:
                await self._warm_route(model, Route.parse(changed[0].before))
            return await self._moved(lambda: changes.rollback_route(self.registry, model, why, actor))

    async def _warm_route(self, model: str, route: Route) -> None:
        route.check(model)
        await self._warm(*(self.resolve(f"{model}:{name}") for name in route.names))

    # -- trust

    def trusted(self) -> tuple[TrustedCode, ...]:
        """Code that the user said yes to, oldest first."""
        return tuple(self.store.journal.history.trusted.values())

    async def trust(self, files: Sequence[CodeFile], actor: str) -> list[TrustedCode]:
        """Record the user's yes to running these files, by the hash of their content."""
        async with self._changing:
            known = {one.sha256 for one in self.trusted()}
            trusted = await self._run(lambda: changes.trust(self.registry, files, actor))
        for one in trusted:
            if one.sha256 not in known:
                self._tell(
                    "trust", TrustChange(code=one, trusted=True), f"trusted by {actor}: {one.name}", one.sha256[:12]
                )
        return trusted

    async def distrust(self, sha256: str, actor: str) -> TrustedCode:
        """Take a yes back. Versions that were made stay. Raises NotFound."""
        async with self._changing:
            one = await self._run(lambda: changes.distrust(self.registry, sha256, actor))
        text = f"no longer trusted, by {actor}: {one.name}"
        self._tell("trust", TrustChange(code=one, trusted=False), text, sha256[:12])
        return one

    # -- removal

    async def archive(self, model: str, version: int, actor: str) -> VersionRow:
        """Take a version out of service. Raises NotFound, and Conflict while an alias names it."""
        async with self._changing:
            row = await self._run(lambda: changes.archive(self.registry, model, version, actor))
            await self._refresh_routes()
        self._told_version(model, version, "archived")
        return row

    async def restore(self, model: str, version: int, actor: str) -> VersionRow:
        async with self._changing:
            row = await self._run(lambda: changes.restore(self.registry, model, version, actor))
            await self._refresh_routes()
        self._told_version(model, version, "restored")
        return row

    async def purge(self, model: str, version: int, actor: str) -> int:
        """Delete an archived version for good. Returns the bytes freed. Raises NotFound, Refused, Conflict."""
        async with self._changing:
            freed = await self._run(lambda: changes.purge(self.registry, model, version, actor))
            await self._refresh_routes()
            # What the server has made of the graphs would keep their weights.
            await self._run(lambda: artefact.keep_only(self._workspace.artefacts, self.store.blobs.exists))
        self._told_version(model, version, "purged")
        return freed

    # -- reading

    async def list_versions(
        self, filter: str, sort: str, descending: bool, archived: bool, offset: int, limit: int
    ) -> VersionPage:
        return await self._run(
            lambda: versions.list_versions(self.registry, filter, sort, descending, archived, offset, limit)
        )

    async def model_detail(self, model: str) -> ModelDetail:
        return await self._run(lambda: versions.model_detail(self.registry, model))

    async def version_detail(self, model: str, version: int) -> VersionDetail:
        return await self._run(lambda: versions.version_detail(self.registry, model, version))

    async def counts(self) -> tuple[int, int]:
        """How many models and versions there are, archived ones not counted."""
        counts = await self._run(lambda: versions.counts(self.registry))
        return counts.models, counts.versions

    async def journal_entries(self, limit: int) -> list[Entry]:
        return await self._run(lambda: versions.journal(self.registry, limit))

    async def example(self, target: Target) -> tuple[bytes, Path]:
        """A request body that the target answers, and a file that holds it. Raises NotFound where there is none."""
        detail = await self.version_detail(target.model, target.version)
        example = detail.manifest.example
        if example is None:
            raise NotFound(f"There is no example request for {target.model}:{target.version}.")
        path = self.store.blobs.path(example.sha256)
        if example.size > MAX_EXAMPLE:
            raise InvalidInput(f"The example of {target.name} is too large to show.", fix=f"It lies at {path}.")
        return await asyncio.to_thread(path.read_bytes), path

    # -- time series and comparisons

    async def record(self, tick: Tick, roll_up: bool) -> None:
        """Keep one second of figures; now and then thin out old ones."""

        def work() -> None:
            series.insert_samples(self.registry, tick.samples)
            if roll_up:
                series.roll_up(self.registry, tick.at, self._workspace.settings.history)

        await self._run(work)

    async def points(self, target: str, since: float, until: float, step: int) -> list[Point]:
        return await self._run(lambda: series.points(self.registry, target, since, until, step))

    async def save_comparison(self, comparison: Comparison) -> None:
        await self._run(lambda: comparisons.save_comparison(self.registry, comparison))

    async def get_comparison(self, key: str) -> Comparison:
        return await self._run(lambda: comparisons.get_comparison(self.registry, key))

    async def list_comparisons(self) -> list[Comparison]:
        return await self._run(lambda: comparisons.list_comparisons(self.registry))


def _route_detail(routes: ModelRoutes) -> RouteDetail:
    parts = shares({arm.name: arm.weight for arm in routes.split}) if routes.split else {}
    arms = [
        ArmRow(name=arm.name, target=routes.targets[arm.key].name, share=parts[arm.name]) for arm in routes.split
    ] or [ArmRow(name="", target=routes.targets[routes.primary].name, share=1.0)]
    shadow = routes.shadow
    if shadow is None:
        return RouteDetail(model=routes.model, arms=tuple(arms))
    target = routes.targets[shadow.key].name
    return RouteDetail(
        model=routes.model, arms=tuple(arms), shadow=target, shadow_name=shadow.name, share=shadow.weight
    )
