"""What the journal adds up to: where every alias points, what is archived, how aliases moved."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from studio.core.journal import AliasMove, Entry, RouteChange, TrustedCode

VersionKey = tuple[str, int]
CODE_SUBJECT = "sha256"


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


def route_change_of(entry: Entry) -> RouteChange:
    """An entry about a route as the change that it records."""
    return RouteChange(
        model=entry.subject, before=entry.before, after=entry.after, why=entry.why, actor=entry.actor, at=entry.at
    )


def is_about_code(entry: Entry) -> bool:
    """Whether an entry records a word on trust: its subject is a hash and no model."""
    return entry.action in ("code.trusted", "code.distrusted")


def code_subject(sha256: str) -> str:
    """The subject of an entry about a file's content."""
    return f"{CODE_SUBJECT}:{sha256}"


@dataclass
class History:
    """State after replaying entries in order. `moves` are oldest first, `trusted` is by SHA-256.

    `routes` has the text of each model's route (`studio.core.route`), of those that have one.
    """

    aliases: dict[str, dict[str, str]] = field(default_factory=dict)
    routes: dict[str, str] = field(default_factory=dict)
    archived: set[VersionKey] = field(default_factory=set)
    added: set[VersionKey] = field(default_factory=set)
    purged: set[VersionKey] = field(default_factory=set)
    variants: dict[tuple[str, str], int] = field(default_factory=dict)
    newest: dict[str, int] = field(default_factory=dict)
    moves: list[AliasMove] = field(default_factory=list)
    trusted: dict[str, TrustedCode] = field(default_factory=dict)

    def apply(self, entry: Entry) -> None:
        """Takes one more entry into account. Actions of a newer Studio are passed over."""
        model, tail = subject_of(entry)
        if entry.action in ("alias.moved", "alias.removed"):
            self._move(move_of(entry))
            return
        if entry.action == "route.changed":
            self.routes.pop(model, None)
            if entry.after:
                self.routes[model] = entry.after
            return
        if is_about_code(entry):
            self._trust(entry, tail)
            return
        version = version_of(tail)
        if version is None:
            return
        key = (model, version)
        if entry.action == "version.added":
            self.added.add(key)
            self.purged.discard(key)
            self.newest[model] = max(version, self.newest.get(model, 0))
        elif entry.action in ("variant.added", "variant.judged"):
            self.variants[model, tail] = self.variants.get((model, tail), 0) + 1
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

    def _trust(self, entry: Entry, sha256: str) -> None:
        self.trusted.pop(sha256, None)
        if entry.action == "code.trusted":
            self.trusted[sha256] = TrustedCode(
                sha256=sha256, name=entry.after, imports=entry.why, actor=entry.actor, at=entry.at
            )

    @classmethod
    def of(cls, entries: Iterable[Entry]) -> History:
        """All at once."""
        history = cls()
        for entry in entries:
            history.apply(entry)
        return history
