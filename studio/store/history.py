"""What the journal adds up to: where every alias points, what is archived, how aliases moved."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from studio.core.journal import AliasMove, Entry

VersionKey = tuple[str, int]


def subject_of(entry: Entry) -> tuple[str, str]:
    """Model and the rest of an entry's subject: ('digits', '3-int8')."""
    model, _, tail = entry.subject.partition(":")
    return model, tail


def version_of(tail: str) -> int | None:
    """The version in '3' or '3-int8'; None in an alias."""
    number = tail.partition("-")[0]
    return int(number) if number.isdigit() else None


def move_of(entry: Entry) -> AliasMove:
    """An alias entry as the move that it records."""
    model, alias = subject_of(entry)
    return AliasMove(
        model=model,
        alias=alias,
        before=entry.before,
        after=entry.after,
        why=entry.why,
        actor=entry.actor,
        at=entry.at,
    )


@dataclass
class History:
    """State after replaying entries in order. `moves` are oldest first."""

    aliases: dict[str, dict[str, str]] = field(default_factory=dict)
    archived: set[VersionKey] = field(default_factory=set)
    added: set[VersionKey] = field(default_factory=set)
    purged: set[VersionKey] = field(default_factory=set)
    variants: set[tuple[str, str]] = field(default_factory=set)
    newest: dict[str, int] = field(default_factory=dict)
    moves: list[AliasMove] = field(default_factory=list)

    def apply(self, entry: Entry) -> None:
        """Takes one more entry into account. Actions of a newer Studio are passed over."""
        model, tail = subject_of(entry)
        if entry.action in ("alias.moved", "alias.removed"):
            self._move(move_of(entry))
            return
        version = version_of(tail)
        if version is None:
            return
        key = (model, version)
        if entry.action == "version.added":
            self.added.add(key)
            self.purged.discard(key)
            self.newest[model] = max(version, self.newest.get(model, 0))
        elif entry.action == "variant.added":
            self.variants.add((model, tail))
        elif entry.action == "version.archived":
            self.archived.add(key)
        elif entry.action == "version.restored":
            self.archived.discard(key)
        elif entry.action == "version.purged":
            self.purged.add(key)
            self.added.discard(key)
            self.archived.discard(key)
            self.newest[model] = max(version, self.newest.get(model, 0))

    def _move(self, move: AliasMove) -> None:
        self.moves.append(move)
        names = self.aliases.setdefault(move.model, {})
        if move.after:
            names[move.alias] = move.after
        else:
            names.pop(move.alias, None)
        if not names:
            del self.aliases[move.model]

    @classmethod
    def of(cls, entries: Iterable[Entry]) -> History:
        """All at once."""
        history = cls()
        for entry in entries:
            history.apply(entry)
        return history
