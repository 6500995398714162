"""What the store tells widgets: tiny messages, one a topic. A newer one replaces an older one still waiting."""

from __future__ import annotations

from textual.message import Message


class StateChanged(Message, bubble=False):
    """Something in `Store.state` changed; the subclass says what. Read the state, not the message."""

    def can_replace(self, message: Message) -> bool:
        return type(message) is type(self)


class StatusChanged(StateChanged):
    """The engine's status, its server, or the connection to it."""


class JobsChanged(StateChanged):
    """A job came, moved on, or ended."""


class RegistryChanged(StateChanged):
    """Versions, variants or aliases changed: lists must be asked for again."""


class TrafficChanged(StateChanged):
    """A new second of traffic."""


class RequestsChanged(StateChanged):
    """New lines for the live tail."""


class LogChanged(StateChanged):
    """New log lines."""


class ComparisonChanged(StateChanged):
    """A comparison came or moved on."""


class MarksChanged(StateChanged):
    """Marks for the next comparison changed."""


class ClockTicked(StateChanged):
    """One second passed while something moves."""
