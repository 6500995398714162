"""The journal file: one JSON entry a line, fsync'd, each carrying the hash of the one before."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from studio.core import codec
from studio.core.errors import InvalidInput, Problem
from studio.core.journal import GENESIS, Action, Entry, entry_hash
from studio.store.files import not_written, sync_file, sync_folder, write_all, write_atomic
from studio.store.history import History


def utc_now() -> str:
    """ISO 8601 in UTC, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass(frozen=True, kw_only=True)
class Draft:
    """An entry before the journal gives it its place."""

    action: Action
    subject: str
    actor: str
    before: str = ""
    after: str = ""
    why: str = ""


@dataclass(frozen=True, kw_only=True)
class Link:
    """What is left of an entry that this Studio does not understand: its place in the chain."""

    seq: int
    prev: str
    hash: str


class Journal:
    """The open journal of a workspace. `history` is what it adds up to; `problems` what is wrong with the file.

    Only the engine, which holds the workspace's lock, opens a journal: opening repairs a torn tail.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.history = History()
        self.problems: list[Problem] = []
        self.notices: list[str] = []
        self.seq = 0
        self.head = GENESIS
        self._writing = threading.Lock()
        self._size = 0
        self._load()

    def append(
        self, action: Action, subject: str, *, actor: str, before: str = "", after: str = "", why: str = ""
    ) -> Entry:
        """Adds an entry; when this returns it is on disk. Raises Unavailable, and then nothing was added."""
        draft = Draft(action=action, subject=subject, actor=actor, before=before, after=after, why=why)
        return self.append_all([draft])[0]

    def append_all(self, drafts: Sequence[Draft]) -> list[Entry]:
        """Adds several entries with one fsync. Raises Unavailable, and then none was added."""
        with self._writing:
            entries: list[Entry] = []
            seq, head = self.seq, self.head
            for draft in drafts:
                seq += 1
                open_entry = Entry(
                    seq=seq,
                    at=utc_now(),
                    actor=draft.actor,
                    action=draft.action,
                    subject=draft.subject,
                    before=draft.before,
                    after=draft.after,
                    why=draft.why,
                    prev=head,
                )
                head = entry_hash(open_entry)
                entries.append(replace(open_entry, hash=head))
            self._write(b"".join(codec.encode(entry) + b"\n" for entry in entries))
            self.seq, self.head = seq, head
            for entry in entries:
                self.history.apply(entry)
            return entries

    def read(self) -> list[Entry]:
        """All entries that can be read, oldest first."""
        return [entry for _, entry in _entries(self._content()) if isinstance(entry, Entry)]

    def _content(self) -> bytes:
        try:
            return self.path.read_bytes()
        except FileNotFoundError:
            return b""

    def _write(self, data: bytes) -> None:
        created = not self.path.exists()
        try:
            descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise not_written(self.path, error) from error
        try:
            write_all(descriptor, data)
            sync_file(descriptor)
            if created:
                sync_folder(self.path.parent)
        except OSError as error:
            os.ftruncate(descriptor, self._size)
            raise not_written(self.path, error) from error
        finally:
            os.close(descriptor)
        self._size += len(data)

    def _load(self) -> None:
        data = self._mend(self._content())
        self._size = len(data)
        for number, entry in _entries(data):
            if entry is None:
                self._blame(f"Line {number}, behind entry {self.seq}, is unreadable", "Its change is not applied.")
                continue
            if isinstance(entry, Link):
                self._blame(f"Entry {entry.seq} is of a kind that this Studio does not know", "A newer one wrote it.")
            if entry.seq != self.seq + 1 or entry.prev != self.head:
                self._blame(f"The chain is broken at entry {entry.seq}", "Entries before it were removed or changed.")
            if isinstance(entry, Entry):
                if entry_hash(entry) != entry.hash:
                    self._blame(f"Entry {entry.seq} was changed after it was written", "Its hash does not fit it.")
                self.history.apply(entry)
            self.seq, self.head = entry.seq, entry.hash

    def _blame(self, what: str, why: str) -> None:
        self.problems.append(
            Problem(
                code=InvalidInput.code,
                what=f"{what} ({self.path.name}).",
                why=why,
                fix="The file was left as it is; compare it with a backup. Studio goes on with what it says.",
            )
        )

    def _mend(self, data: bytes) -> bytes:
        """Cuts off a last line that a crash left incomplete, and keeps it aside."""
        if not data:
            return data
        start = data.rfind(b"\n", 0, len(data) - 1) + 1
        last = data[start:]
        whole = _parse(last.rstrip(b"\n"))
        if whole is not None and last.endswith(b"\n"):
            return data
        try:
            if isinstance(whole, Entry) and whole.hash == entry_hash(whole):
                write_atomic(self.path, data + b"\n")
                return data + b"\n"
            aside = _free_name(self.path)
            write_atomic(aside, last)
            with self.path.open("r+b") as stream:
                stream.truncate(start)
                sync_file(stream.fileno())
        except OSError as error:
            raise not_written(self.path, error) from error
        self.notices.append(
            f"The last line of {self.path.name} was incomplete after a crash; it was cut off and kept as {aside.name}."
        )
        return data[:start]


def _parse(line: bytes) -> Entry | Link | None:
    try:
        return codec.decode(line, Entry)
    except InvalidInput:
        pass
    try:
        return codec.decode(line, Link)
    except InvalidInput:
        return None


def _entries(data: bytes) -> Iterator[tuple[int, Entry | Link | None]]:
    """(line number, entry); None for a line that is no entry."""
    for number, line in enumerate(data.split(b"\n"), 1):
        if line:
            yield number, _parse(line)


def _free_name(path: Path) -> Path:
    number = 1
    while (aside := path.with_name(f"{path.name}.torn-{number}")).exists():
        number += 1
    return aside
