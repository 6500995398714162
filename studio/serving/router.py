"""Which session answers for a name: the current routing table, and the models that are loaded for it."""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from studio.core.errors import InvalidInput, NotFound, Problem, StudioError, Unavailable, from_problem
from studio.core.route import Arm, chosen, drawn
from studio.core.routing import ModelRoutes, RoutingTable, Target
from studio.serving.loaded import LoadedModel
from studio.serving.memory import LARGE_BYTES, give_back

Load = Callable[[Target], LoadedModel]
Key = Callable[[], bytes]
"""Gives what a request is to be kept with one version by (`sticky_key`); asked only where a model is split."""
Routed = tuple[Target, Target | None]
"""What answers a request, and the shadow that gets a copy of it."""
Identity = tuple[str, str, str, int]

MAX_PATHS = 4096
"""Spellings of request paths that are remembered."""
IDLE_LOOKS = 10
"""How often in the time after which an idle model is unloaded it is looked for such."""
RETRY_SECONDS = 10.0
"""A target that failed to load on use is not tried again for so long."""
GIVE_BACK_SECONDS = 1.0
AHEAD = 2
"""How many of a table's models are loaded at a time. One thread more is for those that a request waits for."""

_PLAIN = re.compile(r"[A-Za-z0-9._:-]{1,255}")


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a target could not be loaded, and when (`time.monotonic()`) that was found out."""

    problem: Problem
    at: float


def identity(target: Target) -> Identity:
    """Two targets with the same identity can share a session."""
    return target.name, target.sha256, target.path, target.threads


class Router:
    """The table that is in force, and its loaded models. Lives on the event loop; `load` runs on its own threads.

    `on_change` is called when a model was loaded, unloaded, or a table put in force. Models that nothing pins are
    unloaded when all take more than `memory_bytes`, the one not used for longest first, and when they were idle for
    `idle_seconds`; 0 = never. A run under way holds its model until it is done.
    """

    def __init__(self, load: Load, memory_bytes: int = 0, idle_seconds: float = 0.0) -> None:
        self.table = RoutingTable()
        self.paths: dict[bytes, Target] = {}
        """Request paths that were resolved with this table; a protocol's own shortcut."""
        self.forks: dict[bytes, ModelRoutes] = {}
        """The same for those that name a model which is split or has a shadow: each request is routed anew."""
        self._load = load
        self._memory_bytes = memory_bytes
        self._idle_seconds = idle_seconds
        self._idle_timer: asyncio.TimerHandle | None = None
        self._giving_back: asyncio.TimerHandle | None = None
        self.on_change: Callable[[], None] = lambda: None
        self.elsewhere: frozenset[str] = frozenset()
        self._models: dict[Identity, LoadedModel] = {}
        self._loading: dict[Identity, asyncio.Task[LoadedModel]] = {}
        self._failures: dict[Identity, Failure] = {}
        self._applying = asyncio.Lock()
        self._ahead = asyncio.Semaphore(AHEAD)
        self._dropped: set[str] = set()
        self._coming: dict[str, None] = {}
        self._threads = ThreadPoolExecutor(AHEAD + 1, thread_name_prefix="load")

    def known(self, path: bytes, headers: Iterable[tuple[bytes, bytes]]) -> Routed | None:
        """What answers a path that was seen before (`meet`)."""
        target = self.paths.get(path)
        if target is not None:
            return target, None
        routes = self.forks.get(path)
        return None if routes is None else self._spread(routes, lambda: sticky_key(dict(headers)))

    def meet(self, path: bytes, model: str, version: str, headers: Iterable[tuple[bytes, bytes]]) -> Routed:
        """What answers a path that names this, kept until the table changes. Raises as `resolve` does."""
        target = self.resolve(model, version)
        routes = self.table.models[target.model]
        if len(self.paths) + len(self.forks) >= MAX_PATHS:
            self.paths.clear()
            self.forks.clear()
        if version or ":" in model or routes.plain:
            self.paths[path] = target
            return target, None
        self.forks[path] = routes
        return self._spread(routes, lambda: sticky_key(dict(headers)))

    def route(self, model: str, version: str, key: Key) -> Routed:
        """What answers a request now. A bare name goes where the model's route says. Raises as `resolve` does."""
        target = self.resolve(model, version)
        if version or ":" in model:
            return target, None
        routes = self.table.models[target.model]
        return (target, None) if routes.plain else self._spread(routes, key)

    def _spread(self, routes: ModelRoutes, key: Key) -> Routed:
        target = routes.targets[routes.primary]
        if routes.split:
            sticky = key()
            arm = chosen(routes.split, routes.model, sticky) if sticky else drawn(routes.split, random.random())  # noqa: S311
            target = routes.targets[arm.key]
        shadow = routes.shadow
        if shadow is None or (shadow.weight < 1 and random.random() >= shadow.weight):  # noqa: S311
            return target, None
        return target, routes.targets[shadow.key]

    @property
    def loaded(self) -> int:
        return len(self._models)

    def targets(self) -> Iterator[Target]:
        """Every target of the table."""
        for routes in self.table.models.values():
            yield from routes.targets.values()

    def models(self) -> Iterator[tuple[Target, LoadedModel]]:
        """Every target of the table that is loaded, with its model."""
        for target in self.targets():
            model = self._models.get(identity(target))
            if model is not None:
                yield target, model

    def routes(self, model: str) -> ModelRoutes:
        """All of one model. Raises InvalidInput for what can not be a name, NotFound."""
        _check_plain(model)
        routes = self.table.models.get(model)
        if routes is None:
            raise unknown(model)
        return routes

    def resolve(self, model: str, version: str = "") -> Target:
        """The target for the model and the version segment of a URL, both percent-decoded.

        `model` may be a full reference (`digits:3-int8`); `version` may be `3`, `3-int8`, an alias, or '' for none.
        Raises InvalidInput for what can not be a name and for two versions that contradict each other, NotFound.
        """
        name, colon, tail = model.partition(":")
        if colon and not tail:
            raise InvalidInput(f"Invalid reference {model[:60]!r}.", "Nothing stands behind the colon.")
        if tail and version and tail != version:
            raise InvalidInput(
                f"'{model[:120]}' and version '{version[:120]}' contradict each other.",
                "",
                "Give the version in one place.",
            )
        routes = self.routes(name)
        wanted = version or tail
        if wanted:
            _check_plain(wanted)
        target = routes.resolve(wanted)
        if target is None:
            raise unknown(name, wanted)
        return target

    def is_loaded(self, target: Target) -> bool:
        """Whether this process, or another of the server, has it loaded."""
        return identity(target) in self._models or target.name in self.elsewhere

    def model(self, target: Target) -> LoadedModel | None:
        """The loaded model, without waiting. None when it has to be loaded first (`loaded_model`)."""
        model = self._models.get(identity(target))
        if model is not None:
            model.last_used = time.monotonic()
        return model

    def loaded_elsewhere(self, names: Iterable[str]) -> None:
        """What other processes of the server have loaded now, by full reference."""
        told = frozenset(names)
        self._dropped -= {name.partition(":")[0] for name in told - self.elsewhere}
        self.elsewhere = told

    def is_dropped(self, target: Target) -> bool:
        """Whether its model was unloaded by request, and nobody has asked for it since."""
        return target.model in self._dropped and not self.is_loaded(target)

    def failure(self, target: Target) -> Problem | None:
        """Why the target could not be loaded when it was last tried."""
        failure = self._failures.get(identity(target))
        return failure.problem if failure else None

    async def loaded_model(self, target: Target) -> LoadedModel:
        """The model, loaded now if need be: one load at a time a target, everyone else waits for it.

        Raises Unavailable.
        """
        model = self.model(target)
        if model is not None:
            return model
        failure = self._failures.get(identity(target))
        if failure and time.monotonic() - failure.at < RETRY_SECONDS:
            raise from_problem(failure.problem)
        # Shielded: the load is everyone's, the one who asked first may go away.
        return await asyncio.shield(self._start(target))

    def begin(self, table: RoutingTable) -> None:
        """Put the first table in force before anything of it is loaded; `apply` follows. What answers first are the
        models that are asked for, however many others the table pins."""
        self.table = table

    async def apply(self, table: RoutingTable) -> dict[str, str]:
        """Put a table in force: load what it pins or wants warm, swap, then release what it no longer names.

        Where one of those does not load, the names that were to move to it stay where they were. Returns the
        reasons by full reference; empty when all went well.
        """
        async with self._applying:
            self._coming = dict.fromkeys((*table.pinned, *table.warm))
            wanted = [target for name in self._coming if (target := _find(table, name))]
            missing = [target for target in wanted if identity(target) not in self._models]
            results = await asyncio.gather(*(self._load_ahead(target) for target in missing), return_exceptions=True)
            failed: dict[Identity, str] = {}
            for target, result in zip(missing, results, strict=True):
                if isinstance(result, BaseException):
                    failed[identity(target)] = str(result)
            self.table = _keeping(self.table, table, failed.keys(), self._models.keys())
            self.paths.clear()
            self.forks.clear()
            self._coming = {}
            self._release()
        self.on_change()
        return {name: reason for (name, *_), reason in failed.items()}

    def unload(self, name: str) -> None:
        """Drop all loaded versions of a model. Runs that are under way hold theirs until they are done."""
        for key in [key for key in self._models if key[0].partition(":")[0] == name]:
            self._drop(key)
        self._dropped.add(name)
        self.on_change()

    def close(self) -> None:
        """Start no more loads."""
        for timer in (self._idle_timer, self._giving_back):
            if timer is not None:
                timer.cancel()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _load_ahead(self, target: Target) -> LoadedModel:
        async with self._ahead:
            return await self._start(target)

    def _start(self, target: Target) -> asyncio.Task[LoadedModel]:
        key = identity(target)
        task = self._loading.get(key)
        if task is None:
            task = self._loading[key] = asyncio.create_task(self._load_one(target))
            # A load that nobody waits for any more must not complain that its failure was never looked at.
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return task

    async def _load_one(self, target: Target) -> LoadedModel:
        key = identity(target)
        try:
            model = await asyncio.get_running_loop().run_in_executor(self._threads, self._load, target)
        except StudioError as error:
            self._failures[key] = Failure(error.problem, time.monotonic())
            raise
        except Exception as error:
            unforeseen = Unavailable(f"'{target.name}' could not be loaded.", f"{type(error).__name__}.")
            self._failures[key] = Failure(unforeseen.problem, time.monotonic())
            raise unforeseen from error
        finally:
            del self._loading[key]
        self._failures.pop(key, None)
        self._dropped.discard(target.model)
        applying = self._applying.locked()
        # The table may have changed meanwhile: those who wait still get their answer, but nothing is kept.
        if applying or any(identity(other) == key for other in self.targets()):
            self._models[key] = model
        # What a table that is being applied has loaded is not pinned so far, and must not be thrown out again.
        if not applying:
            self._evict(keep=key)
        self.on_change()
        return model

    def _release(self) -> None:
        """Drop what the table no longer names. Runs that are under way hold their model until they are done."""
        named = {identity(target) for target in self.targets()}
        for key in self._models.keys() - named:
            self._drop(key)
        for key in self._failures.keys() - named:
            del self._failures[key]
        self._dropped &= self.table.models.keys()
        self._evict()

    def _drop(self, key: Identity) -> None:
        """Let go of a model, and of its memory when its last run should be done."""
        if self._models.pop(key).memory_bytes >= LARGE_BYTES and self._giving_back is None:
            self._giving_back = asyncio.get_running_loop().call_later(GIVE_BACK_SECONDS, self._give_back)

    def _give_back(self) -> None:
        self._giving_back = None
        self._threads.submit(give_back)

    def _spare(self) -> list[Identity]:
        """What nothing pins, not used for longest first."""
        pinned = {*self._coming, *self.table.pinned}
        spare = [key for key in self._models if key[0] not in pinned]
        return sorted(spare, key=lambda key: self._models[key].last_used)

    def _evict(self, keep: Identity | None = None) -> None:
        """Make room. `keep` was loaded for a request that is about to run it."""
        used = sum(model.memory_bytes for model in self._models.values())
        for key in self._spare():
            if not self._memory_bytes or used <= self._memory_bytes:
                break
            if key != keep:
                used -= self._models[key].memory_bytes
                self._drop(key)
        if self._idle_seconds and self._idle_timer is None and self._spare():
            pause = self._idle_seconds / IDLE_LOOKS
            self._idle_timer = asyncio.get_running_loop().call_later(pause, self._unload_idle)

    def _unload_idle(self) -> None:
        self._idle_timer = None
        since = time.monotonic() - self._idle_seconds
        idle = [key for key in self._spare() if self._models[key].last_used < since]
        for key in idle:
            self._drop(key)
        self._evict()
        if idle:
            self.on_change()


