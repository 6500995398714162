"""Keeps the inputs of answered requests, where the user asked for it: inputs only, in files of a folder of the model.

What is kept are the arrays as the model took them, up to the plan's rows, bytes and time. Of one request at most 64
rows, and no row twice: a load test that sends the same body for an hour says no more than its first request. Files are
written on a thread, each wholly or not at all, and readable by their owner alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from studio.core.recording import NOT_RECORDED, RecordingPlan, part_name, part_of
from studio.core.routing import Target
from studio.core.rows import RowLayout, row_layout
from studio.serving.loaded import Array
from studio.store.recordings import recorded

ROWS_A_REQUEST = 64
FLUSH_SECONDS = 1.0
FLUSH_BYTES = 8 * 1024 * 1024
_log = logging.getLogger("studio.serving")

Feed = dict[str, Array]
Key = tuple[int, tuple[tuple[int, ...], ...], bytes]
"""A version, the sizes of a row of every input, and the inputs that have no rows: what can lie in one file."""


@dataclass(frozen=True)
class Part:
    """One file: what goes into it, and which of its arrays hold rows."""

    folder: Path
    version: int
    rows: int
    feeds: list[Feed]
    rowed: frozenset[str]


@dataclass
class _Open:
    """One model that is being recorded: the rows and bytes there are, and what is not written yet."""

    plan: RecordingPlan
    rows: int = 0
    size: int = 0
    seen: set[bytes] = field(default_factory=set)
    waiting: dict[Key, tuple[RowLayout, list[Feed]]] = field(default_factory=dict)
    waiting_size: int = 0


class Recorder:
    """Belongs to the event loop. `take` is called for every answered request; the rest of the time nothing moves."""

    def __init__(self, loop: asyncio.AbstractEventLoop, switch: Callable[[bool], None]) -> None:
        """`switch` is told whenever recording as such begins (true) or ends (false)."""
        self._loop, self._switch = loop, switch
        self._open: dict[str, _Open] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="recorder")

    @property
    def on(self) -> bool:
        """Whether anything is being recorded."""
        return bool(self._open)

    def use(self, plans: Iterable[RecordingPlan]) -> None:
        """Record what these plans ask for and nothing else. What was taken before is written."""
        self.flush()
        opened: dict[str, _Open] = {}
        for plan in plans:
            known = self._open.get(plan.model)
            if known is None or known.plan.started != plan.started:
                known = _Open(plan, *recorded(Path(plan.folder)))
            known.plan = plan
            opened[plan.model] = known
        self._open = opened
        self._switch(self.on)

    def written(self, done: Callable[[], None]) -> None:
        """Call `done` once everything taken so far is in its file."""
        self.flush()

        def tell() -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(done)

        self._thread.submit(tell)

    def take(self, target: Target, inputs: Mapping[str, Array], headers: Mapping[bytes, bytes]) -> None:
        """Keep the inputs of a request that `target` answered, if its model is recorded and there is room."""
        state = self._open.get(target.model)
        if state is None or NOT_RECORDED in headers:
            return
        plan = state.plan
        if time.time() > plan.until or state.rows >= plan.rows or state.size >= plan.bytes:
            self.flush()
            del self._open[target.model]
            self._switch(self.on)
            return
        layout = _layout_of(target)
        index = None if layout is None else _new_rows(layout, inputs, state.seen, plan.rows - state.rows)
        if layout is None or index is None:
            return
        # Copies: the arrays of a request often lie in the body that it came in.
        feed = {name: array[index] if name in layout.names else array.copy() for name, array in inputs.items()}
        state.waiting.setdefault(_key(target.version, layout, feed), (layout, []))[1].append(feed)
        size = sum(array.nbytes for array in feed.values())
        state.waiting_size += size
        state.size += size
        state.rows += len(index) // layout.length
        if state.waiting_size >= FLUSH_BYTES:
            self.flush()
        elif self._timer is None:
            self._timer = self._loop.call_later(FLUSH_SECONDS, self.flush)

    def flush(self) -> None:
        """Have written what waits, on a thread, file after file."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for state in self._open.values():
            if parts := _parts(state):
                self._thread.submit(self._write, state, parts)

    def close(self) -> None:
        """Write what waits, and wait until it is written."""
        self.flush()
        self._thread.shutdown()

    def _write(self, state: _Open, parts: list[Part]) -> None:
        """On the thread: write, and see how much there is by now; other processes of the server record too."""
        for part in parts:
            try:
                _write(part)
            except OSError as error:
                # The folder goes when the user deletes a recording; whatever else happened is for the log.
                if part.folder.is_dir():
                    _log.warning("a recording could not be written: %s", error)
        with contextlib.suppress(RuntimeError):  # the loop is closed: the process is on its way out
            self._loop.call_soon_threadsafe(_counted, state, *recorded(part.folder))


