"""Run a command as on a system that refuses some system calls: a container, an old kernel.

python refusing.py unshare,landlock_create_ruleset -- command …
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys

NUMBERS = {
    "x86_64": {"unshare": 272, "landlock_create_ruleset": 444, "seccomp": 317, "prctl": 157, "mount": 165},
    "aarch64": {"unshare": 97, "landlock_create_ruleset": 444, "seccomp": 277, "prctl": 167, "mount": 40},
}[os.uname().machine]
ALLOW, REFUSE = 0x7FFF0000, 0x00050000 | errno.EPERM


def main() -> None:
    refused = sys.argv[1].split(",") if sys.argv[1] else []
    lines = []
    for name in refused:
        if name == "seccomp":  # installing a filter: PR_SET_SECCOMP
            lines += [(0x20, 0, 0, 0), (0x15, 0, 3, NUMBERS["prctl"]), (0x20, 0, 0, 16), (0x15, 0, 1, 22)]
        else:
            lines += [(0x20, 0, 0, 0), (0x15, 0, 1, NUMBERS[name])]
        lines.append((0x06, 0, 0, REFUSE))
    lines.append((0x06, 0, 0, ALLOW))
    data = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in lines))
    program = struct.pack("=HxxxxxxQ", len(lines), ctypes.addressof(data))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(38, 1, 0, 0, 0) == 0
    assert libc.prctl(22, 2, ctypes.create_string_buffer(program), 0, 0) == 0
    os.execv(sys.argv[3], sys.argv[3:])


if __name__ == "__main__":
    main()
