"""Durable files: what was reported written is there after a power cut, wholly or not at all."""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
from pathlib import Path

from studio.core.errors import Conflict, StudioError, Unavailable

TEMP_PREFIX = ".tmp-"
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


def sync_file(descriptor: int) -> None:
    """fsync that reaches the disk. macOS' fsync stops at the drive's cache; F_FULLFSYNC does not."""
    full = getattr(fcntl, "F_FULLFSYNC", None)
    if full is not None:
        fcntl.fcntl(descriptor, full)
    else:
        os.fsync(descriptor)


def sync_folder(folder: Path) -> None:
    """Makes renames, links and removals inside a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def temp_path(folder: Path) -> Path:
    """A fresh name for a file that is still being written; `clean_temps` removes it after a crash."""
    return folder / f"{TEMP_PREFIX}{os.getpid()}-{secrets.token_hex(8)}"


def clean_temps(folder: Path) -> int:
    """Removes what a crash left half written. Only for the owner of the workspace. Returns how many."""
    found = [Path(entry.path) for entry in os.scandir(folder) if entry.name.startswith(TEMP_PREFIX)]
    for path in found:
        path.unlink(missing_ok=True)
    return len(found)


def make_folder(folder: Path, mode: int = 0o755) -> None:
    """Creates a folder with its parents, durably. Raises StudioError."""
    if folder.is_dir():
        return
    try:
        folder.mkdir(mode=mode, parents=True, exist_ok=True)
        sync_folder(folder.parent)
    except OSError as error:
        raise not_written(folder, error) from error


def write_atomic(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Replaces a file: readers see the old content or the new, never a mix. Raises Unavailable."""
    temp = temp_path(path.parent)
    try:
        _write_new(temp, data, mode)
        temp.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        temp.unlink(missing_ok=True)
        raise not_written(path, error) from error


def create_exclusive(path: Path, data: bytes, mode: int = 0o444) -> None:
    """Writes a file that must not exist yet; of two writers exactly one wins. Raises Conflict, Unavailable."""
    temp = temp_path(path.parent)
    try:
        _write_new(temp, data, mode)
        try:
            os.link(temp, path)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            _rename_exclusive(temp, path)
        sync_folder(path.parent)
    except FileExistsError as error:
        raise Conflict(
            f"{path.name} exists already.",
            f"{path} is written once and never replaced.",
            "Use the next version number.",
        ) from error
    except OSError as error:
        raise not_written(path, error) from error
    finally:
        temp.unlink(missing_ok=True)


def not_written(path: Path, error: OSError) -> StudioError:
    """The error of a failed write in words."""
    fixes = {
        errno.ENOSPC: "Free some disk space and try again.",
        errno.EDQUOT: "Free some disk space and try again.",
        errno.EACCES: "Give yourself write access to this folder, or choose another workspace with --workspace.",
        errno.EPERM: "Give yourself write access to this folder, or choose another workspace with --workspace.",
        errno.EROFS: "Choose a workspace on a writable disk with --workspace.",
    }
    fix = fixes.get(error.errno or 0, "Look at the disk, then try again.")
    return Unavailable(f"{path} could not be written.", f"{error.strerror or error}.", fix)


def _write_new(path: Path, data: bytes, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        write_all(descriptor, data)
        os.fchmod(descriptor, mode)
        sync_file(descriptor)
    finally:
        os.close(descriptor)


def write_all(descriptor: int, data: bytes) -> None:
    """os.write until everything is written."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _rename_exclusive(temp: Path, path: Path) -> None:
    # File systems without hard links (exFAT, some network mounts): the folder's lock makes check and rename one step.
    descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if path.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
        temp.rename(path)
    finally:
        os.close(descriptor)