def _counted(state: _Open, rows: int, size: int) -> None:
    state.rows, state.size = max(state.rows, rows), max(state.size, size)


def _layout_of(target: Target) -> RowLayout | None:
    if "recorded rows" not in target.kept:
        target.kept["recorded rows"] = row_layout(target.signature)
    layout: RowLayout | None = target.kept["recorded rows"]
    return layout


def _new_rows(layout: RowLayout, inputs: Mapping[str, Array], seen: set[bytes], room: int) -> Array | None:
    """Which rows of a request are to be kept; None for none. Fixed batches are kept or not as a whole."""
    names = sorted(layout.names)
    counts = {len(inputs[name]) for name in names}
    count = counts.pop() // layout.unit if len(counts) == 1 else 0
    if not count:
        return None
    kept: list[Array] = []
    for unit in sorted({int(at) for at in np.linspace(0, count - 1, min(count, ROWS_A_REQUEST)).round()}):
        rows = slice(unit * layout.unit, (unit + 1) * layout.unit)
        digest = hashlib.blake2b(b"".join(_bytes_of(inputs[name][rows]) for name in names), digest_size=16).digest()
        if digest in seen:
            continue
        if len(kept) * layout.rows >= room:
            break
        seen.add(digest)
        kept.append(np.arange(rows.start, rows.stop))
    return np.concatenate(kept) if kept else None


def _key(version: int, layout: RowLayout, feed: Feed) -> Key:
    names = sorted(feed)
    sizes = tuple(feed[name].shape[1:] if name in layout.names else () for name in names)
    return version, sizes, b"".join(_bytes_of(feed[name]) for name in names if name not in layout.names)


def _bytes_of(array: Array) -> bytes:
    head = repr((array.shape, array.dtype.str)).encode()
    return head + (repr(array.tolist()).encode() if array.dtype == object else array.tobytes())


def _parts(state: _Open) -> list[Part]:
    folder = Path(state.plan.folder)
    parts = [
        Part(folder, version, sum(len(feed[min(layout.names)]) // layout.length for feed in feeds), feeds, layout.names)
        for (version, *_), (layout, feeds) in state.waiting.items()
    ]
    state.waiting, state.waiting_size = {}, 0
    return parts


def _write(part: Part) -> None:
    """An `.npz` as sample inputs are: strings as text, 16-bit brain floats as 32-bit ones, no pickles."""
    import zipfile

    draft = part.folder / f".part-{secrets.token_hex(8)}"
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as file, zipfile.ZipFile(file, "w") as archive:
            for name, first in part.feeds[0].items():
                array = np.concatenate([feed[name] for feed in part.feeds]) if name in part.rowed else first
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, _plain(array), allow_pickle=False)
        number = 1 + max((found[0] for path in part.folder.iterdir() if (found := part_of(path.name))), default=0)
        draft.rename(part.folder / part_name(number, os.getpid(), part.version, part.rows))
    finally:
        draft.unlink(missing_ok=True)


def _plain(array: Array) -> Array:
    if array.dtype == object:
        return array.astype(np.str_)
    return array.astype(np.float32) if array.dtype.name == "bfloat16" else array
