"""The stack and the memo of the machine that a pickle is a program for, and the plain values that go on them."""

from __future__ import annotations

import codecs
from dataclasses import dataclass
from typing import Any, BinaryIO

from studio.formats.pickles._frames import Frames
from studio.formats.pickles._values import BYTES, LONGEST_TEXT, NUMBER, TEXT, Broken, Table

_MEMO_GAP = 65_536
_MOST_ODDITIES = 50


@dataclass(frozen=True)
class Limits:
    """What a stream may cost. Python's own pickles stay far below: they pair and drop what they push."""

    opcodes: int = 100_000_000
    values: int = 8_000_000  # on the stack at once
    marks: int = 100_000


class Stack:
    """Values since the last mark, those below each mark, and numbered ones (the memo)."""

    def __init__(self, file: BinaryIO, limits: Limits, cut: bool = False) -> None:
        self._in, self.limits = Frames(file, cut), limits
        self._stack: list[Any] = []
        self._marks: list[list[Any]] = []
        self._below = 0  # values under all marks
        self._memo: dict[int, Any] = {}
        self.oddities: dict[str, None] = {}

    @property
    def outermost(self) -> Any:
        """The first value of the stack: what the pickle is going to give. None when there is none yet."""
        lowest = self._marks[0] if self._marks else self._stack
        return lowest[0] if lowest else None

    @property
    def height(self) -> int:
        return self._below + len(self._stack)

    def _pop(self) -> Any:
        if not self._stack:
            raise Broken("it takes a value that is not there")
        return self._stack.pop()

    def _top(self) -> Any:
        if not self._stack:
            raise Broken("it takes a value that is not there")
        return self._stack[-1]

    def _since_mark(self) -> list[Any]:
        if not self._marks:
            raise Broken("it takes back to a mark that is not there")
        items = self._stack
        self._stack = self._marks.pop()
        self._below -= len(self._stack)
        return items

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _in_place_of(self, _taken: Any, value: Any) -> None:
        self._stack.append(value)

    # Values.

    def text(self, size: int) -> None:
        length = self._in.number(size)
        if length > LONGEST_TEXT:
            self._in.skip(length)
            self._push(TEXT)
            return
        try:
            self._push(self._in.read(length).decode("utf-8", "surrogatepass"))
        except UnicodeDecodeError as error:
            raise Broken("a text in it is damaged") from error

    def old_text(self, size: int) -> None:
        length = self._in.number(size, signed=size == 4)
        if length < 0:
            raise Broken("a text in it has a negative length")
        if length > LONGEST_TEXT:
            self._in.skip(length)
            self._push(TEXT)
        else:
            self._push(_ascii(self._in.read(length)))

    def text_line(self) -> None:
        data = self._in.line()
        try:
            self._push(TEXT if data is None else str(data, "raw-unicode-escape"))
        except UnicodeDecodeError as error:
            raise Broken("a text in it is damaged") from error

    def quoted_line(self) -> None:
        data = self._in.line()
        if data is None:
            self._push(TEXT)
            return
        if len(data) < 2 or data[:1] != data[-1:] or data[:1] not in (b"'", b'"'):
            raise Broken("a text in it has no quotes")
        try:
            self._push(_ascii(codecs.escape_decode(data[1:-1])[0]))
        except ValueError as error:
            raise Broken("a text in it is damaged") from error

    def passed_over(self, size: int) -> None:
        self._in.skip(self._in.number(size))
        self._push(BYTES)

    def integer_line(self) -> None:
        data = self._in.line()
        if data in (b"00", b"01"):
            self._push(data == b"01")
            return
        try:
            # Longer ones are no sizes; Python takes quadratic time for them.
            self._push(NUMBER if data is None or len(data) > 20 else int(data.rstrip(b"L"), 0))
        except ValueError:
            self._push(NUMBER)

    def long(self, size: int) -> None:
        length = self._in.number(size, signed=size == 4)
        if length < 0:
            raise Broken("a number in it has a negative length")
        if length > 8:
            self._in.skip(length)
            self._push(NUMBER)
        else:
            self._push(int.from_bytes(self._in.read(length), "little", signed=True))

    def small(self, size: int, signed: bool = False) -> None:
        self._push(self._in.number(size, signed))

    def float_line(self) -> None:
        self._in.line()
        self._push(NUMBER)

    def float_(self) -> None:
        self._in.read(8)
        self._push(NUMBER)

    def tuple_of(self, size: int) -> None:
        if len(self._stack) < size:
            raise Broken("it takes a value that is not there")
        self._stack[-size:] = [tuple(self._stack[-size:])]

    def table(self) -> None:
        found = Table()
        self._fill(found, self._since_mark())
        self._push(found)

    def _fill(self, target: Any, items: list[Any]) -> None:
        if len(items) % 2:
            raise Broken("a dictionary in it has a key without a value")
        table = target if isinstance(target, Table) else Table()
        for place in range(0, len(items), 2):
            table.put(items[place], items[place + 1])
        if table is not target and any(name.startswith("__") for name in table.methods):
            self._odd("gives an object entries with the names of methods")

    def _odd(self, what: str) -> None:
        if len(self.oddities) < _MOST_ODDITIES:
            self.oddities.setdefault(what)

    def mark(self) -> None:
        if len(self._marks) >= self.limits.marks:
            raise Broken("it is nested too deeply")
        self._below += len(self._stack)
        self._marks.append(self._stack)
        self._stack = []

    def discard(self) -> None:
        if self._stack:
            self._stack.pop()
        else:
            self._since_mark()

    def set_item(self) -> None:
        value, key = self._pop(), self._pop()
        target = self._top()
        self._fill(target, [key, value])

    def set_items(self) -> None:
        items = self._since_mark()
        target = self._top()
        self._fill(target, items)

    # The memo.

    def remember(self, index: int) -> None:
        if index > len(self._memo) + _MEMO_GAP:
            raise Broken("it numbers its values in a way that would fill the memory")
        self._memo[index] = self._top()

    def recall(self, index: int) -> None:
        if index not in self._memo:
            raise Broken("it recalls a value that it never kept")
        self._push(self._memo[index])

    def index_line(self) -> int:
        data = self._in.line()
        try:
            index = int(data) if data is not None and len(data) <= 20 else -1
        except ValueError:
            index = -1
        if index < 0:
            raise Broken("it numbers a value in a way that is no number")
        return index


def _ascii(data: bytes) -> Any:
    try:
        return data.decode("ascii")
    except UnicodeDecodeError:  # bytes of Python 2; no name of anything
        return TEXT
