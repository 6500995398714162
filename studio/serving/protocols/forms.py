"""The parts of a form. Source: RFC 7578 (multipart/form-data)."""

from __future__ import annotations

from dataclasses import dataclass

from studio.core.errors import InvalidInput

MAX_PARTS = 64


@dataclass(frozen=True)
class Part:
    """One part: its name, its own `Content-Type` ("" where it has none) and what is in it."""

    name: str
    kind: str
    content: bytes


def parts(body: bytes, content_type: str) -> list[Part]:
    """The parts in their order, 1 to 64, none of them empty. Raises InvalidInput."""
    from email.message import Message
    from email.parser import BytesParser
    from email.policy import HTTP

    outer = Message()
    outer["content-type"] = content_type
    boundary = str(outer.get_param("boundary") or "").encode("latin-1", "replace")
    if boundary and body.count(b"--" + boundary) > MAX_PARTS + 1:  # the parser takes its time for each
        raise InvalidInput("The form can not be read.", f"It has more than {MAX_PARTS} parts.", "Send less at once.")
    message = BytesParser(policy=HTTP).parsebytes(
        b"content-type: " + content_type.encode("latin-1") + b"\r\n\r\n" + body
    )
    found = list(message.iter_parts()) if message.is_multipart() else []
    if not 1 <= len(found) <= MAX_PARTS:
        raise InvalidInput("The form can not be read.", "It has no parts, or too many.", "Send it as curl -F does.")
    read = []
    for part in found:
        name = part.get_param("name", header="content-disposition")
        content = part.get_payload(decode=True)
        if not isinstance(name, str) or not isinstance(content, bytes):
            raise InvalidInput("A part of the form has no name.")
        if not content:
            raise InvalidInput(f"The part '{name[:60]}' of the form is empty.")
        read.append(Part(name, str(part.get("content-type", "")), content))
    return read
