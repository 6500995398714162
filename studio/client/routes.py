"""The client's calls about routes: weighted splits, shadows, and taking back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from studio.client.transport import Transport
from studio.core import codec
from studio.core.journal import AliasMove, RouteChange
from studio.core.views import RouteDetail


class RouteCalls:
    """A part of studio.client.Client."""

    _transport: Transport
    actor: str

    def routes(self) -> tuple[RouteDetail, ...]:
        """How requests are spread, of the models with a split or a shadow."""
        return self._transport.get("/api/routes", tuple[RouteDetail, ...])

    def route(self, model: str) -> RouteDetail:
        """How requests for a model's bare name are spread, and what was seen of its shadow. Raises NotFound."""
        return self._transport.get(f"/api/routes/{quote(model)}", RouteDetail)

    def change_route(
        self,
        model: str,
        *,
        split: Mapping[str, float] | None = None,
        shadow: str | None = None,
        share: float | None = None,
        why: str = "",
    ) -> RouteChange:
        """Spread the requests for a model's bare name; what is None stays as it is.

        `split`: weights by version (`3`), variant (`4-int8`) or alias; empty = the primary alone. `shadow`: what gets a
        copy of a `share` of the requests (0 to 1) after they were answered; '' = none. All of it is loaded and warm
        before any request sees it. Raises InvalidInput, NotFound, Conflict (it is so already), Refused (versions that
        do not take the same, or can not be loaded).
        """
        body = {"model": model, "split": split, "shadow": shadow, "share": share, "why": why, "actor": self.actor}
        return self._transport.post("/api/routes", body, RouteChange)

    def rollback_route(self, model: str, why: str = "") -> RouteChange:
        """Give a model the route again that it had before its newest change."""
        return self._transport.post(
            "/api/routes/rollback", {"model": model, "why": why, "actor": self.actor}, RouteChange
        )

    def undo(self) -> AliasMove | RouteChange:
        """Take back the newest move of any alias, or change of any route, whichever was last."""
        value = self._transport.post("/api/undo", {"actor": self.actor}, dict[str, Any])
        if "alias" in value:
            return codec.convert(value, AliasMove, "answer of the engine")
        return codec.convert(value, RouteChange, "answer of the engine")
