"""What the inbox tells the engine."""

from __future__ import annotations

from dataclasses import dataclass

from studio.inbox.groups import Group, Skipped
from studio.inbox.reading import Arrival


@dataclass(frozen=True)
class Arrived:
    """First sight of a group. It may still be copied; `Settled` follows, or `Gone`."""

    group: Group

    @property
    def key(self) -> str:
        return self.group.key


@dataclass(frozen=True)
class Changed:
    """A group's files changed, joined or left; `Settled` follows again. `was_settled`: it had been settled before."""

    group: Group
    was_settled: bool

    @property
    def key(self) -> str:
        return self.group.key


@dataclass(frozen=True)
class Settled:
    """A group stopped moving and was read. The same digest may come again, when a file was touched."""

    arrival: Arrival

    @property
    def key(self) -> str:
        return self.arrival.key


@dataclass(frozen=True)
class Emptied:
    """A group's model file `name` is large and begins with zeros, after all patience: it is not read."""

    group: Group
    name: str


@dataclass(frozen=True)
class Gone:
    """The last model file of a group left the inbox. `was_settled` False = half-way, before it settled."""

    group: Group
    was_settled: bool

    @property
    def key(self) -> str:
        return self.group.key


@dataclass(frozen=True)
class Left:
    """Something in the inbox is left alone; told once while the reason holds."""

    skipped: Skipped


@dataclass(frozen=True)
class Unclaimed:
    """Companions without a model, or an empty folder: still so when patience was over. Again when its files change."""

    group: Group


@dataclass(frozen=True)
class Claimed:
    """What was told as unclaimed has gone, or a model has come for it."""

    group: Group


@dataclass(frozen=True)
class Noticed:
    """How well the inbox is watched has changed: `Inbox.notices` and `Inbox.watching` as they are now."""

    notices: tuple[str, ...]
    watching: bool


InboxEvent = Arrived | Changed | Settled | Emptied | Gone | Left | Unclaimed | Claimed | Noticed
