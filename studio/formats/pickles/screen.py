"""What a pickle would import, found without running any of it.

A pickle is a program whose only way out is to name a function or a class and call it. A machine that keeps Python's
stack and memo, and puts stand-ins where Python would import and call, walks all of it: nothing that the file names is
ever imported, and what is found is exactly what loading would look up. Source: PEP 307, pickletools, Lib/pickle.py.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from studio.core.errors import CodeFile, InvalidInput
from studio.formats.pickles._machine import Machine
from studio.formats.pickles._stack import Limits
from studio.formats.pickles._values import RECONSTRUCTOR, Blank, Broken, Made, Name, OldJoblib, Table

_CHUNK = 8 * 1024 * 1024
_FIRST = Limits(opcodes=20_000)
_SHOWN = 200
_FIX = "Copy it again, or save it again."


@dataclass(frozen=True, kw_only=True)
class Screened:
    """What one pickle would do. `names`: everything that loading looks up, in that order; `called`: what it calls;
    `given`: what it calls with arguments.

    `oddities`: what no pickler writes (calls of what a call gave, methods replaced by state), as words; a pickle with
    any may run code by other ways than the names tell. `value` stands for what it gives: Made, Table, a tuple, ….
    """

    names: tuple[Name, ...]
    called: frozenset[Name]
    given: frozenset[Name]
    oddities: tuple[str, ...]
    value: Any

    @property
    def kind(self) -> Name | None:
        """The class of what it gives, or the function that makes it. None for plain values."""
        return self.value.kind if isinstance(self.value, Made) else None

    @property
    def imports(self) -> tuple[str, ...]:
        """Names and oddities as texts that can be shown, sorted."""
        return tuple(sorted(shown(str(name)) for name in self.names)) + self.oddities


def code_file(path: Path, imports: tuple[str, ...], name: str = "") -> CodeFile:
    """What to ask about a file: its name, the SHA-256 of its content, and what it would import or call."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return CodeFile(name=name or path.name, sha256=digest.hexdigest(), imports=imports)


def pickle_imports(file: BinaryIO, name: str) -> tuple[str, ...]:
    """Every global that unpickling would look up, as `module.name`, sorted; then what no pickler writes, in words.

    The file stands behind the pickle afterwards: call it again for a next one. Raises InvalidInput when the stream is
    broken; `name` is for the words.
    """
    return screen_pickle(file, name).imports


def screen_pickle(file: BinaryIO, name: str, arrays: bool = False, limits: Limits | None = None) -> Screened:
    """Walk one pickle. `arrays`: step over the bytes that joblib writes behind the description of an array.

    The file stands behind the pickle afterwards. Raises InvalidInput when Python could not load the stream either, or
    only at a cost beyond `limits`; `name` is for the words.
    """
    machine = Machine(file, limits, arrays)
    try:
        value = machine.run()
    except Broken as error:
        raise InvalidInput(f"{name} is a damaged pickle.", f"{_capital(str(error))}.", _FIX) from error
    except OldJoblib as error:
        raise InvalidInput(
            f"{name} was written by joblib before 0.10.",
            "Its arrays are in files of their own, or in an old compressed form.",
            "Load it with the joblib that wrote it, and save it with joblib 1.2 or newer.",
        ) from error
    return _seen(machine, value)


def first_look(head: bytes, arrays: bool = True) -> Screened | None:
    """What the first bytes of a pickle tell: where they end in the middle, `value` is what it is going to give.

    None when they are no pickle. Takes a few milliseconds at most.
    """
    machine = Machine(io.BytesIO(head), _FIRST, arrays, cut=True)
    try:
        value = machine.run()
    except (Broken, OldJoblib):
        value = machine.outermost
        if not machine.count or (value is None and not machine.names):
            return None
    return _seen(machine, value)


def _seen(machine: Machine, value: Any) -> Screened:
    return Screened(
        names=tuple(machine.names),
        called=frozenset(machine.called),
        given=frozenset(machine.given),
        oddities=tuple(map(shown, machine.oddities)),
        value=value,
    )


def described(value: Any) -> str:
    """What a pickle gives, for people: 'a dictionary', 'a numpy array', 'an object of module.Class'."""
    if isinstance(value, Made):
        kind = value.kind
        if kind is None:
            return "an object"
        if kind.qualname in ("_reconstruct", "NumpyArrayWrapper") and ("numpy" in kind.module):
            return "a numpy array"
        is_class = kind.qualname.rpartition(".")[2].lstrip("_")[:1].isupper() or value.maker == RECONSTRUCTOR
        return f"an object of {shown(str(kind))}" if is_class else f"what {shown(str(kind))} gives when it is called"
    if isinstance(value, Name):
        return f"the name of {shown(str(value))}"
    if isinstance(value, Blank):
        return value.word
    words = {Table: "a dictionary", tuple: "a tuple", str: "a text", bool: "a truth value", int: "a number"}
    return words.get(type(value), "nothing")


def shown(text: str) -> str:
    """A name out of a file as it may be printed: one line, without control characters, not endless."""
    clean = "".join(letter if letter.isprintable() else f"\\x{ord(letter):02x}" for letter in text[: _SHOWN + 1])
    return clean if len(clean) <= _SHOWN else f"{clean[:_SHOWN]}…"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
