"""A system-call filter for workers: no sockets, no ways into other processes or the kernel's rarely used corners.

A classic BPF program, installed with prctl(2). Sources: seccomp(2), linux/seccomp.h, linux/filter.h, linux/audit.h, and
the kernel's tables of system-call numbers for x86_64 and for aarch64 (asm-generic/unistd.h).
"""

from __future__ import annotations

import ctypes
import errno
import platform
import struct
import sys
from dataclasses import dataclass

_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 22, 2
_KILL_PROCESS, _ERRNO, _ALLOW = 0x80000000, 0x00050000, 0x7FFF0000
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _AND, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
# struct seccomp_data: number, architecture, instruction pointer, six arguments, of which the low halves are looked at.
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16
_X32 = 0x40000000
_AF_UNIX, _SOCK_STREAM, _SOCK_SEQPACKET, _SOCK_KIND = 1, 1, 5, 0xF
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C
# CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET of linux/sched.h
_NEW_NAMESPACES = 0x00020000 | 0x02000000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000

Instruction = tuple[int, int, int, int]
"""Code, jump if true, jump if false, constant: struct sock_filter."""


@dataclass(frozen=True)
class Machine:
    """A kind of processor: its name in audit.h, its column in the table below, and whether it has a second ABI."""

    audit: int
    column: int
    x32: bool


MACHINES = {"x86_64": Machine(0xC000003E, 0, True), "aarch64": Machine(0xC00000B7, 1, False)}

# Numbers on x86_64 and aarch64; None: it is not there.
_REFUSED: dict[str, tuple[int | None, int | None]] = {
    # into other processes
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "kcmp": (312, 272),
    "pidfd_getfd": (438, 438),
    "process_madvise": (440, 440),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    # into the view of the file system, or past what Landlock sees
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "open_tree_attr": (467, 467),
    "open_by_handle_at": (304, 265),
    "fanotify_init": (300, 262),
    "truncate": (76, 45),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "unshare": (272, 97),
    "setns": (308, 268),
    # into the kernel
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "memfd_secret": (447, 447),
    "personality": (135, 92),
    "modify_ldt": (154, None),
    "uselib": (134, None),
    "lookup_dcookie": (212, 18),
    "nfsservctl": (180, 42),
    "iopl": (172, None),
    "ioperm": (173, None),
    # of the machine
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "syslog": (103, 116),
    "acct": (163, 89),
    "vhangup": (153, 58),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "adjtimex": (159, 171),
    "clock_adjtime": (305, 266),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    # to others: whatever is named rather than inherited
    "socket": (41, 198),
    "connect": (42, 203),
    "bind": (49, 200),
    "listen": (50, 201),
    "accept": (43, 202),
    "accept4": (288, 242),
    "shmget": (29, 194),
    "shmat": (30, 196),
    "msgget": (68, 186),
    "semget": (64, 190),
    "mq_open": (240, 180),
    "mq_unlink": (241, 181),
}
# Modes, owners and attributes of files, which Landlock does not watch. They say that it was done, because copying and
# unpacking ask for them on the way, and nothing is lost without. Times are left: who makes a file needs their errors.
_IGNORED: dict[str, tuple[int | None, int | None]] = {
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "chown": (92, None),
    "lchown": (94, None),
    "fchown": (93, 55),
    "fchownat": (260, 54),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "setxattrat": (463, 463),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
    "removexattrat": (466, 466),
    "file_setattr": (469, 469),
}
_CLONE, _CLONE3, _SOCKETPAIR, _IOCTL = (56, 220), (435, 435), (53, 199), (16, 29)


def program(machine: Machine, metadata: bool) -> list[Instruction]:
    """The filter as classic BPF. A system call that it knows nothing against is allowed.

    `metadata`: whether modes and owners of files may be changed.
    """
    column = machine.column
    lines: list[Instruction] = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, machine.audit),
        (_RETURN, 0, 0, _KILL_PROCESS),
        (_LOAD, 0, 0, _NUMBER),
    ]
    if machine.x32:
        lines += [(_AT_LEAST, 0, 1, _X32), (_RETURN, 0, 0, _ERRNO | errno.ENOSYS)]
    for table, answer in ((_REFUSED, _ERRNO | errno.EPERM), ({} if metadata else _IGNORED, _ERRNO)):
        for numbers in table.values():
            number = numbers[column]
            if number is not None:
                lines += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, answer)]
    # Its flags lie in memory, where a filter can not look; without it, the C library takes clone.
    lines += [(_EQUAL, 0, 1, _CLONE3[column]), (_RETURN, 0, 0, _ERRNO | errno.ENOSYS)]
    lines += _when(_CLONE[column], [*_argument(0), (_ANY_BIT, 0, 1, _NEW_NAMESPACES), _refuse(), _allow()])
    lines += _when(
        _SOCKETPAIR[column],
        # Only such ends as can never be turned towards a named socket: a datagram socket can.
        [
            *_argument(0),
            (_EQUAL, 1, 0, _AF_UNIX),
            _refuse(),
            *_argument(1),
            (_AND, 0, 0, _SOCK_KIND),
            (_EQUAL, 2, 0, _SOCK_STREAM),
            (_EQUAL, 1, 0, _SOCK_SEQPACKET),
            _refuse(),
            _allow(),
        ],
    )
    lines += _when(
        _IOCTL[column], [*_argument(1), (_EQUAL, 1, 0, _TIOCSTI), (_EQUAL, 0, 1, _TIOCLINUX), _refuse(), _allow()]
    )
    return [*lines, _allow()]


def _when(number: int, lines: list[Instruction]) -> list[Instruction]:
    return [(_EQUAL, 0, len(lines), number), *lines]


def _argument(place: int) -> list[Instruction]:
    return [(_LOAD, 0, 0, _ARGUMENTS + 8 * place)]


def _refuse() -> Instruction:
    return (_RETURN, 0, 0, _ERRNO | errno.EPERM)


def _allow() -> Instruction:
    return (_RETURN, 0, 0, _ALLOW)


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def install(libc: ctypes.CDLL, metadata: bool = False) -> bool:
    """Filter this process and all that it starts from here on. PR_SET_NO_NEW_PRIVS must be set.

    `metadata`: allow to change modes and owners, where files are read-only by other means. False where the kernel has
    no filters, or the machine is another.
    """
    machine = MACHINES.get(platform.machine())
    if machine is None or not sys.platform.startswith("linux") or sys.byteorder != "little":
        return False
    lines = b"".join(struct.pack("=HBBI", *line) for line in program(machine, metadata))
    held = ctypes.create_string_buffer(lines, len(lines))
    filtering = _Program(len(lines) // 8, ctypes.addressof(held))
    unused = ctypes.c_ulong(0)
    done: int = libc.prctl(
        _PR_SET_SECCOMP, ctypes.c_ulong(_SECCOMP_MODE_FILTER), ctypes.byref(filtering), unused, unused
    )
    return done == 0
