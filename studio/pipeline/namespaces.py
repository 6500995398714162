"""Namespaces of a worker's own: no network, no other processes in sight, and all of them gone with the first.

Sources: namespaces(7), user_namespaces(7), pid_namespaces(7), capabilities(7), prctl(2).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from dataclasses import dataclass, replace
from pathlib import Path

_USER, _NETWORK, _PROCESSES, _MOUNTS, _IPC = 0x10000000, 0x40000000, 0x20000000, 0x00020000, 0x08000000  # sched.h
# mount.h: nosuid, nodev and noexec; bound to another place; private with all below
_MS_PLAIN, _MS_BIND, _MS_PRIVATE = 0xE, 0x1000, 0x4000 | 1 << 18
_MOUNT_SETATTR, _HERE, _RECURSIVE, _READ_ONLY = 442, -100, 0x8000, 1
_PR_SET_PDEATHSIG, _PR_SET_NAME, _PR_CAPBSET_DROP, _PR_SET_CHILD_SUBREAPER = 1, 15, 24, 36  # prctl.h
_PR_CAP_AMBIENT, _CLEAR_ALL = 47, 4
_CAPABILITY_VERSION = 0x20080522
_OVERRIDE = 1  # CAP_DAC_OVERRIDE
# pid_max belongs to the PID namespace since Linux 6.14; before, writing it would change the whole machine.
_OWN_PID_MAX = (6, 14)

_PID_MAX = Path("/proc/sys/kernel/pid_max")

MOST_PROCESSES = 512


@dataclass(frozen=True)
class Namespaces:
    """What was permitted. `user`: mapped to itself, with nothing gained outside. `proc`: /proc shows no others.

    `read_only`: all files but those in the scratch folder.
    """

    user: bool = False
    network: bool = False
    processes: bool = False
    proc: bool = False
    read_only: bool = False


# From the most to the least. The second line is for root where user namespaces are switched off.
_TRIES = (
    (_USER | _NETWORK | _PROCESSES | _MOUNTS | _IPC, Namespaces(user=True, network=True, processes=True)),
    (_NETWORK | _PROCESSES | _MOUNTS | _IPC, Namespaces(network=True, processes=True)),
    (_USER | _NETWORK, Namespaces(user=True, network=True)),
    (_NETWORK, Namespaces(network=True)),
)


def c_library() -> ctypes.CDLL | None:
    """The C library with Linux's calls; None elsewhere."""
    return ctypes.CDLL(None, use_errno=True) if sys.platform.startswith("linux") else None


def separate() -> Namespaces:
    """Leave the namespaces of whoever started this process, as far as the system permits.

    Only a process with one thread may. Its own process id stays; the next process that it forks is the first of the
    new namespace, and everything in there ends with that one.
    """
    libc = c_library()
    if libc is None:
        return Namespaces()
    user, group = os.getuid(), os.getgid()
    for flags, got in _TRIES:
        if libc.unshare(flags) == 0:
            if got.user:
                # Without a mapping, files made from here on would belong to nobody in the eyes of this process.
                with contextlib.suppress(OSError):
                    Path("/proc/self/setgroups").write_text("deny")
                    Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
                    Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
            return got
    return Namespaces()


def settle(got: Namespaces, scratch: Path) -> Namespaces:
    """In the first process of a new PID namespace: see and change no more than what a worker needs.

    All files but those below `scratch` become read-only, /proc shows this namespace alone, and the number of its
    processes is bounded. What the system refuses is left as it was.
    """
    libc = c_library()
    if libc is None or not got.processes:
        return got
    if os.geteuid() == 0 and _kernel() >= _OWN_PID_MAX:
        # RLIMIT_NPROC does not bind root.
        with contextlib.suppress(OSError):
            _PID_MAX.write_text(str(MOST_PROCESSES))
    if libc.mount(None, b"/", None, ctypes.c_ulong(_MS_PRIVATE), None) != 0:
        return got
    read_only = _read_only(libc, os.fsencode(scratch))
    # Some containers hide parts of /proc, and then permit no second one.
    proc = libc.mount(b"proc", b"/proc", b"proc", ctypes.c_ulong(_MS_PLAIN), None) == 0
    return replace(got, proc=proc, read_only=read_only)


def _read_only(libc: ctypes.CDLL, scratch: bytes) -> bool:
    """Make every mount read-only but that of the scratch folder, which is given one of its own."""
    if libc.mount(scratch, scratch, None, ctypes.c_ulong(_MS_BIND), None) != 0:
        return False

    def change(place: bytes, how: int, set_: int, clear: int) -> bool:
        attributes = (ctypes.c_uint64 * 4)(set_, clear, 0, 0)
        size = ctypes.c_size_t(ctypes.sizeof(attributes))
        done: int = libc.syscall(_MOUNT_SETATTR, _HERE, place, ctypes.c_uint32(how), ctypes.byref(attributes), size)
        return done == 0

    return change(b"/", _RECURSIVE, _READ_ONLY, 0) and change(scratch, 0, 0, _READ_ONLY)


def _kernel() -> tuple[int, int]:
    words = os.uname().release.split(".")
    try:
        return int(words[0]), int(words[1].partition("-")[0])
    except (ValueError, IndexError):
        return 0, 0


def processes_bound(got: Namespaces) -> bool:
    """Whether the number of a worker's processes is bounded by its namespace, so that even root can not go beyond."""
    try:
        return got.processes and int(_PID_MAX.read_text()) <= MOST_PROCESSES
    except (OSError, ValueError):
        return False


def drop_capabilities(keep_override: bool) -> None:
    """Give up every capability for good. `keep_override`: but reading and writing files of other users, as root may."""
    libc = c_library()
    if libc is None:
        return
    kept = 1 << _OVERRIDE if keep_override else 0
    for number in range(64):
        if not kept >> number & 1:
            libc.prctl(_PR_CAPBSET_DROP, ctypes.c_ulong(number), *_none(3))
    libc.prctl(_PR_CAP_AMBIENT, ctypes.c_ulong(_CLEAR_ALL), *_none(3))
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0)
    libc.capset(ctypes.byref(header), ctypes.byref((ctypes.c_uint32 * 6)(kept, kept, 0, 0, 0, 0)))


def name_process(name: str) -> None:
    """What process lists call it; at most 15 characters."""
    libc = c_library()
    if libc is not None:
        libc.prctl(_PR_SET_NAME, ctypes.create_string_buffer(name.encode()[:15]), *_none(3))


def adopt_orphans() -> None:
    """Become the parent of all below whose own parent ends."""
    libc = c_library()
    if libc is not None:
        libc.prctl(_PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(1), *_none(3))


def end_with(parent: int) -> None:
    """Be killed when the parent ends; at once if it has ended already."""
    libc = c_library()
    if libc is not None:
        libc.prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL), *_none(3))
    if os.getppid() != parent:
        os._exit(1)


def _none(count: int) -> tuple[ctypes.c_ulong, ...]:
    return (ctypes.c_ulong(0),) * count
