"""Journal entries: the append-only, hash-chained record of everything that changes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

from studio.core import codec

Action = Literal[
    "version.added",
    "version.archived",
    "version.restored",
    "version.purged",
    "variant.added",
    "variant.judged",
    "alias.moved",
    "alias.removed",
    "route.changed",
    "code.trusted",
    "code.distrusted",
]

GENESIS = "0" * 64


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One change. `subject` is a reference (`digits:production`, `digits:3`); `before`/`after` are what it stood for.

    Of a route the subject is the model, `before`/`after` are its text (`studio.core.route`); empty = the primary alone.
    Of trusted code the subject is `sha256:HASH`, `before`/`after` the name of the file, `why` what it would import.
    `actor` is who asked: `tui`, `cli`, `sdk`, `engine`. `prev` is the hash of the entry before, `hash` covers all else.
    """

    seq: int
    at: str
    actor: str
    action: Action
    subject: str
    before: str = ""
    after: str = ""
    why: str = ""
    prev: str = GENESIS
    hash: str = ""


def entry_hash(entry: Entry) -> str:
    """SHA-256 of the entry's JSON with an empty `hash`: chained, because `prev` is part of it."""
    fields = codec.builtins(entry)
    fields["hash"] = ""
    return hashlib.sha256(codec.encode(fields)).hexdigest()


@dataclass(frozen=True, kw_only=True)
class AliasMove:
    """An alias moved: `before` and `after` are variant keys such as `3-int8`; empty = did not exist / was removed."""

    model: str
    alias: str
    before: str
    after: str
    why: str
    actor: str
    at: str


@dataclass(frozen=True, kw_only=True)
class RouteChange:
    """How requests for a model are spread was changed; `before` and `after` as `studio.core.route.Route.text`."""

    model: str
    before: str
    after: str
    why: str
    actor: str
    at: str


@dataclass(frozen=True, kw_only=True)
class TrustedCode:
    """A file whose code may run, by the `sha256` of its content. `imports`: what the user was shown, on one line."""

    sha256: str
    name: str
    imports: str
    actor: str
    at: str
