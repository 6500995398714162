"""The inbox as the engine sees it: events about arrivals, in order, on the event loop.

Every hint of a change leads to a fresh look at the whole folder, and every look is compared with the one before. So a
lost or doubled hint can not lead astray, however many files come at once: looks are limited in rate, not hints.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from studio.core.settings import InboxSettings
from studio.inbox.changes import Hints, why_not
from studio.inbox.events import Arrived, Changed, Claimed, Emptied, Gone, InboxEvent, Left, Noticed, Settled, Unclaimed
from studio.inbox.groups import Group, Listing, Skipped, alone, group
from studio.inbox.listing import list_inbox
from studio.inbox.reading import Arrival, Hollow, Moved, Stopped, check_hollow, looks_complete, read_arrival
from studio.inbox.settle import Settler
from studio.inbox.unclaimed import Lonely

__all__ = ["Arrived", "Changed", "Claimed", "Gone", "Inbox", "InboxEvent", "Left", "Noticed", "Settled", "Unclaimed"]

POLL_SECONDS = 1.0
MAX_PAUSE = 2.0
_DUTY = 10  # after a look that took t seconds, the next comes 10 t later, but never waits longer than MAX_PAUSE
_WATCH = "watch"
_LIST = "list"


def nothing_known(fingerprint: str) -> bool:
    """For an engine without a past."""
    return False


class Inbox:
    """Watches one folder. `on_event` is called on the event loop and must not block.

    `known(fingerprint)` says whether exactly these files, untouched, were worked through before: such a group is not
    told again and never read. `Left` events name what is left alone and why.
    """

    def __init__(
        self,
        folder: Path,
        settings: InboxSettings,
        on_event: Callable[[InboxEvent], None],
        known: Callable[[str], bool] = nothing_known,
    ) -> None:
        self._folder = folder
        self._settings = settings
        self._on_event = on_event
        self._known = known
        self._settler = Settler(settings.settle_seconds, settings.patience_seconds)
        self._lonely = Lonely(settings.patience_seconds)
        self._notices: dict[str, str] = {}
        self._hints: Hints | None = None
        self._watched: tuple[int, int] | None = None
        self._left: set[Skipped] = set()
        self._unreadable: dict[str, Skipped] = {}
        self._hinted = asyncio.Event()
        self._took = 0.0
        self._stop = threading.Event()
        self._readers: ThreadPoolExecutor | None = None
        self._reads: set[asyncio.Task[None]] = set()
        self._main: asyncio.Task[None] | None = None

    @property
    def notices(self) -> tuple[str, ...]:
        """What keeps it from watching well, for people; empty when all is well."""
        return tuple(self._notices.values())

    @property
    def watching(self) -> bool:
        """Whether the system reports changes; False = the folder is listed every second instead."""
        return self._hints is not None

    async def start(self) -> None:
        """Watch, look once, and tell what is there. Returns after the first look."""
        self._loop = asyncio.get_running_loop()
        self._readers = ThreadPoolExecutor(2, "inbox")
        await self._watch()
        await self._look()
        self._main = asyncio.create_task(self._run(), name="inbox")

    async def stop(self) -> None:
        """Stop at once. What had not settled is told again by the next start."""
        self._stop.set()
        tasks = [task for task in (self._main, *self._reads) if task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._hints:
            await asyncio.to_thread(self._hints.stop)
            self._hints = None
        if self._readers:
            await asyncio.to_thread(self._readers.shutdown, True, cancel_futures=True)

    # -- looking

    async def _run(self) -> None:
        rescan_at = time.monotonic() + self._settings.rescan_seconds
        while True:
            rescan = rescan_at if self.watching else min(rescan_at, time.monotonic() + POLL_SECONDS)
            wakes = (self._settler.next_wake(), self._lonely.next_wake())
            await self._wait(min([rescan, *(wake for wake in wakes if wake is not None)]))
            if time.monotonic() >= rescan_at or not await asyncio.to_thread(self._still_watched):
                await self._watch()
                rescan_at = time.monotonic() + self._settings.rescan_seconds
            await self._look()
            await asyncio.sleep(min(MAX_PAUSE, max(self._settings.settle_seconds / 8, _DUTY * self._took)))

    async def _wait(self, until: float) -> None:
        try:
            async with asyncio.timeout(max(0.0, until - time.monotonic())):
                await self._hinted.wait()
        except TimeoutError:
            pass

    def _hint(self) -> None:
        """From watchdog's thread. One wake-up a look is enough, so the loop is not flooded."""
        if not self._hinted.is_set() and not self._stop.is_set():
            self._loop.call_soon_threadsafe(self._hinted.set)

    async def _look(self) -> None:
        self._hinted.clear()  # before the look: what changes during it leads to another
        started = time.monotonic()
        try:
            listing = await asyncio.to_thread(list_inbox, self._folder)
        except FileNotFoundError:
            listing = Listing((), {})
            self._notice(_LIST, f"The inbox folder is gone: {self._folder}. Make it again, and it is watched again.")
        except OSError as error:
            self._notice(_LIST, f"The inbox can not be listed: {why_not(error)}. It is tried again.")
            return
        else:
            self._notice(_LIST, "")
        self._took = time.monotonic() - started
        self._compare(listing)

    def _compare(self, listing: Listing) -> None:
        now = time.monotonic()
        for change in self._settler.observe(group(listing), now):
            self._unreadable.pop(change.group.key, None)
            if change.kind == "gone":
                self._on_event(Gone(change.group, change.was_settled))
            elif (change.kind == "arrived" or change.was_settled) and self._known(change.group.fingerprint):
                self._settler.accept(change.group.key)
            elif change.kind == "arrived":
                self._on_event(Arrived(change.group))
            else:
                self._on_event(Changed(change.group, change.was_settled))
        self._tell_left({*listing.skipped, *self._unreadable.values()})
        unclaimed, claimed = self._lonely.observe(alone(listing), now)
        for one in claimed:
            self._on_event(Claimed(one))
        for one in unclaimed:
            self._on_event(Unclaimed(one))
        for found, patience_over in self._settler.due(now):
            task = asyncio.create_task(self._read(found, patience_over), name=f"inbox {found.key}")
            self._reads.add(task)
            task.add_done_callback(self._reads.discard)

    def _tell_left(self, left: set[Skipped]) -> None:
        for skipped in sorted(left - self._left, key=lambda one: one.name):
            self._on_event(Left(skipped))
        self._left = left

    # -- reading

    async def _read(self, found: Group, patience_over: bool) -> None:
        assert self._readers is not None
        try:
            arrival = await self._loop.run_in_executor(self._readers, self._read_in_thread, found, patience_over)
        except Moved:
            self._hinted.set()
            self._settler.unreadable(found, time.monotonic() - self._settings.patience_seconds)
            return
        except Stopped:
            return
        except Hollow as hollow:
            if not patience_over:
                self._settler.partial(found)
                self._hinted.set()
            elif self._settler.settled(found):
                self._on_event(Emptied(found, str(hollow)))
            return
        except OSError as error:
            self._settler.unreadable(found, time.monotonic())
            again = f"It is tried again every {self._settings.patience_seconds:g} s."
            self._unreadable[found.key] = Skipped(found.key, f"It can not be read: {why_not(error)}.", again)
            self._tell_left(self._left | {self._unreadable[found.key]})
            self._hinted.set()
            return
        self._unreadable.pop(found.key, None)
        if arrival is None:
            self._settler.partial(found)
            self._hinted.set()  # it comes due at another time than the loop waits for
        elif self._settler.settled(found):
            self._on_event(Settled(arrival))

    def _read_in_thread(self, found: Group, patience_over: bool) -> Arrival | None:
        """None: cut short, and there is patience left."""
        check_hollow(self._folder, found)
        complete = looks_complete(self._folder, found)
        if not complete and not patience_over:
            return None
        return read_arrival(self._folder, found, complete, self._stop)

    # -- watching

    def _still_watched(self) -> bool:
        """Whether nothing is to be gained from trying to watch anew before the next rescan."""
        return (self._hints is None or self._hints.alive) and _identity(self._folder) == self._watched

    async def _watch(self) -> None:
        """Make sure that the folder is watched, or poll it and say so."""
        if self.watching and await asyncio.to_thread(self._still_watched):
            return
        if self._hints:
            await asyncio.to_thread(self._hints.stop)
            self._hints = None
        try:
            self._watched = await asyncio.to_thread(_identity, self._folder)
            self._hints = await asyncio.to_thread(lambda: Hints(self._folder.resolve(), self._hint))
        except OSError as error:
            reason = why_not(error)
            self._notice(_WATCH, f"The inbox is listed every {POLL_SECONDS:g} s instead of being watched: {reason}.")
        else:
            self._notice(_WATCH, "")

    def _notice(self, about: str, text: str) -> None:
        if self._notices.get(about, "") == text:
            return
        self._notices.pop(about, None)
        if text:
            self._notices[about] = text
        self._on_event(Noticed(self.notices, self.watching))


def _identity(folder: Path) -> tuple[int, int] | None:
    try:
        seen = folder.stat()
    except OSError:
        return None
    return seen.st_dev, seen.st_ino
