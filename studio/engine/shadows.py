"""What was seen of shadows since the engine started, by pair of versions."""

from __future__ import annotations

from studio.core.metrics import ShadowFigures

MOST = 100  # pairs; those not heard of for longest go first


class Shadows:
    """Adds up what the server tells each second. Belongs to the event loop."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, str], ShadowFigures] = {}

    def add(self, figures: ShadowFigures) -> None:
        key = figures.target, figures.shadow
        known = self._seen.pop(key, None)
        if known is None:
            known = ShadowFigures(model=figures.model, target=figures.target, shadow=figures.shadow)
        known.add(figures)
        self._seen[key] = known
        while len(self._seen) > MOST:
            del self._seen[next(iter(self._seen))]

    def of(self, model: str) -> tuple[ShadowFigures, ...]:
        """The pairs of a model, the one heard of last first."""
        return tuple(seen for seen in reversed(self._seen.values()) if seen.model == model)
