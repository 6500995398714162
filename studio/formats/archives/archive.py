"""Unpacking archives (.zip, .tar, .tar.gz, .tar.bz2, .tar.xz, .mar) into an empty folder, and nothing outside of it.

An archive is a list of names that somebody else chose. Names that could lead out of the folder, stand for two files, or
mean different files on another system refuse the archive; links and devices are left out; everything that is written or
decompressed is counted against an allowance, so that a bomb ends early. Sources: PKWARE APPNOTE 6.3.10, POSIX.1-2001
pax, ATTACKS such as CVE-2023-5245 (zip slip) and CVE-2025-8194 (negative sizes in tar).
"""

from __future__ import annotations

import bz2
import errno
import gzip
import io
import lzma
import re
import stat
import struct
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal, cast

from studio.core.errors import InvalidInput, Refused
from studio.formats.sniff import head

Kind = Literal["zip", "tar", "tar.gz", "tar.bz2", "tar.xz"]

_CHUNK = 1024 * 1024
_BLOCK = 512
_LONGEST_PART = 200  # bytes; file systems end at 255
_DEEPEST = 24
_COMPRESSED: dict[bytes, tuple[Kind, Callable[[Path], Any]]] = {
    b"\x1f\x8b": ("tar.gz", gzip.GzipFile),
    b"BZh": ("tar.bz2", bz2.BZ2File),
    b"\xfd7zXZ\x00": ("tar.xz", lzma.LZMAFile),
}
_DAMAGED = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    struct.error,
    ValueError,
    OverflowError,
)
_NAMED_TAR = re.compile(r"\.(tar\.\w+|tgz|tbz2?|txz|mar)$", re.IGNORECASE)
# What packing programs put in beside the user's files.
_NOISE = frozenset({"__MACOSX", "Thumbs.db", "desktop.ini"})


@dataclass
class Allowance:
    """What unpacking one arrival may cost, archives inside archives included. `size`: bytes of the outermost archive.

    Up to `floor` bytes nothing is asked of the ratio: small files of text shrink a lot.
    """

    size: int
    files: int = 2000
    members: int = 20_000
    total: int = 16 * 1024**3
    ratio: int = 100
    floor: int = 64 * 1024**2
    spent: int = 0

    def write(self, name: str, count: int) -> None:
        """Count bytes that were unpacked. Raises Refused beyond the allowance."""
        self.spent += count
        if self.spent > self.total:
            raise _refused(name, f"it unpacks to more than {self.total // 1024**3} GB", "Drop the model itself.")
        if self.spent > max(self.floor, self.ratio * self.size):
            why = f"it unpacks to more than {self.ratio} times its size"
            raise _refused(name, why, "If it really is a model, unpack it and drop the model itself.")

    def add_member(self, name: str) -> None:
        """Count an entry of any kind, unpacked or not. Raises Refused beyond the allowance."""
        self.members -= 1
        if self.members < 0:
            raise _refused(name, "it holds too many entries", "Drop the model alone.")

    def add_file(self, name: str) -> None:
        """Count a file that is unpacked. Raises Refused beyond the allowance."""
        self.files -= 1
        if self.files < 0:
            raise _refused(name, "it holds too many files", "Drop the model alone.")


@dataclass(frozen=True)
class Unpacked:
    """What came out: `files` below the folder, in the archive's order, and how many links or devices were left out."""

    files: tuple[Path, ...]
    left_out: int


