"""What a worker takes from itself before it reads a byte of the arrival.

Linux offers most: namespaces without a network or other processes, files read and written only where the task needs
them, system calls filtered. Elsewhere the resource limits, the scrubbed environment and the engine's clock remain. What
is in force is told to the engine, and shown by `studio doctor`.
"""

from __future__ import annotations

import contextlib
import os
import resource
import site
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import studio
from studio.core.errors import StepFailed
from studio.pipeline import landlock, seccomp
from studio.pipeline.namespaces import MOST_PROCESSES, Namespaces, c_library, drop_capabilities, processes_bound

_PR_SET_NO_NEW_PRIVS = 38  # prctl.h
_PACKAGE = Path(studio.__file__).resolve().parent

# Where systems keep programs, libraries and what these read; of /etc only what says how the system is set up.
_PROGRAMS = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/opt", "/nix/store", "/gnu/store")
_SYSTEM = (
    *("/dev/urandom", "/dev/random", "/dev/zero", "/dev/full"),
    *("/sys/bus", "/sys/devices", "/sys/fs/cgroup", "/sys/kernel/mm"),
    *(
        f"/etc/{name}"
        for name in (
            *("ld.so.cache", "ld.so.conf", "ld.so.conf.d", "ld-musl-x86_64.path", "alternatives", "os-release"),
            *("passwd", "group", "nsswitch.conf", "hosts", "host.conf", "resolv.conf", "gai.conf", "protocols"),
            *("services", "localtime", "timezone", "locale.alias", "locale.conf", "mime.types", "fonts", "ssl"),
        )
    ),
)
# The files of /proc that tell of the machine, where its folders would tell of other processes.
_MACHINE = tuple(
    f"/proc/{name}"
    for name in ("cpuinfo", "meminfo", "stat", "version", "filesystems", "uptime", "loadavg", "vmstat", "sys", "swaps")
)


@dataclass(frozen=True)
class Limits:
    """Bytes of address space and of any one file, seconds of processor time. 0 = as it was."""

    memory_bytes: int = 0
    file_bytes: int = 0
    cpu_seconds: int = 0


@dataclass(frozen=True)
class InForce:
    """How a worker is shut in, each a few words; `OPEN` marks what this system does not offer."""

    network: str
    reading: str
    writing: str
    syscalls: str
    processes: str
    limits: str

    def as_dict(self) -> dict[str, str]:
        return asdict(self)


OPEN = InForce(
    network="open",
    reading="the user's rights",
    writing="the user's rights",
    syscalls="all",
    processes="a group of their own",
    limits="none",
)


