"""Events: what the engine tells everyone who listens, in order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from studio.core.journal import TrustedCode

EventKind = Literal[
    "job",
    "version",
    "variant",
    "alias",
    "route",
    "trust",
    "server",
    "metrics",
    "requests",
    "comparison",
    "log",
    "status",
]


@dataclass(frozen=True, kw_only=True)
class TrustChange:
    """A word on trust: code that may run from now on, or no longer."""

    code: TrustedCode
    trusted: bool


@dataclass(frozen=True, kw_only=True)
class Event:
    """`seq` counts from 1 within one engine run; `at` is Unix seconds; `data` is the JSON of the value that changed.

    kind         data
    job          studio.core.jobs.Job
    version      {"model", "version", "change": "added" | "archived" | "restored" | "purged"}
    variant      {"model", "version", "variant", "outcome"}
    alias        studio.core.journal.AliasMove
    route        studio.core.journal.RouteChange
    trust        TrustChange
    server       studio.core.views.ServerStatus
    metrics      studio.core.metrics.Tick
    requests     {"lines": [studio.core.metrics.RequestLine, …]}
    comparison   studio.core.comparison.Comparison
    log          studio.core.views.LogLine
    status       studio.core.views.Status
    """

    seq: int
    at: float
    kind: EventKind
    data: dict[str, Any]
