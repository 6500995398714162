"""Folders of workers: what they were given is read-only, and all of it goes when they are done."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path


def make_read_only(folder: Path) -> None:
    """Take the right to write from a folder and all in it. A sandbox forbids it as well, where the system has one."""
    for place in (*_folders(folder), folder):
        for child in place.iterdir():
            if child.is_file() and not child.is_symlink():
                child.chmod(0o400)
        place.chmod(0o500)


def remove_folder(folder: Path) -> None:
    """Remove a folder with what is read-only in it. What can not be removed stays."""
    for place in (folder, *_folders(folder)):
        try:
            place.chmod(0o700)
        except OSError:
            continue
    shutil.rmtree(folder, ignore_errors=True)


def _folders(folder: Path) -> Iterator[Path]:
    try:
        children = list(folder.iterdir())
    except OSError:
        return
    for child in children:
        if child.is_dir() and not child.is_symlink():
            yield child
            yield from _folders(child)