def environment(scratch: Path, threads: int, outer: Mapping[str, str]) -> dict[str, str]:
    """All that a worker sees of the environment: where programs and packages are, and nothing of the user's.

    `outer` is the engine's own environment.
    """
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
        # Its pools need semaphores in /dev/shm, where a worker can not write: it then works in one process.
        "JOBLIB_MULTIPROCESSING": "0",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
    }
    if "LD_LIBRARY_PATH" in outer:
        found["LD_LIBRARY_PATH"] = outer["LD_LIBRARY_PATH"]
    # HOME is not the user's: packages of `pip install --user` are found through this.
    found["PYTHONUSERBASE"] = site.getuserbase()
    paths = outer.get("PYTHONPATH", "").split(os.pathsep)
    root = _PACKAGE.parent
    if root.name not in ("site-packages", "dist-packages"):
        # A bare checkout, which perhaps only the engine's working folder made importable.
        paths.insert(0, str(root))
    found["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(str(Path(path).resolve()) for path in paths if path))
    return found


def enter(scratch: Path, inputs: tuple[str, ...], limits: Limits, got: Namespaces = Namespaces()) -> InForce:  # noqa: B008
    """Shut this process in. To be called before any thread starts; what the system does not offer is left out.

    `inputs` are all that it can read besides `scratch` and the files of programs. Raises StepFailed when a thread runs
    already: what the kernel forbids here it forbids to this thread, and to those that it starts.
    """
    if threads() > 1:
        raise StepFailed(
            "The worker could not be shut in, and so was not let near the file.",
            "A package that it imports starts a thread at once.",
            "Uninstall packages that add formats to Studio one by one, until it works.",
        )
    os.umask(0o077)
    os.nice(5)
    _limit(limits, got)
    libc = c_library()
    if libc is None:
        return InForce(**{**OPEN.as_dict(), "limits": _limit_words(limits, got)})
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    abi = landlock.restrict(libc, _places(scratch, inputs, got))
    # Root reads the files of others by a capability: harmless where Landlock says which, and else not left.
    drop_capabilities(keep_override=abi > 0 and os.geteuid() == 0 and not got.user)
    filtered = seccomp.install(libc, metadata=got.read_only)
    return InForce(
        network=_network_words(got, filtered, abi),
        reading="its inputs, programs and packages" if abi else OPEN.reading,
        writing="its scratch folder" if abi or got.read_only else OPEN.writing,
        syscalls="filtered" if filtered else OPEN.syscalls,
        processes=_process_words(got, abi),
        limits=_limit_words(limits, got),
    )


def threads() -> int:
    """How many threads this process has; 1 where that can not be seen."""
    try:
        return sum(1 for _ in Path("/proc/self/task").iterdir())
    except OSError:
        return 1


def _network_words(got: Namespaces, filtered: bool, abi: int) -> str:
    words = ["none, in a namespace of its own"] if got.network else []
    words += ["no sockets"] if filtered else ["no TCP"] if abi >= 4 else []
    return "; ".join(words) or OPEN.network


def _process_words(got: Namespaces, abi: int) -> str:
    if got.processes:
        return "a namespace of their own"
    return f"{OPEN.processes}, no signals to others" if abi >= 6 else OPEN.processes


def _limit_words(limits: Limits, got: Namespaces) -> str:
    words = []
    if limits.memory_bytes:
        words.append(f"{limits.memory_bytes / 1e9:.1f} GB of memory")
    if limits.file_bytes:
        words.append(f"{limits.file_bytes / 1e9:.1f} GB a file")
    if limits.cpu_seconds:
        words.append(f"{limits.cpu_seconds} s of processor time")
    bound = processes_bound(got) or (os.getuid() != 0 and _soft(resource.RLIMIT_NPROC) != resource.RLIM_INFINITY)
    words.append(f"{MOST_PROCESSES} processes" if bound else "any number of processes")
    return ", ".join(words)


def _places(scratch: Path, inputs: tuple[str, ...], got: Namespaces) -> landlock.Places:
    own = "/proc/self"
    return landlock.Places(
        write=landlock.real((str(scratch),)),
        # A process sets its own memory counters back to measure its peak.
        overwrite=landlock.real(("/dev/null", own)),
        execute=landlock.real((*_PROGRAMS, *_python())),
        read=landlock.real((*_SYSTEM, *inputs, *(("/proc",) if got.proc else _MACHINE))),
    )


def _python() -> tuple[str, ...]:
    """Folders of this interpreter and its packages."""
    home = _home()
    found = [sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix, str(_PACKAGE)]
    for entry in (*sys.path, *os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep)):
        place = Path(entry).resolve() if entry else None
        # A checkout holds more than the package; and a path over the whole home would open all of it.
        if place is not None and place != _PACKAGE.parent and not home.is_relative_to(place):
            found.append(str(place))
    if _PACKAGE.parent.name in ("site-packages", "dist-packages"):
        found.append(str(_PACKAGE.parent))
    return tuple(found)


def _home() -> Path:
    import pwd

    try:
        return Path(pwd.getpwuid(os.getuid()).pw_dir).resolve()
    except (KeyError, OSError):
        return Path("/root")


def _limit(limits: Limits, got: Namespaces) -> None:
    _lower(resource.RLIMIT_CORE, 0)
    for kind, value in (
        (resource.RLIMIT_AS, limits.memory_bytes),
        (resource.RLIMIT_FSIZE, limits.file_bytes),
    ):
        if value > 0:
            _lower(kind, value)
    if limits.cpu_seconds > 0:
        # SIGXCPU at the soft limit tells the engine which limit it was; SIGKILL follows for who ignores it. What its
        # imports took so far does not count.
        used = int(sum(os.times()[:2]))
        _lower(resource.RLIMIT_CPU, used + limits.cpu_seconds, used + limits.cpu_seconds + 5)
    if got.user:
        # Counted over all processes of the user, except in a user namespace of one's own.
        _lower(resource.RLIMIT_NPROC, MOST_PROCESSES)
    elif (running := _threads_of_user()) is not None:
        _lower(resource.RLIMIT_NPROC, running + MOST_PROCESSES)


def _threads_of_user() -> int | None:
    """How many threads run for this user; None where that can not be seen."""
    if not sys.platform.startswith("linux"):
        return None
    count, user = 0, os.getuid()
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError):
            if entry.stat().st_uid == user:
                count += sum(1 for _ in (entry / "task").iterdir())
    return count


def _soft(kind: int) -> int:
    return resource.getrlimit(kind)[0]


def _lower(kind: int, soft: int, hard: int | None = None) -> None:
    _, ceiling = resource.getrlimit(kind)
    top = soft if hard is None else hard
    if ceiling != resource.RLIM_INFINITY:
        top = min(top, ceiling)
    try:
        resource.setrlimit(kind, (min(soft, top), top))
    except (ValueError, OSError):
        return  # macOS refuses some limits
