"""What travels between the engine and the load process: a plan one way, lines of JSON the other."""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import quote

from studio.core.errors import Problem
from studio.core.manifest import InputsKind
from studio.core.routing import Target
from studio.core.tensors import Signature


@dataclass(frozen=True, kw_only=True)
class LoadArm:
    """One target. `path` is its infer URL's path; `samples` are `.npz` files to try in this order."""

    label: str
    path: str
    signature: Signature
    samples: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class LoadPlan:
    """`url` is the endpoint's base, `http://127.0.0.1:8080`. Times in seconds; `warmup` an arm."""

    url: str
    arms: tuple[LoadArm, ...]
    seconds: float
    slice_seconds: float
    clients: int = 1
    warmup: float = 0.3
    timeout: float = 60.0
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Slice:
    """One arm's turn in one round. `arm` counts from 0; `at` is Unix time at its end; `seconds` until its last answer.

    `requests` counts all, `errors` those without a good answer; `bins` the latencies of the good ones
    (`studio.bench.bins`), `error` the words of the first bad one.
    """

    round: int
    arm: int
    at: float
    seconds: float
    requests: int
    errors: int
    bins: dict[int, int] = field(default_factory=dict)
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """The inputs that are sent: the weakest kind over all arms, and how many distinct requests the first arm has."""

    inputs: InputsKind
    samples: int


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line from the load process: exactly one of these is set."""

    prepared: Prepared | None = None
    slice: Slice | None = None
    problem: Problem | None = None


def infer_path(target: Target) -> str:
    """The URL path that reaches exactly this variant, whatever aliases and splits say."""
    return f"/v2/models/{quote(target.model)}/versions/{quote(target.key)}/infer"
