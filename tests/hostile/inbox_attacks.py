"""Names that mislead, and what lies in the inbox and is no plain file."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from studio.inbox.groups import stem_of
from studio.inbox.listing import _UNSHOWN
from tests.formats.graphs import linear
from tests.hostile.place import ANY, FAILED, Attack, Place, drop

MODEL = linear().SerializeToString()

# -- names


def named(name: str | bytes) -> Callable[[Place], None]:
    """A good model under an odd name; the stem of the attack stands for it nowhere."""

    def plant(place: Place) -> None:
        draft = place.inbox / ".odd.tmp"
        # Another producer each: identical content would be one version under many names.
        draft.write_bytes(MODEL + b"\x12\x08" + os.urandom(4).hex().encode())
        os.rename(os.fsencode(draft), os.path.join(os.fsencode(place.inbox), os.fsencode(name)))  # noqa: PTH104, PTH118

    return plant


NAMES: dict[str, str | bytes] = {
    "newline": "new\nline.onnx",
    "escape": "\x1b[2Jclear.onnx",
    "bidi": "evil\u202exnno.exe.onnx",
    "dots": "a..%2f..%2f..%2fetc%00.onnx",
    "dotdot": "a..onnx",
    "backslash": "a..\\..\\w.onnx",
    "dash": "-rf.onnx",
    "shell": "$(touch canary);`id`.onnx",
    "quotes": "'\"<b>.onnx",
    "spaces": "  .onnx",
    "emoji": "🦊" * 60 + ".onnx",
    "long": "n" * 250 + ".onnx",
    "bytes": b"\xff\xfe\x80.onnx",
    "device": "CON.onnx",
    "nothing": "_.onnx",
}


def _names() -> Iterable[Attack]:
    fast = {"newline", "bidi", "dots", "long", "bytes"}
    for name, given in NAMES.items():
        stem = _UNSHOWN.sub("�", stem_of(os.fsdecode(given)))
        states, words = (FAILED, "can not be shown") if "�" in stem else (ANY, "")
        yield Attack(f"name-{name}", named(given), states, words, slow=name not in fast, aims="S10", stem=stem)


# -- what is no plain file


def at_inbox(make: Callable[[Path, Place], object]) -> Callable[[Place], None]:
    def plant(place: Place) -> None:
        make(place.inbox / f"{place.stem}.onnx", place)

    return plant


def bound(path: Path, _: Place) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # the name of a socket may have 108 bytes
    try:
        socket.socket(socket.AF_UNIX).bind(path.name)
    finally:
        os.chdir(here)


def unreadable(path: Path, place: Place) -> None:
    place.file(".onnx", MODEL + b"\x12\x01u").chmod(0)


def swapped(path: Path, place: Place) -> None:
    """For a second the file is in turn a model, half of it, a link to the secret, and nothing."""

    def act() -> None:
        until = time.monotonic() + 1.5
        turn = 0
        while time.monotonic() < until:
            draft = place.inbox / f".{place.stem}.tmp"
            draft.unlink(missing_ok=True)
            if turn % 4 == 2:
                draft.symlink_to(place.secret)
            elif turn % 4 == 3:
                os.mkfifo(draft)
            else:
                draft.write_bytes(MODEL[: None if turn % 4 else 100] + b"\x12\x01" + bytes([65 + turn % 26]))
            draft.rename(path)
            turn += 1
            time.sleep(0.04)
        path.unlink(missing_ok=True)
        place.file(".onnx", MODEL + b"\x12\x04last")

    threading.Thread(target=act, daemon=True).start()


def deep_folders(path: Path, place: Place) -> None:
    inner = path.with_suffix("")
    for _ in range(30):
        inner = inner / "d"
    inner.mkdir(parents=True)
    (inner / "model.onnx").write_bytes(MODEL)


def crowd(path: Path, place: Place) -> None:
    place.folder({f"f{number}.bin": b"x" for number in range(2500)})


def with_links(path: Path, place: Place) -> None:
    def then(folder: Path) -> None:
        (folder / "loop").symlink_to(folder)
        (folder / "model.onnx").symlink_to(place.secret)
        os.mkfifo(folder / "pipe.onnx")

    place.folder({"notes.txt": b"nothing"}, then)


_INBOX = (
    Attack(
        "inbox-link", at_inbox(lambda path, place: path.symlink_to(place.secret)), FAILED, "symbolic link", aims="S1"
    ),
    Attack("inbox-loop", at_inbox(lambda path, _: path.symlink_to(path)), FAILED, "symbolic link"),
    Attack("inbox-pipe", at_inbox(lambda path, _: os.mkfifo(path)), FAILED, "not a regular file"),
    Attack("inbox-socket", at_inbox(bound), FAILED, "not a regular file"),
    Attack("inbox-deep", at_inbox(deep_folders), FAILED, "nested deeper"),
    Attack("inbox-crowd", at_inbox(crowd), words="more than", slow=True),
    Attack("inbox-links", at_inbox(with_links), words="text file"),
    Attack("inbox-empty", drop(".onnx", b""), words="empty", slow=True),
    Attack("inbox-unreadable", at_inbox(unreadable), ANY, slow=True),
    Attack("inbox-swapped", at_inbox(swapped), ANY, aims="S24 F4"),
)

ATTACKS: tuple[Attack, ...] = (*_names(), *_INBOX)