def sticky_key(headers: Mapping[bytes, bytes]) -> bytes:
    """What a request is kept with one version by: the caller's key, else its id, so that a retry meets the same."""
    return headers.get(b"x-studio-key") or headers.get(b"x-request-id") or b""


def unknown(model: str, version: str = "") -> NotFound:
    """The error for a name that the table does not hold, in the words that clients of Triton look for."""
    if version:
        return NotFound(f"Request for unknown model: '{model}' version '{version}' is not found")
    return NotFound(f"Request for unknown model: '{model}' is not found")


def _plain(text: str) -> bool:
    return bool(_PLAIN.fullmatch(text)) and ".." not in text


def _check_plain(text: str) -> None:
    if not _plain(text):
        raise InvalidInput(
            f"Invalid name {text[:60]!r}.",
            "A model name has lower-case letters, digits, '.', '_' and '-'; behind a colon, a version or an alias.",
        )


def _find(table: RoutingTable, name: str) -> Target | None:
    model, _, key = name.partition(":")
    routes = table.models.get(model)
    return routes.targets.get(key) if routes else None


def _keeping(old: RoutingTable, new: RoutingTable, failed: Set[Identity], loaded: Set[Identity]) -> RoutingTable:
    """The new table, but with every name that would move to a failed target left where it answered before."""
    if not failed:
        return new
    models = {
        name: _keeping_names(old.models.get(name, routes), routes, failed, loaded)
        for name, routes in new.models.items()
    }
    return replace(new, models=models)


