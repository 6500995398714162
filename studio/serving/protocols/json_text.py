"""JSON as it comes in: UTF-8, and not nested without end.

Source: RFC 8259, 8.1 (encoding) and 9 (limits); the limit of nesting is that of Triton.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import orjson

from studio.core.errors import InvalidInput
from studio.serving.http import Body

MAX_DEPTH = 100


class NoJson(InvalidInput):
    """What was sent does not read as JSON."""


def load_json(body: Body | memoryview) -> Any:
    """Parsed JSON, at most 100 levels deep. Raises NoJson where it is none, InvalidInput where it is too deep."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        if "depth limit" in str(error) or "ecursion" in str(error):
            raise _too_deep() from None
        raise NoJson(f"failed to parse the request JSON buffer: {_why_no_json(body, str(error))}") from None
    if _maybe_deep(body) and _is_deep(value):
        raise _too_deep()
    return value


def _why_no_json(body: Body | memoryview, words: str) -> str:
    """The parser's words, but for text that it could not even read, of which it says nothing that helps."""
    why = why_no_utf8(body)
    return f"{why[0].lower()}{why[1:]}" if why else words


def why_no_utf8(body: Body | memoryview) -> str:
    """A sentence where the bytes are no UTF-8, or are another Unicode encoding of JSON or of text with a mark."""
    encoding = json.detect_encoding(bytes(body[:4]))
    if not encoding.startswith("utf-8"):
        return f"It looks like {encoding.upper()}, and UTF-8 is expected."
    try:
        str(body, "utf-8")
    except UnicodeDecodeError as error:
        return f"It is not UTF-8: byte {error.start} is 0x{body[error.start]:02x}."
    return ""


def _too_deep() -> InvalidInput:
    return InvalidInput(f"JSON nesting depth exceeds maximum allowed limit ({MAX_DEPTH})")


def _maybe_deep(body: Body | memoryview) -> bool:
    """Whether the brackets alone, those in strings included, climb over the limit."""
    if isinstance(body, bytes | bytearray) and body.count(b"[") + body.count(b"{") <= MAX_DEPTH:
        return False
    # Folds '[' onto '{' and ']' onto '}': they differ in one bit.
    folded = np.frombuffer(body, np.uint8) | 0x20
    opening = folded == 0x7B
    if np.count_nonzero(opening) <= MAX_DEPTH:
        return False
    places = np.flatnonzero(opening | (folded == 0x7D))
    return int(np.cumsum(np.where(opening[places], 1, -1)).max()) > MAX_DEPTH


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH):
        inside: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                inside += item.values()
            elif isinstance(item, list):
                inside += item
        level = [item for item in inside if isinstance(item, (dict, list))]
        if not level:
            return False
    return True
