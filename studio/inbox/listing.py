"""One look at the inbox folder, without following a single link."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from studio.inbox.groups import Listing, Skipped, Stamp, is_ignored

MAX_FOLDER_FILES = 10_000
MAX_DEPTH = 16
# Codes for terminals, ends of lines, marks that turn text around, and bytes that are no text: none of them could be
# told of a job, and some would change what is read.
_UNSHOWN = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")

_KINDS = (
    (stat.S_ISFIFO, "a pipe (FIFO)"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISCHR, "a device"),
)


def list_inbox(folder: Path) -> Listing:
    """Every file of the inbox with its stamp. Names are relative to it, with `/`.

    Links, devices and pipes are skipped with a reason; hidden and temporary names silently. Raises OSError when the
    inbox itself can not be listed; what vanishes while it looks is simply not there.
    """
    files: list[Stamp] = []
    folders: dict[str, tuple[Stamp, ...]] = {}
    skipped: list[Skipped] = []
    empty: list[Stamp] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if is_ignored(entry.name):
                continue
            kind, stamp = _look(entry, entry.name, skipped)
            if kind == "folder":
                inside: list[Stamp] = []
                before = len(skipped)
                if _walk(Path(entry.path), entry.name, 1, inside, skipped):
                    folders[entry.name] = tuple(inside)
                if stamp is not None and not inside and len(skipped) == before:
                    empty.append(stamp)
            elif stamp is not None:
                files.append(stamp)
    return Listing(tuple(files), folders, tuple(skipped), tuple(empty))


def _walk(folder: Path, name: str, depth: int, found: list[Stamp], skipped: list[Skipped]) -> bool:
    """Adds what lies under a sub-folder. False when the whole arrival is to be left alone."""
    if depth > MAX_DEPTH:
        why = f"The folder is nested deeper than {MAX_DEPTH} levels."
        skipped.append(Skipped(name, why, "Drop the folder that the model itself lies in."))
        return False
    try:
        entries = list(os.scandir(folder))
    except FileNotFoundError:
        return True
    except OSError as error:
        why = f"The folder can not be read: {error.strerror}."
        skipped.append(Skipped(name, why, "Change its permissions."))
        return False
    for entry in entries:
        if is_ignored(entry.name):
            continue
        inner = f"{name}/{entry.name}"
        kind, stamp = _look(entry, inner, skipped)
        if kind == "folder":
            if not _walk(Path(entry.path), inner, depth + 1, found, skipped):
                return False
        elif stamp is not None:
            found.append(stamp)
        if len(found) > MAX_FOLDER_FILES:
            top = name.partition("/")[0]
            why = f"The folder holds more than {MAX_FOLDER_FILES} files; no model does."
            skipped.append(Skipped(f"{top}/", why, "Drop the folder that the model itself lies in."))
            return False
    return True


def _look(entry: os.DirEntry[str], name: str, skipped: list[Skipped]) -> tuple[str, Stamp | None]:
    if _UNSHOWN.search(entry.name):
        skipped.append(Skipped(_UNSHOWN.sub("�", name), "Its name holds codes that can not be shown.", "Rename it."))
        return "", None
    try:
        seen = entry.stat(follow_symlinks=False)
    except OSError:
        return "", None
    if stat.S_ISDIR(seen.st_mode):
        return "folder", Stamp(name, 0, seen.st_mtime_ns, seen.st_ino)
    if stat.S_ISREG(seen.st_mode):
        return "file", Stamp(name, seen.st_size, seen.st_mtime_ns, seen.st_ino)
    mark = f"{seen.st_ino}:{seen.st_mtime_ns}"
    if stat.S_ISLNK(seen.st_mode):
        why = "It is a symbolic link, and no link in the inbox is followed: it could lead anywhere."
        skipped.append(
            Skipped(name, why, "Put the file itself there; studio add FILE copies it, through links too.", mark)
        )
    else:
        kind = next((word for is_it, word in _KINDS if is_it(seen.st_mode)), "something")
        why = f"It is {kind}, and not a regular file."
        skipped.append(Skipped(name, why, "Drop a model file, and take this away.", mark))
    return "", None
