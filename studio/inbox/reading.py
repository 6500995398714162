"""Reading a settled arrival: is it complete, and what is in it. Runs in a thread; stops when told to."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from studio.inbox.complete import is_complete
from studio.inbox.groups import Group, Stamp, is_companion

CHUNK = 1024 * 1024
LARGE = 64 * CHUNK


@dataclass(frozen=True, kw_only=True)
class Arrival:
    """A settled arrival. `files` are absolute paths, sorted by name; `folder` is set when a sub-folder was dropped.

    `hashes` are SHA-256 in the order of `files`; `digest` is SHA-256 over the sorted lines `name:hash`, names relative
    to the inbox. `size` in bytes. `complete` is False when it still looks cut short after all patience.

    The files may change again at any moment: whoever copies them compares hashes.
    """

    stem: str
    folder: Path | None
    files: tuple[Path, ...]
    hashes: tuple[str, ...]
    digest: str
    fingerprint: str
    size: int
    complete: bool = True

    @property
    def key(self) -> str:
        """The key of its group."""
        return f"{self.stem}/" if self.folder else self.stem


class Moved(Exception):
    """A file is no longer the one that was listed."""


class Hollow(Exception):
    """A large file begins with nothing but zeros: it is none of the formats, and not worth being read to its end."""


class Stopped(Exception):
    """The watcher stops."""


def digest_of(hashes: Mapping[str, str]) -> str:
    """The digest of an arrival from the SHA-256 of each file, by its name relative to the inbox."""
    lines = sorted(f"{name}:{digest}\n" for name, digest in hashes.items())
    return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def looks_complete(inbox: Path, group: Group) -> bool:
    """Whether no file of a group seems cut short; a loose model file without a byte does. Raises OSError."""
    if not group.folder and any(not stamp.size and not is_companion(stamp.name) for stamp in group.files):
        return False
    return all(is_complete(inbox / stamp.name) for stamp in group.files)


def check_hollow(inbox: Path, group: Group) -> None:
    """Raise Hollow for a single large model file whose first megabyte is zeros; files in folders may be raw weights.

    Downloads that reserve their place first look like that, and files that are one hole: hashing and copying them
    would take minutes, and fill the disk with what is not there. Raises OSError.
    """
    models = [stamp for stamp in group.files if not is_companion(stamp.name)]
    if group.folder or len(models) != 1 or models[0].size < LARGE:
        return
    descriptor = os.open(inbox / models[0].name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        if not any(file.read(CHUNK)):
            raise Hollow(models[0].name)


def read_arrival(inbox: Path, group: Group, complete: bool, stop: threading.Event) -> Arrival:
    """Hash every file. Raises Moved when one is not as listed any more, Stopped when asked to, OSError."""
    hashes = [_hash(inbox / stamp.name, stamp, stop) for stamp in group.files]
    return Arrival(
        stem=group.stem,
        folder=inbox / group.folder if group.folder else None,
        files=tuple(inbox / stamp.name for stamp in group.files),
        hashes=tuple(hashes),
        digest=digest_of({stamp.name: digest for stamp, digest in zip(group.files, hashes, strict=True)}),
        fingerprint=group.fingerprint,
        size=group.size,
        complete=complete,
    )


def _hash(path: Path, stamp: Stamp, stop: threading.Event) -> str:
    try:
        # O_NONBLOCK: should a pipe have taken the file's place, opening it does not hang.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError as error:
        raise Moved(str(path)) from error
    digest = hashlib.sha256()
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        _check(descriptor, stamp, path)
        while chunk := file.read(CHUNK):
            if stop.is_set():
                raise Stopped
            digest.update(chunk)
        _check(descriptor, stamp, path)
    return digest.hexdigest()


def _check(descriptor: int, stamp: Stamp, path: Path) -> None:
    seen = os.fstat(descriptor)
    if (seen.st_size, seen.st_mtime_ns, seen.st_ino) != (stamp.size, stamp.mtime_ns, stamp.inode):
        raise Moved(str(path))
