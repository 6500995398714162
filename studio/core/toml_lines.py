"""Where each key of a TOML text stands: tomllib gives values without places, and an error is worth little without one.

A scanner of its own over the text, linear in its length. It judges nothing: what is no TOML, tomllib says, and from
there on the scanner knows no more places. Source of the syntax: TOML 1.0.
"""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_right
from contextlib import suppress
from dataclasses import dataclass, field

Path = tuple[str | int, ...]
"""Keys from the top, numbers for places in arrays: ("inputs", "x", "shape", 1)."""

DEEPEST = 32

_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_SPACES = re.compile(r"[ \t]*")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_BASIC = re.compile(r'"(?:[^"\\\n]|\\.)*"')
_LITERAL = re.compile(r"'[^'\n]*'")
_LONG_BASIC = re.compile(r'"""(?:[^"\\]|\\.|"{1,2}(?!"))*"{3,5}', re.DOTALL)
_LONG_LITERAL = re.compile(r"'''(?:[^']|'{1,2}(?!'))*'{3,5}")
_SCALAR = re.compile(r"[^,\]}#\n]+")


@dataclass(frozen=True)
class Lines:
    """`found` maps paths to lines, counted from 1. `too_deep`: the line where keys or values nest beyond DEEPEST."""

    found: dict[Path, int] = field(default_factory=dict)
    too_deep: int = 0

    def of(self, *path: str | int) -> int:
        """The line of a path, or of the nearest thing around it; 0 when nothing of it was found."""
        while path and path not in self.found:
            path = path[:-1]
        return self.found.get(path, 0)


def lines_of(text: str) -> Lines:
    """The line of every table, key and array item in a TOML text. Items on the line of their array are left out."""
    scanner = _Scanner(text)
    with suppress(_Stop):
        scanner.scan()
    return Lines(scanner.found, scanner.too_deep)


class _Stop(Exception):
    """No TOML from here on, or too deep."""


class _Scanner:
    def __init__(self, text: str) -> None:
        self._text, self._at = text, 0
        self._starts = [0, *(match.end() for match in re.finditer("\n", text))]
        self._tables: dict[Path, int] = {}  # arrays of tables, and how many tables they have so far
        self.found: dict[Path, int] = {}
        self.too_deep = 0

    def scan(self) -> None:
        table: Path = ()
        while self._skip(_BLANK) < len(self._text):
            line = self._line()
            if self._took("[["):
                table = self._header(self._key(), line, repeated=True)
                self._expect("]]")
            elif self._took("["):
                table = self._header(self._key(), line, repeated=False)
                self._expect("]")
            else:
                self._pair(table, 0)

    # -- what stands in the text

    def _pair(self, table: Path, depth: int) -> None:
        line = self._line()
        path = table
        for part in self._key():
            path = (*path, part)
            self.found.setdefault(path, line)
        self._expect("=")
        self._skip(_SPACES)
        self._value(path, depth + 1)

    def _header(self, key: list[str], line: int, repeated: bool) -> Path:
        path: Path = ()
        for place, part in enumerate(key):
            path = (*path, part)
            self.found.setdefault(path, line)
            last = place == len(key) - 1
            if repeated and last:
                self._tables[path] = self._tables.get(path, 0) + 1
            if path in self._tables:
                path = (*path, self._tables[path] - 1)
                self.found.setdefault(path, line)
        if not repeated:
            self.found[path] = line  # a table may be opened behind those inside it
        return path

    def _key(self) -> list[str]:
        parts: list[str] = []
        while True:
            self._skip(_SPACES)
            parts.append(self._key_part())
            if len(parts) > DEEPEST:
                self._stop_deep()
            self._skip(_SPACES)
            if not self._took("."):
                return parts

    def _key_part(self) -> str:
        bare = self._match(_BARE_KEY)
        if bare:
            return bare
        quoted = self._match(_LITERAL) or self._match(_BASIC)
        if not quoted:
            raise _Stop
        try:
            return str(tomllib.loads(f"k = {quoted}")["k"])
        except tomllib.TOMLDecodeError as error:
            raise _Stop from error

    def _value(self, path: Path, depth: int) -> None:
        if depth > DEEPEST:
            self._stop_deep()
        if self._took("["):
            self._array(path, depth)
        elif self._took("{"):
            while not self._closed("}"):
                self._pair(path, depth)
        elif not any(self._match(kind) for kind in (_LONG_BASIC, _LONG_LITERAL, _BASIC, _LITERAL, _SCALAR)):
            raise _Stop

    def _array(self, path: Path, depth: int) -> None:
        place, around = 0, self._line()
        while not self._closed("]"):
            line = self._line()
            item = (*path, place)
            if line != around:
                self.found.setdefault(item, line)
            self._value(item, depth + 1)
            place += 1

    def _closed(self, mark: str) -> bool:
        """Past a comma, if there is one; then whether an array or inline table ends here."""
        self._skip(_BLANK)
        self._took(",")
        self._skip(_BLANK)
        return self._took(mark)

    # -- moving

    def _match(self, kind: re.Pattern[str]) -> str:
        match = kind.match(self._text, self._at)
        if match is None:
            return ""
        self._at = match.end()
        return match[0]

    def _skip(self, kind: re.Pattern[str]) -> int:
        self._match(kind)
        return self._at

    def _took(self, mark: str) -> bool:
        if not self._text.startswith(mark, self._at):
            return False
        self._at += len(mark)
        return True

    def _expect(self, mark: str) -> None:
        self._skip(_SPACES)
        if not self._took(mark):
            raise _Stop

    def _line(self) -> int:
        return bisect_right(self._starts, self._at)

    def _stop_deep(self) -> None:
        self.too_deep = self._line()
        raise _Stop
