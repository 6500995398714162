"""The keep: the one place that changes what is true. Store first, then the registry's index, then everyone is told.

All blocking work runs on one thread, so changes have one order. Routes are refreshed after every change that moves them;
an alias moves only after its new target was loaded and warmed by the server.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from studio.core.comparison import Comparison
from studio.core.errors import Conflict, InvalidInput, NotFound, Refused
from studio.core.journal import AliasMove, Entry
from studio.core.manifest import VariantManifest, VersionManifest
from studio.core.metrics import Point, Tick
from studio.core.names import Reference
from studio.core.routing import RoutingTable, Target
from studio.core.views import ModelDetail, VersionDetail, VersionPage, VersionRow
from studio.engine.bus import Bus
from studio.engine.logs import Logs
from studio.engine.supervisor import Supervisor
from studio.registry.registry import Registry
from studio.registry.routing import routing_table
from studio.store.history import move_of
from studio.store.store import Store
from studio.store.workspace import Workspace

T = TypeVar("T")


class Keep:
    """Store, registry and routes of the workspace. Public methods belong to the engine's event loop."""

    def __init__(self, workspace: Workspace, bus: Bus, logs: Logs, supervisor: Supervisor) -> None:
        self._workspace, self._bus, self._logs, self._supervisor = workspace, bus, logs, supervisor
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="keep")
        self._changing = asyncio.Lock()
        self._store: Store | None = None
        self._registry: Registry | None = None
        self._table = RoutingTable()
        self.notices: tuple[str, ...] = ()

    # -- lifecycle

    async def open(self) -> list[str]:
        """Open and repair store and registry. Returns what had to be repaired, in words."""

        def work() -> list[str]:
            self._store = Store.open(self._workspace)
            self._registry = Registry.open(self._workspace, self._store)
            problems = [problem.sentence() for problem in (*self._store.problems, *self._registry.problems)]
            return [*self._store.notices, *self._registry.notices, *problems]

        notices = await self._run(work)
        self.notices = tuple(notices)
        await self._refresh_routes()
        return notices

    async def close(self) -> None:
        def work() -> None:
            if self._registry is not None:
                self._registry.close()

        await self._run(work)
        self._thread.shutdown()

    @property
    def store(self) -> Store:
        if self._store is None:
            raise Conflict("The engine is still starting.")
        return self._store

    @property
    def registry(self) -> Registry:
        if self._registry is None:
            raise Conflict("The engine is still starting.")
        return self._registry

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    # -- routes

    async def _refresh_routes(self, also_pinned: tuple[str, ...] = ()) -> dict[str, str]:
        """Send the current routes. Returns what failed to load among the pinned targets."""
        generation = self._table.generation + 1
        table = await self._run(lambda: routing_table(self.registry, generation))
        self._table = replace(table, pinned=tuple(dict.fromkeys((*table.pinned, *also_pinned))))
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
        return await self._run(lambda: self.registry.find_digest(model, digest))

    async def add_version(self, draft: VersionManifest) -> VersionManifest:
        """Register a version; its number is given here. The blobs that it names are stored already."""
        async with self._changing:

            def work() -> VersionManifest:
                manifest = replace(draft, version=self.store.next_version(draft.model))
                self.store.manifests.write_version(manifest)
                subject = f"{manifest.model}:{manifest.version}"
                entry = self.store.journal.append("version.added", subject, actor="engine", after=draft.source.digest)
                self.registry.index_version(manifest, entry)
                return manifest

            manifest = await self._run(work)
            await self._refresh_routes()
        change = {"model": manifest.model, "version": manifest.version, "change": "added"}
        self._bus.publish("version", change)
        self._logs.add("audit", "info", "version added", f"{manifest.model}:{manifest.version}")
        return manifest

    async def add_variant(self, manifest: VariantManifest) -> None:
        """Register a variant with its evidence."""
        subject = f"{manifest.model}:{manifest.key}"
        async with self._changing:

            def work() -> None:
                self.store.manifests.write_variant(manifest)
                why = manifest.verdict.sentence
                entry = self.store.journal.append("variant.added", subject, actor="engine", why=why)
                self.registry.index_variant(manifest, entry)

            await self._run(work)
            if manifest.graph is not None and not manifest.is_reference:
                await self._refresh_routes()
        change = {
            "model": manifest.model,
            "version": manifest.version,
            "variant": manifest.variant,
            "outcome": manifest.verdict.outcome,
        }
        self._bus.publish("variant", change)
        self._logs.add("audit", "info", f"variant added. {manifest.verdict.sentence}", subject)

    # -- aliases

    async def move_alias(self, model: str, alias: str, target: Target, why: str, actor: str) -> AliasMove:
        """Point an alias at a target. Raises Refused when the server can not load it; then nothing has changed."""
        async with self._changing:
            before = self._aliases(model).get(alias, "")
            if before == target.key:
                raise Conflict(f"{model}:{alias} names {target.key} already.")
            errors = await self._refresh_routes(also_pinned=(target.name,))
            if target.name in errors:
                raise Refused(
                    f"{model}:{alias} stays at {before or 'nothing'}: {target.name} could not be loaded.",
                    errors[target.name],
                    "Look at the server's log: studio logs --source server.",
                )
            return await self._journal_move(model, alias, before, target.key, why, actor)

    async def remove_alias(self, model: str, alias: str, why: str, actor: str) -> AliasMove:
        async with self._changing:
            before = self._aliases(model).get(alias, "")
            if not before:
                raise NotFound(f"There is no alias {model}:{alias}.")
            return await self._journal_move(model, alias, before, "", why, actor)

    def _aliases(self, model: str) -> dict[str, str]:
        return self.store.journal.history.aliases.get(model, {})

    async def _journal_move(
        self, model: str, alias: str, before: str, after: str, why: str, actor: str
    ) -> AliasMove:
        subject = f"{model}:{alias}"

        def work() -> Entry:
            action = "alias.moved" if after else "alias.removed"
            entry = self.store.journal.append(action, subject, actor=actor, before=before, after=after, why=why)
            self.registry.index_entry(entry)
            return entry

        move = move_of(await self._run(work))
        await self._refresh_routes()
        self._bus.publish("alias", move)
        self._logs.add("audit", "info", f"{before or 'nothing'} → {after or 'removed'}. {why}".strip(), subject)
        return move

    async def alias_moves(self, model: str, alias: str) -> list[AliasMove]:
        """Moves of one alias, newest first."""
        moves = self.store.journal.history.moves
        return [move for move in reversed(moves) if (move.model, move.alias) == (model, alias)]

    async def newest_move(self) -> AliasMove | None:
        moves = self.store.journal.history.moves
        return moves[-1] if moves else None

    # -- removal

    async def archive(self, model: str, version: int, actor: str) -> VersionRow:
        return await self._change_version(model, version, "version.archived", actor)

    async def restore(self, model: str, version: int, actor: str) -> VersionRow:
        return await self._change_version(model, version, "version.restored", actor)

    async def _change_version(self, model: str, version: int, action: str, actor: str) -> VersionRow:
        async with self._changing:
            detail = await self.version_detail(model, version)
            archived = detail.row.state == "archived"
            if archived == (action == "version.archived"):
                raise Conflict(f"{model}:{version} is {'archived' if archived else 'not archived'} already.")

            def work() -> VersionRow:
                subject = f"{model}:{version}"
                if action == "version.archived":
                    entry = self.store.journal.append("version.archived", subject, actor=actor)
                else:
                    entry = self.store.journal.append("version.restored", subject, actor=actor)
                self.registry.index_entry(entry)
                return self.registry.version_detail(model, version).row

            row = await self._run(work)
            await self._refresh_routes()
        self._bus.publish("version", {"model": model, "version": version, "change": action.partition(".")[2]})
        self._logs.add("audit", "info", action.partition(".")[2], f"{model}:{version}")
        return row

    async def purge(self, model: str, version: int, actor: str) -> int:
        """Delete an archived version. Returns the bytes freed."""
        async with self._changing:

            def work() -> int:
                entry = self.store.journal.append("version.purged", f"{model}:{version}", actor=actor)
                freed = self.store.purge(model, version)
                self.registry.index_entry(entry)
                return freed

            freed = await self._run(work)
            await self._refresh_routes()
        self._bus.publish("version", {"model": model, "version": version, "change": "purged"})
        self._logs.add("audit", "warning", f"purged, {freed} bytes freed", f"{model}:{version}")
        return freed

    # -- reading

    async def list_versions(
        self, filter: str, sort: str, descending: bool, archived: bool, offset: int, limit: int
    ) -> VersionPage:
        return await self._run(
            lambda: self.registry.list_versions(filter, sort, descending, archived, offset, limit)
        )

    async def model_detail(self, model: str) -> ModelDetail:
        return await self._run(lambda: self.registry.model_detail(model))

    async def version_detail(self, model: str, version: int) -> VersionDetail:
        return await self._run(lambda: self.registry.version_detail(model, version))

    async def variants_of(self, model: str, version: int) -> dict[str, VariantManifest]:
        """The variant manifests that a version has so far."""
        detail = await self.version_detail(model, version)
        return {variant.variant: variant for variant in detail.variants}

    async def counts(self) -> tuple[int, int]:
        """How many models and versions there are, archived ones not counted."""
        return await self._run(lambda: self.registry.counts())

    async def journal_entries(self, limit: int) -> list[Entry]:
        return await self._run(lambda: self.registry.journal(limit))

    async def example(self, target: Target) -> tuple[bytes, Path]:
        """A request body that the target answers, and a file that holds it. Raises NotFound where there is none."""
        detail = await self.version_detail(target.model, target.version)
        example = detail.manifest.example
        if example is None:
            raise NotFound(f"There is no example request for {target.model}:{target.version}.")
        path = self.store.blobs.path(example.sha256)
        if example.size > 64 * 1024 * 1024:
            raise InvalidInput(f"The example of {target.name} is too large to show.", fix=f"It lies at {path}.")
        return await asyncio.to_thread(path.read_bytes), path

    # -- time series and comparisons

    async def record(self, tick: Tick, roll_up: bool) -> None:
        """Keep one second of figures; now and then thin out old ones."""

        def work() -> None:
            self.registry.insert_samples(tick.samples)
            if roll_up:
                self.registry.roll_up(tick.at)

        await self._run(work)

    async def points(self, target: str, since: float, until: float, step: int) -> list[Point]:
        return await self._run(lambda: self.registry.points(target, since, until, step))

    async def save_comparison(self, comparison: Comparison) -> None:
        await self._run(lambda: self.registry.save_comparison(comparison))

    async def list_comparisons(self) -> list[Comparison]:
        return await self._run(lambda: self.registry.list_comparisons())
