"""Values to JSON and back, strictly typed. Used for manifests, the journal, the control API and pipes."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from studio.core.errors import InvalidInput

T = TypeVar("T")


def encode(value: Any) -> bytes:
    """Compact JSON of a value made of dataclasses, lists, dicts and scalars."""
    return msgspec.json.encode(value)


def encode_pretty(value: Any) -> bytes:
    """The same, indented and newline-terminated, for files that people read."""
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"


def decode(data: bytes | str, kind: type[T], what: str = "JSON document") -> T:
    """Parse and validate. Raises InvalidInput naming the field that is wrong."""
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidInput(f"Unreadable {what}.", f"{error}.") from error


def convert(value: Any, kind: type[T], what: str = "value") -> T:
    """The typed value of already parsed JSON or TOML. Raises InvalidInput."""
    try:
        return msgspec.convert(value, type=kind, str_keys=True)  # JSON has no other keys
    except msgspec.ValidationError as error:
        raise InvalidInput(f"Invalid {what}.", f"{error}.") from error


def builtins(value: Any) -> Any:
    """The value as plain dicts, lists and scalars."""
    return msgspec.to_builtins(value)
