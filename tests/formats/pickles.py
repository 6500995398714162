"""Streams of pickle instructions, written by hand: what picklers write and what attackers would."""

from __future__ import annotations

import _compat_pickle
import io
import pickle
import struct
from pathlib import Path
from typing import Any

import joblib

from studio.formats.pickles.screen import Screened, screen_pickle

SYSTEM = ("posix", "system")


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def looked_up(module: str, name: str) -> bytes:
    """STACK_GLOBAL, as protocol 4 names things."""
    return text(module) + text(name) + b"\x93"


def global_(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def called(what: bytes, *args: bytes) -> bytes:
    return what + b"(" + b"".join(args) + b"tR"


def stream(*parts: bytes, proto: int = 4) -> bytes:
    return b"\x80" + bytes([proto]) + b"".join(parts) + b"."


def framed(data: bytes) -> bytes:
    return b"\x95" + struct.pack("<Q", len(data)) + data


class Inert:
    """Takes whatever a stream does to an object."""

    def __new__(cls, *_args: Any, **_more: Any) -> Inert:
        return object.__new__(cls)

    def __init__(self, *args: Any, **more: Any) -> None:
        pass

    def __call__(self, *_args: Any, **_more: Any) -> Inert:
        return Inert()

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, item: Any) -> None:
        pass

    def extend(self, items: Any) -> None:
        pass

    def add(self, item: Any) -> None:
        pass


class InC(pickle.Unpickler):
    """Python's own unpickler, which notes what it looks up and imports nothing."""

    def __init__(self, file: Any) -> None:
        super().__init__(file)
        self.looked_up: set[tuple[str, str]] = set()

    def find_class(self, module: str, name: str) -> Any:
        self.looked_up.add((module, name))
        return Inert

    def persistent_load(self, _pid: Any) -> Any:
        return Inert()


class InPython(pickle._Unpickler):  # type: ignore[name-defined]
    """The same of the one that joblib is made of."""

    def __init__(self, file: Any) -> None:
        super().__init__(file)
        self.looked_up: set[tuple[str, str]] = set()

    def find_class(self, module: str, name: str) -> Any:
        self.looked_up.add((module, name))
        return Inert

    def persistent_load(self, _pid: Any) -> Any:
        return Inert()

    def get_extension(self, _code: int) -> None:
        self.append(Inert)


