"""Archives that the tests build: honest ones, and those that somebody built to get out."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

Members = Mapping[str, bytes] | Iterable[tuple[str, bytes]]


def pairs(members: Members) -> list[tuple[str, bytes]]:
    return list(members.items() if isinstance(members, Mapping) else members)


def zipped(path: Path, members: Members, method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in pairs(members):
            info = zipfile.ZipInfo(name)
            info.filename = info.orig_filename = name
            info.compress_type = method
            archive.writestr(info, data)
    return path


def tarred(path: Path, members: Members, mode: str = "w:gz", extra: Iterable[tarfile.TarInfo] = ()) -> Path:
    """`extra`: headers without content, for links and devices."""
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for header in extra:
            archive.addfile(header)
        for name, data in pairs(members):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def header(name: str, kind: bytes, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def zipped_link(path: Path, name: str, target: str, members: Members = ()) -> Path:
    """A zip with a symbolic link, as Unix zip writes it."""
    with zipfile.ZipFile(path, "w") as archive:
        info = zipfile.ZipInfo(name)
        info.create_system = 3
        info.external_attr = 0o120777 << 16
        archive.writestr(info, target)
        for inner, data in pairs(members):
            archive.writestr(inner, data)
    return path


def protected(path: Path, members: Members) -> Path:
    """A zip that says that its members are encrypted."""
    data = bytearray(zipped(path, members).read_bytes())
    at = 0
    while (at := data.find(b"PK\x01\x02", at)) >= 0:
        data[at + 8] |= 1
        at += 4
    path.write_bytes(data)
    return path
