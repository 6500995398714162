"""The client's calls about converter environments."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote

from studio.client.transport import Transport
from studio.core.views import EnvironmentRow


@dataclass(frozen=True)
class _Freed:
    freed: int


class EnvironmentCalls:
    """A part of studio.client.Client."""

    _transport: Transport

    def environments(self) -> tuple[EnvironmentRow, ...]:
        """All converter environments that there can be, made or not."""
        return self._transport.get("/api/environments", tuple[EnvironmentRow, ...])

    def environment(self, name: str) -> EnvironmentRow:
        return self._transport.get(f"/api/environments/{quote(name)}", EnvironmentRow)

    def make_environment(self, name: str) -> EnvironmentRow:
        """Begin to make one. Its `state` says how far it is, and `problem` why it failed, if it did."""
        return self._transport.post(f"/api/environments/{quote(name)}/make", {}, EnvironmentRow)

    def remove_environment(self, name: str) -> int:
        """Delete it, those of earlier versions too. Gives the bytes freed."""
        return self._transport.post(f"/api/environments/{quote(name)}/remove", {}, _Freed).freed