def archive_kind(path: Path) -> Kind | None:
    """What kind of archive a file is, from its content. Compressed files that hold no tar are none."""
    start = head(path, _BLOCK)
    if start[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        return "zip"
    if _is_tar(start):
        return "tar"
    for magic, (kind, opened) in _COMPRESSED.items():
        if start.startswith(magic):
            try:
                with opened(path) as stream:
                    return kind if _is_tar(stream.read(_BLOCK)) else None
            except (*_DAMAGED, OSError):
                # Cut before the first block: only its name can still say what it is.
                return kind if _NAMED_TAR.search(path.name) else None
    return None


def unpack(path: Path, into: Path, allowance: Allowance) -> Unpacked:
    """Write the regular files of an archive below `into`, an empty folder. Hidden files are left out silently.

    Raises Refused for what is unsafe, protected or too large; InvalidInput for what is damaged.
    """
    names = _Names(path.name, into, allowance)
    kind = archive_kind(path)
    with _in_words(path.name):
        if kind == "zip":
            _unzip(path, names, allowance)
        elif kind is not None:
            _untar(path, kind, names, allowance)
    return Unpacked(tuple(names.written), names.left_out)


def _is_tar(block: bytes) -> bool:
    """Whether a block is the header of a tar member: its checksum says so."""
    if len(block) < _BLOCK or not block[0]:
        return False
    said = block[148:156].split(b"\0", 1)[0].strip()
    if not re.fullmatch(rb"[0-7]+", said):
        return False
    return int(said, 8) == sum(block[:148]) + 8 * 32 + sum(block[156:])


# -- names


@dataclass
class _Names:
    """Gives each member its place, and refuses names that are not plain and unique."""

    archive: str
    into: Path
    allowance: Allowance
    written: list[Path] = field(default_factory=list)
    left_out: int = 0
    _files: set[str] = field(default_factory=set)
    _folders: set[str] = field(default_factory=set)

    def place(self, name: str) -> Path | None:
        """Where a regular file goes; None when it is hidden. Raises Refused."""
        parts = self._parts(name)
        if not parts or any(part.startswith(".") or part in _NOISE for part in parts):
            return None
        # What another system takes for the same name counts as the same.
        keys = [unicodedata.normalize("NFC", part).casefold() for part in parts]
        folders = {"/".join(keys[:end]) for end in range(1, len(keys))}
        key = "/".join(keys)
        if key in self._files or key in self._folders or folders & self._files:
            raise _refused(
                self.archive, f"two of its files would have the name {_shown(name)}", "Pack it again with unique names."
            )
        self._files.add(key)
        self._folders |= folders
        self.allowance.add_file(self.archive)
        target = self.into.joinpath(*parts)
        target.parent.mkdir(parents=True, exist_ok=True)
        self.written.append(target)
        return target

    def _parts(self, name: str) -> list[str]:
        outside = name.startswith("/") or "\\" in name or re.match(r"[A-Za-z]:", name) or ".." in name.split("/")
        if outside:
            raise _refused(
                self.archive,
                f"the name {_shown(name)} in it leads out of its folder",
                "Do not trust it. If you made it yourself, pack it with plain names.",
            )
        parts = [part for part in name.split("/") if part not in ("", ".")]
        plain = name.isprintable() and all(len(part.encode("utf-8", "replace")) <= _LONGEST_PART for part in parts)
        if not plain or len(parts) > _DEEPEST:
            raise _refused(
                self.archive,
                f"the name {_shown(name)} in it is no name for a file here",
                "Pack it again with shorter names, in plain letters.",
            )
        return parts


def _shown(name: str) -> str:
    text = "".join(letter if letter.isprintable() else "�" for letter in name[:80])
    return f"'{text}{'…' if len(name) > 80 else ''}'"


# -- the two kinds


def _unzip(path: Path, names: _Names, allowance: Allowance) -> None:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            allowance.add_member(path.name)
            mode = info.external_attr >> 16
            if info.is_dir() or stat.S_ISDIR(mode):
                continue
            if mode and stat.S_IFMT(mode) not in (0, stat.S_IFREG):
                names.left_out += 1
                continue
            if info.flag_bits & 0x41:
                raise _refused(path.name, "it is protected by a password", "Pack it again without one.")
            # zipfile ends a name at its first NUL, other programs do not.
            target = names.place(info.orig_filename if "\0" in info.orig_filename else info.filename)
            if target is None:
                continue
            with archive.open(info) as source, target.open("xb") as copy:
                _copy(source, copy, path.name, allowance)


def _untar(path: Path, kind: Kind, names: _Names, allowance: Allowance) -> None:
    decompressed: Callable[[Path], Any] = dict(_COMPRESSED.values()).get(kind, lambda file: file.open("rb"))
    with decompressed(path) as stream:
        # Everything that is decompressed counts, also what tarfile reads for itself or skips.
        metered = cast("IO[bytes]", _Metered(stream, path.name, allowance))
        with tarfile.open(fileobj=metered, mode="r|", errorlevel=2) as archive:
            for member in archive:
                allowance.add_member(path.name)
                if member.isdir():
                    continue
                if not member.isreg() or member.issparse() or member.size < 0:
                    names.left_out += 1
                    continue
                target = names.place(member.name)
                if target is None:
                    continue
                source = archive.extractfile(member)
                assert source is not None
                with target.open("xb") as copy:
                    while chunk := source.read(_CHUNK):
                        copy.write(chunk)


class _Metered(io.RawIOBase):
    """A stream that counts what is read from it."""

    def __init__(self, stream: Any, name: str, allowance: Allowance) -> None:
        self._stream, self._name, self._allowance = stream, name, allowance

    def read(self, size: int = -1) -> bytes:
        data: bytes = self._stream.read(size)
        self._allowance.write(self._name, len(data))
        return data


def _copy(source: IO[bytes], target: IO[bytes], name: str, allowance: Allowance) -> None:
    while chunk := source.read(_CHUNK):
        allowance.write(name, len(chunk))
        target.write(chunk)


# -- words


def _refused(name: str, why: str, fix: str) -> Refused:
    return Refused(f"The archive '{name}' is not unpacked: {why}.", fix=fix)


@contextmanager
def _in_words(name: str) -> Iterator[None]:
    try:
        yield
    except NotImplementedError as error:
        raise Refused(
            f"The archive '{name}' can not be unpacked.",
            f"It uses a way of packing that is not known here: {error}.",
            "Pack it again as an ordinary .zip or .tar.gz.",
        ) from error
    except (*_DAMAGED, OSError) as error:
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            # A full disk, not the archive: bz2 and gzip raise theirs without a number, and a place before the
            # beginning of the file, where a damaged zip sends its reader, is invalid.
            raise
        raise InvalidInput(
            f"The archive '{name}' is damaged or cut short.",
            f"{str(error).strip()[:300] or type(error).__name__}.",
            "Copy it again, wholly.",
        ) from error
