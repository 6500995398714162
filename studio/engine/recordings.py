"""Recordings of requests: what the user asked to be kept, from the first word to the deletion.

A plan lies beside what it led to, so a recording goes on when the engine is started again; what there is, is what lies
in its folder. Nothing of it goes into the store, whose files are for ever: a recording can be deleted.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from studio.core import codec
from studio.core.errors import InvalidInput, NotFound, Refused, StudioError
from studio.core.names import check_model_name
from studio.core.recording import (
    MOST_BYTES,
    MOST_ROWS,
    MOST_SECONDS,
    Recording,
    RecordingPlan,
    RecordingState,
)
from studio.core.rows import row_layout
from studio.core.tensors import Signature
from studio.engine.folders import remove_folder
from studio.engine.logs import Logs
from studio.store.files import make_folder, temp_path, write_atomic
from studio.store.recordings import recorded

PLAN = "plan.json"


class Recordings:
    """All of one workspace, in `root`. `send` tells the server what to record; `signature` is that of a model.

    `on_change` is called when what is being recorded has changed.
    """

    def __init__(
        self,
        root: Path,
        logs: Logs,
        send: Callable[[tuple[RecordingPlan, ...]], None],
        signature: Callable[[str], Signature],
        on_change: Callable[[], None],
    ) -> None:
        self._root, self._logs, self._send, self._signature = root, logs, send, signature
        self._on_change = on_change
        self._plans: dict[str, RecordingPlan] = {}

    async def open(self) -> None:
        """Take up what was being recorded when the engine ended. A plan that can not be read is left alone."""
        self._plans = await asyncio.to_thread(self._read)
        self._tell()

    async def start(self, model: str, rows: int, seconds: float, actor: str) -> Recording:
        """Record a model from now on, beside what there is of it. Raises InvalidInput, NotFound and Refused."""
        check_model_name(model)
        _check("rows", rows, MOST_ROWS)
        _check("seconds", seconds, MOST_SECONDS)
        if row_layout(self._signature(model)) is None:
            raise Refused(
                f"The requests of {model} can not be recorded.",
                "Its inputs do not divide into rows, so several requests make no samples.",
                "Save samples with numpy.savez and drop them beside the model.",
            )
        folder = self._root / model
        now = time.time()
        plan = RecordingPlan(
            model=model, folder=str(folder), rows=rows, bytes=MOST_BYTES, started=now, until=now + seconds
        )
        await self._keep(plan)
        self._logs.add("audit", "info", f"recording of requests begun by {actor}: {rows} rows at most", model)
        return await self.get(model)

    async def stop(self, model: str, actor: str) -> Recording:
        """Record no more of a model; what there is stays. Raises NotFound."""
        plan = self._plan(model)
        if not plan.stopped:
            await self._keep(replace(plan, stopped=True))
            self._logs.add("audit", "info", f"recording of requests ended by {actor}", model)
        return await self.get(model)

    async def delete(self, model: str, actor: str) -> int:
        """Record no more of a model, and delete what there is. Returns the rows deleted. Raises NotFound."""
        plan = self._plan(model)
        del self._plans[model]
        self._tell()
        rows = await asyncio.to_thread(_remove, Path(plan.folder))
        self._logs.add("audit", "info", f"recording of {rows} rows deleted by {actor}", model)
        return rows

    async def get(self, model: str) -> Recording:
        """Raises NotFound where nothing was recorded."""
        plan = self._plan(model)
        return _recording(plan, *await asyncio.to_thread(recorded, Path(plan.folder)))

    async def all(self) -> list[Recording]:
        """What is recorded, by model."""
        return [await self.get(model) for model in sorted(self._plans)]

    async def active(self) -> tuple[Recording, ...]:
        """What is being recorded at this moment."""
        return tuple([one for one in await self.all() if one.state == "recording"])

    def folder(self, model: str) -> Path | None:
        """Where the recording of a model lies, if there is one."""
        plan = self._plans.get(model)
        return Path(plan.folder) if plan else None

    def _plan(self, model: str) -> RecordingPlan:
        plan = self._plans.get(model)
        if plan is None:
            known = f"There are recordings of {', '.join(sorted(self._plans))}." if self._plans else "There are none."
            raise NotFound(f"Nothing was recorded of {model!r}.", known, f"Begin with: studio record {model}")
        return plan

    async def _keep(self, plan: RecordingPlan) -> None:
        await asyncio.to_thread(_write, plan)
        self._plans[plan.model] = plan
        self._tell()

    def _read(self) -> dict[str, RecordingPlan]:
        plans: dict[str, RecordingPlan] = {}
        for path in sorted(self._root.glob(f"*/{PLAN}")):
            try:
                plan = codec.decode(path.read_bytes(), RecordingPlan, "plan of a recording")
            except (OSError, StudioError) as error:
                self._logs.add("engine", "warning", f"{path} can not be read, and is left alone: {error}")
                continue
            plans[path.parent.name] = replace(plan, model=path.parent.name, folder=str(path.parent))
        return plans

    def _tell(self) -> None:
        now = time.time()
        self._send(tuple(plan for plan in self._plans.values() if not plan.stopped and plan.until > now))
        self._on_change()


def _write(plan: RecordingPlan) -> None:
    folder = Path(plan.folder)
    make_folder(folder.parent, mode=0o700)
    make_folder(folder, mode=0o700)
    write_atomic(folder / PLAN, codec.encode_pretty(plan), mode=0o600)


def _remove(folder: Path) -> int:
    """Delete a folder that the server may be about to write to: under another name, where it can not. The rows."""
    rows, _ = recorded(folder)
    gone = temp_path(folder.parent)
    folder.rename(gone)
    remove_folder(gone)
    return rows


def _check(name: str, value: float, most: float) -> None:
    if not 0 < value <= most:
        raise InvalidInput(f"{name} must be more than 0 and at most {most:g}, not {value:g}.")


def _recording(plan: RecordingPlan, rows: int, size: int) -> Recording:
    state: RecordingState = "recording"
    if plan.stopped:
        state = "stopped"
    elif rows >= plan.rows or size >= plan.bytes:
        state = "full"
    elif time.time() > plan.until:
        state = "over"
    return Recording(plan=plan, state=state, rows=rows, bytes=size)