class Payload:
    """Writes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return open, (str(self.mark), "w")


_OS = text("os") + b"\x94" + text("system") + b"\x94"
# Ways to name posix.system or os.system that a look at the text alone may miss.
HIDDEN: dict[str, bytes] = {
    "GLOBAL": stream(global_("os", "system"), proto=2),
    "GLOBAL of protocol 0, without a mark of it": global_("os", "system") + b".",
    "STACK_GLOBAL": stream(looked_up("os", "system")),
    "STACK_GLOBAL out of the memo": stream(_OS, b"00", b"h\x00h\x01\x93"),
    "STACK_GLOBAL out of a numbered memo, in the other order": stream(
        text("system") + b"r\x05\0\0\x00" + b"0" + text("os") + b"p7\n" + b"0" + b"g7\nj\x05\0\0\x00\x93"
    ),
    "STACK_GLOBAL of old texts": stream(b"S'os'\n" + b"V\\u0073ystem\n" + b"\x93"),
    "STACK_GLOBAL of short old texts": stream(b"U\x02osU\x06system\x93"),
    "STACK_GLOBAL of escaped texts": stream(b"S'\\x6fs'\nS\"sys\\x74em\"\n\x93"),
    "INST": stream(b"(" + text("ls") + b"ios\nsystem\n", proto=1),
    "OBJ": stream(b"(" + global_("os", "system") + text("ls") + b"o", proto=2),
    "a name of Python 2": stream(global_("commands", "getoutput"), global_("os", "system"), proto=2),
    "dropped again": stream(global_("os", "system"), b"0N"),
    "under a mark that is dropped": stream(b"(", looked_up("os", "system"), b"1N"),
    "doubled": stream(looked_up("os", "system"), b"2\x86"),
    "in a state": stream(
        called(global_("collections", "OrderedDict")), b"}" + text("f"), looked_up("os", "system"), b"sb"
    ),
    "in a frame": stream(framed(looked_up("os", "system"))),
    "over two frames": stream(framed(text("os")), framed(text("system") + b"\x93")),
    "behind a change of protocol": stream(b"\x80\x02", global_("os", "system"), b"\x80\x04"),
    "behind a long text": stream(text("x" * 100_000), b"0", looked_up("os", "system")),
    "behind bytes that look like the end": stream(b"C\x03..." + b"0", looked_up("os", "system")),
    "as a key": stream(b"}", looked_up("os", "system"), b"Ns"),
    "as an argument of what is called": stream(called(looked_up("builtins", "map"), looked_up("os", "system"))),
    "behind an object kept elsewhere": stream(b"N", b"Q", b"0", looked_up("os", "system")),
}


def nested_tuples(depth: int) -> bytes:
    """((…), (…)): 2 to the power of `depth` empty tuples, which are one."""
    return b")" + b"2\x86" * depth


# Streams that cost more than they are long, or lie about their length. None of them is to be loaded.
HOSTILE: dict[str, bytes] = {
    "nothing": b"",
    "no instruction": b"\x80\x04\xff.",
    "only the end": b".",
    "a protocol of tomorrow": b"\x80\x09N.",
    "a mark too few": stream(b"t"),
    "a value too few": stream(b"\x85"),
    "an odd dictionary": stream(b"}(Nu"),
    "recalled, never kept": stream(b"h\x05"),
    "a frame of 8 EB": b"\x80\x04\x95" + b"\xff" * 7 + b"\x7f" + b"N.",
    "a frame inside another": stream(framed(framed(b"N") + b"N")),
    "an instruction over the end of a frame": b"\x80\x04" + framed(b"X\x05\0\0\0ab") + b"cdeN.",
    "bytes of 8 EB": stream(b"\x8e" + b"\xff" * 7 + b"\x7f"),
    "an array of bytes of 8 EB": stream(b"\x96" + b"\xff" * 7 + b"\x7f"),
    "a text of 8 EB": stream(b"\x8d" + b"\xff" * 7 + b"\x7f"),
    "a number of 2 GB": stream(b"\x8b\xff\xff\xff\x7f"),
    "a number of a negative length": stream(b"\x8b\xff\xff\xff\xff"),
    "a text of a negative length": stream(b"T\xff\xff\xff\xff"),
    "a memo of 32 GB": stream(b"Nr\xff\xff\xff\xff"),
    "a memo of 10 digits": stream(b"Np4000000000\n"),
    "a memo at a negative place": stream(b"Np-1\n"),
    "marks without end": b"\x80\x04" + b"(" * 200_000,
    "a name that is a number": stream(b"K\x01K\x02\x93"),
    "a name longer than any": stream(text("o" * 5000), text("x"), b"\x93"),
    "a call of a number": stream(b"K\x01)R"),
    "a call with a list": stream(global_("os", "system"), b"]R"),
    "data kept elsewhere": stream(b"\x97"),
}


def screened(data: bytes, arrays: bool = False) -> Screened:
    return screen_pickle(io.BytesIO(data), "the file", arrays)


def dumped(value: Any, compress: Any = 0, protocol: int | None = None) -> bytes:
    file = io.BytesIO()
    joblib.dump(value, file, compress=compress, protocol=protocol)
    return file.getvalue()


def names(seen: Screened) -> set[tuple[str, str]]:
    return {(name.module, name.qualname) for name in seen.names}


def of_today(name: tuple[str, str]) -> tuple[str, str]:
    """What Python 3 looks up for a name of Python 2."""
    module, qualname = name
    return _compat_pickle.NAME_MAPPING.get(name) or (_compat_pickle.IMPORT_MAPPING.get(module, module), qualname)
