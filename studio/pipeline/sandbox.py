"""What a worker takes from itself before it reads a byte of the arrival.

Linux offers most: an own network namespace (or Landlock without TCP), writing to the scratch folder alone, death with
the engine. Elsewhere the resource limits, the scrubbed environment and the engine's clock remain. What is in force goes
into the job's log.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000  # sched.h
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 1, 36, 38  # prctl.h
_PROCESSES = 512


@dataclass(frozen=True)
class Limits:
    """Bytes of address space and of any one file, seconds of processor time. 0 = as it was."""

    memory_bytes: int = 0
    file_bytes: int = 0
    cpu_seconds: int = 0


@dataclass(frozen=True)
class InForce:
    """How a worker is shut in. `network`: namespace, no TCP, or open. `files`: scratch alone, or the user's rights."""

    network: str
    files: str

    def as_dict(self) -> dict[str, str]:
        return asdict(self)


def environment(scratch: Path, threads: int, outer: Mapping[str, str]) -> dict[str, str]:
    """All that a worker sees of the environment: where programs and packages are, and nothing of the user's.

    `outer` is the engine's own environment.
    """
    import site

    found = {
        "PATH": outer.get("PATH", os.defpath),
        "HOME": str(scratch),
        "TMPDIR": str(scratch),
        "LANG": "C.UTF-8",
        "USER": "studio",
        "ORT_DISABLE_TELEMETRY": "1",
        "OMP_NUM_THREADS": str(threads),
        "OPENBLAS_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
        # HOME is not the user's: packages of `pip install --user` are found through this.
        "PYTHONUSERBASE": site.getuserbase(),
    }
    paths = outer.get("PYTHONPATH", "").split(os.pathsep)
    root = Path(__file__).resolve().parents[2]
    if root.name not in ("site-packages", "dist-packages"):
        # A bare checkout, which perhaps only the engine's working folder made importable.
        paths.insert(0, str(root))
    found["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(str(Path(path).resolve()) for path in paths if path))
    if "LD_LIBRARY_PATH" in outer:
        found["LD_LIBRARY_PATH"] = outer["LD_LIBRARY_PATH"]
    return found


def enter(scratch: Path, limits: Limits, parent: int) -> InForce:
    """Shut this process in. To be called before any thread starts; what the system does not offer is left out.

    `parent` is the engine's process id: a worker whose engine is gone already ends at once.
    """
    os.umask(0o077)
    if os.getpgrp() != os.getpid():
        os.setsid()
    os.nice(5)
    linux = sys.platform.startswith("linux")
    libc = ctypes.CDLL(None, use_errno=True) if linux else None
    network = "namespace" if libc is not None and _own_network(libc) else "open"
    _limit(limits, own_count=network == "namespace")
    files = "the user's rights"
    if libc is not None:
        libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        abi = _landlock(libc, scratch)
        if abi >= 1:
            files = "scratch alone"
        if abi >= 4 and network == "open":
            network = "no TCP"
        # Last, because a change of credentials clears it.
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)
    return InForce(network, files)


def _own_network(libc: ctypes.CDLL) -> bool:
    user, group = os.getuid(), os.getgid()
    if libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) == 0:
        try:
            # Without a mapping, files made from here on would belong to nobody in the eyes of this process.
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
            Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
        except OSError:
            pass
        return True
    return bool(libc.unshare(_CLONE_NEWNET) == 0)


def _limit(limits: Limits, own_count: bool) -> None:
    _lower(resource.RLIMIT_CORE, 0)
    for kind, value in (
        (resource.RLIMIT_AS, limits.memory_bytes),
        (resource.RLIMIT_FSIZE, limits.file_bytes),
    ):
        if value > 0:
            _lower(kind, value)
    if limits.cpu_seconds > 0:
        # SIGXCPU at the soft limit tells the engine which limit it was; SIGKILL follows for who ignores it.
        _lower(resource.RLIMIT_CPU, limits.cpu_seconds, limits.cpu_seconds + 5)
    if own_count:
        # Counted over all processes of the user, except in a user namespace of one's own.
        _lower(resource.RLIMIT_NPROC, _PROCESSES)


def _lower(kind: int, soft: int, hard: int | None = None) -> None:
    _, ceiling = resource.getrlimit(kind)
    top = soft if hard is None else hard
    if ceiling != resource.RLIM_INFINITY:
        top = min(top, ceiling)
    try:
        resource.setrlimit(kind, (min(soft, top), top))
    except (ValueError, OSError):
        return  # macOS refuses some limits


class _Ruleset(ctypes.Structure):
    _fields_ = (("fs", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _PathRule(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32))


# linux/landlock.h: accesses to files that change something, by the ABI version that brought them.
_WRITING = 1 << 1 | sum(1 << bit for bit in range(4, 13))
_REFER, _TRUNCATE, _TCP, _SCOPES = 1 << 13, 1 << 14, 0b11, 0b11
_CREATE, _ADD, _RESTRICT = 444, 445, 446


def _landlock(libc: ctypes.CDLL, scratch: Path) -> int:
    """Allow writing below `scratch` alone, no TCP, no signals outwards. Returns the ABI in force, 0 for none.

    Source: Documentation/userspace-api/landlock.rst.
    """
    abi = libc.syscall(_CREATE, None, ctypes.c_size_t(0), ctypes.c_uint32(1))
    if abi < 1:
        return 0
    writing = _WRITING | (_REFER if abi >= 2 else 0) | (_TRUNCATE if abi >= 3 else 0)
    rules = _Ruleset(writing, _TCP if abi >= 4 else 0, _SCOPES if abi >= 6 else 0)
    size = 8 if abi < 4 else 16 if abi < 6 else 24
    ruleset = libc.syscall(_CREATE, ctypes.byref(rules), ctypes.c_size_t(size), ctypes.c_uint32(0))
    if ruleset < 0:
        return 0
    try:
        # /proc/self: a process sets its own memory counters back to measure its peak.
        places = ((str(scratch), writing), ("/dev/null", 1 << 1), ("/proc/self", 1 << 1))
        for place, allowed in places:
            # Opening for writing as programs do it, with O_TRUNC, asks for more than writing.
            if not _allow(libc, ruleset, place, allowed | (_TRUNCATE if abi >= 3 else 0)):
                return 0
        return abi if libc.syscall(_RESTRICT, ruleset, ctypes.c_uint32(0)) == 0 else 0
    finally:
        os.close(ruleset)


def _allow(libc: ctypes.CDLL, ruleset: int, place: str, allowed: int) -> bool:
    handle = os.open(place, os.O_PATH | os.O_CLOEXEC)
    try:
        rule = _PathRule(allowed, handle)
        done: int = libc.syscall(_ADD, ruleset, ctypes.c_int(1), ctypes.byref(rule), ctypes.c_uint32(0))
        return done == 0
    finally:
        os.close(handle)
