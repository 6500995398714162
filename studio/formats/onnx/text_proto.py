"""Reading protobuf's text format without its schema: `config.pbtxt` of Triton, as plain dictionaries.

Source: protobuf.dev/reference/protobuf/textformat-spec. A field that stands once and one that repeats look alike, so
every field is a list. Extensions and `Any` are read under the name between their brackets.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

Value = str | int | float | dict[str, list["Value"]]
Message = dict[str, list[Value]]

LARGEST = 256 * 1024
_DEEPEST = 32

_TOKEN = re.compile(
    r"""(?P<space>[\s]+|\#[^\n]*)
      | (?P<string>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')
      | (?P<number>-?\s*(?:0[xX][0-9a-fA-F]+|(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?[fF]?))(?![\w.])
      | (?P<name>-?[A-Za-z_][\w]*)
      | (?P<extension>\[[\w./\s-]+\](?=\s*[:{<]))
      | (?P<mark>[{}<>\[\]:,;])""",
    re.VERBOSE,
)
_ESCAPE = re.compile(r"\\(?:([0-7]{1,3})|[xX]([0-9a-fA-F]{1,2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.))", re.DOTALL)
_PLAIN = {"n": "\n", "r": "\r", "t": "\t", "a": "\a", "b": "\b", "f": "\f", "v": "\v"}


class NotText(ValueError):
    """The text is not in the format. `line` counts from 1."""

    def __init__(self, line: int, why: str) -> None:
        super().__init__(f"line {line}: {why}")
        self.line, self.why = line, why


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    line: int


def read_text(text: str) -> Message:
    """The fields of a message in text format. Raises NotText; takes time and memory in proportion to the text."""
    if len(text) > LARGEST:
        raise NotText(1, f"it is longer than {LARGEST} characters")
    reader = _Reader(list(_tokens(text)))
    found = reader.fields("", 0)
    return found


def _tokens(text: str) -> Iterator[_Token]:
    at, line = 0, 1
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise NotText(line, f"unexpected {text[at : at + 20].splitlines()[0]!r}")
        if match.lastgroup != "space":
            yield _Token(match.lastgroup or "", match[0], line)
        line += match[0].count("\n")
        at = match.end()
    yield _Token("end", "", line)


class _Reader:
    def __init__(self, tokens: list[_Token]) -> None:
        self._tokens, self._at = tokens, 0

    @property
    def _here(self) -> _Token:
        return self._tokens[self._at]

    def _take(self) -> _Token:
        token = self._here
        self._at += token.kind != "end"
        return token

    def fields(self, closing: str, depth: int) -> Message:
        """Fields up to the closing mark, '' for the end of the text."""
        if depth > _DEEPEST:
            raise NotText(self._here.line, f"messages are nested deeper than {_DEEPEST}")
        found: Message = {}
        while True:
            token = self._take()
            if token.text == closing:
                return found
            if token.text in (",", ";"):
                continue
            if token.kind not in ("name", "extension") or token.text.startswith("-"):
                raise NotText(token.line, f"a field is expected, not {token.text[:20] or 'the end'!r}")
            colon = self._here.text == ":"
            self._at += colon
            if not colon and self._here.text not in ("{", "<", "["):
                raise NotText(self._here.line, f"':' is expected after {token.text[:40]!r}")
            found.setdefault(token.text.strip("[]"), []).extend(self._values(depth))

    def _values(self, depth: int) -> list[Value]:
        if self._here.text != "[":
            return [self._value(depth)]
        self._take()
        found: list[Value] = []
        while self._here.text != "]":
            found.append(self._value(depth))
            if self._here.text == ",":
                self._take()
            elif self._here.text != "]":
                raise NotText(self._here.line, "',' or ']' is expected in a list")
        self._take()
        return found

    def _value(self, depth: int) -> Value:
        token = self._take()
        if token.text in ("{", "<"):
            return self.fields("}" if token.text == "{" else ">", depth + 1)
        if token.kind == "string":
            parts = [token.text]
            while self._here.kind == "string":
                parts.append(self._take().text)
            return "".join(_unescaped(part[1:-1]) for part in parts)
        if token.kind == "number":
            return _number(token)
        if token.kind == "name":
            return token.text
        raise NotText(token.line, f"a value is expected, not {token.text[:20] or 'the end'!r}")


def _number(token: _Token) -> int | float:
    text = "".join(token.text.split())
    try:
        digits = text.lstrip("-")
        if digits[:2] in ("0x", "0X"):
            return int(text, 16)
        if digits.isdigit():
            return int(text, 8) if len(digits) > 1 and digits[0] == "0" else int(text)
        return float(text.rstrip("fF"))
    except ValueError as error:  # 09, or more digits than Python converts
        raise NotText(token.line, f"{text[:40]!r} is no number") from error


def _unescaped(text: str) -> str:
    """Escapes replaced; those of bytes stand for UTF-8."""
    if "\\" not in text:
        return text
    parts: list[bytes] = []
    at = 0
    for match in _ESCAPE.finditer(text):
        parts.append(text[at : match.start()].encode("utf-8", "surrogatepass"))
        octal, hexadecimal, short, long, plain = match.groups()
        if octal or hexadecimal:
            parts.append(bytes([int(octal, 8) & 0xFF if octal else int(hexadecimal, 16)]))
        elif short or long:
            number = int(short or long, 16)
            parts.append((chr(number) if number < 0x110000 else "\ufffd").encode("utf-8", "surrogatepass"))
        else:
            parts.append(_PLAIN.get(plain, plain).encode("utf-8", "surrogatepass"))
        at = match.end()
    parts.append(text[at:].encode("utf-8", "surrogatepass"))
    return b"".join(parts).decode("utf-8", "replace")
