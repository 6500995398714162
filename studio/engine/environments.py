"""Converter environments for the jobs that need one: made outside of the sandbox, shared, and told as they grow."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from studio.core.errors import Conflict, NeedsEnvironment, Problem, Refused, StudioError
from studio.core.views import EnvironmentRow
from studio.engine.logs import Logs
from studio.pipeline.environments import (
    ENVIRONMENTS,
    Environment,
    Made,
    environment_called,
    find,
    is_included,
    made_environments,
    place_of,
    remove,
)
from studio.pipeline.making import Tell, make

T = TypeVar("T")


@dataclass
class _Making:
    """One that is being made. `waiting`: how many jobs do; `kept`: it goes on without them."""

    task: asyncio.Task[Path]
    listeners: list[Tell] = field(default_factory=list)
    progress: float | None = None
    detail: str = ""
    waiting: int = 0
    kept: bool = False

    def tell(self, progress: float | None, detail: str) -> None:
        self.progress, self.detail = progress, detail
        for listener in self.listeners:
            listener(progress, detail)


class Environments:
    """All environments of this user. `automatic`: whether a job may have one made. Methods belong to the event loop."""

    def __init__(self, logs: Logs, log_folder: Path, automatic: bool) -> None:
        self._logs, self._log_folder, self._automatic = logs, log_folder, automatic
        self._making: dict[str, _Making] = {}
        self._failed: dict[str, Problem] = {}

    async def run(self, work: Callable[[Path | None], Awaitable[T]], tell: Tell) -> T:
        """Do work that takes the interpreter to do it with: Studio's own (None), then what it says that it needs."""
        try:
            return await work(None)
        except NeedsEnvironment as need:
            name = need.environment
            python = await self.interpreter(name, tell)
        try:
            return await work(python)
        except NeedsEnvironment as still:
            raise Refused(
                still.what,
                f"The converter environment '{name}' was made, and does not hold what it needs.",
                f"Make it again: studio environments remove {name}, then retry.",
            ) from still

    async def interpreter(self, name: str, tell: Tell) -> Path:
        """The interpreter of an environment, made first where there is none. Jobs that ask for the same one share it.

        Raises what making it raises; Refused when the settings do not allow that. It goes on while anybody waits.
        """
        environment = environment_called(name)
        ready = find(environment)
        if ready is not None:
            return ready
        if not self._automatic and name not in self._making:
            raise Refused(
                f"The converter environment '{name}' is missing, and none is made by itself here.",
                'studio.toml says workers.environments = "never".',
                f"Run: studio environments make {name} ({size_words(environment)}), then retry.",
            )
        making = self._begin(environment)
        once = f"'{name}', once, {size_words(environment)}"

        def listen(progress: float | None, detail: str) -> None:
            tell(progress, f"{detail} (environment {once})")

        making.listeners.append(listen)
        making.waiting += 1
        listen(making.progress, making.detail)
        try:
            return await asyncio.shield(making.task)
        finally:
            making.listeners.remove(listen)
            making.waiting -= 1
            if not making.waiting and not making.kept and not making.task.done():
                await _end(making.task)

    def begin(self, name: str) -> EnvironmentRow:
        """Make an environment, whoever waits for it. Raises NotFound; Conflict when there is nothing to make."""
        environment = environment_called(name)
        if is_included(environment):
            raise Conflict(f"Studio has all of the environment '{name}' itself.", "So none has to be made.")
        if find(environment) is not None:
            raise Conflict(f"The environment '{name}' is there already.", str(place_of(environment)))
        self._begin(environment).kept = True
        return self.row(name)

    def _begin(self, environment: Environment) -> _Making:
        name = environment.name
        if name in self._making:
            return self._making[name]
        self._failed.pop(name, None)
        self._logs.add("engine", "info", f"Making the converter environment '{name}': {size_words(environment)}.")

        def tell(progress: float | None, detail: str) -> None:
            making.tell(progress, detail)

        log = self._log_folder / f"environment-{name}.log"
        making = _Making(asyncio.create_task(make(environment, tell, log), name=f"environment {name}"))
        making.detail = "beginning"
        self._making[name] = making
        making.task.add_done_callback(lambda task: self._ended(environment, task))
        return making

    def _ended(self, environment: Environment, task: asyncio.Task[Path]) -> None:
        name = environment.name
        self._making.pop(name, None)
        if task.cancelled():
            self._logs.add("engine", "info", f"The converter environment '{name}' is no longer wanted.")
            return
        error = task.exception()
        if error is None:
            self._logs.add("engine", "info", f"The converter environment '{name}' is ready in {place_of(environment)}.")
        elif isinstance(error, StudioError):
            self._failed[name] = error.problem
            self._logs.add("engine", "error", error.problem.sentence())
        else:
            self._logs.failure(f"making the environment '{name}' failed", error)
            why = f"{type(error).__name__}: {error}."
            self._failed[name] = Problem(code="internal", what=f"Making the environment '{name}' failed.", why=why)

    async def rows(self) -> list[EnvironmentRow]:
        """Every environment that there can be."""
        made = await asyncio.to_thread(made_environments)
        return [self._row(environment, made) for environment in ENVIRONMENTS.values()]

    def row(self, name: str) -> EnvironmentRow:
        """One of them. Raises NotFound."""
        return self._row(environment_called(name), made_environments())

    def _row(self, environment: Environment, made: list[tuple[Path, Made]]) -> EnvironmentRow:
        name, making = environment.name, self._making.get(environment.name)
        own = [(place, one) for place, one in made if one.name == name]
        ready = find(environment) is not None
        state = "making" if making else "ready" if ready else "failed" if name in self._failed else "absent"
        return EnvironmentRow(
            name=name,
            title=environment.title,
            state="included" if is_included(environment) else state,  # type: ignore[arg-type]
            download=environment.download,
            installed=environment.installed,
            size=sum(one.size for _, one in own),
            folder=str(place_of(environment)) if ready else "",
            outdated=sum(place != place_of(environment) for place, _ in own),
            progress=making.progress if making else None,
            detail=making.detail if making else "",
            problem=None if making or ready else self._failed.get(name),
        )

    async def remove(self, name: str) -> int:
        """Delete an environment, those of earlier versions too; the bytes freed. Raises NotFound, Conflict."""
        environment_called(name)
        if name in self._making:
            raise Conflict(f"The environment '{name}' is being made just now.", fix="Wait for it, then remove it.")
        self._failed.pop(name, None)
        freed = await asyncio.to_thread(remove, name)
        self._logs.add("engine", "info", f"The converter environment '{name}' was removed.")
        return freed

    async def stop(self) -> None:
        """Give up what is being made; the next engine begins afresh."""
        for making in list(self._making.values()):
            await _end(making.task)


async def _end(task: asyncio.Task[Path]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError, StudioError):
        await task


def size_words(environment: Environment) -> str:
    """`about 290 MB to download, 1.4 GB on disk`."""
    return f"about {environment.download / 1e6:.0f} MB to download, {environment.installed / 1e9:.1f} GB on disk"
