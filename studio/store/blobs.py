"""Every file by its SHA-256, read-only, in one flat folder (so external ONNX data loads by its own hash)."""

from __future__ import annotations

import hashlib
import os
import re
import stat
import time
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from studio.core.errors import Conflict, InvalidInput, NotFound
from studio.core.manifest import FileRef
from studio.store.files import clean_temps, not_written, sync_file, sync_folder, temp_path, write_all

_HASH = re.compile(r"[0-9a-f]{64}")
_CHUNK = 1 << 20


class Blobs:
    """The folder `store/blobs/sha256`. Safe to call from several threads."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def put_file(
        self, path: Path, expected: str | None = None, name: str | None = None, follow: bool = False
    ) -> FileRef:
        """Copies a file in and returns its reference, named `name` (default: the file's own name).

        What was copied is what is hashed: a source that changes meanwhile can not end up under a wrong hash.
        Symbolic links are refused unless `follow`: what a worker left must not name files outside its folder.
        Raises NotFound, InvalidInput (not a regular file), Conflict (the content is not `expected`), Unavailable.
        """
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (0 if follow else os.O_NOFOLLOW)
        try:
            source = os.open(path, flags)
        except FileNotFoundError as error:
            raise NotFound(f"{path} does not exist.", "It was moved or removed meanwhile.") from error
        except OSError as error:
            raise InvalidInput(f"{path} could not be opened.", f"{error.strerror}.") from error
        if not stat.S_ISREG(os.fstat(source).st_mode):
            os.close(source)
            raise InvalidInput(f"{path} is not a regular file.", "Only regular files can be stored.")
        with os.fdopen(source, "rb", buffering=0) as stream:
            return self._store(stream, name or path.name, expected)

    def put_bytes(self, data: bytes, name: str) -> FileRef:
        """Stores bytes. Raises Unavailable."""
        temp = temp_path(self.folder)
        try:
            descriptor = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb", buffering=0) as target:
                write_all(descriptor, data)
                return self._keep(
                    target, temp, FileRef(name=name, sha256=hashlib.sha256(data).hexdigest(), size=len(data))
                )
        except OSError as error:
            raise not_written(self.folder, error) from error
        finally:
            temp.unlink(missing_ok=True)

    def path(self, sha256: str) -> Path:
        """Where the blob lies, or would lie. Raises InvalidInput for what is no hash."""
        if not _HASH.fullmatch(sha256):
            raise InvalidInput(f"{sha256[:80]!r} is not a SHA-256.", "A hash has 64 lower-case hexadecimal digits.")
        return self.folder / sha256

    def exists(self, sha256: str) -> bool:
        return self.path(sha256).is_file()

    def open(self, sha256: str) -> BinaryIO:
        """The blob for reading. Raises NotFound."""
        try:
            return self.path(sha256).open("rb")
        except FileNotFoundError as error:
            raise _missing(sha256) from error

    def verify(self, sha256: str) -> bool:
        """Whether the blob's content still has its hash. Reads all of it. Raises NotFound."""
        digest = hashlib.sha256()
        with self.open(sha256) as stream:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
        return digest.hexdigest() == sha256

    def clean(self) -> int:
        """Removes copies that a crash left half done. Only for the owner of the workspace, when it starts."""
        return clean_temps(self.folder)

    def hashes(self) -> set[str]:
        """All that is stored."""
        return {entry.name for entry in os.scandir(self.folder) if _HASH.fullmatch(entry.name)}

    def remove(self, hashes: Iterable[str]) -> int:
        """Removes blobs, whoever may refer to them. Returns the bytes freed."""
        freed = 0
        for sha256 in hashes:
            path = self.path(sha256)
            try:
                size = path.stat().st_size
                path.unlink()
            except FileNotFoundError:
                continue
            freed += size
        sync_folder(self.folder)
        return freed

    def collect(self, referenced: set[str], min_age_seconds: float = 3600.0) -> int:
        """Removes blobs that nothing refers to. Returns the bytes freed.

        Those stored or stored again within `min_age_seconds` stay: their manifest may be about to be written.
        """
        oldest = time.time() - min_age_seconds
        loose = [sha for sha in self.hashes() - referenced if (self.folder / sha).stat().st_mtime <= oldest]
        return self.remove(loose)

    def _store(self, stream: BinaryIO, name: str, expected: str | None) -> FileRef:
        temp = temp_path(self.folder)
        digest = hashlib.sha256()
        size = 0
        try:
            descriptor = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb", buffering=0) as target:
                while chunk := stream.read(_CHUNK):
                    digest.update(chunk)
                    write_all(descriptor, chunk)
                    size += len(chunk)
                found = digest.hexdigest()
                if expected is not None and found != expected:
                    raise Conflict(
                        f"{name} changed while it was being stored.",
                        f"Its hash is {found[:12]}…, expected was {expected[:12]}….",
                        "Drop it again when it is complete.",
                    )
                return self._keep(target, temp, FileRef(name=name, sha256=found, size=size))
        except OSError as error:
            raise not_written(self.folder, error) from error
        finally:
            temp.unlink(missing_ok=True)

    def _keep(self, target: BinaryIO, temp: Path, reference: FileRef) -> FileRef:
        final = self.folder / reference.sha256
        if final.is_file() and final.stat().st_size == reference.size:
            # A fresh time protects the blob from `collect` until its new manifest is written.
            os.utime(final)
            return reference
        os.fchmod(target.fileno(), 0o444)
        sync_file(target.fileno())
        temp.replace(final)
        sync_folder(self.folder)
        return reference


def _missing(sha256: str) -> NotFound:
    return NotFound(
        f"The blob {sha256[:12]}… is missing from the store.",
        "It was removed or lost outside of Studio.",
        "Drop the source file again: the same content gets the same hash.",
    )
