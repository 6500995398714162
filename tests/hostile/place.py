"""Where an attack is planted, what it aims at, and how its outcome is judged."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SECRET = b"the-secret-of-the-user-"
"""Begins the file that attacks try to read; must not be found in anything that the workspace keeps."""

State = str
REFUSED: frozenset[State] = frozenset({"failed", "waiting"})
FAILED: frozenset[State] = frozenset({"failed"})
WAITING: frozenset[State] = frozenset({"waiting"})
VERSION: frozenset[State] = frozenset({"version"})
ANY: frozenset[State] = REFUSED | VERSION


@dataclass(frozen=True)
class Place:
    """The inbox, the stem that an attack goes by, and a folder outside of the workspace that nothing may change."""

    inbox: Path
    outside: Path
    stem: str

    @property
    def canary(self) -> Path:
        """What an attack tries to make. Its being there is a broken wall."""
        return self.outside / f"canary-{self.stem}"

    @property
    def secret(self) -> Path:
        """What an attack tries to read: 4 × 3 floats' worth of bytes and more."""
        return self.outside / "secret.bin"

    def file(self, name: str, data: bytes) -> Path:
        """Drop a file at once, as a move does. `name`: its ending, with the dot."""
        target = self.inbox / f"{self.stem}{name}"
        draft = target.with_name(f".{target.name[:200]}.tmp")
        draft.write_bytes(data)
        draft.rename(target)
        return target

    def folder(self, files: dict[str, bytes], then: Callable[[Path], None] = lambda _: None) -> Path:
        """Drop a folder. `then` may put in it what is no plain file."""
        draft = self.inbox / f".{self.stem}.tmp"
        draft.mkdir()
        for name, data in files.items():
            (draft / name).parent.mkdir(parents=True, exist_ok=True)
            (draft / name).write_bytes(data)
        then(draft)
        target = self.inbox / self.stem
        draft.rename(target)
        return target


@dataclass(frozen=True)
class Attack:
    """`words`: what the problem must say, as a regular expression over its one line.

    `trust`: say yes to its code when it asks; `states` are then those after the yes. `hangs`: it takes all the time
    that it is given. `aims`: which entries of the table of attacks it covers.
    """

    name: str
    plant: Callable[[Place], Any]
    states: frozenset[State] = FAILED
    words: str = ""
    slow: bool = False
    hangs: bool = False
    trust: bool = False
    aims: str = ""
    stem: str = ""

    @property
    def arrival(self) -> str:
        """The stem that it arrives by: its own name, unless it chose another."""
        return self.stem or self.name


def drop(name: str, data: bytes | Callable[[Place], bytes]) -> Callable[[Place], None]:
    """A plant that drops one file."""

    def plant(place: Place) -> None:
        place.file(name, data(place) if callable(data) else data)

    return plant


class Call:
    """Pickles as a call of a function that the test names by its path."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self._function, self._arguments = function, arguments

    def __reduce__(self) -> Any:
        return (self._function, self._arguments)


def touch(place: Place) -> str:
    return f"touch '{place.canary}'"


def system_pickle(place: Place, protocol: int = 4) -> bytes:
    """Runs a shell command when it is loaded."""
    return pickle.dumps(Call(os.system, touch(place)), protocol)