def _keeping_names(old: ModelRoutes, new: ModelRoutes, failed: Set[Identity], loaded: Set[Identity]) -> ModelRoutes:
    targets = dict(new.targets)

    def keep(old_key: str | None, new_key: str) -> str:
        wanted = new.targets.get(new_key)
        before = old.targets.get(old_key) if old_key is not None else None
        if wanted is None or before is None or identity(wanted) not in failed or identity(before) not in loaded:
            return new_key
        targets[before.key] = before
        return before.key

    def kept(arm: Arm, before: tuple[Arm, ...]) -> Arm | None:
        """None where it can not answer, nor what the same name meant before."""
        earlier = next((each.key for each in before if each.name == arm.name), old.aliases.get(arm.name))
        key = keep(earlier, arm.key)
        return None if identity(targets[key]) in failed else replace(arm, key=key)

    aliases = {alias: keep(old.aliases.get(alias), key) for alias, key in new.aliases.items()}
    split = tuple(arm for each in new.split if (arm := kept(each, old.split)) is not None)
    shadow = kept(new.shadow, (old.shadow,) if old.shadow else ()) if new.shadow else None
    primary = keep(old.primary, new.primary)
    return replace(new, primary=primary, aliases=aliases, targets=targets, split=split, shadow=shadow)
