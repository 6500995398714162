"""Ways out of a worker, each really tried by code in one; what is told of the sandbox is what holds."""

from __future__ import annotations

import errno
import json
import os
import pwd
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from studio.core.errors import Refused, StepFailed, StudioError
from studio.pipeline.seccomp import MACHINES, Instruction, program
from tests.formats.graphs import linear, outside, save, weights
from tests.pipeline.conftest import Runner, content

REFUSING = Path(__file__).with_name("refusing.py")

RUNNING = """
import json, traceback

class Running:
    name, title, extra = "running", "Code (.run)", None

    def recognise(self, files):
        code = files.content[0].read_text(errors="replace")
        if not code.startswith("#run"):
            return None
        told = {}
        exec(code, {"told": told, "arrival": files.content[0]})
        with open("told.json", "w") as file:
            json.dump(told, file)

    def convert(self, *_):
        raise AssertionError

FORMAT = Running()
"""

# Given to all code that runs in a worker: whether an attempt fails, and with which error.
HELPERS = """#run
import ctypes, errno, os, socket, struct, time
from pathlib import Path

def attempt(name, work):
    try:
        told[name] = repr(work())
    except OSError as error:
        told[name] = errno.errorcode.get(error.errno, str(error))
"""

Run = Callable[..., Any]


@pytest.fixture
def run(plugin: Callable[[str, str], Path], runner: Runner, tmp_path: Path) -> Run:
    """Run code in a worker, on an arrival that it can read; what it told."""
    plugin(RUNNING, "[studio.formats]\nrunning = odd_package:FORMAT\n")
    folder = tmp_path / "arrivals"
    folder.mkdir()

    async def inside(code: str, **values: object) -> dict[str, str]:
        arrival = folder / "arrival.run"
        given = "".join(f"{name} = {value!r}\n" for name, value in values.items())
        arrival.write_text(f"{HELPERS}{given}{code}")
        with pytest.raises(Refused):
            await runner.intake(arrival)
        told: dict[str, str] = json.loads((runner.scratch / "told.json").read_text())
        return told

    return inside


REFUSED = {"EACCES", "EPERM", "EROFS", "EXDEV", "ENOENT"}
"""EXDEV: what lies in another mount or outside of Landlock's domain can not be linked or moved across."""


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("there", None),
        ("below", None),
        ("missing", "The weights file 'w.bin' is missing"),
        ("link", "leads through a symbolic link"),
        ("itself", "The weights of 'w' are said to lie in the model's own file"),
    ],
)
async def test_weights_beside_a_model_are_found_without_their_folder(
    runner: Runner, tmp_path: Path, case: str, words: str | None
) -> None:
    """The files of a flat arrival are given one by one: the folder that they lie in can not be listed."""
    place = {"itself": "./model.onnx", "below": "sub/w.bin"}.get(case, "w.bin")
    model = save(outside(place), tmp_path / "model.onnx")
    data, files = tmp_path / place, [model]
    data.parent.mkdir(exist_ok=True)
    if case == "link":
        (tmp_path / "elsewhere").write_bytes(weights().tobytes())
        data.symlink_to("elsewhere")
    elif case in ("there", "below"):
        data.write_bytes(weights().tobytes())
        files.append(data)
    if words is None:
        assert (await runner.intake(*files)).graph_path
        return
    with pytest.raises(StudioError) as caught:
        await runner.intake(*files)
    assert words in caught.value.what


async def test_the_inputs_can_be_read_and_nothing_else(run: Run, runner: Runner, tmp_path: Path) -> None:
    told = await run(
        """
attempt("read", lambda: len(arrival.read_bytes()) > 0)
attempt("write", lambda: arrival.write_text("changed"))
attempt("append", lambda: open(arrival, "a"))
attempt("cut", lambda: os.truncate(arrival, 0))
attempt("remove", arrival.unlink)
attempt("rename", lambda: arrival.rename("mine"))
attempt("replace", lambda: os.replace("/dev/null", arrival))
attempt("link", lambda: os.link(arrival, "linked"))
attempt("beside", lambda: (arrival.parent / "new").touch())
os.symlink(arrival, "alias")
attempt("through a link", lambda: open("alias", "a"))
try:
    arrival.chmod(0o777)
except OSError:
    pass
attempt("after chmod", lambda: open(arrival, "a"))
attempt("own", lambda: Path("own").write_text("mine"))
"""
    )
    assert told.pop("read") == "True"
    assert told.pop("own") == "4"
    assert set(told.values()) <= REFUSED, told
    arrival = tmp_path / "arrivals" / "arrival.run"
    assert arrival.read_text().startswith("#run")
    assert arrival.stat().st_mode & 0o777 == 0o644 & ~_umask()
    assert [child.name for child in arrival.parent.iterdir()] == ["arrival.run"]


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


