"""Landlock: which files a worker may read, write and execute.

Source: Documentation/userspace-api/landlock.rst and linux/landlock.h.
"""

from __future__ import annotations

import ctypes
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass

_CREATE, _ADD, _RESTRICT = 444, 445, 446
_VERSION = 1
# Accesses to files, by their bit.
_EXECUTE, _WRITE, _READ, _LIST = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_CHANGE_FOLDER = sum(1 << bit for bit in range(4, 13))
_REFER, _TRUNCATE, _IOCTL = 1 << 13, 1 << 14, 1 << 15
_OF_FILES = _EXECUTE | _WRITE | _READ | _TRUNCATE | _IOCTL
_TCP, _SCOPES = 0b11, 0b11


@dataclass(frozen=True)
class Places:
    """Files and folders, with all below them. What is not there is left out."""

    write: tuple[str, ...] = ()
    """Folders to read, write and change."""
    overwrite: tuple[str, ...] = ()
    """Files to read and write, such as devices."""
    execute: tuple[str, ...] = ()
    """To read, list and execute."""
    read: tuple[str, ...] = ()
    """To read and list."""


class _Ruleset(ctypes.Structure):
    _fields_ = (("fs", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _PathRule(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32))


def version(libc: ctypes.CDLL) -> int:
    """The kernel's ABI version; 0 without Landlock."""
    found: int = libc.syscall(_CREATE, None, ctypes.c_size_t(0), ctypes.c_uint32(_VERSION))
    return max(0, found)


def restrict(libc: ctypes.CDLL, places: Places) -> int:
    """Nothing but `places`, no TCP, and no signals or abstract sockets outwards, from here on and for all children.

    PR_SET_NO_NEW_PRIVS must be set. Returns the ABI version in force, 0 for none: from 4 it bars TCP, from 6 signals.
    """
    abi = version(libc)
    if abi < 1:
        return 0
    handled = _EXECUTE | _WRITE | _READ | _LIST | _CHANGE_FOLDER
    handled |= (_REFER if abi >= 2 else 0) | (_TRUNCATE if abi >= 3 else 0) | (_IOCTL if abi >= 5 else 0)
    rules = _Ruleset(handled, _TCP if abi >= 4 else 0, _SCOPES if abi >= 6 else 0)
    size = 8 if abi < 4 else 16 if abi < 6 else 24
    ruleset = libc.syscall(_CREATE, ctypes.byref(rules), ctypes.c_size_t(size), ctypes.c_uint32(0))
    if ruleset < 0:
        return 0
    try:
        read = _READ | _LIST
        for paths, allowed in (
            (places.write, handled & ~(_EXECUTE | _IOCTL)),
            (places.overwrite, read | _WRITE | _TRUNCATE),
            (places.execute, read | _EXECUTE),
            (places.read, read),
        ):
            if not all(_allow(libc, ruleset, path, allowed & handled) for path in dict.fromkeys(paths)):
                return 0
        return abi if libc.syscall(_RESTRICT, ruleset, ctypes.c_uint32(0)) == 0 else 0
    finally:
        os.close(ruleset)


def _allow(libc: ctypes.CDLL, ruleset: int, path: str, allowed: int) -> bool:
    try:
        handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return True
    try:
        if not stat.S_ISDIR(os.fstat(handle).st_mode):
            allowed &= _OF_FILES
        rule = _PathRule(allowed, handle)
        done: int = libc.syscall(_ADD, ruleset, ctypes.c_int(1), ctypes.byref(rule), ctypes.c_uint32(0))
        return done == 0
    finally:
        os.close(handle)


def real(paths: Iterable[str]) -> tuple[str, ...]:
    """The paths with symbolic links followed: what the kernel compares with. Empty ones are left out."""
    return tuple(dict.fromkeys(os.path.realpath(path) for path in paths if path))
