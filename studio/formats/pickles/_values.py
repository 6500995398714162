"""What stands on the machine's stack in place of real values, and how a stream is found wanting."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

LONGEST_TEXT = 4096  # a longer one is no name of anything
_MOST_ENTRIES = 1024  # more than attributes of any object whose state matters here
_MOST_METHODS = 16
_CALLED = frozenset({"append", "extend", "add"})


class Broken(Exception):
    """The stream is no pickle that Python would load; the text says why."""


class OldJoblib(Exception):
    """Written by joblib before 0.10, which kept arrays in files of their own."""


@dataclass(frozen=True, slots=True)
class Name:
    """Something that loading imports: a module, and the dotted name in it."""

    module: str
    qualname: str

    def __str__(self) -> str:
        return f"{self.module}.{self.qualname}"


@dataclass(slots=True, eq=False, repr=False)
class Made:
    """What a call would give. `states`: what was then put into it."""

    maker: Any
    args: tuple[Any, ...]
    states: int = 0
    state: Any = None

    @property
    def kind(self) -> Name | None:
        """The class of the object, as far as the stream tells it."""
        maker = self.maker
        if maker == RECONSTRUCTOR and self.args and isinstance(self.args[0], Name):
            return self.args[0]
        return maker if isinstance(maker, Name) else None

    def __str__(self) -> str:
        return str(self.kind or "a call")

    __repr__ = __str__  # the generated one would write out whatever it was made from


@dataclass(slots=True, eq=False)
class Table:
    """A dictionary: its first entries under short texts.

    `methods`: keys that, as attributes, would stand before methods that unpickling calls. `whole`: nothing was left out
    of `known` but keys that equal no text. `odd`: some key is an object, which may equal any text.
    """

    known: dict[str, Any] = field(default_factory=dict)
    methods: list[str] = field(default_factory=list)
    whole: bool = True
    odd: bool = False

    def put(self, key: Any, value: Any) -> None:
        if type(key) is str:
            if (key[:2] == key[-2:] == "__" or key in _CALLED) and len(self.methods) < _MOST_METHODS:
                self.methods.append(key)
            if len(self.known) < _MOST_ENTRIES:
                self.known[key] = value
            else:
                self.whole = False
        elif isinstance(key, Made):
            self.odd = True


@dataclass(frozen=True, slots=True, eq=False)
class Blank:
    """A value whose content says nothing here; `word` names it for people."""

    word: str


LIST, SET, BYTES, NUMBER, TEXT = Blank("a list"), Blank("a set"), Blank("bytes"), Blank("a number"), Blank("a text")
FOREIGN_OBJECT = Blank("an object kept elsewhere")
RECONSTRUCTOR = Name("copyreg", "_reconstructor")
