"""A model's route: how requests for its bare name are spread over versions, and which version runs along unseen."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

from studio.core.errors import InvalidInput
from studio.core.names import Reference

MAX_ARMS = 16
_SHADOW = re.compile(r"shadow (\S+) at (\S+)")
_ONE = float(1 << 64)


@dataclass(frozen=True, kw_only=True)
class Route:
    """What a user asked for. `split`: weight by what stands behind the colon (`production`, `3`, `4-int8`); empty = the
    primary answers alone. `shadow` gets a copy of a `share` of the requests (0 to 1); '' = none.

    Aliases stay aliases: when one moves, the route moves with it.
    """

    split: dict[str, float] = field(default_factory=dict)
    shadow: str = ""
    share: float = 1.0

    @property
    def names(self) -> tuple[str, ...]:
        """All that it names, each once."""
        return tuple(dict.fromkeys((*self.split, *((self.shadow,) if self.shadow else ()))))

    @property
    def text(self) -> str:
        """`production=90 candidate=10; shadow 4-int8 at 0.2`, as the journal keeps it; '' = the primary alone."""
        parts = []
        if self.split:
            parts.append(" ".join(f"{name}={weight:.12g}" for name, weight in self.split.items()))
        if self.shadow:
            parts.append(f"shadow {self.shadow} at {self.share:.12g}")
        return "; ".join(parts)

    @classmethod
    def parse(cls, text: str) -> Route:
        """The route that `text` stands for. Raises InvalidInput."""
        split: dict[str, float] = {}
        shadow, share = "", 1.0
        for part in text.split("; ") if text else []:
            found = _SHADOW.fullmatch(part)
            if found:
                shadow, share = found[1], number(found[2])
            else:
                split |= weights(part.split(" "))
        return cls(split=split, shadow=shadow, share=share)

    def check(self, model: str) -> None:
        """Raises InvalidInput for what can be no route, whatever versions there are."""
        if len(self.split) > MAX_ARMS:
            raise InvalidInput(f"A split over more than {MAX_ARMS} references.")
        for name, weight in self.split.items():
            if not 0 < weight <= 1e9:
                raise InvalidInput(
                    f"The weight of '{name[:100]}' is {weight:g}.",
                    "Weights are numbers above 0; what counts is their relation.",
                    "Leave out what is to get nothing.",
                )
        if not 0 < self.share <= 1:
            raise InvalidInput(
                f"A share of {self.share:g}.", "It is the part of the requests that is copied.", "Give 0.01 to 1."
            )
        for name in self.names:
            Reference.of(model, name)


def weights(words: Sequence[str]) -> dict[str, float]:
    """`["production=90", "candidate=10"]` as weights by name. Raises InvalidInput."""
    found: dict[str, float] = {}
    for word in words:
        name, equals, weight = word.partition("=")
        if not name or not equals or name in found:
            raise InvalidInput(
                f"{word[:120]!r} is no part of a split.",
                "Each part is a version, variant or alias with its weight, and comes once.",
                "For example: production=90 candidate=10",
            )
        found[name] = number(weight)
    return found


def number(text: str) -> float:
    """A plain number. Raises InvalidInput."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InvalidInput(f"{text[:40]!r} is no number.")
    return value


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One part of a split in force: the name that the user gave, the key of its target now, its weight."""

    name: str
    key: str
    weight: float


def chosen(arms: Sequence[Arm], model: str, key: bytes) -> Arm:
    """The arm that this key always meets.

    Weighted rendezvous hashing (Schindelhauer and Schomaker, "Weighted Distributed Hash Tables", 2005): each arm draws
    a number of its own from the key, and the smallest -ln(u) / weight wins. So a change of weights moves a key only to
    an arm whose part has grown, and an arm that goes hands out its own keys alone. Arms are known by the name that the
    user gave: an alias that moves takes its keys along.
    """

    def score(arm: Arm) -> float:
        digest = blake2b(b"%s\0%s\0%s" % (model.encode(), arm.name.encode(), key), digest_size=8).digest()
        return -math.log((int.from_bytes(digest, "big") + 1) / _ONE) / arm.weight

    return min(arms, key=score)


def drawn(arms: Sequence[Arm], at: float) -> Arm:
    """The arm in whose part of the weights `at` lies: 0 is the beginning, 1 the end."""
    left = at * sum(arm.weight for arm in arms)
    for arm in arms:
        left -= arm.weight
        if left < 0:
            return arm
    return arms[-1]


def shares(split: Mapping[str, float]) -> dict[str, float]:
    """The weights as parts of 1."""
    total = sum(split.values())
    return {name: weight / total for name, weight in split.items()}
