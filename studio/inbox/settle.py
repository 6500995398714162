"""When an arrival has stopped moving. A pure state machine: listings and the time go in, what to do comes out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from studio.inbox.groups import Group

State = Literal["moving", "reading", "partial", "settled"]
"""moving: changed lately. reading: handed out by `due`. partial: still, but cut short. settled: done for now."""


_SLOW = 4  # the longest wait for a growing file, in times of the usual one


@dataclass(frozen=True)
class Change:
    """What one look showed of one group."""

    kind: Literal["arrived", "changed", "gone"]
    group: Group
    was_settled: bool = False


@dataclass
class _Track:
    group: Group
    state: State
    since: float
    retry: float


class Settler:
    """Follows groups from first sight to settled. Times are seconds of any clock that only goes forward."""

    def __init__(self, settle_seconds: float, patience_seconds: float) -> None:
        self._settle, self._patience = settle_seconds, patience_seconds
        self._tracks: dict[str, _Track] = {}
        self._active: set[str] = set()

    def observe(self, groups: Mapping[str, Group], now: float) -> list[Change]:
        """Compare a look with the one before. O(n). Every change starts the wait anew."""
        changes = []
        for key in [key for key in self._tracks if key not in groups]:
            track = self._tracks.pop(key)
            self._active.discard(key)
            changes.append(Change("gone", track.group, track.state == "settled"))
        for key, group in groups.items():
            known = self._tracks.get(key)
            if known is None:
                changes.append(Change("arrived", group))
            elif known.group.files != group.files:
                changes.append(Change("changed", group, known.state == "settled"))
            else:
                continue
            self._tracks[key] = _Track(group, "moving", now, now + self._wait(known, group, now))
            self._active.add(key)
        return sorted(changes, key=lambda change: (change.kind != "gone", _when(change.group)))

    def _wait(self, known: _Track | None, group: Group, now: float) -> float:
        """How long it must lie still: what grows in long steps, as over a slow network, for two of them."""
        if known is None or not self._settle < now - known.since <= _SLOW * self._settle:
            return self._settle
        return min(2 * (now - known.since), _SLOW * self._settle) if _grown(known.group, group) else self._settle

    def accept(self, key: str) -> None:
        """Take a group as settled without reading it: it was worked through before."""
        self._tracks[key].state = "settled"
        self._active.discard(key)

    def due(self, now: float) -> list[tuple[Group, bool]]:
        """Groups to read now, what was dropped first before the others, each with whether patience is over: then it
        goes on however it looks.
        """
        found = []
        for track in sorted((self._tracks[key] for key in self._active), key=lambda track: _when(track.group)):
            if track.state in ("moving", "partial") and now >= track.retry:
                track.state = "reading"
                found.append((track.group, now >= track.since + self._patience))
        return found

    def partial(self, group: Group) -> None:
        """It was read and is cut short: it comes due again when patience is over, or anew after a change."""
        track = self._current(group)
        if track:
            track.state, track.retry = "partial", track.since + self._patience

    def unreadable(self, group: Group, now: float) -> None:
        """It could not be read: it comes due again after the same patience, as often as it takes."""
        track = self._current(group)
        if track:
            track.state, track.retry = "partial", now + self._patience

    def settled(self, group: Group) -> bool:
        """It was read wholly. False when it has changed or gone meanwhile, so that what was read means nothing."""
        track = self._current(group)
        if track is None:
            return False
        self.accept(group.key)
        return True

    def next_wake(self) -> float | None:
        """When the next group comes due; None when nothing moves."""
        waits = (self._tracks[key] for key in self._active)
        return min((track.retry for track in waits if track.state != "reading"), default=None)

    def _current(self, group: Group) -> _Track | None:
        track = self._tracks.get(group.key)
        return track if track is not None and track.group.files == group.files else None


def _grown(before: Group, after: Group) -> bool:
    """Whether the same files lie there, none shorter and one longer."""
    old, new = ({stamp.name: (stamp.inode, stamp.size) for stamp in group.files} for group in (before, after))
    if old.keys() != new.keys() or any(old[name][0] != inode for name, (inode, _) in new.items()):
        return False
    longer = [size - old[name][1] for name, (_, size) in new.items()]
    return min(longer) >= 0 and max(longer) > 0


def _when(group: Group) -> tuple[int, str]:
    """When the newest of a group's files was written; groups of the same moment go by name."""
    return max((stamp.mtime_ns for stamp in group.files), default=0), group.key
