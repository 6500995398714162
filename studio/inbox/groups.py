"""Which files of a folder listing belong to one arrival. Pure: listings in, groups out."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath

SETTINGS_SUFFIX = ".toml"
SAMPLES_SUFFIX = ".npz"
FACTORY_SUFFIX = ".py"
TOKENIZER_SUFFIX = ".tokenizer.json"

# What editors, browsers and copying programs name a file that is not finished.
_TEMPORARY = re.compile(
    r"(^[.~])|(~$)|(^#.*#$)|\.(sw[a-p]|part|partial|crdownload|download|tmp|temp|bak)$", re.IGNORECASE
)
# External data of an ONNX file: model.onnx.data, model.onnx_data, model.onnx_data_1, model.onnx.data-00001, model.data.
_EXTERNAL = re.compile(r"^(?P<stem>.+?)(\.onnx([._-]data([._-].*)?|\.bin)|\.data)$", re.IGNORECASE)
_ARCHIVE = re.compile(r"^(?P<stem>.+)\.(tar\.[a-z0-9]{1,4})$", re.IGNORECASE)
_TOKENIZER = re.compile(r"^(?P<stem>.+)\.tokenizer\.json$", re.IGNORECASE)


@dataclass(frozen=True)
class Stamp:
    """A file as the file system describes it. `name` is relative to the inbox, with `/`; `size` in bytes."""

    name: str
    size: int
    mtime_ns: int
    inode: int


@dataclass(frozen=True)
class Skipped:
    """Something in the inbox that is left alone, and why, for people. `mark` tells it from another of that name."""

    name: str
    reason: str
    fix: str = ""
    mark: str = ""

    @property
    def stem(self) -> str:
        """The arrival that it is, or is part of."""
        top, inside, _ = self.name.partition("/")
        return top if inside else stem_of(top)

    @property
    def fingerprint(self) -> str:
        """SHA-256; equal = the same thing, left alone for the same reason."""
        told = f"{self.name}\0{self.reason}\0{self.mark}\n"
        return hashlib.sha256(told.encode("utf-8", "surrogateescape")).hexdigest()


@dataclass(frozen=True)
class Listing:
    """One look at the inbox. `folders` maps each sub-folder to its files, all names relative to the inbox.

    `empty`: sub-folders with nothing in them that counts, as themselves.
    """

    files: tuple[Stamp, ...]
    folders: dict[str, tuple[Stamp, ...]]
    skipped: tuple[Skipped, ...] = ()
    empty: tuple[Stamp, ...] = ()


@dataclass(frozen=True)
class Group:
    """Files that belong to one arrival, sorted by name. `folder` is the sub-folder's name, empty for loose files.

    `key` tells groups apart: the stem, with a `/` behind it for a folder.
    """

    stem: str
    files: tuple[Stamp, ...]
    folder: str = ""

    @property
    def key(self) -> str:
        return f"{self.stem}/" if self.folder else self.stem

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(stamp.size for stamp in self.files)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over every file's name, size, modification time and inode: equal = untouched, without reading it."""
        lines = (f"{file.name}\0{file.size}\0{file.mtime_ns}\0{file.inode}\n" for file in self.files)
        return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def is_ignored(name: str) -> bool:
    """Whether a file or folder name (its last part) is hidden, an editor's, or one that is still being written."""
    return bool(_TEMPORARY.search(name))


def stem_of(name: str) -> str:
    """The stem that a loose file's name stands for: `digits` for digits.pt2, digits.toml and digits.onnx.data."""
    match = _EXTERNAL.match(name) or _ARCHIVE.match(name) or _TOKENIZER.match(name)
    return match["stem"] if match else PurePosixPath(name).stem


def is_companion(name: str) -> bool:
    """Whether a file belongs to a model without being one.

    Settings, samples, external data, a tokenizer (NAME.tokenizer.json), code that makes a model of weights (NAME.py).
    """
    suffixes = (SETTINGS_SUFFIX, SAMPLES_SUFFIX, FACTORY_SUFFIX, TOKENIZER_SUFFIX)
    return name.lower().endswith(suffixes) or is_external_data(name)


def is_external_data(name: str) -> bool:
    """Whether a file is named as the weights that an ONNX file keeps outside."""
    return bool(_EXTERNAL.match(name))


def group(listing: Listing) -> dict[str, Group]:
    """The arrivals of a listing by key. O(n log n).

    Loose files of the same stem are one group; companions alone wait and are none. A sub-folder with files is a group
    of its own; companions of its name beside it join it, unless a loose model claims them.
    """
    loose = _loose(listing)
    groups = {}
    for stem, stamps in loose.items():
        if not all(is_companion(stamp.name) for stamp in stamps):
            groups[stem] = Group(stem, _sorted(stamps))
    for folder, stamps_in in listing.folders.items():
        if stamps_in:
            beside = loose.get(folder, []) if folder not in groups else []
            own = Group(folder, _sorted([*stamps_in, *beside]), folder)
            groups[own.key] = own
    return groups


def alone(listing: Listing) -> dict[str, Group]:
    """What waits for a model, by key: companions of a stem that no arrival has, and empty folders. O(n)."""
    claimed = {stem for stem, stamps in listing.folders.items() if stamps}
    found = {
        stem: Group(stem, _sorted(stamps))
        for stem, stamps in _loose(listing).items()
        if stem not in claimed and all(is_companion(stamp.name) for stamp in stamps)
    }
    for stamp in listing.empty:
        folder = Group(stamp.name, (stamp,), stamp.name)
        found[folder.key] = folder
    return found


def _loose(listing: Listing) -> dict[str, list[Stamp]]:
    """Loose files by stem."""
    loose: dict[str, list[Stamp]] = {}
    for stamp in listing.files:
        loose.setdefault(stem_of(stamp.name), []).append(stamp)
    return loose


def _sorted(stamps: Iterable[Stamp]) -> tuple[Stamp, ...]:
    return tuple(sorted(stamps, key=lambda stamp: stamp.name))
