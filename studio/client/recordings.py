"""The client's calls about recordings of requests."""

from __future__ import annotations

from dataclasses import dataclass

from studio.client.transport import Transport
from studio.core.recording import DEFAULT_ROWS, DEFAULT_SECONDS, Recording


@dataclass(frozen=True)
class _Rows:
    rows: int


class RecordingCalls:
    """A part of studio.client.Client."""

    actor: str
    _transport: Transport

    def recordings(self) -> tuple[Recording, ...]:
        """What is kept of requests, by model, and whether more is being kept."""
        return self._transport.get("/api/recordings", tuple[Recording, ...])

    def record(self, model: str, rows: int = DEFAULT_ROWS, seconds: float = DEFAULT_SECONDS) -> Recording:
        """Keep the inputs of requests for a model from now on: at most so many rows, for so many seconds."""
        body = {"model": model, "rows": rows, "seconds": seconds, "actor": self.actor}
        return self._transport.post("/api/recordings", body, Recording)

    def stop_recording(self, model: str) -> Recording:
        """Keep no more; what there is stays."""
        return self._transport.post("/api/recordings/stop", {"model": model, "actor": self.actor}, Recording)

    def delete_recording(self, model: str) -> int:
        """Keep no more, and delete what there is. Gives the number of rows deleted."""
        return self._transport.post("/api/recordings/delete", {"model": model, "actor": self.actor}, _Rows).rows
