"""`make bench-serve`, or `python -m tests.bench_serve --help`."""

from __future__ import annotations

import argparse
import fcntl
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

from tests.bench_serve import contenders, environments, extras, loads, models, report, rounds, targets, trees
from tests.bench_serve.environments import Missing

_INSIDE = "STUDIO_BENCH_INSIDE"
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1


def main() -> None:
    given = _arguments()
    if sys.platform != "linux":
        raise SystemExit("This runs on Linux only: it reads /proc.")
    loads.check_tools()
    chosen = [peer for peer in contenders.ALL if given.peers == "all" or peer.environment in given.peers.split(",")]
    if _INSIDE not in os.environ:
        if given.install:
            _install(dict.fromkeys(peer.environment for peer in chosen))
        _enter_loopback()
    _bring_up_loopback()
    trees.adopt_orphans()
    trees.wait_for_quiet(given.below, given.patience)
    _run(given, chosen)


def _run(given: argparse.Namespace, chosen: list[contenders.Peer]) -> None:
    results, began = rounds.Results(), time.monotonic()
    for peer in chosen:
        if peer.environment == "ray" and os.environ.get(_INSIDE) != "1":
            results.missing[peer.name] = (
                "listens on every interface; no network of its own could be made here (unshare)"
            )
    with tempfile.TemporaryDirectory(prefix="sb-") as name:
        folder, at_once = Path(name), tuple(map(int, given.at_once.split(",")))
        found = None
        for model_name in given.models.split(","):
            model = models.make(model_name, folder)
            counts = at_once if model_name == "tiny" or given.full else tuple(n for n in at_once if n <= 16)
            rounds.measure(model, chosen, counts, given.rounds, given.seconds, given.tries, folder, results, _say)
        if given.extras:
            _say("Studio alone: large bodies, swaps, start, memory, access log")
            found = extras.measure(models.make("tiny", folder), folder, given.rounds, given.seconds)
    judged = targets.judge(results, found)
    how = f"medians of {given.rounds} rounds of {given.seconds} s for each figure"
    text = report.render(results, found, judged, at_once, how)
    print(text)
    _say(f"took {time.monotonic() - began:.0f} s")
    if given.write:
        report.write(text)
        _say(f"written into {report.PAGE.name}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests.bench_serve", description=__doc__)
    names = ",".join(environments.ENVIRONMENTS)
    parser.add_argument("--peers", default="all", help=f"some of {names}; '' for none")
    parser.add_argument("--models", default="tiny,small", help=f"some of {','.join(models.KINDS)}")
    parser.add_argument("--at-once", default="1,16,64", help="connections")
    parser.add_argument("--full", action="store_true", help="more than 16 of them on the slower models too")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=1, help="of one measurement")
    parser.add_argument(
        "--tries", type=int, default=2, help="of one measurement that other work on the machine disturbs"
    )
    parser.add_argument("--below", type=float, default=1e9, help="wait for a load average below this first")
    parser.add_argument("--patience", type=float, default=600, help="seconds to wait for that")
    parser.add_argument(
        "--no-install", dest="install", action="store_false", help="use the environments that are there"
    )
    parser.add_argument("--no-extras", dest="extras", action="store_false", help="measure no more than the servers")
    parser.add_argument("--no-write", dest="write", action="store_false", help="print the tables, leave the page alone")
    return parser.parse_args()


def _install(names: dict[str, None]) -> None:
    for name in names:
        try:
            if not environments.ready(name):
                _say(f"making the environment of {name} in {environments.root()}, once")
            environments.make(name)
        except Missing as reason:
            _say(f"{name}: {reason.what}")


def _enter_loopback() -> None:
    """Start again where no network is but a loopback of our own: whatever a server listens on, only we reach it, and
    no server reaches anything else. Needs `unshare` (util-linux) and a system that permits it; else goes on without."""
    for how in (["unshare", "--net"], ["unshare", "--map-root-user", "--net"]):
        permitted = shutil.which("unshare") and subprocess.run([*how, "true"], capture_output=True, check=False)
        if permitted and permitted.returncode == 0:
            os.environ[_INSIDE] = "1"
            os.execvp(how[0], [*how, sys.executable, "-m", "tests.bench_serve", *sys.argv[1:]])


def _bring_up_loopback() -> None:
    if os.environ.get(_INSIDE) != "1":
        return
    with socket.socket() as sock:
        asked = fcntl.ioctl(sock, _SIOCGIFFLAGS, struct.pack("16sh14x", b"lo", 0))
        flags = struct.unpack("16sh14x", asked)[1]
        fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | _IFF_UP))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