async def test_the_files_of_the_user_can_not_be_read(run: Run, tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("token")
    home = pwd.getpwuid(os.getuid()).pw_dir
    told = await run(
        """
attempt("home", lambda: os.listdir(home))
attempt("secret", lambda: open(secret).read())
attempt("beside the inputs", lambda: os.listdir(arrival.parent))
attempt("other workers", lambda: os.listdir(os.path.dirname(os.getcwd())))
attempt("passwords", lambda: open("/etc/shadow").read())
attempt("environment", lambda: open(f"/proc/{pid}/environ").read())
attempt("command line", lambda: open(f"/proc/{pid}/cmdline").read())
attempt("memory", lambda: open(f"/proc/{pid}/mem", "rb").read(1))
attempt("descriptor", lambda: os.listdir(f"/proc/{pid}/fd"))
attempt("disk", lambda: open("/dev/vda", "rb"))
attempt("terminal", lambda: open("/dev/tty"))
attempt("packages", lambda: bool(os.listdir(os.path.dirname(json_file))))
attempt("system", lambda: bool(open("/etc/passwd").read()))
""",
        home=home,
        secret=str(secret),
        pid=os.getpid(),
        json_file=json.__file__,
    )
    assert told.pop("packages") == told.pop("system") == "True"
    # ENXIO: a worker has no terminal to open.
    assert set(told.values()) <= {*REFUSED, "ENXIO"}, told


async def test_no_socket_leads_out(run: Run, tmp_path: Path) -> None:
    with listening(tmp_path) as (port, abstract, path, seen):
        told = await run(
            """
def tcp(address, family=socket.AF_INET):
    with socket.socket(family, socket.SOCK_STREAM) as one:
        one.settimeout(2)
        one.connect(address)
attempt("loopback", lambda: tcp(("127.0.0.1", port)))
attempt("loopback IPv6", lambda: tcp(("::1", port), socket.AF_INET6))
attempt("public", lambda: tcp(("192.0.2.1", 80)))
attempt("datagram", lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"!", ("127.0.0.1", port)))
attempt("abstract", lambda: tcp(abstract, socket.AF_UNIX))
attempt("path", lambda: tcp(path, socket.AF_UNIX))
attempt("datagram to a path", lambda: socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)[0].sendto(b"!", path))
attempt("a listener", lambda: socket.create_server(("127.0.0.1", 0)))
attempt("netlink", lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW))
attempt("name", lambda: socket.getaddrinfo("example.org", 80))
one, other = socket.socketpair()
attempt("turned round", lambda: one.connect(path))
one.sendall(b"within")
told["pair"] = other.recv(9).decode()
""",
            port=port,
            abstract=abstract,
            path=path,
        )
        assert told.pop("pair") == "within"
        assert told.pop("name").startswith("[Errno"), "no name is resolved"
        assert set(told.values()) <= {"EPERM", "EACCES"}, told
        assert not seen


@contextmanager
def listening(folder: Path) -> Iterator[tuple[int, str, str, list[object]]]:
    """Sockets that a worker may try: a TCP port, an abstract name, a path; and what came in."""
    seen: list[object] = []
    abstract, path = f"\0studio-test-{os.getpid()}", str(folder / "socket")
    with (
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.socket(socket.AF_UNIX) as named,
        socket.socket(socket.AF_UNIX) as filed,
    ):
        named.bind(abstract)
        filed.bind(path)
        named.listen()
        filed.listen()

        def accept(server: socket.socket) -> None:
            try:
                seen.append(server.accept())
            except OSError:
                return

        for server in (tcp, named, filed):
            threading.Thread(target=accept, args=(server,), daemon=True).start()
        yield tcp.getsockname()[1], abstract, path, seen
        for server in (tcp, named, filed):
            server.shutdown(socket.SHUT_RDWR)


async def test_other_processes_can_not_be_touched(run: Run) -> None:
    told = await run(
        """
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *arguments):
    if libc.syscall(ctypes.c_long(number), *map(ctypes.c_long, arguments)) < 0:
        raise OSError(ctypes.get_errno(), "")
attempt("trace", lambda: call(numbers["ptrace"], 0x4206, pid, 0, 0))
attempt("read memory", lambda: call(numbers["process_vm_readv"], pid, 0, 0, 0, 0, 0))
attempt("kill", lambda: os.kill(pid, 0))
attempt("kill all", lambda: [os.kill(other, 0) for other in range(3, 40000) if other != os.getpid()] and None)
attempt("priority", lambda: os.setpriority(os.PRIO_PROCESS, pid, 19))
for name in ("mount", "unshare", "bpf", "perf_event_open", "userfaultfd", "io_uring_setup", "keyctl", "setns",
             "add_key", "init_module", "kexec_load", "reboot", "open_by_handle_at", "fanotify_init", "personality"):
    attempt(name, lambda: call(numbers[name], 0, 0, 0, 0, 0))
attempt("clone3", lambda: call(435, 0, 0))
attempt("new namespaces", lambda: call(numbers["clone"], 0x10000000 | 17, 0, 0, 0, 0))
""",
        pid=os.getpid(),
        numbers=_numbers(),
    )
    assert told.pop("clone3") == "ENOSYS"
    assert told.pop("kill") in ("ESRCH", "EPERM")
    assert told.pop("kill all") in ("ESRCH", "EPERM")
    assert told.pop("priority") in ("ESRCH", "EPERM", "EACCES")
    assert set(told.values()) == {"EPERM"}, told


def _numbers() -> dict[str, int]:
    from studio.pipeline.seccomp import _CLONE, _REFUSED

    column = MACHINES[os.uname().machine].column
    found = {name: numbers[column] for name, numbers in _REFUSED.items()} | {"clone": _CLONE[column]}
    return {name: number for name, number in found.items() if number is not None}


async def test_a_fork_bomb_is_bounded_and_gone_with_its_worker(run: Run, runner: Runner) -> None:
    told = await run(
        """
started = 0
try:
    while started < 3000:
        if os.fork() == 0:
            os.setsid()
            time.sleep(600)
        started += 1
except OSError as error:
    told["error"] = errno.errorcode[error.errno]
told["started"] = started
"""
    )
    assert "512 processes" in runner.sandbox["limits"]
    assert told["error"] == "EAGAIN"
    assert 100 < int(told["started"]) < 512
    below = [one for one in psutil.Process().children(recursive=True) if one.status() != psutil.STATUS_ZOMBIE]
    # Fork servers that earlier tests have started wait for the next one.
    left = [one for one in below if one.name() == "studio-worker" or not one.name().startswith("studio-")]
    assert not left, left
    assert int(content("/proc/sys/kernel/pid_max")) > 512, "the bound is the worker's alone"


async def test_modes_and_times_change_where_it_may_write(run: Run, runner: Runner) -> None:
    told = await run(
        """
import shutil
Path("a").write_text("x")
shutil.copy2("a", "b")
os.utime("b", (1, 1))
os.chmod("b", 0o400)
told["time"] = os.stat("b").st_mtime
attempt("inputs", lambda: os.utime(arrival, (1, 1)))
"""
    )
    assert told == {"time": 1.0, "inputs": "EROFS"}
    assert runner.sandbox["writing"] == "its scratch folder"


@pytest.mark.parametrize(
    ("refused", "open_", "escaped"),
    [
        ("", [], []),
        # As most containers are: no namespaces.
        ("unshare", [], []),
        # An old kernel too: what is left of it is the filter.
        (
            "unshare,landlock_create_ruleset",
            ["reading", "writing", "processes"],
            ["read a file of yours", "write to a file of yours", "see another process", "signal another process"],
        ),
        ("landlock_create_ruleset", ["reading"], ["read a file of yours"]),
        ("seccomp", ["syscalls"], []),
    ],
)
def test_what_is_told_is_what_holds(refused: str, open_: list[str], escaped: list[str]) -> None:
    command = [sys.executable, "-m", "studio.pipeline.probe"]
    done = subprocess.run(
        [sys.executable, str(REFUSING), refused, "--", *command], capture_output=True, text=True, check=True
    )
    told = json.loads(done.stdout)
    assert told["open"] == open_
    assert told["escaped"] == escaped
    assert ("namespace" in told["in_force"]["network"]) is ("unshare" not in refused)
    assert ("no sockets" in told["in_force"]["network"]) is (refused != "seccomp")


async def test_a_worker_with_threads_is_not_let_near_the_file(
    plugin: Callable[[str, str], Path], runner: Runner, tmp_path: Path
) -> None:
    plugin(
        "import threading, time\nthreading.Thread(target=time.sleep, args=(60,), daemon=True).start()\nFORMAT = 1\n",
        "[studio.formats]\nodd = odd_package:FORMAT\n",
    )
    with pytest.raises(StepFailed, match="could not be shut in"):
        await runner.intake(save(linear(), tmp_path / "linear.onnx"), preload=True)


def interpret(lines: list[Instruction], data: bytes) -> int:
    """What a classic BPF program answers: the instructions that seccomp.py uses, as linux/filter.h defines them."""
    at = value = 0
    while True:
        code, yes, no, constant = lines[at]
        at += 1
        if code == 0x20:
            value = int.from_bytes(data[constant : constant + 4], "little")
        elif code == 0x54:
            value &= constant
        elif code == 0x06:
            return constant
        else:
            true = {0x15: value == constant, 0x35: value >= constant, 0x45: bool(value & constant)}[code]
            at += yes if true else no


@pytest.mark.parametrize("name", MACHINES)
def test_the_filter_answers_on_every_machine(name: str) -> None:
    machine = MACHINES[name]
    lines, open_lines = program(machine, metadata=False), program(machine, metadata=True)
    allowed, refused, ignored = 0x7FFF0000, 0x00050000 | errno.EPERM, 0x00050000
    numbers = {
        "x86_64": {"read": 0, "openat": 257, "ptrace": 101, "socket": 41, "fchmodat": 268, "clone": 56, "ioctl": 16},
        "aarch64": {"read": 63, "openat": 56, "ptrace": 117, "socket": 198, "fchmodat": 53, "clone": 220, "ioctl": 29},
    }[name]

    def answer(number: int, *arguments: int, architecture: int = machine.audit, of: list[Instruction] = lines) -> int:
        head = number.to_bytes(4, "little") + architecture.to_bytes(4, "little") + bytes(8)
        return interpret(of, head + b"".join(one.to_bytes(8, "little") for one in (*arguments, *[0] * 6)[:6]))

    assert answer(numbers["read"]) == answer(numbers["openat"]) == allowed
    assert answer(numbers["ptrace"]) == answer(numbers["socket"], 1) == answer(numbers["socket"], 2) == refused
    assert answer(numbers["fchmodat"]) == ignored
    assert answer(numbers["fchmodat"], of=open_lines) == allowed
    assert answer(numbers["clone"], 17) == allowed
    assert answer(numbers["clone"], 0x10000000 | 17) == refused
    assert answer(435) == 0x00050000 | errno.ENOSYS
    pair = {"x86_64": 53, "aarch64": 199}[name]
    assert answer(pair, 1, 1 | 0x80000) == answer(pair, 1, 5) == allowed
    assert answer(pair, 1, 2) == answer(pair, 2, 1) == refused
    assert answer(numbers["ioctl"], 1, 0x5401) == allowed
    assert answer(numbers["ioctl"], 1, 0x5412) == answer(numbers["ioctl"], 1, 0x541C) == refused
    assert answer(numbers["read"], architecture=0x40000003) == 0x80000000, "32-bit calls have other numbers"
    assert (answer(0x40000000 | 41) == allowed) is not machine.x32
