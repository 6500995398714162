"""The errors that only a server has, with the HTTP status that each answers with."""

from __future__ import annotations

import logging
import secrets

from studio.core.errors import InvalidInput, NotFound, Refused, StudioError, Unavailable

_log = logging.getLogger("studio.serving")


def unforeseen() -> StudioError:
    """The error for an exception that is no StudioError, to be called where it is handled: the log gets the traceback,
    the client an id to find it by."""
    request_id = secrets.token_hex(6)
    _log.exception("request %s failed", request_id)
    return StudioError(
        f"Internal error (request {request_id}).", "", f"The server's log tells more: look for {request_id}."
    )


class TooLarge(InvalidInput):
    """The body, as sent or as unpacked, is over the limit."""

    code = "too_large"
    http_status = 413


class TooSlow(InvalidInput):
    """The request did not arrive in time."""

    code = "too_slow"
    http_status = 408


class MethodNotAllowed(InvalidInput):
    """The path exists, the method does not."""

    code = "method_not_allowed"
    http_status = 405

    def __init__(self, allowed: str) -> None:
        super().__init__("Method Not Allowed")
        self.allowed = allowed


class UnknownPath(NotFound):
    """Nothing answers here."""

    code = "unknown_path"

    def __init__(self) -> None:
        super().__init__("Not Found")


class Unsupported(Refused):
    """Understood, and not offered by this server."""

    code = "unsupported"
    http_status = 501


class UnsupportedEncoding(Unsupported):
    """A `Content-Encoding` that can not be undone here; the answer names those that can."""

    code = "unsupported_encoding"


class Busy(Unavailable):
    """The queue is full. `retry_after` is in seconds."""

    code = "busy"
    retry_after = 1


class Expired(Unavailable):
    """The request waited longer than the time-out that it carried."""

    code = "expired"


class ModelFailed(StudioError):
    """The runtime failed while it ran the model."""

    code = "model_failed"
